"""What a setting may be, in words, read from the type that checks it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tenants.identity.tenant_id import TenantId
from tenants.settings.scalars import CALENDAR_UNITS, Duration, DurationBounds, HostPort
from tenants.settings.schema import About

_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Duration: "duration",
    HostPort: "host:port",
    Path: "path",
    SecretStr: "secret text",
    TenantId: "tenant id",
    Any: "any value",
}


@dataclass(frozen=True, slots=True)
class FieldType:
    """What one setting may be.

    Attributes:
        words: such as ``list of text``.
        bounds: such as ``1s to 5m`` or ``at most 64 entries``; empty if there are none, or only the description says.
        unit: of numbers, also of those in a list.
        is_number: whether it is a number, or a list of numbers.
        model: of a mapping of keys, or of those that a list or a mapping of names holds.
        inside: what follows the key of a list (``[]``) or mapping of names (``.<name>``) in the keys of what it holds.
    """

    words: str
    bounds: str = ""
    unit: str = ""
    is_number: bool = False
    model: type[BaseModel] | None = None
    inside: Literal["", "[]", ".<name>"] = ""


def type_of_field(field: FieldInfo) -> FieldType:
    """Return what a field may be."""
    return _described(field.annotation, _flat(field.metadata))


def type_of(annotation: Any) -> FieldType:
    """Return what a value of a type may be."""
    return _described(annotation, ())


def _flat(metadata: Any) -> tuple[Any, ...]:
    """Return the parts of an annotation; a ``Field`` inside it has parts of its own."""
    return tuple(part for given in metadata for part in (given.metadata if isinstance(given, FieldInfo) else [given]))


def _described(annotation: Any, metadata: tuple[Any, ...]) -> FieldType:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _described(arguments[0], (*metadata, *_flat(arguments[1:])))
    if origin in {Union, UnionType}:
        present = [_described(kind, metadata) for kind in arguments if kind is not NoneType]
        return present[0] if len(present) == 1 else FieldType(" or ".join(kind.words for kind in present))
    if origin is tuple:
        return _list(_described(arguments[0], ()), metadata)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        value = _described(arguments[1], ())
        words = f"mapping of text to {'mappings' if value.model else value.words}"
        return FieldType(words, _bounds(metadata, " entries"), model=value.model, inside=".<name>")
    return _single(annotation, metadata)


def _list(item: FieldType, metadata: tuple[Any, ...]) -> FieldType:
    words = "list of mappings" if item.model else f"list of {item.words}"
    bounds = ", ".join(part for part in (_bounds(metadata, " entries"), item.bounds) if part)
    return FieldType(words, bounds, _unit(metadata) or item.unit, item.is_number, item.model, inside="[]")


def _single(annotation: Any, metadata: tuple[Any, ...]) -> FieldType:
    if get_origin(annotation) is Literal:
        return FieldType(_one_of(get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return FieldType("mapping", model=annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return FieldType(_one_of(member.value for member in annotation))
    words = _WORDS[annotation] + (" (also 1d, 2w, 1y)" if CALENDAR_UNITS in metadata else "")
    bounds = _bounds(metadata, " characters" if annotation is str else "")
    return FieldType(words, bounds, _unit(metadata), is_number=annotation in {int, float})


def _unit(metadata: tuple[Any, ...]) -> str:
    return next((part.unit for part in metadata if isinstance(part, About) and part.unit), "")


def _one_of(values: Iterable[object]) -> str:
    texts = [f"{value}" if value != "" else '""' for value in values]
    return f"one of {', '.join(texts)}"


def _bounds(metadata: tuple[Any, ...], counted: str) -> str:
    """Say what is allowed; ``counted`` names what a length counts, and is empty for numbers."""
    texts = [f"{part.lowest} to {part.highest}" for part in metadata if isinstance(part, DurationBounds)]
    texts += [f"above {part.gt}" for part in metadata if isinstance(part, Gt)]
    low = [part.ge if isinstance(part, Ge) else part.min_length for part in metadata if isinstance(part, Ge | MinLen)]
    high = [part.le if isinstance(part, Le) else part.max_length for part in metadata if isinstance(part, Le | MaxLen)]
    if low and high:
        texts.append(f"{_number(low[0])} to {_number(high[0])}{counted}")
    elif low:
        texts.append(f"at least {_number(low[0])}{counted}")
    elif high:
        texts.append(f"at most {_number(high[0])}{counted}")
    return ", ".join(texts)


def _number(value: Any) -> str:
    """Write the ends of machine words as what they are."""
    is_end = isinstance(value, int) and value >= 2**31 and (value + 1).bit_count() == 1
    return f"2^{(value + 1).bit_length() - 1}-1" if is_end else f"{value}"
