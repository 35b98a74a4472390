"""Legal but unusual encodings of a protobuf message, to show that what counts is what it says.

Every decoder must read these alike (protobuf encoding guide): fields in another order, unknown fields,
varints with needless bytes, zeros written out, fields written twice (the last counts), messages in two parts.
"""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_SPLIT = {"status", "resource"}
_VARINTS = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_ENUM,
    FieldDescriptor.TYPE_BOOL,
}
_ZEROS = dict.fromkeys(_VARINTS, (0, b"\x00")) | {
    FieldDescriptor.TYPE_BYTES: (2, b"\x00"),
    FieldDescriptor.TYPE_FIXED64: (1, bytes(8)),
    FieldDescriptor.TYPE_FIXED32: (5, bytes(4)),
}
_UNKNOWN_FIELDS = [
    b"\xc8\x3e\x96\x01",  # 1001: varint
    b"\xd1\x3e12345678",  # 1002: fixed64
    b"\xda\x3e\x03abc",  # 1003: length-delimited
    b"\xe5\x3e1234",  # 1004: fixed32
    b"\xeb\x3e\x08\x01\xec\x3e",  # 1005: a group with a varint inside
]


def unusual_encoding(message: Any, rng: random.Random, *, is_part: bool = False) -> bytes:
    """Return bytes that say what ``message`` says, written as no usual encoder would.

    A part of a message that is written in two says nothing of what the other part says, not even zero.
    """
    fields = [_encodings(message, field, rng, is_part) for field in message.DESCRIPTOR.fields]
    fields += [[rng.choice(_UNKNOWN_FIELDS)] for _ in range(rng.choice([0, 0, 1, 2]))]
    order = [index for index, encodings in enumerate(fields) for _ in encodings]
    rng.shuffle(order)  # one field's own encodings stay in their order
    remaining = [iter(encodings) for encodings in fields]
    return b"".join(next(remaining[index]) for index in order)


def _encodings(message: Any, field: FieldDescriptor, rng: random.Random, is_part: bool) -> list[bytes]:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_delimited(field, unusual_encoding(element, rng), rng) for element in value]
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if not message.HasField(field.name):
            return []
        is_split = field.name in _SPLIT
        parts = _parts(value, rng) if is_split else [value]
        return [_delimited(field, unusual_encoding(part, rng, is_part=is_split), rng) for part in parts]
    is_set = message.HasField(field.name) if field.has_presence else bool(value)
    if not is_set:
        return [] if field.has_presence or is_part or rng.random() > 0.1 else [_zero(field)]
    decoy = [] if rng.random() > 0.1 else [_scalar(message, field, b"decoy" if isinstance(value, bytes) else 1)]
    return [*decoy, _padded(field, _scalar(message, field, value), value, rng)]


def _scalar(message: Any, field: FieldDescriptor, value: Any) -> bytes:
    alone = type(message)()
    setattr(alone, field.name, value)
    return bytes(alone.SerializeToString())


def _zero(field: FieldDescriptor) -> bytes:
    wire_type, content = _ZEROS[field.type]
    return _varint(field.number << 3 | wire_type) + content


def _padded(field: FieldDescriptor, encoding: bytes, value: Any, rng: random.Random) -> bytes:
    """Lengthen a varint by a byte that adds nothing; a negative one has all ten already."""
    if field.type not in _VARINTS or value < 0 or value >= 2**56 or rng.random() > 0.2:
        return encoding
    return encoding[:-1] + bytes([encoding[-1] | 0x80, 0])


def _delimited(field: FieldDescriptor, content: bytes, rng: random.Random) -> bytes:
    length = _varint(len(content))
    if rng.random() < 0.1:
        length = length[:-1] + bytes([length[-1] | 0x80, 0])
    return _varint(field.number << 3 | 2) + length + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _parts(message: Any, rng: random.Random) -> list[Any]:
    """Return two messages that merge into ``message``."""
    first, second = type(message)(), type(message)()
    for field, value in message.ListFields():
        if field.is_repeated:
            cut = rng.randrange(len(value) + 1)
            getattr(first, field.name).extend(value[:cut])
            getattr(second, field.name).extend(value[cut:])
        else:
            setattr(rng.choice([first, second]), field.name, value)
    return [first, second]
