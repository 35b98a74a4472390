"""JSON as the API takes it: one value, no member twice, nothing that is not JSON (tenancy §3.2, D-11)."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tenants.settings.errors import Fault, PathPart, SettingsError, dotted, first_faults

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 64

# One that does not end goes to the end of all: else every quote in it would be tried as the beginning of another.
_TEXT: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKET: Final = re.compile(r"[\[\]{}]")


def read_json(text: bytes) -> Any:
    """Read one JSON value.

    Raises:
        SettingsError: it has more than 256 KiB, is not UTF-8 or not JSON, something follows it, or it is nested deeper
            than 64 levels; or, with every place where it is so, up to 100: a member occurs twice, or a number is not
            finite.
    """
    if len(text) > MAX_BYTES:
        raise SettingsError([Fault("", f"has {len(text)} bytes; {MAX_BYTES} are allowed")])
    reader = _Reader()
    try:
        decoded = text.decode("utf-8")
        if _depth(decoded) > MAX_DEPTH:
            raise SettingsError([Fault("", f"nested deeper than {MAX_DEPTH} levels")])
        value = json.loads(
            decoded, object_pairs_hook=reader.members, parse_constant=reader.constant, parse_float=reader.number
        )
    except UnicodeDecodeError:
        raise SettingsError([Fault("", "is not UTF-8")]) from None
    except json.JSONDecodeError as error:
        raise SettingsError(
            [Fault("", f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})")]
        ) from None
    except ValueError:
        # Python reads no whole number of more than 4300 digits.
        raise SettingsError([Fault("", "holds a number with too many digits")]) from None
    if reader.has_flaws:
        raise SettingsError(first_faults(_faults(value, ())))
    return value


@dataclass(frozen=True, slots=True)
class _NotFinite:
    """Stands for a number that is none, until it is known where it stood."""

    text: str


class _Repeating(dict[str, Any]):
    """An object in which members occur twice."""

    repeated: frozenset[str]


class _Reader:
    """What the parser cannot place, as it knows no paths, is marked in the value."""

    def __init__(self) -> None:
        self.has_flaws = False

    def members(self, members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) == len(members):
            return found
        self.has_flaws = True
        repeating = _Repeating(found)
        counts = Counter(name for name, _ in members)
        repeating.repeated = frozenset(name for name, count in counts.items() if count > 1)
        return repeating

    def constant(self, name: str) -> _NotFinite:
        self.has_flaws = True
        return _NotFinite(name)

    def number(self, text: str) -> float | _NotFinite:
        number = float(text)
        return self.constant(text[:40]) if number in {float("inf"), float("-inf")} else number


def _faults(value: Any, path: tuple[PathPart, ...]) -> Iterator[Fault]:
    if isinstance(value, _NotFinite):
        yield Fault(dotted(path), f"{value.text} is not a finite number")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _faults(inner, (*path, index))
    elif isinstance(value, dict):
        repeated = value.repeated if isinstance(value, _Repeating) else frozenset()
        for name, inner in value.items():
            if name in repeated:
                yield Fault(dotted((*path, name)), "occurs twice in one object; keep one")
            yield from _faults(inner, (*path, name))


def _depth(text: str) -> int:
    """Return the deepest nesting: what is beyond it, the parser could not return from."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_TEXT.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
