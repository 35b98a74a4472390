"""JSON objects in text columns, as this package writes them and reads them back.

Text rather than a JSON type: both databases then keep the same bytes, and a damaged value stops only its own row.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

JsonObject = dict[str, Any]


def object_text(value: Mapping[str, Any]) -> str:
    """Write an object as ASCII, members in their order.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def read_object(text: str) -> JsonObject:
    """Read an object.

    Raises:
        ValueError: it is not JSON or not an object; the message does not repeat what is there.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"is not an object, but {type(value).__name__}")  # noqa: TRY004  (a fault of the data)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
