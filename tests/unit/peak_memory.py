"""How much more memory this process had at its peak than when it was asked: resident, or allocated by Python."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def peak_allocated() -> Iterator[Callable[[], int]]:
    """Yield a function that returns, afterwards, the peak of what Python allocated meanwhile, in bytes.

    For what is made of Python's own objects: it is the same each time, where resident memory also has what the
    allocator keeps between many pieces.
    """
    gc.collect()
    peak_bytes = 0
    tracemalloc.start()
    try:
        yield lambda: peak_bytes
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the peak of resident memory since then, in bytes above the beginning."""
    gc.collect()
    # Linux: 5 resets the high-water mark.
    Path("/proc/self/clear_refs").write_text("5")
    start = _status_bytes("VmRSS")
    yield lambda: _status_bytes("VmHWM") - start


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise KeyError(key)
