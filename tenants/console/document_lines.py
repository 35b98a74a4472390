"""At which line of a JSON text each of its values stands: faults are told by path, and people look for lines."""

import contextlib
import json
import re
from typing import Final

from tenants.settings.errors import PathPart, dotted

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


def lines_of(text: str) -> dict[str, int]:
    """Return the line, from 1, of every member and element, by its dotted path; as far as the text is JSON."""
    found: dict[str, int] = {}
    # What is wrong with the rest, the API says.
    with contextlib.suppress(json.JSONDecodeError, IndexError, RecursionError):
        _Walk(text, found).value(0, ())
    return found


def line_of(path: str, lines: dict[str, int]) -> int:
    """Return the line of a path, or of what is nearest above it: a key that is missing is missed where it should be."""
    while path and path not in lines:
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return lines.get(path, 1)


class _Walk:
    def __init__(self, text: str, found: dict[str, int]) -> None:
        self._text = text
        self._found = found

    def value(self, at: int, path: tuple[PathPart, ...]) -> int:
        """Walk one value; returns where it ends."""
        at = self._skip(at)
        if self._text[at] == "{":
            return self._members(at + 1, path)
        if self._text[at] == "[":
            return self._elements(at + 1, path)
        _, end = _DECODER.raw_decode(self._text, at)
        return end

    def _members(self, at: int, path: tuple[PathPart, ...]) -> int:
        at = self._skip(at)
        while self._text[at] != "}":
            name, end = _DECODER.raw_decode(self._text, at)
            inner = (*path, str(name))
            self._note(inner, at)
            at = self._skip(self.value(self._skip(end) + 1, inner))
            at = self._next(at, "}")
        return at + 1

    def _elements(self, at: int, path: tuple[PathPart, ...]) -> int:
        at, index = self._skip(at), 0
        while self._text[at] != "]":
            inner = (*path, index)
            self._note(inner, at)
            at, index = self._skip(self.value(at, inner)), index + 1
            at = self._next(at, "]")
        return at + 1

    def _next(self, at: int, end: str) -> int:
        if self._text[at] == ",":
            return self._skip(at + 1)
        if self._text[at] != end:
            raise json.JSONDecodeError("no comma", self._text, at)
        return at

    def _note(self, path: tuple[PathPart, ...], at: int) -> None:
        self._found.setdefault(dotted(path), self._text.count("\n", 0, at) + 1)

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at
