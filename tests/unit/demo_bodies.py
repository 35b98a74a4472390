"""Remote-Write 1.0 messages built by hand, field by field, for tests of who reads them."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]


@dataclass(frozen=True)
class Written:
    """One TimeSeries: samples as (milliseconds, value), exemplars as (trace id, milliseconds, value)."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[int, float]] = ()
    exemplars: Sequence[tuple[str, int, float]] = field(default=())


def message(series: Iterable[Written]) -> bytes:
    """Encode a WriteRequest, uncompressed, labels sorted as a sender has to."""
    return b"".join(block(1, _time_series(written)) for written in series)


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def block(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def _time_series(written: Written) -> bytes:
    labels = b"".join(_label(name, value) for name, value in sorted(written.labels.items()))
    samples = b"".join(block(2, _point(1, value, 2, time_ms)) for time_ms, value in written.samples)
    exemplars = b"".join(
        block(3, _label("traceID", trace_id) + _point(2, value, 3, time_ms))
        for trace_id, time_ms, value in written.exemplars
    )
    return labels + samples + exemplars


def _label(name: str, value: str) -> bytes:
    return block(1, block(1, name.encode()) + block(2, value.encode()))


def _point(value_field: int, value: float, time_field: int, time_ms: int) -> bytes:
    return varint(value_field << 3 | 1) + struct.pack("<d", value) + varint(time_field << 3) + varint(time_ms)
