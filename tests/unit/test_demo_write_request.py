"""Reading remote-write messages: what is there is found, what is damaged is refused with its place."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.errors import MalformedWriteError
from cluster.demo.write_request import Sample, WireExemplar, read_write_request
from tests.unit.demo_bodies import STALE, Written, block, message, varint

SERIES = Written(
    {"__name__": "calls_total", "service": "größe", "tenant": "acme"},
    [(1_700_000_000_000, 3.5), (-5, math.inf)],
    [("abc", 1_700_000_000_001, 0.25)],
)


def test_labels_samples_and_exemplars_are_read() -> None:
    (series,) = read_write_request(message([SERIES]))
    assert series.labels() == SERIES.labels
    assert series.samples == [Sample(1_700_000_000_000, 3.5, False), Sample(-5, math.inf, False)]
    assert series.exemplars == [WireExemplar({"traceID": "abc"}, 1_700_000_000_001, 0.25)]


def test_series_with_the_same_labels_have_the_same_identity_whatever_else_they_carry() -> None:
    other = Written(SERIES.labels, [(7, 1.0)])
    third = Written({**SERIES.labels, "le": "1"}, [(7, 1.0)])
    first, second, different = read_write_request(message([SERIES, other, third]))
    assert first.identity == second.identity != different.identity


def test_the_stale_marker_is_told_from_other_nans() -> None:
    (series,) = read_write_request(message([Written({"a": "b"}, [(1, STALE), (2, math.nan)])]))
    assert [sample.is_stale for sample in series.samples] == [True, False]


def test_unknown_fields_metadata_and_native_histograms_are_skipped() -> None:
    histogram = block(4, varint(1 << 3) + varint(9))
    series = message([SERIES])[2:]  # the content of the one TimeSeries; it is longer than 127 bytes
    (length_bytes, content) = (1, series[1:]) if message([SERIES])[1] >= 0x80 else (0, series)
    assert length_bytes == 1
    body = block(3, b"\x08\x01") + block(1, content + histogram) + varint(99 << 3 | 5) + bytes(4)
    (read,) = read_write_request(body)
    assert read.labels() == SERIES.labels
    assert len(read.samples) == 2


@pytest.mark.parametrize("cut", range(1, len(message([SERIES]))))
def test_a_message_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(MalformedWriteError):
        read_write_request(message([SERIES])[:cut])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\x00\x00", "field number 0 at byte 0"),
        (b"\x0b", "wire type 3 at byte 0"),
        (b"\x0a\xff", "number is cut off at byte 2"),
        (b"\x0a" + b"\xff" * 10, "number is longer than 10 bytes"),
        (b"\x0a\x05abc", "field 1 is cut off at byte 0"),
    ],
)
def test_damage_is_named_with_its_place(body: bytes, says: str) -> None:
    with pytest.raises(MalformedWriteError, match=says):
        read_write_request(body)


def test_a_label_that_is_not_utf8_is_refused_when_it_is_decoded() -> None:
    (series,) = read_write_request(block(1, block(1, block(1, b"a") + block(2, b"x\xff"))))
    with pytest.raises(MalformedWriteError, match="not UTF-8"):
        series.labels()


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(MalformedWriteError):
        for series in read_write_request(body):
            series.labels()


@given(st.integers(0, len(message([SERIES])) - 1), st.integers(0, 255))
def test_any_mutated_byte_is_read_or_refused(at: int, byte: int) -> None:
    body = bytearray(message([SERIES]))
    body[at] = byte
    with contextlib.suppress(MalformedWriteError):
        for series in read_write_request(bytes(body)):
            series.labels()
