"""Brings the log lines of an embedded Ray's actors to the service's own standard error.

Ray writes the output of its workers to files, or prints it with a prefix that no machine can read. A named pipe carries
the lines as they are: the service reads, the actors write. Nothing here formats a line.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

_VARIABLE: Final = "MILLRACE_LOG_PIPE"
"""Environment variable with the pipe's path; actors inherit it."""


@contextmanager
def log_pipe() -> Iterator[None]:
    """Copy what the processes started within this context log to standard error."""
    with tempfile.TemporaryDirectory(prefix="millrace-log-") as directory:
        path = Path(directory) / "pipe"
        os.mkfifo(path, 0o600)
        # Open for writing too, so that reading does not end between two writers.
        descriptor = os.open(path, os.O_RDWR)
        os.environ[_VARIABLE] = str(path)
        reader = threading.Thread(target=_copy, args=(descriptor,), name="log-pipe", daemon=True)
        reader.start()
        try:
            yield
        finally:
            del os.environ[_VARIABLE]
            os.write(descriptor, b"\0")
            reader.join(timeout=5)
            os.close(descriptor)


def open_log_pipe() -> TextIO | None:
    """Open the pipe for writing whole lines; None where there is none, or in the process that reads it."""
    path = os.environ.get(_VARIABLE)
    if path is None or _reads_here():
        return None
    return os.fdopen(os.open(path, os.O_WRONLY), "w", buffering=1)


def _reads_here() -> bool:
    return any(thread.name == "log-pipe" for thread in threading.enumerate())


def _copy(descriptor: int) -> None:
    while True:
        lines = os.read(descriptor, 65536)
        text, is_end, _ = lines.partition(b"\0")
        sys.stderr.write(text.decode(errors="replace"))
        sys.stderr.flush()
        if is_end:
            return
