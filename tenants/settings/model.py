"""What every settings model has in common, and how a refused value becomes faults that can be mended.

Models are frozen, refuse unknown keys and never coerce: ``"5"`` is not a number and ``1`` is not true.
"""

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tenants.settings.errors import MAX_FAULTS, Fault, PathPart, SettingsError, dotted, first_faults
from tenants.settings.yaml_document import YamlDocument

Model = TypeVar("Model", bound=BaseModel)

CONVERT = "millrace config convert FILE"
"""The command that turns the legacy flat format into the scoped one (tenancy D-5)."""

MAX_NEAR_MISSES: Final = 20
"""Unknown keys for which the key that was probably meant is looked for: each is compared with all that there are."""


class SettingsModel(BaseModel):
    """Base of all settings models. A key whose value is null counts as absent (tenancy §2.1)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, serialize_by_alias=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict) or None not in data.values():
            return data
        known = {key_of(name, field) for name, field in cls.model_fields.items()}
        return {key: value for key, value in data.items() if value is not None or key not in known}


def validate(
    model: type[Model],
    value: object,
    *,
    path: tuple[PathPart, ...] = (),
    document: YamlDocument | None = None,
    source: str = "",
) -> Model:
    """Check plain data against a settings model.

    Args:
        model: what the value should be.
        value: dicts, lists and scalars; None stands for an empty mapping.
        path: where the value stands in its document; faults are reported below it.
        document: gives the faults their lines.
        source: names the origin in the error.

    Raises:
        SettingsError: with every fault, up to 100. Values do not appear in it, nor in its traceback.
    """
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    # Raised outside the handler: the chained pydantic error would hold the values.
    faults: list[Fault] = []
    unknown = 0
    for detail in details[: MAX_FAULTS + 1]:
        faults.append(_fault(detail, model, path, document, is_compared=unknown < MAX_NEAR_MISSES))
        unknown += detail["type"] == _UNKNOWN
    raise SettingsError(first_faults(sorted(faults, key=lambda fault: fault.line or 0)), source)


def _fault(
    detail: ErrorDetails,
    model: type[BaseModel],
    prefix: tuple[PathPart, ...],
    document: YamlDocument | None,
    *,
    is_compared: bool,
) -> Fault:
    # pydantic marks faults in a mapping's key by one more element.
    inner = tuple(part for part in detail["loc"] if part != "[key]")
    path = (*prefix, *inner)
    if detail["type"] != _UNKNOWN:
        message = _message(detail)
    else:
        message = unknown_key(model, inner, is_in_file=document is not None, is_compared=is_compared)
    return Fault(dotted(path), message, document.line_of(path) if document else None)


_UNKNOWN: Final = "extra_forbidden"

_MESSAGES: Mapping[str, str] = {
    "missing": "is required; add it",
    "invalid_key": "has a key that is not text",
    "bool_type": "should be true or false, without quotes",
    "int_type": "should be a whole number, without quotes, unit or leading zero",
    "float_type": "should be a number, without quotes",
    "string_type": "should be text; put it in quotes",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
}


def _message(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        return "should not be empty"
    if kind == "too_long":
        return f"should have at most {context['max_length']} entries, not {context['actual_length']}"
    return detail["msg"].removeprefix("Input ").removeprefix("String ")


def unknown_key(
    model: type[BaseModel], path: tuple[PathPart, ...], *, is_in_file: bool = False, is_compared: bool = True
) -> str:
    """Say what is wrong with a key that a settings model does not have, and which was probably meant.

    Args:
        model: what the whole value should be.
        path: of the key in it.
        is_in_file: whether the legacy flat format may be meant, which a command converts.
        is_compared: whether to look for the key that was probably meant.
    """
    names = tuple(str(part) for part in path if not isinstance(part, int))
    key, parent = names[-1], names[:-1]
    known = _known_keys(model)
    below = [other[len(parent) :] for other in known if other[: len(parent)] == parent]
    for other in below:
        # The flat limits of a service configuration stand beside `defaults`, which their names do not hold.
        if any("_".join(other[start:]) == key for start in range(len(other) - 1)):
            scoped = ".".join(other)
            advice = f", or let `{CONVERT}` write the file anew" if is_in_file else ""
            return f"unknown key (it looks like the legacy flat format); write {scoped} as nested keys{advice}"
    beside = [other[0] for other in below if len(other) == 1]
    if is_compared and (nearest := difflib.get_close_matches(key, beside, n=1)):
        return f"unknown key; did you mean {nearest[0]}?"
    if elsewhere := [".".join(other) for other in known if other[-1] == key]:
        # Some names of the legacy flat format are those of the scoped one, without the scope.
        advice = f"; for a file in the legacy flat format, `{CONVERT}` writes it anew" if is_in_file else ""
        return f"unknown key here; it belongs at {' or '.join(elsewhere[:3])}{advice}"
    return "unknown key; remove it"


@cache
def _known_keys(model: type[BaseModel]) -> tuple[tuple[str, ...], ...]:
    return tuple(_walk(model))


def _walk(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        key = key_of(name, field)
        yield (key,)
        for nested in models_in(field.annotation):
            yield from ((key, *below) for below in _walk(nested))


def key_of(name: str, field: FieldInfo) -> str:
    """Return how a field is called in files and documents."""
    return field.alias or name


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Return the models in a type, such as the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)
