"""Settings as plain JSON values, for people and their programs to read. Secrets are masked."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel, SecretStr

MASK: Final = "<secret>"


def plain(value: object) -> Any:
    """Return a value as dicts, lists and scalars; of a model what is present in it, by the names in a file."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            fields[name].alias or name: plain(inner) for name, inner in value if inner is not None and name in fields
        }
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return _scalar(value)


def _scalar(value: object) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Enum):
        return value.value
    is_json = value is None or isinstance(value, bool | int | float | str)
    return value if is_json else str(value)
