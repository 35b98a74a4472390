"""Which spans a processor looks at: policies of attributes to match (processors §0.8), checked in full.

What a policy matches is decided by the engine alone. Here it is made sure that the engine will take every policy.
"""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, Strict, ValidationInfo, model_validator

from tenants import _engine
from tenants.settings.model import SettingsModel
from tenants.settings.names import MAX_NAME_BYTES, check_size

FilterValue = str | int | float | bool

_MAX_TEXT_BYTES = 4096
_INTEGERS = range(-(2**63), 2**63)

_KINDS = tuple(f"SPAN_KIND_{name}" for name in ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"))
_STATUS_CODES = tuple(f"STATUS_CODE_{name}" for name in ("UNSET", "OK", "ERROR"))
_INTRINSICS = frozenset({"kind", "name", "status"})

# A TraceQL identifier. In double quotes a name may hold anything, a quote or backslash after a backslash.
_SCOPE = re.compile(r"(?:parent\.)?(?:span|resource)\.")
_ATTRIBUTE = re.compile(r'[^\s{}()=~!<>&|^,"]+|"(?:[^"\\]|\\["\\])+"')


def _intrinsic(key: str) -> str | None:
    """Return which property of the span itself a key names; None for an attribute."""
    name = key.removeprefix("span:")
    return name if name in _INTRINSICS else None


def _check_key(key: str) -> str:
    check_size(key, MAX_NAME_BYTES)
    if _intrinsic(key):
        return key
    scope = _SCOPE.match(key)
    if not scope:
        raise ValueError("should be kind, name, status, span.<attribute> or resource.<attribute>")
    attribute = key[scope.end() :]
    if not attribute.replace('"', ""):
        raise ValueError(f"names no attribute after {scope[0]}")
    if not _ATTRIBUTE.fullmatch(attribute):
        raise ValueError(
            "has a space, a quote or one of {}()=~!<>&|^, in its name, or a quote that does not end; "
            f'write {scope[0]}"<attribute>", with \\" for a quote and \\\\ for a backslash'
        )
    return key


def _check_value(value: object) -> FilterValue:
    # By hand, because a union would report every type that the value is not.
    if isinstance(value, str):
        return check_size(value, _MAX_TEXT_BYTES)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise ValueError("is beyond 64 bits, which no attribute holds; put it in quotes if it is text")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("should be a finite number")
        return value
    raise ValueError("should be text, a number, true or false")


class FilterAttribute(SettingsModel):
    """One attribute or property of a span, and what it should be."""

    key: Annotated[str, AfterValidator(_check_key)] = Field(
        description="kind, name, status, span.<attribute> or resource.<attribute>."
    )
    value: Annotated[FilterValue, PlainValidator(_check_value)] = Field(
        description="What the attribute should be, or a regular expression (RE2 syntax) found anywhere in it."
    )

    def __eq__(self, other: object) -> bool:
        # 1, 1.0 and true are equal in Python, but match different attributes: to change one to another is a change.
        return (
            isinstance(other, FilterAttribute)
            and self.key == other.key
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((self.key, self.value))


def _check_regex(pattern: str) -> None:
    """Refuse a pattern that the engine would refuse. Python's own dialect differs (processors §0.9)."""
    try:
        _engine.check_regex(pattern)
    except _engine.InvalidPlan as error:
        raise ValueError(f"value is not a regular expression of RE2 syntax: {error}") from None


def _fits_match_type(attribute: FilterAttribute, info: ValidationInfo) -> FilterAttribute:
    match_type, value, intrinsic = info.data.get("match_type"), attribute.value, _intrinsic(attribute.key)
    if match_type == "regex":
        if not isinstance(value, str):
            raise ValueError("value should be text, because match_type is regex; put it in quotes")
        _check_regex(value)
    if match_type == "strict" and intrinsic:
        known = {"kind": _KINDS, "status": _STATUS_CODES}.get(intrinsic)
        if known and value not in known:
            raise ValueError(f"value should be one of {', '.join(known)}, because the key is {attribute.key}")
        if not isinstance(value, str):
            raise ValueError(f"value should be text, because the key is {attribute.key}; put it in quotes")
    return attribute


class FilterBlock(SettingsModel):
    """Attributes that all have to match."""

    # Before attributes: they are checked against it.
    match_type: Literal["strict", "regex"] = Field(description="strict: the same value. regex: a match anywhere in it.")
    attributes: Annotated[
        tuple[Annotated[FilterAttribute, AfterValidator(_fits_match_type)], ...], Field(max_length=64), Strict(False)
    ] = Field(default=(), description="What has to match; none: every span does.")


def _excludes_by_attribute(block: FilterBlock | None) -> FilterBlock | None:
    # Nobody means it, and nothing would tell why the metrics have gone (processors Q32).
    if block and not block.attributes:
        raise ValueError(
            "has no attributes and would exclude every span; list some, or take the processor out of processors"
        )
    return block


class FilterPolicy(SettingsModel):
    """One policy: blocks that let spans in or keep them out."""

    include: FilterBlock | None = Field(default=None, description="Spans that match are let in, if all include do.")
    include_any: FilterBlock | None = Field(default=None, description="Spans that match one of these are let in.")
    exclude: Annotated[FilterBlock | None, AfterValidator(_excludes_by_attribute)] = Field(
        default=None, description="Spans that match one of these are kept out, whatever else matches."
    )

    @model_validator(mode="after")
    def _has_a_block(self) -> Self:
        if not (self.include or self.include_any or self.exclude):
            raise ValueError("is empty; give it include, include_any or exclude")
        return self


FilterPolicies = Annotated[tuple[FilterPolicy, ...], Field(max_length=64), Strict(False)]
