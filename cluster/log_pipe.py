"""Brings the log lines of an embedded Ray's actors to the service's own standard error.

Ray writes the output of its workers to files, or prints it with a prefix that no machine can read. A named pipe carries
the lines as they are: the service reads, the actors write. Nothing here formats a line, and nobody who writes one ever
waits: what the pipe cannot take, because nobody reads the service's standard error, is dropped and counted.
"""

import fcntl
import io
import os
import select
import struct
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

_VARIABLE: Final = "MILLRACE_LOG_PIPE"
"""Environment variable with the pipe's path; actors inherit it."""

_HEADER: Final = struct.Struct("=IHB")
"""Writer, bytes that follow, whether they end the line. Up to ``PIPE_BUF`` bytes are written whole or not at all; a
longer line goes in pieces, which the reader puts together by their writer."""

_PIECE_BYTES: Final = select.PIPE_BUF - _HEADER.size
_NOBODY: Final = 0
_JOIN_S: Final = 5.0


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
            # A reader that is stuck is left behind: it must not hold up the end of the service.
            _end(descriptor)
            reader.join(_JOIN_S)
            os.close(descriptor)


def open_log_pipe() -> "LineWriter | None":
    """Return the writer of this process; None where there is no pipe, or in the process that reads it."""
    path = os.environ.get(_VARIABLE)
    return None if path is None or _reads_here() else _writer(path)


class LineWriter(io.TextIOBase):
    """Writes lines to the pipe, each whole or not at all; never blocks. One thread at a time.

    Attributes:
        dropped: lines dropped since the last one that went through.
    """

    def __init__(self, path: str, number: int) -> None:
        """Open the pipe.

        Args:
            path: of the pipe.
            number: tells the writers apart; not 0.
        """
        self.dropped = 0
        self._number = number
        self._descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._pieces: deque[bytes] = deque()

    def write(self, text: str, /) -> int:
        """Write a line, its end included, or drop it."""
        # A line that was begun is finished first.
        is_begun = self._send() and self._begin(text)
        self.dropped = 0 if is_begun else self.dropped + 1
        return len(text)

    def close(self) -> None:
        """Close the pipe; a line that was begun stays incomplete, and is not shown."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _begin(self, text: str) -> bool:
        """Send what the pipe takes of a line, at least a part; otherwise forget it, and return False."""
        self._pieces.extend(_pieces(self._number, text.encode(errors="replace")))
        total = len(self._pieces)
        if not self._send() and len(self._pieces) == total:
            self._pieces.clear()
            return False
        return True

    def _send(self) -> bool:
        """Send what waits, as far as the pipe takes it; return whether nothing is left."""
        try:
            while self._pieces:
                os.write(self._descriptor, self._pieces[0])
                self._pieces.popleft()
        except OSError:
            # Full, or the service is gone: there is nowhere to say so.
            return False
        return True


@cache
def _writer(path: str) -> LineWriter:
    # One for the process: logging is set up anew whenever the controller configures it.
    return LineWriter(path, os.getpid())


def _reads_here() -> bool:
    return any(thread.name == "log-pipe" for thread in threading.enumerate())


def _pieces(writer: int, line: bytes) -> Iterator[bytes]:
    for start in range(0, len(line), _PIECE_BYTES):
        piece = line[start : start + _PIECE_BYTES]
        yield _HEADER.pack(writer, len(piece), start + len(piece) == len(line)) + piece


def _end(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, _HEADER.pack(_NOBODY, 0, 1))
    except BlockingIOError:
        return


def _copy(descriptor: int) -> None:
    begun: dict[int, bytes] = {}
    buffer = b""
    while True:
        select.select([descriptor], [], [])
        buffer += os.read(descriptor, 65536)
        while len(buffer) >= _HEADER.size:
            writer, length, is_end = _HEADER.unpack_from(buffer)
            end = _HEADER.size + length
            if len(buffer) < end:
                break
            piece, buffer = buffer[_HEADER.size : end], buffer[end:]
            if writer == _NOBODY:
                return
            begun[writer] = begun.get(writer, b"") + piece
            if is_end:
                sys.stderr.write(begun.pop(writer).decode(errors="replace"))
                sys.stderr.flush()
