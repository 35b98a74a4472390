from pathlib import Path

import psutil
import pytest

from cluster.measurements import families
from cluster.process_measurements import measure_journal_file, measure_process
from tenants.journal.url import journal_file
from tests.unit.tenant_work import config


def test_process_is_measured_as_the_kernel_counts_it() -> None:
    figures = {name: value for name, _, value in measure_process()}
    process = psutil.Process()
    assert figures["millrace_process_resident_bytes"] == pytest.approx(process.memory_info().rss, rel=0.1)
    assert figures["millrace_process_start_time_seconds"] == pytest.approx(process.create_time(), abs=1.5)
    assert 0 < figures["millrace_process_cpu_seconds_total"] <= sum(process.cpu_times()[:2]) + 0.1
    assert figures["millrace_process_open_files"] == pytest.approx(process.num_fds(), abs=2)
    assert figures["millrace_process_max_open_files"] == process.rlimit(psutil.RLIMIT_NOFILE)[0]
    assert len(list(families({"service": measure_process()}))) == 6


@pytest.mark.parametrize(("text", "limit"), [("1073741824\n", 1 << 30), ("max\n", 0), (None, 0)])
def test_limit_of_memory_is_the_container_s_and_0_without_one(tmp_path: Path, text: str | None, limit: int) -> None:
    file = tmp_path / "memory.max"
    if text is not None:
        file.write_text(text)
    assert ("millrace_process_memory_limit_bytes", (), limit) in measure_process(file)


def test_journal_file_is_measured_with_the_log_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    assert ("millrace_journal_file_bytes", (), 0) in measure_journal_file(file)
    file.write_bytes(b"x" * 100)
    (tmp_path / "journal.db-wal").write_bytes(b"x" * 20)
    figures = {name: value for name, _, value in measure_journal_file(file)}
    assert figures["millrace_journal_file_bytes"] == 120
    assert figures["millrace_journal_disk_free_bytes"] > 0


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("data_dir: /var/lib/millrace", Path("/var/lib/millrace/journal.db")),
        ("journal: {url: 'sqlite:////mnt/j.db'}", Path("/mnt/j.db")),
        ("journal: {url: 'postgresql://user:secret@db.example/millrace'}", None),
    ],
)
def test_only_a_journal_in_a_file_has_a_file(text: str, file: Path | None) -> None:
    assert journal_file(config(text)) == file
