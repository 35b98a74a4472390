"""The reference model's span multipliers: from sampling ratios to weights (processors §0.7)."""

import math
import re
from fractions import Fraction
from typing import Any

from tests.reference_labels import first

MAX_WEIGHT = Fraction(2**56)
_WHITE_SPACE = b" \t\n\v\f\r"
_ITEM = re.compile(rb"([a-z][a-z0-9]*):([A-Za-z0-9._-]*)")


def tracestate_multiplier(tracestate: bytes) -> float:
    """Return ``M(tracestate)``: how many spans a sampled one stands for, or 0 if the tracestate does not say it."""
    for member in tracestate.rstrip(_WHITE_SPACE).split(b","):
        if member.lstrip(_WHITE_SPACE).startswith(b"ot="):
            return _opentelemetry_multiplier(member.lstrip(_WHITE_SPACE).removeprefix(b"ot="))
    return 0.0


def _opentelemetry_multiplier(value: bytes) -> float:
    if not value or len(value) > 256:
        return 0.0
    threshold: int | None = None
    randomness: int | None = None
    for item in value.split(b";"):
        matched = _ITEM.fullmatch(item)
        if matched is None:
            return 0.0
        key, text = matched.groups()
        if key == b"th":
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,14}", text):
                return 0.0
            threshold = int(text.ljust(14, b"0"), 16)
        elif key == b"rv":
            if not re.fullmatch(rb"[0-9A-Fa-f]{14}", text):
                return 0.0
            randomness = int(text, 16)
    if threshold is None:
        return 0.0
    multiplier = 1 / (float(2**56 - threshold) / 2**56)
    whole = math.floor(multiplier)
    if randomness is None or multiplier == whole:
        return multiplier
    return float(whole + 1 if (randomness >> 3) / 2**53 < multiplier - whole else whole)


class Multiplier:
    """How much a span counts in one processor."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._key: str = settings["span_multiplier_key"]
        self._reads_tracestate: bool = settings["enable_tracestate_span_multiplier"]

    @property
    def is_active(self) -> bool:
        """Whether weights other than 1 can occur."""
        return bool(self._key) or self._reads_tracestate

    def weight(self, span: Any, resource: Any) -> Fraction | None:
        """Return a span's weight; None is 1 too: the span carries the key, but no value that can be used (Q11)."""
        if self._reads_tracestate:
            multiplier = tracestate_multiplier(span.trace_state)
            if multiplier > 0:
                return min(Fraction(multiplier), MAX_WEIGHT)
        if not self._key:
            return Fraction(1)
        for attribute in [*span.attributes, *resource.attributes]:
            if attribute.key == self._key.encode() and attribute.value.WhichOneof("value") == "double_value":
                ratio = attribute.value.double_value
                if 0 < ratio < math.inf:
                    return _inverse(ratio)
        carries = any(first(self._key, holder.attributes) is not None for holder in (span, resource))
        return None if carries else Fraction(1)


def _inverse(ratio: float) -> Fraction:
    """Return ``1 / ratio`` as a double; a tiny ratio's is beyond the greatest one, and clamped."""
    weight = 1 / ratio
    return MAX_WEIGHT if math.isinf(weight) else min(Fraction(weight), MAX_WEIGHT)
