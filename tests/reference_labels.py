"""The reference model's text rules: from attributes to label sets (processors §0.2 to §0.6).

Slow and literal on purpose. Text is bytes until a label set is built: what is not UTF-8 has rules too.
Attributes are messages of ``tests.otlp_raw``. Nothing here knows a metric.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Entity = tuple[tuple[str, str], ...]
"""A label set without metric name and ``le``, sorted by name (processors §0.5 step 6)."""

INTRINSIC_LABELS = frozenset({"service", "span_name", "span_kind", "status_code", "status_message"})


def double_text(value: float) -> str:
    """Return the shortest decimal that reads back as ``value``, never with an exponent (processors §0.2)."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def value_text(value: Any) -> bytes:
    """Return the text of an AnyValue (processors §0.2); a missing or unknown value is empty (Q31)."""
    match value.WhichOneof("value"):
        case "string_value":
            return bytes(value.string_value)
        case "bool_value":
            return b"true" if value.bool_value else b"false"
        case "int_value":
            return str(value.int_value).encode()
        case "double_value":
            return double_text(value.double_value).encode()
        case "array_value":
            return b"[" + b"".join(value_text(element) for element in value.array_value.values) + b"]"
        case "kvlist_value":
            pairs = (pair.key + b":" + value_text(pair.value) for pair in value.kvlist_value.values)
            return b"{" + b"".join(pairs) + b"}"
        case _:
            return b""


def first(key: str, attributes: Iterable[Any]) -> Any | None:
    """Return the value of the first attribute called ``key`` (processors §0.1)."""
    return next((attribute.value for attribute in attributes if attribute.key == key.encode()), None)


def find(key: str, *attribute_lists: Iterable[Any]) -> bytes | None:
    """Return the text of the first attribute called ``key``, list after list (processors §0.3)."""
    for attributes in attribute_lists:
        value = first(key, attributes)
        if value is not None:
            return value_text(value)
    return None


def sanitize(name: str) -> str:
    """Return ``name`` with every character outside ``[A-Za-z0-9_]`` as one ``_`` (processors §0.4)."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def sanitize_protected(name: str, reserved: frozenset[str]) -> str:
    """Return the sanitized name, prefixed with ``__`` if it is one of ``reserved`` (processors §0.4)."""
    sanitized = sanitize(name)
    return f"__{sanitized}" if sanitized in reserved else sanitized


def trace_id_text(trace_id: bytes) -> str:
    """Return the hexadecimal trace id without leading zeros; an all-zero id is empty (processors §0.6)."""
    return trace_id.hex().lstrip("0")


def _characters(text: bytes) -> Iterator[bytes]:
    """Yield the characters of a text; each byte that is not UTF-8 counts as one (processors §0.4)."""
    for character in text.decode("utf-8", "surrogateescape"):
        yield character.encode("utf-8", "surrogateescape")


def cut(text: bytes, limit: int) -> bytes:
    """Return at most ``limit`` bytes of ``text``, whole characters only (Q4); 0 is no limit."""
    if limit <= 0 or len(text) <= limit:
        return text
    kept = b""
    for character in _characters(text):
        if len(kept) + len(character) > limit:
            break
        kept += character
    return kept


Labels = Iterable[tuple[str, bytes]]
"""Labels in the order in which they are added."""


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """How long the names and values of a tenant's labels may be, in bytes."""

    max_name_bytes: int
    max_value_bytes: int

    @classmethod
    def of(cls, plan: dict[str, Any]) -> "LabelLimits":
        """Return the limits of a plan."""
        return cls(plan["max_label_name_length"], plan["max_label_value_length"])

    def compact(self, added: Labels, *, keep_colliding: bool = False) -> dict[bytes, bytes]:
        """Cut the labels, and keep the last one added of each name (processors §0.5 steps 1 and 2).

        An empty label that is the last of its name removes the name; with ``keep_colliding`` it has no effect (Q2).
        """
        last_added: dict[bytes, bytes] = {}
        for name, value in added:
            cut_name, cut_value = cut(name.encode(), self.max_name_bytes), cut(value, self.max_value_bytes)
            if cut_value or not keep_colliding:
                last_added[cut_name] = cut_value
        return {name: value for name, value in last_added.items() if value}

    def label_set(self, added: Labels, *, keep_colliding: bool = False) -> Entity | None:
        """Build the entity of a data point (processors §0.5).

        Returns:
            The label set, or None if a name is empty or a value is not UTF-8: the data point is discarded.
        """
        labels = self.compact(added, keep_colliding=keep_colliding)
        if b"" in labels:
            return None
        try:
            return tuple(sorted((name.decode(), value.decode()) for name, value in labels.items()))
        except UnicodeDecodeError:
            return None
