"""Read Remote-Write 1.0 messages: the four message types of ``WriteRequest`` that carry classic series.

A hand-written walk of the wire format, bounded by the size of the body it is given. Native histograms and
metadata are skipped, as unknown fields are. It refuses truncated fields, groups and overlong numbers, and
says where.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.demo.errors import MalformedWriteError

_STALE = struct.pack("<Q", 0x7FF0000000000002)
"""The one NaN that means "this series has ended" (remote-write §1.5)."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a series; ``is_stale`` marks its end and has no value."""

    timestamp_ms: int
    value: float
    is_stale: bool


@dataclass(frozen=True, slots=True)
class WireExemplar:
    """One exemplar as it was sent."""

    labels: dict[str, str]
    timestamp_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """One TimeSeries of a message.

    ``identity`` is its labels as they were encoded. A sender sorts them (remote-write §1.4), so the same
    series has the same bytes in each message, and a known series need not be decoded again.
    """

    identity: bytes
    samples: list[Sample]
    exemplars: list[WireExemplar]

    def labels(self) -> dict[str, str]:
        """Decode the labels.

        Raises:
            MalformedWriteError: a label is not UTF-8 or is damaged; the offset is in the labels.
        """
        return _labels(self.identity)


def read_write_request(body: bytes) -> list[TimeSeries]:
    """Read one uncompressed WriteRequest.

    Raises:
        MalformedWriteError: the bytes are not such a message; nothing was returned.
    """
    return [_time_series(body, start, end) for number, start, end in _messages(body, 0, len(body)) if number == 1]


def _time_series(body: bytes, start: int, end: int) -> TimeSeries:
    labels: list[bytes] = []
    samples: list[Sample] = []
    exemplars: list[WireExemplar] = []
    position = start
    for number, at, until in _messages(body, start, end):
        if number == 1:
            labels.append(body[position:until])
        elif number == 2:
            samples.append(_sample(body, at, until))
        elif number == 3:
            exemplars.append(_exemplar(body, at, until))
        position = until
    return TimeSeries(b"".join(labels), samples, exemplars)


def _sample(body: bytes, start: int, end: int) -> Sample:
    raw, timestamp_ms = bytes(8), 0
    for number, wire, value, at, until in _fields(body, start, end):
        if number == 1 and wire == _FIXED64:
            raw = body[at:until]
        elif number == 2 and wire == _VARINT:
            timestamp_ms = _signed(value)
    return Sample(timestamp_ms, struct.unpack("<d", raw)[0], raw == _STALE)


def _exemplar(body: bytes, start: int, end: int) -> WireExemplar:
    labels: dict[str, str] = {}
    raw, timestamp_ms = bytes(8), 0
    for number, wire, value, at, until in _fields(body, start, end):
        if number == 1 and wire == _BYTES:
            name, text = _label(body, at, until)
            labels[name] = text
        elif number == 2 and wire == _FIXED64:
            raw = body[at:until]
        elif number == 3 and wire == _VARINT:
            timestamp_ms = _signed(value)
    return WireExemplar(labels, timestamp_ms, struct.unpack("<d", raw)[0])


def _labels(encoded: bytes) -> dict[str, str]:
    return dict(_label(encoded, start, end) for _, start, end in _messages(encoded, 0, len(encoded)))


def _label(body: bytes, start: int, end: int) -> tuple[str, str]:
    parts = {1: "", 2: ""}
    for number, at, until in _messages(body, start, end):
        if number in parts:
            try:
                parts[number] = body[at:until].decode()
            except UnicodeDecodeError as error:
                raise MalformedWriteError(at + error.start, "label is not UTF-8") from error
    return parts[1], parts[2]


def _messages(body: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the length-delimited fields; the others are skipped."""
    for number, wire, _, at, until in _fields(body, start, end):
        if wire == _BYTES:
            yield number, at, until


def _fields(body: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield number, wire type, varint value, and start and end of the content of each field."""
    position = start
    while position < end:
        tag_at = position
        tag, position = _varint(body, position, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise MalformedWriteError(tag_at, "field number 0")
        value, content = 0, position
        if wire == _VARINT:
            value, position = _varint(body, position, end)
        elif wire == _FIXED64:
            position += 8
        elif wire == _BYTES:
            length, content = _varint(body, position, end)
            position = content + length
        elif wire == _FIXED32:
            position += 4
        else:
            raise MalformedWriteError(tag_at, f"wire type {wire}")
        if position > end:
            raise MalformedWriteError(tag_at, f"field {number} is cut off")
        yield number, wire, value, content, position


def _varint(body: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise MalformedWriteError(position, "number is cut off")
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise MalformedWriteError(position, "number is longer than 10 bytes")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
