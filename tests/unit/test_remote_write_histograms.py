"""The decoder of native histograms: what it reads, and what it refuses as receivers do."""

import struct

import pytest
import snappy

from tests.remote_write import NativeSample, RefusedMessageError, TimeSeries, decode

NAME = bytes.fromhex("0a0d") + b"\x0a\x08__name__\x12\x01m"
STALE_SUM = "19" + struct.pack("<Q", 0x7FF0000000000002).hex()
EMPTY = "0800" + "3000"


def field(tag: int, content: bytes) -> bytes:
    """Return a field of fewer than 128 bytes."""
    return bytes([tag, len(content)]) + content


def time_series(*histograms: str, other_fields: bytes = b"") -> bytes:
    """Return a message of the series ``m`` that has these messages, in hexadecimal, as native histograms."""
    fields = b"".join(field(0x22, bytes.fromhex(histogram)) for histogram in histograms)
    return field(0x0A, NAME + other_fields + fields)


def series_of(*histograms: str, other_fields: bytes = b"") -> TimeSeries:
    """Decode one such message."""
    (series,) = decode(snappy.compress(time_series(*histograms, other_fields=other_fields))).values()
    return series


def double(tag: int, *values: float) -> str:
    """Return a field of one double, or of packed ones, in hexadecimal."""
    packed = struct.pack(f"<{len(values)}d", *values)
    return (bytes([tag]) + packed if tag & 7 == 1 else field(tag, packed)).hex()


def test_integer_histogram_is_read_from_spans_and_deltas() -> None:
    # Schema 3; spans (-79,1) (78,2) (3,1); deltas 1,0,1,-1; two observations of zero; the time 300.
    message = (
        "0807" + double(0x19, 7.5) + "2006" + double(0x29, 2.0**-128) + "3002"
        "5a05" "089d01" "1001" "5a05" "089c01" "1002" "5a04" "0806" "1001" "6204" "02000201" "78ac02"
    )  # fmt: skip
    series = series_of(message)
    buckets = {-79: 1.0, 0: 1.0, 1: 2.0, 5: 1.0}
    assert series.histograms == [NativeSample(300, 7, 7.5, 3, 2.938735877055719e-39, 2, buckets, is_float=False)]
    assert series.samples == []
    assert not series.histograms[0].is_stale


def test_float_histogram_is_read_from_spans_and_counts() -> None:
    # Schema -1; one span (-1,4) with an empty bucket inside.
    message = (
        double(0x11, 3.25) + double(0x19, 1.5) + "2001" + double(0x29, 0.0) + double(0x39, 0.5)
        + "5a04" "0801" "1004" + double(0x6A, 0.25, 0.0, 2.0, 0.5) + "7801"
    )  # fmt: skip
    buckets = {-1: 0.25, 1: 2.0, 2: 0.5}
    assert series_of(message).histograms == [NativeSample(1, 3.25, 1.5, -1, 0, 0.5, buckets, is_float=True)]


def test_stale_marker_is_told_by_its_sum() -> None:
    first, last = series_of(EMPTY + "2006" + "7801", EMPTY + STALE_SUM + "7802").histograms
    assert (first.is_stale, last.is_stale) == (False, True)
    assert (first.schema, first.count, first.buckets) == (3, 0, {})


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        (["7801"], "missing"),
        (["0800" + double(0x39, 0.0)], "two forms"),
        ([double(0x11, 0.0) + "3000"], "two forms"),
        (["0801" + "3000" + "5a0408021001" + double(0x6A, 1.0)], "do not fit"),
        (["0801" + "3000" + "5a0408021002620102"], "do not fit"),
        (["0801" + "3000" + "620102"], "do not fit"),
        (["0802" + "3000" + "5a04080210015a040801100162020200"], "overlap"),
        (["0802" + "3000" + "5a0408021001620102"], "add up"),
        (["0801" + "3001" + "5a0408021001620102"], "add up"),
        (["0800" + "3001" + "5a0408021001620101"], "add up"),
        ([double(0x11, 1.0) + double(0x39, 1.001)], "add up"),
        ([EMPTY + "2009"], "no such"),
        ([EMPTY + "2012"], "no such"),
        ([EMPTY + double(0x29, -1.0)], "no such"),
        ([EMPTY + "7004"], "no such"),
        ([EMPTY + "4204080210014a0102"], "negative"),
        ([EMPTY + double(0x82, 1.0).replace("82", "8201", 1)], "custom"),
        ([EMPTY + "7802", EMPTY + "7802"], "out of order"),
        ([EMPTY + "7802", EMPTY + "7801"], "out of order"),
        ([], "without samples"),
    ],
)
def test_faulty_histograms_are_refused(messages: list[str], fault: str) -> None:
    with pytest.raises(RefusedMessageError, match=fault):
        series_of(*messages)


def test_samples_and_histograms_in_one_series_are_refused() -> None:
    sample = field(0x12, b"\x10\x01")
    with pytest.raises(RefusedMessageError, match="in one series"):
        series_of(EMPTY + "7802", other_fields=sample)


def test_exemplars_of_one_series_ascend_in_time() -> None:
    exemplars = [field(0x1A, bytes([0x18, at_ms])) for at_ms in (1, 2)]
    assert [e.timestamp_ms for e in series_of(EMPTY, other_fields=b"".join(exemplars)).exemplars] == [1, 2]
    with pytest.raises(RefusedMessageError, match="exemplars out of order"):
        series_of(EMPTY, other_fields=exemplars[0] * 2)


def test_native_series_may_go_on_in_another_message() -> None:
    sample, exemplar = field(0x12, b"\x10\x01"), field(0x1A, b"\x18\x02")
    first, second = time_series(EMPTY + "7801"), time_series(EMPTY + "7802", other_fields=exemplar)
    (series,) = decode(snappy.compress(first + second)).values()
    assert [histogram.timestamp_ms for histogram in series.histograms] == [1, 2]
    assert [exemplar.timestamp_ms for exemplar in series.exemplars] == [2]
    with pytest.raises(RefusedMessageError, match="out of order"):
        decode(snappy.compress(second + first))
    plain = time_series(other_fields=sample)
    for one, other in ((plain, plain), (plain, first), (first, plain)):
        with pytest.raises(RefusedMessageError, match="sent twice"):
            decode(snappy.compress(one + other))
