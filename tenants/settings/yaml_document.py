"""Read YAML as settings need it: keys are text, duplicates are faults, and every value knows its line.

Differences from ``yaml.safe_load``, each of which has cost somebody a night:

* keys are always text as written: a tenant ``123`` or ``true`` stays ``123`` or ``true``;
* a key that occurs twice is a fault, not a silent "last one wins";
* YAML 1.2 scalars only: ``on``, ``1:30``, ``010`` and dates are text, ``1e-3`` is a number;
* nesting and aliases are bounded, so no file can exhaust memory or the stack.

Anchors, aliases and the merge key ``<<`` work. Other tags than those of plain scalars are refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tenants.settings.errors import Fault, PathPart, SettingsError, dotted

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: the same events, ten times slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Values in one file, aliases written out."""

_SIZED_DEPTH = 2
_TAG_PREFIX = "tag:yaml.org,2002:"
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
    **dict.fromkeys([".inf", "+.inf", ".Inf", "+.Inf", ".INF", "+.INF"], float("inf")),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], float("-inf")),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], float("nan")),
}
_BEGIN_OF_NUMBER = frozenset("+-.0123456789")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})")
_OTHER_INT = re.compile(r"0o[0-7]{1,22}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_VARIABLE = re.compile(r"\$?\$\{([^}]*)\}")

Path = tuple[PathPart, ...]


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed file: plain Python values, and where each stood.

    Attributes:
        value: what is in it.
        lines: where, from 1, by path.
        sizes: how many values there are in each one two levels down.
    """

    value: object
    lines: Mapping[Path, int]
    sizes: Mapping[Path, int]

    def line_of(self, path: Path) -> int | None:
        """Return the line (from 1) of the value at ``path``, or of the nearest value around it."""
        for length in range(len(path), -1, -1):
            if line := self.lines.get(path[:length]):
                return line
        return None


def read_yaml(text: bytes, environ: Mapping[str, str] | None = None, *, max_nodes: int = MAX_NODES) -> YamlDocument:
    """Parse one YAML document; an empty one has the value None.

    Args:
        text: UTF-8 (or UTF-16 with a byte order mark).
        environ: replaces ``${NAME}`` in values, after parsing, so that a variable can never add structure;
            ``$${NAME}`` stands for the literal text. None leaves everything as it is (tenancy §2.3).
        max_nodes: values that there may be.

    Raises:
        SettingsError: not YAML (with line and column), a duplicate key, or a variable that is not set.
    """
    reader = _Reader(environ, max_nodes)
    try:
        loader = _Loader(text)
        try:
            # Without the generator of yaml.parse: there are as many events as lines in a file of many tenants.
            value = reader.document(iter(loader.get_event, None))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        # The error's own text would quote the file, and the line may hold a secret.
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise _unreadable(problem, mark.line if mark else 0, mark.column if mark else 0) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind(b"\n") + 1)
        problem = f"byte or character {error.character!r} is not allowed: {error.reason}"
        raise _unreadable(problem, before.count(b"\n"), column) from None
    if reader.faults:
        raise SettingsError(reader.faults)
    return YamlDocument(value, reader.lines, reader.sizes)


def _unreadable(problem: str, line: int, column: int) -> SettingsError:
    return SettingsError([Fault("", f"cannot be read at column {column + 1}: {problem}", line + 1)])


def _refused(problem: str, event: yaml.Event) -> SettingsError:
    """Describe valid YAML that no settings file may contain."""
    mark = event.start_mark
    return _unreadable(problem, mark.line if mark else 0, mark.column if mark else 0)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


@dataclass(slots=True)
class _Reader:
    """Builds values from the parser's events, one nesting level per call."""

    environ: Mapping[str, str] | None
    max_nodes: int
    lines: dict[Path, int] = field(default_factory=dict)
    sizes: dict[Path, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    anchors: dict[str, tuple[object, int]] = field(default_factory=dict)
    nodes: int = 0

    def document(self, events: Iterator[Any]) -> object:
        value: object = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _refused("a second document begins here; keep one per file", event)
            elif isinstance(event, yaml.NodeEvent):
                value = self._node(event, events, ())
            elif isinstance(event, yaml.StreamEndEvent):
                break
        return value

    def _node(self, event: yaml.NodeEvent, events: Iterator[Any], path: Path) -> object:
        if len(path) > _MAX_DEPTH:
            raise _refused(f"nested deeper than {_MAX_DEPTH} levels", event)
        before = self.nodes
        self._count(1, event)
        self.lines[path] = _line(event)
        value: object = None
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _refused("the alias refers to no anchor before it", event)
            value, size = self.anchors[event.anchor]
            # An alias costs as much as what it stands for: validation walks all of it again.
            self._count(size, event)
            return value
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, events, path)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(event, events, path)
        size = self.nodes - before
        if len(path) == _SIZED_DEPTH:
            self.sizes[path] = size
        if event.anchor:
            self.anchors[event.anchor] = (value, size)
        return value

    def _count(self, nodes: int, event: yaml.Event) -> None:
        self.nodes += nodes
        if self.nodes > self.max_nodes:
            raise _refused(f"more than {self.max_nodes} values, aliases written out", event)

    def _sequence(self, start: yaml.SequenceStartEvent, events: Iterator[Any], path: Path) -> list[object]:
        _check_tag(start, "seq")
        values: list[object] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._node(event, events, (*path, len(values))))
        return values

    def _mapping(self, start: yaml.MappingStartEvent, events: Iterator[Any], path: Path) -> dict[str, object]:
        _check_tag(start, "map")
        own: dict[str, object] = {}
        merged: dict[str, object] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused("a key should be plain text", event)
            key, line = event.value, _line(event)
            if key == "<<" and event.implicit[0]:
                merged = self._merge(event, self._node(next(events), events, (*path, key))) | merged
                continue
            here = (*path, key)
            if key in own:
                first = self.lines[here]
                self.faults.append(Fault(dotted(here), f"occurs twice, first on line {first}; keep one", line))
            value = self._node(next(events), events, here)
            self.lines[here] = line
            own[key] = value
        return merged | own

    def _merge(self, event: yaml.Event, value: object) -> dict[str, object]:
        sources = value if isinstance(value, list) else [value]
        merged: dict[str, object] = {}
        for source in sources:
            if not isinstance(source, dict):
                raise _refused("<< should be given a mapping or a list of mappings", event)
            merged = source | merged
        return merged

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        text = event.value
        if self.environ is not None and "${" in text:
            text = self._expanded(text, self.environ, path)
        tag = event.tag or ""
        is_quoted = not tag and not event.implicit[0]
        if is_quoted or tag in {"!", _TAG_PREFIX + "str"}:
            return text
        value = _plain(text)
        if tag and tag != _TAG_PREFIX + _kind(value):
            raise _refused("this tag is not supported or does not fit the value; remove it", event)
        return value

    def _expanded(self, text: str, environ: Mapping[str, str], path: Path) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0].startswith("$$"):
                return match[0][1:]
            if match[1] in environ:
                return environ[match[1]]
            problem = f"environment variable {match[1]!r} is not set; set it, or write $${{...}} for plain text"
            self.faults.append(Fault(dotted(path), problem, self.lines[path]))
            return ""

        return _VARIABLE.sub(replace, text)


def _check_tag(event: yaml.CollectionStartEvent, kind: str) -> None:
    if event.tag not in {None, "!", _TAG_PREFIX + kind}:
        raise _refused("this tag is not supported; remove it", event)


def _plain(text: str) -> object:
    """Give an unquoted scalar its type by the core schema of YAML 1.2 (a number has no leading zeros)."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _BEGIN_OF_NUMBER:
        return text
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OTHER_INT.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def _kind(value: object) -> str:
    return {type(None): "null", bool: "bool", int: "int", float: "float"}.get(type(value), "str")
