"""What the suite for 1.0 expects of the messages themselves (remote-write §5.4)."""

import re
from itertools import pairwise
from typing import Any

import pytest

from tenants.settings.protobuf_message import ProtobufMessage
from tests.conformance.sender.expectations import expects
from tests.conformance.sender.session import (
    CALLS,
    COLLECTIONS,
    CONNECTED,
    DURATIONS_MS,
    LATENCY,
    NAMES,
    Session,
    session,
    times_ms,
)
from tests.remote_write import is_stale_marker


@pytest.fixture(scope="module")
def written() -> Session:
    return session(ProtobufMessage.V1)


def values(samples: list[tuple[int, float]]) -> list[float]:
    return [value for _, value in samples if not is_stale_marker(value)]


@expects(1, 1)
def test_counter_grows_by_what_was_counted_from_zero(written: Session) -> None:
    for name in NAMES:
        ((_, series),) = written.series(CALLS, span_name=name).items()
        per_round = len(DURATIONS_MS)
        assert values(series.samples) == [per_round * number for number in range(COLLECTIONS + 1)]


@expects(1, 2)
def test_gauge_has_its_value(written: Session) -> None:
    ((_, series),) = written.series(CONNECTED).items()
    assert values(series.samples) == [1.0] * COLLECTIONS


@expects(1, 3)
def test_histogram_adds_up(written: Session) -> None:
    def last(suffix: str, **labels: str) -> list[float]:
        ((_, series),) = written.series(LATENCY + suffix, span_name="op", **labels).items()
        return values(series.samples)

    buckets = {le: last("_bucket", le=le) for le in ("0.002", "0.004", "0.064", "1.024", "+Inf")}
    rounds = range(COLLECTIONS + 1)
    assert buckets["0.002"] == [0 for _ in rounds]
    assert buckets["0.004"] == list(rounds)
    assert buckets["0.064"] == [2 * number for number in rounds]
    assert buckets["1.024"] == buckets["+Inf"] == last("_count") == [3 * number for number in rounds]
    assert last("_sum") == pytest.approx([sum(DURATIONS_MS) / 1000 * number for number in rounds])
    assert {len(of_bucket) for of_bucket in buckets.values()} == {COLLECTIONS + 1}


@expects(1, 9)
@expects(1, 10)
@expects(1, 11)
@expects(1, 12)
def test_labels_are_sorted_unique_not_empty_and_have_a_name(written: Session) -> None:
    # Decoding refuses everything else; and an attribute without a value makes no label.
    assert written.histories
    assert not [key for key in written.histories if "empty" in dict(key)]
    for key in written.histories:
        assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", dict(key)["__name__"])


@expects(1, 14)
def test_every_series_ends_with_a_marker(written: Session) -> None:
    for parts in written.histories.values():
        last = parts[-1]
        if last.histograms:
            assert last.histograms[-1].is_stale
            assert last.histograms[-1].timestamp_ms == times_ms()[-1]
        else:
            timestamp_ms, value = last.samples[-1]
            assert is_stale_marker(value)
            assert timestamp_ms == times_ms()[-1]


@expects(1, 15)
def test_timestamps_are_those_of_collections_and_do_not_decrease(written: Session) -> None:
    for parts in written.histories.values():
        samples: list[Any] = [sample for part in parts for sample in part.samples]
        times = [at_ms for at_ms, _ in samples] or [each.timestamp_ms for part in parts for each in part.histograms]
        assert times[-len(times_ms()) :] == times_ms()
        assert all(earlier < later for earlier, later in pairwise(times))


@expects(1, 16)
def test_headers_are_exactly_those_of_1_0(written: Session) -> None:
    assert written.requests
    for request in written.requests:
        assert request.header("Content-Encoding") == "snappy"
        assert request.header("Content-Type") == "application/x-protobuf"
        assert request.header("X-Prometheus-Remote-Write-Version") == "0.1.0"
