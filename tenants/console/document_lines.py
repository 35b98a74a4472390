"""At which line of a JSON text some of its values stand: faults are told by path, and people look for lines."""

import contextlib
import json
import re
from collections.abc import Iterable
from typing import Final

from tenants.settings.errors import PathPart, dotted

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_PART: Final = re.compile(r'\[\d+\]|\["(?:[^"\\]|\\.)*"\]|[^.\[]+')
_DECODER: Final = json.JSONDecoder()


def lines_of(text: str, paths: Iterable[str]) -> dict[str, int]:
    """Return the line, from 1, of each dotted path, or of what is nearest above it: what is missing is missed there.

    Takes time by the length of the text, as far as it is JSON; of what no path leads to, nothing is kept.
    """
    root = _Place()
    wanted = {path: root.below(_PART.findall(path)) for path in paths}
    if any(place is not root for place in wanted.values()):
        # What is wrong with the rest, the API says.
        with contextlib.suppress(ValueError, IndexError, RecursionError):
            _Walk(text).value(0, root)
    return {path: place.nearest_line for path, place in wanted.items()}


class _Place:
    """A value that a path leads to, or past."""

    __slots__ = ("_above", "inner", "line")

    def __init__(self, above: "_Place | None" = None) -> None:
        self._above = above
        self.inner: dict[str, _Place] = {}
        self.line: int | None = None

    def below(self, parts: Iterable[str]) -> "_Place":
        """Return the place that these parts lead to from here."""
        place = self
        for part in parts:
            place = place.inner.setdefault(part, _Place(place))
        return place

    @property
    def nearest_line(self) -> int:
        """Its line, or of what is nearest above it."""
        place: _Place | None = self
        while place is not None and place.line is None:
            place = place._above
        return (place.line if place else None) or 1


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self._counted_to = 0
        self._line = 1

    def value(self, at: int, place: _Place | None) -> int:
        """Walk one value; returns where it ends."""
        if place is not None and place.inner and self._text[at := self._skip(at)] in "{[":
            return self._members(at + 1, place) if self._text[at] == "{" else self._elements(at + 1, place)
        _, end = _DECODER.raw_decode(self._text, self._skip(at))
        return end

    def _members(self, at: int, place: _Place) -> int:
        at = self._skip(at)
        while self._text[at] != "}":
            name, end = _DECODER.raw_decode(self._text, at)
            inner = self._note(place, str(name), at)
            at = self._skip(self.value(self._skip(end) + 1, inner))
            at = self._next(at, "}")
        return at + 1

    def _elements(self, at: int, place: _Place) -> int:
        at, index = self._skip(at), 0
        while self._text[at] != "]":
            inner = self._note(place, index, at)
            at, index = self._skip(self.value(at, inner)), index + 1
            at = self._next(at, "]")
        return at + 1

    def _next(self, at: int, end: str) -> int:
        if self._text[at] == ",":
            return self._skip(at + 1)
        if self._text[at] != end:
            raise json.JSONDecodeError("no comma", self._text, at)
        return at

    def _note(self, above: _Place, part: PathPart, at: int) -> _Place | None:
        place = above.inner.get(dotted((part,)))
        if place is not None and place.line is None:
            # The walk never goes back: what was counted is not counted again.
            self._line += self._text.count("\n", self._counted_to, at)
            self._counted_to = at
            place.line = self._line
        return place

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at
