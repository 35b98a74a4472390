"""A file in memory that can be replaced and removed, for those that are given a way to read."""

from pathlib import Path

PATH = Path("overrides.yaml")


class Disk:
    """Holds one file; ``None`` is a file that is not there. Exceptions in ``bugs`` are raised first, one a time."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.bugs: list[Exception] = []

    def read(self, path: Path) -> bytes:
        assert path == PATH
        if self.bugs:
            raise self.bugs.pop()
        if self.text is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.text.encode()
