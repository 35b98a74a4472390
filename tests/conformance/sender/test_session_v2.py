"""What the suite for 2.0 expects of the messages themselves (remote-write §5.5, 1 to 11 and 20 to 24)."""

import json
import re
from collections import Counter
from itertools import pairwise

import pytest
import snappy

from tenants import _engine
from tenants.settings.protobuf_message import ProtobufMessage
from tests import traces
from tests.conformance.sender.expectations import expects
from tests.conformance.sender.session import (
    CALLS,
    COLLECTIONS,
    CONNECTED,
    DIMENSIONS,
    DURATIONS_MS,
    LATENCY,
    LONG,
    LONG_NAME,
    SPECIAL,
    UNICODE,
    Session,
    session,
    times_ms,
)
from tests.engine_driver import EngineDriver
from tests.remote_write import COUNTER, GAUGE, HISTOGRAM, is_stale_marker
from tests.remote_write_v2 import SeriesV2, decode_v2

NAME, LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r"[a-zA-Z_][a-zA-Z0-9_]*"
SIZE = "traces_spanmetrics_size_total"


@pytest.fixture(scope="module")
def written() -> Session:
    return session(ProtobufMessage.V2)


def typed(written: Session, kind: int) -> list[SeriesV2]:
    found = [each for each in written.v2 if each.metadata.type == kind]
    assert found
    return found


@expects(2, 1)
@expects(2, 2)
@expects(2, 17)
def test_requests_are_those_of_the_protocol(written: Session) -> None:
    # The zeros of new series, and the last values of those that end, go ahead in requests of their own.
    assert len(written.requests) >= COLLECTIONS + 1
    for request in written.requests:
        assert request.method == "POST"
        assert request.header("Content-Type") == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
        assert request.header("Content-Encoding") == "snappy"
        assert request.header("X-Prometheus-Remote-Write-Version") == "2.0.0"
        assert request.header("User-Agent") == "millrace/1.2.3"
        assert not request.body.startswith(b"\xff\x06\x00\x00sNaPpY")
        assert snappy.uncompress(request.body)
        assert decode_v2(request.body).series


@expects(
    2,
    3,
    "label_lexicographic_ordering",
    "metric_name_label_present",
    "metric_name_format_valid",
    "label_name_format_valid",
    "no_duplicate_label_names",
    "label_names_not_empty",
    "label_values_may_be_empty",
    "reserved_label_prefix",
)
def test_labels_are_valid(written: Session) -> None:
    # Order, uniqueness and emptiness: decoding refuses what is otherwise.
    assert written.histories
    for key in written.histories:
        labels = dict(key)
        assert re.fullmatch(NAME, labels.pop("__name__"))
        assert all(re.fullmatch(LABEL, name) and not name.startswith("__") for name in labels)
        assert "empty" not in labels


@expects(
    2,
    3,
    "unicode_in_label_values",
    "special_chars_in_label_values",
    "very_long_label_names",
    "very_long_label_values",
    "many_labels_per_series",
)
@expects(2, 23, "huge_label_values", "unicode_in_labels")
@expects(2, 22, "high_cardinality_labels")
def test_labels_arrive_as_they_were_given(written: Session) -> None:
    for name in (UNICODE, SPECIAL, LONG):
        ((key, series),) = written.series(CALLS, span_name=name).items()
        assert LONG_NAME in dict(key)
        assert len(key) >= len(DIMENSIONS)
        assert series.samples


@expects(2, 4)
@expects(2, 5)
@expects(2, 20, "efficient_symbol_reuse")
@expects(2, 9, "help_refs_valid")
@expects(2, 10, "labels_valid_refs", "labels_even_length")
def test_table_has_every_text_that_is_used_once_and_no_other(written: Session) -> None:
    # Decoding refuses a table without the empty text or with one twice, and references that are odd or lead nowhere.
    for request in written.requests:
        decoded = decode_v2(request.body)
        used = {""}
        for key, each in decoded.series.items():
            used |= {text for pair in key for text in pair} | {each.metadata.help, each.metadata.unit}
            used |= {text for one in each.series.exemplars for pair in one.labels.items() for text in pair}
        assert set(decoded.symbols) == used
        assert decoded.symbols[0] == ""


@expects(
    2,
    6,
    "float",
    "integer",
    "zero",
    "timestamp_milliseconds_format",
    "timestamp_recent",
    "multiple_samples_same_series",
    "precision_preservation",
)
@expects(2, 8, "timestamp_int64_milliseconds", "timestamp_precision")
def test_values_and_times_are_those_of_the_collections(written: Session) -> None:
    ((_, calls),) = written.series(CALLS, span_name="op").items()
    assert [value for _, value in calls.samples[:-1]] == [3.0 * number for number in range(COLLECTIONS + 1)]
    assert [at_ms for at_ms, _ in calls.samples[1:]] == times_ms()
    assert all(10**12 < at_ms < 10**16 for at_ms, _ in calls.samples)
    ((_, sums),) = written.series(f"{LATENCY}_sum", span_name="op").items()
    exact = [number * sum(DURATIONS_MS) / 1000 for number in range(COLLECTIONS + 1)]
    assert [value for _, value in sums.samples[:-1]] == exact


@expects(2, 6, "large_float")
@expects(2, 11, "large_counts")
def test_large_counts_are_exact() -> None:
    weight = 2.0**30
    plan = traces.plan(
        span_metrics=traces.span_metrics_plan(span_multiplier_key="weight"), histograms=traces.histograms_plan("both")
    )
    driver = EngineDriver(plan)
    span = traces.span("op", end_ns=10**9, attributes={"weight": 1 / weight})
    driver.push(traces.request(traces.batch({"service.name": "s"}, span)), 2 * 10**9)
    driver.flush(3 * 10**9)
    collected = driver.collect()
    assert [value for key, value in collected.series.items() if ("__name__", CALLS) in key] == [weight]
    assert [each.count for each in collected.histograms.values()] == [weight]


@expects(2, 7)
@expects(2, 8, "timestamp_ordering_within_series")
def test_times_of_a_series_increase(written: Session) -> None:
    for parts in written.histories.values():
        samples = [at_ms for part in parts for at_ms, _ in part.samples]
        times = samples or [each.timestamp_ms for part in parts for each in part.histograms]
        assert times[-len(times_ms()) :] == times_ms()
        assert all(earlier < later for earlier, later in pairwise(times))


@expects(2, 8, "start_timestamp_for_counters", "start_timestamp_for_histograms", "start_timestamp_zero_handling")
@expects(2, 8, "start_timestamp_before_sample_timestamp")
def test_start_is_the_time_of_the_zero_sample_and_gauges_have_none(written: Session) -> None:
    # Decoding refuses a start that is not before its sample, or another than that of the whole series.
    first_ms = times_ms()[0] - 15_000 + 1
    for kind in (COUNTER, HISTOGRAM):
        assert {each.start_ms for each in typed(written, kind)} == {first_ms}
    for key, parts in written.histories.items():
        if dict(key)["__name__"] != CONNECTED and parts[0].samples:
            assert parts[0].samples[0] == (first_ms, 0.0)
    assert {each.start_ms for each in typed(written, GAUGE)} == {0}


@expects(2, 9, "type_for_counter", "type_for_gauge", "type_for_histogram", "help_text", "unit")
@expects(2, 9, "consistent_across_series")
@expects(2, 20, "metadata_batching")
@expects(2, 22, "samples_with_metadata", "multiple_metric_types", "mixed_labels_and_metadata")
def test_every_series_says_what_it_is(written: Session) -> None:
    said: dict[str, set[tuple[int, str, str]]] = {}
    for request in written.requests:
        for key, each in decode_v2(request.body).series.items():
            metadata = (each.metadata.type, each.metadata.help, each.metadata.unit)
            said.setdefault(dict(key)["__name__"], set()).add(metadata)
    assert all(len(each) == 1 for each in said.values())
    described = {name: next(iter(each)) for name, each in said.items()}
    assert described[CALLS] == (COUNTER, "Spans.", "")
    assert described[SIZE][::2] == (COUNTER, "bytes")
    assert described[CONNECTED][0] == GAUGE
    for suffix in ("", "_bucket", "_count", "_sum"):
        assert described[LATENCY + suffix] == (HISTOGRAM, "Duration of spans.", "seconds")
    assert all(help_text for _, help_text, _ in described.values())


@expects(2, 10, "with_trace_id", "value_valid", "timestamp_valid", "custom_labels", "on_histogram")
@expects(2, 10, "multiple_exemplars_per_series")
@expects(2, 22, "samples_with_exemplars", "histogram_with_metadata_and_exemplars")
def test_exemplars_are_where_their_sample_is(written: Session) -> None:
    ((_, bucket),) = written.series(f"{LATENCY}_bucket", span_name="op", le="0.004").items()
    assert [each.value for each in bucket.exemplars] == [0.003] * COLLECTIONS
    assert [each.timestamp_ms for each in bucket.exemplars] == times_ms()[:-1]
    assert all(re.fullmatch("[0-9a-f]{29,32}", each.labels["trace_id"]) for each in bucket.exemplars)
    ((_, calls),) = written.series(CALLS, span_name="op").items()
    assert [each.value for each in calls.exemplars] == [1.0] * COLLECTIONS
    # None comes alone: decoding refuses a series without samples.
    assert sum(len(each.series.exemplars) for each in written.v2) > COLLECTIONS


@expects(
    2,
    11,
    "structure",
    "count_present",
    "sum_present",
    "buckets_ordered",
    "positive_buckets",
    "zero_bucket",
    "schema",
    "timestamp",
    "no_mixed_with_samples",
    "empty_buckets",
)
def test_native_histograms_count_what_classic_ones_do(written: Session) -> None:
    # That spans and counts fit, that buckets add up and that nothing is mixed: decoding refuses what is otherwise.
    ((_, native),) = written.series(LATENCY, span_name="op").items()
    empty, *counted, marker = native.histograms
    assert (empty.count, empty.buckets, empty.timestamp_ms) == (0, {}, times_ms()[0] - 15_000 + 1)
    assert [each.timestamp_ms for each in counted] == times_ms()[:-1]
    assert [each.count for each in counted] == [3, 6, 9, 12]
    assert [each.sum for each in counted] == pytest.approx([number * 1.043 for number in range(1, COLLECTIONS + 1)])
    assert {tuple(each.buckets.values()) for each in counted} == {(number,) * 3 for number in range(1, 5)}
    assert {(each.schema, each.zero_count) for each in counted} == {(3, 0)}
    assert marker.is_stale


@expects(2, 20, "multiple_series_per_request", "handles_varying_cardinality")
@expects(2, 22, "complete_metric_family", "real_world_scenario")
@expects(2, 23, "mixed_sample_and_histogram_families", "many_timeseries", "high_cardinality")
@expects(2, 24)
def test_a_request_has_whole_families(written: Session) -> None:
    told = [decode_v2(request.body).series for request in written.requests]
    # What has one sample where all others have two, a gauge of the first collection, comes alone.
    whole = [series for series in told if len(series) >= 50]
    assert len(whole) >= COLLECTIONS + 1
    for series in whole:
        families = Counter(dict(key)["__name__"] for key in series if ("span_name", "op") in key)
        assert families[f"{LATENCY}_count"] == families[f"{LATENCY}_sum"] == families[LATENCY] == families[CALLS] == 1
        assert families[f"{LATENCY}_bucket"] > 10


@expects(2, 20, "batch_size_reasonable")
def test_batches_are_of_the_size_that_is_set() -> None:
    plan = _engine.Plan(json.dumps(traces.plan(span_metrics=traces.span_metrics_plan())))
    shard, registry = _engine.Shard(plan), _engine.Registry(plan, 1)
    names = [f"op {number}" for number in range(700)]
    spans = [traces.span(name, trace_id=bytes([1 + place % 9] * 16)) for place, name in enumerate(names)]
    body = traces.request(traces.batch({"service.name": "s"}, *spans)).SerializeToString()
    for _, frame in _engine.split(body, plan, 1, 10**9).frames:
        shard.apply(frame, 10**9)
    registry.merge(0, shard.flush(10**9), 10**9)
    batches = registry.collect(2000, [], 2000, ProtobufMessage.V2.value)
    sizes = [batch.samples for batch in batches]
    assert sum(batch.series for batch in batches) > 10_000
    assert max(sizes) <= 2000
    assert min(sizes[:-1]) > 1900


@expects(2, 23, "stale_marker")
def test_every_series_ends_with_a_marker(written: Session) -> None:
    last = decode_v2(written.requests[-1].body).series
    assert last.keys() == written.histories.keys()
    for each in last.values():
        if each.series.histograms:
            assert [histogram.is_stale for histogram in each.series.histograms] == [True]
        else:
            assert [is_stale_marker(value) for _, value in each.series.samples] == [True]
