"""OTLP/JSON to OTLP/protobuf, so that whatever is behind the receivers knows one encoding only.

Follows the descriptors of ``opentelemetry-proto`` and the rules by which OTLP differs from ProtoJSON (OTLP,
"JSON Protobuf Encoding"): ids of traces and spans are hexadecimal, enums are integers, unknown fields are
ignored. ``google.protobuf.json_format`` would read ids as base64, takes text where an object belongs, and is
slower. What the values mean is not judged here, nor the length of an id.
"""

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cluster.gateway.refusal import RefusalReason, Refused

# The customary bound of protobuf decoders: what is nested deeper could not be read behind the receivers.
_MAX_DEPTH: Final = 100

_HEX_FIELDS: Final = frozenset({"trace_id", "span_id", "parent_span_id"})
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_NON_FINITE: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_URL_SAFE: Final = str.maketrans("-_", "+/")
_KINDS: Final = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}

_Read = Callable[[Any], object]


def json_to_protobuf(data: bytes) -> bytes | Refused:
    """Turn an ``ExportTraceServiceRequest`` in JSON into the same in protobuf.

    Keys may be in lowerCamelCase, as OTLP demands, or as in the proto files, which other receivers take too.
    Blocks and holds the GIL, and takes memory of up to 100 times the size of ``data``: bound that size before.

    Returns:
        The protobuf bytes, never more than ``data``; or refused as ``malformed``, with the line and column or
        the path of what is wrong.
    """
    try:
        document = json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return _malformed(f"not UTF-8 at byte {error.start}")
    except ValueError as error:
        return _malformed(str(error))
    except RecursionError:
        return _malformed("nested too deeply")
    request = ExportTraceServiceRequest()
    try:
        _fill(request, _REQUEST, document, _MAX_DEPTH)
    except _Misfit as misfit:
        return _malformed(str(misfit))
    return request.SerializeToString()


class _Misfit(Exception):  # noqa: N818 - never leaves this module
    """A value that its field cannot take, and the way there, innermost first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"{self.args[0]} at {''.join(reversed(self.path)).lstrip('.') or 'the top'}"


@dataclass(frozen=True, slots=True)
class _Field:
    """How to read one field: either a scalar by ``read``, or a message by its own ``fields``."""

    name: str
    oneof: str | None
    is_repeated: bool
    read: _Read
    fields: "_Fields | None"


_Fields = dict[str, _Field]


def _fill(message: Message, fields: _Fields, value: object, depth: int) -> None:
    if not isinstance(value, dict):
        _expected("an object", value)
    if not depth:
        raise _Misfit("nested too deeply")
    for key, item in value.items():
        field = fields.get(key)
        if field is None or item is None:
            continue
        try:
            if field.oneof and len(value) > 1:
                _check_unset(message, field.oneof)
            if field.is_repeated:
                _fill_list(message, field, item, depth)
            elif field.fields is None:
                setattr(message, field.name, field.read(item))
            else:
                child = getattr(message, field.name)
                child.SetInParent()
                _fill(child, field.fields, item, depth - 1)
        except _Misfit as misfit:
            misfit.path.append(f".{key}")
            raise


def _fill_list(message: Message, field: _Field, items: object, depth: int) -> None:
    if not isinstance(items, list):
        _expected("an array", items)
    target = getattr(message, field.name)
    for index, item in enumerate(items):
        try:
            if field.fields is None:
                target.append(field.read(item))
            else:
                _fill(target.add(), field.fields, item, depth - 1)
        except _Misfit as misfit:
            misfit.path.append(f"[{index}]")
            raise


def _check_unset(message: Message, oneof: str) -> None:
    if message.WhichOneof(oneof):
        raise _Misfit("a second value where there can be one")


def _text(value: object) -> str:
    if not isinstance(value, str):
        _expected("text", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Misfit("half of a surrogate pair") from None
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        _expected("true or false", value)
    return value


def _integer(low: int, high: int) -> _Read:
    def read(value: object) -> int:
        if (isinstance(value, str) and _INTEGER.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            _expected("an integer", value)
        if not low <= value <= high:
            raise _Misfit("integer out of range")
        return value

    return read


def _enum(enum: EnumDescriptor) -> _Read:
    numbers = {name: value.number for name, value in enum.values_by_name.items()}
    read_number = _integer(-(2**31), 2**31 - 1)

    def read(value: object) -> object:
        # OTLP allows numbers only; senders that print ProtoJSON write names, and they are unambiguous.
        return numbers[value] if isinstance(value, str) and value in numbers else read_number(value)

    return read


def _double(value: object) -> float:
    if isinstance(value, str):
        if value in _NON_FINITE:
            return float(value)
        if not _DECIMAL.fullmatch(value):
            raise _Misfit("expected a number, got other text")
    elif not isinstance(value, int | float) or isinstance(value, bool):
        _expected("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise _Misfit("number out of range")
    return number


def _hex(value: object) -> bytes:
    text = _text(value)
    try:
        # Not bytes.fromhex, which skips blanks between digits.
        return base64.b16decode(text, casefold=True)
    except ValueError:
        raise _Misfit("expected hexadecimal digits in pairs") from None


def _base64(value: object) -> bytes:
    text = _text(value).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise _Misfit("expected base64") from None


_SCALARS: Final[dict[int, _Read]] = {
    FieldDescriptor.CPPTYPE_STRING: _text,
    FieldDescriptor.CPPTYPE_BOOL: _boolean,
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
    FieldDescriptor.CPPTYPE_INT32: _integer(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: _integer(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: _integer(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: _integer(0, 2**64 - 1),
}


def _reader(field: FieldDescriptor) -> _Read:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _hex if field.name in _HEX_FIELDS else _base64
    return _enum(field.enum_type) if field.enum_type else _SCALARS[field.cpp_type]


def _fields_of(message: Descriptor, known: dict[str, _Fields]) -> _Fields:
    """List a message's fields by both their names; ``known`` ends the recursion of nested values."""
    if message.full_name not in known:
        fields = known[message.full_name] = {}
        for field in message.fields:
            inner = field.message_type
            fields[field.json_name] = fields[field.name] = _Field(
                name=field.name,
                oneof=field.containing_oneof.name if field.containing_oneof else None,
                is_repeated=field.is_repeated,
                read=_text if inner else _reader(field),
                fields=_fields_of(inner, known) if inner else None,
            )
    return known[message.full_name]


_REQUEST: Final = _fields_of(ExportTraceServiceRequest.DESCRIPTOR, {})


def _expected(what: str, value: object) -> NoReturn:
    raise _Misfit(f"expected {what}, got {_KINDS[type(value)]}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write it as text")


def _malformed(problem: str) -> Refused:
    return Refused(RefusalReason.MALFORMED, f"the body is not OTLP/JSON: {problem}")
