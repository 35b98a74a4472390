"""The reference model's filter policies: which spans a processor takes (processors §0.8, Q32).

Regular expressions are Python's. Of RE2, the dialect that settings are written in, it understands what tests draw:
see :func:`_compiled` for what is translated.
"""

import re
from collections.abc import Callable
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.reference_labels import first
from tests.reference_plan import RefusedPlanError
from tests.reference_spans import enum_text

Test = Callable[[Any, Any], bool]
"""Whether a span with its resource has what one entry of a block asks for."""

_BLOCKS = ("include", "include_any", "exclude")
_INTRINSICS = {"name": None, "kind": Span.SpanKind, "status": Status.StatusCode}
_ATTRIBUTE_KEY = re.compile(
    r"""(?:parent\.)?(?P<scope>span|resource)\.
        (?: (?P<bare>[^\s{}()=~!<>&|^,"]+) | "(?P<quoted>(?:[^"\\]|\\.)+)" )""",
    re.VERBOSE,
)


class Filters:
    """The filter policies of one processor."""

    def __init__(self, policies: list[dict[str, Any]], *, strict_types: bool) -> None:
        self._blocks: dict[str, list[list[Test]]] = {name: [] for name in _BLOCKS}
        for policy in policies:
            present = {name: policy[name] for name in _BLOCKS if policy.get(name) is not None}
            if not present:
                raise RefusedPlanError(f"filter policy without a block: {policy}")
            for name, block in present.items():
                self._blocks[name].append(_tests(block, strict_types))

    def accepts(self, span: Any, resource: Any) -> bool:
        """Decide over one span: exclude, then include_any, then include."""

        def matches(block: list[Test]) -> bool:
            return all(test(span, resource) for test in block)

        excluding, including_any, including = (self._blocks[name] for name in ("exclude", "include_any", "include"))
        if any(map(matches, excluding)):
            return False
        if any(map(matches, including_any)):
            return True
        if including:
            return all(map(matches, including))
        return not including_any


def _tests(block: dict[str, Any], strict_types: bool) -> list[Test]:
    if block["match_type"] not in ("strict", "regex"):
        raise RefusedPlanError(f"match type {block['match_type']!r}")
    is_regex = block["match_type"] == "regex"
    return [_test(entry["key"], entry["value"], is_regex, strict_types) for entry in block["attributes"]]


def _test(key: str, value: object, is_regex: bool, strict_types: bool) -> Test:
    if is_regex and not isinstance(value, str):
        raise RefusedPlanError(f"regex of {key!r} is not a text: {value!r}")
    intrinsic = key.removeprefix("span:")
    if intrinsic in _INTRINSICS:
        return _intrinsic_test(intrinsic, value, is_regex)
    matched = _ATTRIBUTE_KEY.fullmatch(key)
    if matched is None:
        raise RefusedPlanError(f"filter key {key!r}")
    if not isinstance(value, (str, bool, int, float)):
        raise RefusedPlanError(f"value of filter key {key!r}: {value!r}")
    quoted = matched["quoted"]
    name = matched["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    has_value = _pattern_test(value, strict_types) if is_regex else _value_test(value, strict_types)

    def test(span: Any, resource: Any) -> bool:
        holder = span if matched["scope"] == "span" else resource
        found = first(name, holder.attributes)
        return found is not None and has_value(found)

    return test


def _intrinsic_test(intrinsic: str, value: object, is_regex: bool) -> Test:
    enum = _INTRINSICS[intrinsic]
    if not isinstance(value, str):
        raise RefusedPlanError(f"value of {intrinsic}: {value!r}")
    if enum is not None and not is_regex and value not in enum.keys():  # noqa: SIM118  # an enum is no mapping
        raise RefusedPlanError(f"unknown {intrinsic}: {value!r}")
    text_of = {
        "name": lambda span: span.name,
        "kind": lambda span: enum_text(Span.SpanKind, span.kind),
        "status": lambda span: enum_text(Status.StatusCode, span.status.code),
    }[intrinsic]
    if is_regex:
        pattern = _compiled(value)
        return lambda span, _: _is_found(pattern, text_of(span))
    return lambda span, _: text_of(span) == value.encode()


def _value_test(wanted: Any, strict_types: bool) -> Callable[[Any], bool]:
    """Return the comparison with a value: read as the wanted type, or of the same type with ``strict_types``."""
    wanted_type = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}[type(wanted)]
    wanted = wanted.encode() if isinstance(wanted, str) else wanted
    numbers = ("int_value", "double_value")
    accepted = numbers if strict_types and wanted_type in numbers else (wanted_type,)

    def test(value: Any) -> bool:
        actual_type = value.WhichOneof("value")
        if actual_type in accepted:
            return bool(getattr(value, actual_type) == wanted)
        return not strict_types and wanted == type(wanted)()

    return test


def _pattern_test(pattern_text: Any, strict_types: bool) -> Callable[[Any], bool]:
    """Return the search in a text; what is no text reads as an empty one, unless with ``strict_types``."""
    pattern = _compiled(pattern_text)

    def test(value: Any) -> bool:
        is_text = value.WhichOneof("value") == "string_value"
        return (is_text or not strict_types) and _is_found(pattern, value.string_value if is_text else b"")

    return test


def _compiled(pattern: str) -> "re.Pattern[str]":
    """Compile a pattern with RE2's classes, which are ASCII's, and its ``$``, which is the very end (§0.9)."""
    try:
        return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), re.ASCII)
    except re.error as error:
        raise RefusedPlanError(f"regex {pattern!r}: {error}") from error


def _is_found(pattern: "re.Pattern[str]", text: bytes) -> bool:
    return pattern.search(text.decode("utf-8", "surrogateescape")) is not None
