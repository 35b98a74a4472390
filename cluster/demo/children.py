"""The programs that the demo starts: each with its output in a file, each ended by its own process id.

A child lives in a session of its own, so that Ctrl-C at the terminal reaches only the demo, which then
ends its children in the right order.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.demo.errors import ChildFailedError

_POLL_S = 0.1
_TAIL_BYTES = 16_384


class Child:
    """One running program.

    Args:
        name: what the user calls it.
        command: program and arguments; no shell is involved.
        log: file that takes standard output and error.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- the command is the demo's own
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Return if the program is running.

        Raises:
            ChildFailedError: it has ended, with whatever code.
        """
        code = self._process.poll()
        if code is not None:
            raise ChildFailedError(self.name, f"ended by itself ({describe_exit(code)})", self.log)

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float, pause: Callable[[float], bool]) -> bool:
        """Wait until ``is_ready`` says so. Returns False if ``pause`` was interrupted first.

        Raises:
            ChildFailedError: it ended while being waited for, or was not ready after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            self.check()
            if time.monotonic() >= deadline:
                raise ChildFailedError(self.name, f"was not ready after {timeout_s:.0f} s", self.log)
            if pause(_POLL_S):
                return False
        return True

    def stop(self, timeout_s: float) -> int:
        """Ask the program to end (SIGTERM) and wait for it; a second call returns the same code.

        Returns:
            The exit code, negative if it was ended by a signal.

        Raises:
            ChildFailedError: it was still there after ``timeout_s``; it has been killed.
        """
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise ChildFailedError(
                self.name, f"did not stop within {timeout_s:.0f} s and was killed", self.log
            ) from error


def describe_exit(code: int) -> str:
    """Say what an exit code means."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log file; empty if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
