"""What may go wrong in the demo's surroundings. All of it ends the demo, with the reason on the last line."""

from pathlib import Path


class DemoError(Exception):
    """Root of what the demo raises on purpose."""


class ChildFailedError(DemoError):
    """A program that the demo started ended by itself, or did not start or stop in time.

    Args:
        name: which program.
        what: what it did, as a clause: ``exited with code 1``.
        log: the file that has its output.
    """

    def __init__(self, name: str, what: str, log: Path) -> None:
        super().__init__(name, what, log)
        self.name = name
        self.what = what
        self.log = log

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


class ReceiverError(DemoError):
    """The metrics receiver did not answer a read."""


class MalformedWriteError(DemoError):
    """A remote-write body that cannot be read.

    Args:
        offset: where in the uncompressed message, in bytes.
        why: what is wrong there.
    """

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(offset, why)
        self.offset = offset
        self.why = why

    def __str__(self) -> str:
        return f"{self.why} at byte {self.offset}"
