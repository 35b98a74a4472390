"""What a process of the service takes of its machine, and the file of its journal: as Linux says, elsewhere nothing."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from prometheus_client import ProcessCollector

from cluster.measurements import Measurements

# What the client library calls it, and the metric it is.
_FIGURES: Final[Mapping[str, str]] = {
    "process_resident_memory_bytes": "millrace_process_resident_bytes",
    "process_cpu_seconds_total": "millrace_process_cpu_seconds_total",
    "process_start_time_seconds": "millrace_process_start_time_seconds",
    "process_open_fds": "millrace_process_open_files",
    "process_max_fds": "millrace_process_max_open_files",
}
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
"""A container sees its own limit here; a machine as a whole has none."""


def measure_process(memory_limit: Path = _MEMORY_LIMIT) -> Measurements:
    """Measure this process. Reads a few small files of the kernel; ``memory_limit`` is where its bound is said."""
    families = _collector().collect()
    samples = [sample for family in families for sample in family.samples]
    measured: Measurements = [(_FIGURES[each.name], (), each.value) for each in samples if each.name in _FIGURES]
    limit = 0
    # "max" is no limit.
    with suppress(OSError, ValueError):
        limit = int(memory_limit.read_text())
    measured.append(("millrace_process_memory_limit_bytes", (), limit))
    return measured


@cache
def _collector() -> ProcessCollector:
    # One in a process, which reads once when the machine began: that may move, and every process with it.
    return ProcessCollector(registry=None)


def measure_journal_file(file: Path) -> Measurements:
    """Measure the journal's SQLite database and the disk that it is on. Blocks on the disk."""
    size = 0
    # The log beside it is most of it while much is written.
    for each in (file, file.with_name(f"{file.name}-wal")):
        with suppress(FileNotFoundError):
            size += each.stat().st_size
    return [
        ("millrace_journal_file_bytes", (), size),
        ("millrace_journal_disk_free_bytes", (), shutil.disk_usage(file.parent).free),
    ]
