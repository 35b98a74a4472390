"""What is wrong with a setting, said in a way that lets its owner mend it.

Every loader of this package collects faults, up to a bound, before it refuses. A fault never repeats a value that may
be a secret: the path and the line lead to it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

PathPart = str | int

MAX_FAULTS: Final = 100
"""Faults that are told at once. Nobody mends more in one go, and a hostile document could have a hundred thousand."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LISTED_FAULTS = 50
_KEY_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, where it is, and how to mend it.

    Attributes:
        path: dotted path of the setting, such as ``remote_write[0].url``; empty for the whole document.
        message: what is wrong and what would be right.
        line: line in the file, from 1; None when the value did not come from a file.
    """

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path
        if self.line is not None:
            where = f"{where} (line {self.line})" if where else f"line {self.line}"
        return f"{where}: {self.message}" if where else self.message


MORE_FAULTS: Final = Fault("", "there may be more faults; mend these first")


def first_faults(faults: Iterable[Fault]) -> list[Fault]:
    """Return at most 100 faults; if there are more, the last one says so. No more than 101 are asked for."""
    found = list(islice(faults, MAX_FAULTS + 1))
    return found if len(found) <= MAX_FAULTS else [*found[: MAX_FAULTS - 1], MORE_FAULTS]


class SettingsError(Exception):
    """Settings were refused. Root of everything this package raises on purpose; survives pickling.

    Attributes:
        faults: what was found, not only the first; readers tell at most 100 (:func:`first_faults`).
        source: the file (or other origin) that was read; empty if there is none.
    """

    def __init__(self, faults: Iterable[Fault], source: str = "") -> None:
        """Hold the faults; ``source`` names the file for the reader."""
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.source = source
        # Pickling calls the class with args: they must be the arguments of this constructor.
        super().__init__(self.faults, source)

    def __str__(self) -> str:
        return self._text(self.faults[:_LISTED_FAULTS])

    def in_full(self) -> str:
        """Return the text with every fault, however many there are: for who asked for them."""
        return self._text(self.faults)

    def _text(self, listed: tuple[Fault, ...]) -> str:
        count = len(self.faults)
        title = f"{self.source or 'settings'}: {count} {'fault' if count == 1 else 'faults'}"
        lines = [f"  {fault}" for fault in listed]
        if count > len(listed):
            lines.append(f"  and {count - len(listed)} more")
        return "\n".join([title, *lines])


def dotted(path: Iterable[PathPart]) -> str:
    """Write a path as ``a.b[0].c``; keys that are not plain words appear quoted, as in ``overrides["a.b"]``.

    Keys come from files: control characters are escaped and long keys cut.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part) and len(part) <= _KEY_CHARACTERS:
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part[:_KEY_CHARACTERS])}]"
    return text
