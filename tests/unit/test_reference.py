"""Span metrics, label sets and exemplars: cases computed by hand, for the model and for the engine.

Numbers in names of tables are those of the conformance cases of processors §6.
"""

from typing import Any

import pytest

from tests import otlp_raw
from tests.reference import ReferenceModel
from tests.reference_labels import cut, double_text, sanitize, sanitize_protected, trace_id_text, value_text
from tests.traces import (
    CLIENT,
    ERROR,
    MISSING,
    OK,
    SECOND_NS,
    any_value,
    batch,
    plan,
    request,
    span,
    span_metrics_plan,
)

NOW_NS = 1_700_000_000 * SECOND_NS
SERVICE = {"service": "test-service"}
L0 = {
    **SERVICE,
    "span_name": "test",
    "span_kind": "SPAN_KIND_CLIENT",
    "status_code": "STATUS_CODE_OK",
}
NO_INTRINSICS = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)


def base(attributes: Any = (), **changes: Any) -> Any:
    """Return the span of F-BASE."""
    settings: dict[str, Any] = {
        "kind": CLIENT,
        "status": OK,
        "message": "OK",
        "parent": bytes(8),
        "start_ns": NOW_NS - SECOND_NS,
        "end_ns": NOW_NS,
    }
    return span("test", attributes=attributes, **(settings | changes))


def base_request(*spans: Any, **resource: Any) -> Any:
    """Return a request with the resource of F-BASE and more attributes."""
    attributes = {"random.res.attr": "R", "service.name": "test-service", **resource}
    return request(batch(attributes, *spans))


def values(series: dict[Any, float], metric: str) -> dict[Any, float]:
    """Return the series of one metric by their other labels."""
    name = ("__name__", metric)
    return {key - {name}: value for key, value in series.items() if name in key}


def key(labels: dict[str, str], **more: str) -> frozenset[tuple[str, str]]:
    """Return the key of a series in :func:`values`."""
    return frozenset((labels | more).items())


def count(implementation: Any, settings: dict[str, Any], *requests: Any) -> Any:
    """Return what one collection reports after these requests, all at the same time."""
    tenant = implementation(plan(span_metrics_plan(**settings)))
    for one in requests:
        tenant.push(one, NOW_NS)
    tenant.flush(NOW_NS)
    return tenant.collect()


def test_ten_equal_spans_count_in_calls_buckets_count_sum_and_size(implementation: Any) -> None:  # 1
    spans = [base() for _ in range(10)]
    series = count(implementation, {"histogram_buckets": [0.5, 1.0]}, base_request(*spans)).series
    assert values(series, "traces_spanmetrics_calls_total") == {key(L0): 10}
    assert values(series, "traces_spanmetrics_latency_bucket") == {
        key(L0, le="0.5"): 0,
        key(L0, le="1"): 10,
        key(L0, le="+Inf"): 10,
    }
    assert values(series, "traces_spanmetrics_latency_count") == {key(L0): 10}
    assert values(series, "traces_spanmetrics_latency_sum") == {key(L0): 10.0}
    assert values(series, "traces_spanmetrics_size_total") == {key(L0): 10 * spans[0].ByteSize()}


FOO_BAR = {"foo": "foo-value", "bar": "bar-value"}
NO_KIND = {"intrinsic_dimensions": {"span_kind": False}}
LABEL_CASES: dict[str, tuple[dict[str, Any], Any, dict[str, str]]] = {
    "3 intrinsics off and on, dimensions present and absent": (
        {
            "intrinsic_dimensions": {"span_kind": False, "status_message": True},
            "dimensions": ["foo", "bar", "does-not-exist"],
        },
        FOO_BAR,
        {
            **SERVICE,
            "span_name": "test",
            "status_code": "STATUS_CODE_OK",
            "status_message": "OK",
            **FOO_BAR,
        },
    ),
    "4 odd names of absent dimensions": ({"dimensions": ["label-name", "foo.name", "foo bar"]}, {}, L0),
    "5 dimensions named like intrinsics, one of them off": (
        {**NO_KIND, "dimensions": ["span.kind", "span_name"]},
        {"span.kind": "colliding_kind", "span_name": "colliding_name"},
        {
            **SERVICE,
            "span_name": "test",
            "status_code": "STATUS_CODE_OK",
            "__span_kind": "colliding_kind",
            "__span_name": "colliding_name",
        },
    ),
    "6 colliding dimensions, the last absent": (
        {"dimensions": ["deployment.environment", "deployment_environment"]},
        {"deployment.environment": "prod"},
        L0,
    ),
    "7 colliding dimensions, the first absent": (
        {"dimensions": ["deployment.environment", "deployment_environment"]},
        {"deployment_environment": "prod"},
        {**L0, "deployment_environment": "prod"},
    ),
    "colliding dimensions, both present: the last wins": (
        {"dimensions": ["a.b", "a_b"]},
        {"a_b": "last", "a.b": "first"},
        {**L0, "a_b": "last"},
    ),
    "first of a repeated key wins, even if it is empty": (
        {"dimensions": ["a", "b", "c"]},
        [("a", "1"), ("a", "2"), ("b", ""), ("b", "2"), ("c", MISSING), ("c", "2")],
        {**L0, "a": "1"},
    ),
    "unicode and digits in names": (
        {"dimensions": ["größe", "1x", "a..b"]},
        {"größe": "1", "1x": "2", "a..b": "3"},
        {**L0, "gr__e": "1", "1x": "2", "a__b": "3"},
    ),
}


@pytest.mark.parametrize("case", LABEL_CASES)
def test_labels_of_a_span(implementation: Any, case: str) -> None:
    settings, attributes, expected = LABEL_CASES[case]
    series = count(implementation, settings, base_request(*[base(attributes)] * 10)).series
    assert values(series, "traces_spanmetrics_calls_total") == {key(expected): 10}


def test_resource_attribute_hides_span_attribute_even_if_empty(implementation: Any) -> None:  # 8
    one = request(batch({"k": "res", "e": ""}, base({"k": "span", "e": "span"})))
    settings = {"dimensions": ["k", "e"], "intrinsic_dimensions": NO_INTRINSICS}
    series = count(implementation, settings, one).series
    assert values(series, "traces_spanmetrics_calls_total") == {key({"k": "res"}): 1}


def test_negative_duration_counts_as_zero(implementation: Any) -> None:  # 27
    tenant = implementation(plan(span_metrics_plan(histogram_buckets=[0.5, 1.0])))
    tenant.push(request(batch({}, span(start_ns=1, end_ns=0))), 0)
    tenant.flush(0)
    series = tenant.collect().series
    labels = {"span_kind": "SPAN_KIND_UNSPECIFIED", "status_code": "STATUS_CODE_UNSET"}
    assert values(series, "traces_spanmetrics_calls_total") == {key(labels): 1}
    buckets = values(series, "traces_spanmetrics_latency_bucket")
    assert buckets == {key(labels, le=le): 1 for le in ("0.5", "1", "+Inf")}
    assert values(series, "traces_spanmetrics_latency_count") == {key(labels): 1}
    assert values(series, "traces_spanmetrics_latency_sum") == {key(labels): 0}


@pytest.mark.parametrize(("kind", "status"), [(42, 7), (-1, -1)])
def test_unknown_kind_and_status_are_numbers(implementation: Any, kind: int, status: int) -> None:  # 28
    settings = {"intrinsic_dimensions": {"status_message": True}}
    series = count(implementation, settings, base_request(base(kind=kind, status=status, message="boom"))).series
    expected = {
        **SERVICE,
        "span_name": "test",
        "span_kind": str(kind),
        "status_code": str(status),
        "status_message": "boom",
    }
    assert values(series, "traces_spanmetrics_calls_total") == {key(expected): 1}


SMALL: dict[str, Any] = {
    "trace_id": b"\x01",
    "span_id": b"\x02",
    "kind": 3,
    "start_ns": NOW_NS - 1,
    "end_ns": NOW_NS,
}


@pytest.mark.parametrize(
    ("spans", "size"),
    [
        ([span("op", **SMALL)], 30),
        ([span("op", **SMALL, attributes={"r": 0.25})], 46),
        ([span("op", **SMALL, status=0)], 32),
        ([span("op", **SMALL, attributes={"k": "x" * 20_000})], 30 + 4 + 3 + 4 + 4 + 20_000),
        ([span("op", **SMALL), span("op", **SMALL)], 60),
    ],
)
def test_size_is_that_of_the_span_alone(implementation: Any, spans: list[Any], size: int) -> None:
    settings = {"count": False, "latency": False, "intrinsic_dimensions": NO_INTRINSICS}
    series = count(implementation, settings, base_request(*spans)).series
    assert series == {key({"__name__": "traces_spanmetrics_size_total"}): size}


def test_span_with_nothing_but_its_end_has_the_size_of_that(implementation: Any) -> None:
    settings = {"count": False, "latency": False, "intrinsic_dimensions": NO_INTRINSICS}
    series = count(implementation, settings, base_request(otlp_raw.Span(end_time_unix_nano=NOW_NS))).series
    assert list(series.values()) == [9]


def test_unknown_fields_have_no_size(implementation: Any) -> None:
    plain = span("op", **SMALL)
    unknown = b"\xd2\x85\xd8\xcc\x04\x03abc"
    strange = otlp_raw.Span.FromString(plain.SerializeToString() + unknown)
    assert strange.ByteSize() > plain.ByteSize()
    settings = {"count": False, "latency": False, "intrinsic_dimensions": NO_INTRINSICS}
    series = count(implementation, settings, base_request(strange)).series
    assert list(series.values()) == [30]


def test_labels_are_cut_to_their_limits(implementation: Any) -> None:  # 98, 99 with Q4
    attributes = {"very_lengthy_label": "very_length_value", "é": "aaaaé"}
    settings = span_metrics_plan(intrinsic_dimensions=NO_INTRINSICS, dimensions=list(attributes))
    tenant = implementation(plan(settings, max_label_name_length=8, max_label_value_length=5))
    tenant.push(base_request(base(attributes)), NOW_NS)
    tenant.flush(NOW_NS)
    calls = values(tenant.collect().series, "traces_spanmetrics_calls_total")
    assert calls == {key({"very_len": "very_", "_": "aaaa"}): 1}


def test_span_with_text_that_is_not_utf8_is_discarded_alone(implementation: Any) -> None:  # 34
    tenant = implementation(plan(span_metrics_plan()))
    broken = base()
    broken.name = b"\xff"
    tenant.push(base_request(broken, base()), NOW_NS)
    tenant.flush(NOW_NS)
    assert values(tenant.collect().series, "traces_spanmetrics_calls_total") == {key(L0): 1}
    assert tenant.discarded == {("span_metrics", "invalid_utf8"): 1}


@pytest.mark.parametrize(
    ("offset_ns", "kept"),
    [(0, 1), (-1_001_000_000, 1), (1_001_000_000, 1), (-1_001_000_001, 0), (1_001_000_001, 0)],
)
def test_slack_compares_the_end_of_a_span_inclusively(implementation: Any, offset_ns: int, kept: int) -> None:  # 128
    tenant = implementation(plan(span_metrics_plan(), ingestion_time_range_slack_s=1.001))
    tenant.push(base_request(base(end_ns=NOW_NS + offset_ns)), NOW_NS)
    tenant.flush(NOW_NS)
    assert len(values(tenant.collect().series, "traces_spanmetrics_calls_total")) == kept
    assert tenant.discarded == ({} if kept else {("gateway", "outside_metrics_ingestion_slack"): 1})
    assert tenant.received_spans == 1


@pytest.mark.parametrize(
    ("ids", "rejected"),
    [
        ({}, {}),
        ({"trace_id": b"\x01" * 15}, {"invalid_trace_id": 1}),
        ({"trace_id": b"\x01" * 17}, {"invalid_trace_id": 1}),
        ({"trace_id": bytes(16), "span_id": b""}, {"invalid_trace_id": 1}),
        ({"span_id": b""}, {"invalid_span_id": 1}),
        ({"span_id": bytes(8)}, {"invalid_span_id": 1}),
        ({"span_id": b"\x01" * 9}, {"invalid_span_id": 1}),
        ({"span_id": bytes(8), "end_ns": 0}, {"invalid_span_id": 1}),
    ],
)
def test_strict_ids_reject_what_is_no_id(implementation: Any, ids: dict[str, Any], rejected: dict[str, int]) -> None:
    tenant = implementation(plan(span_metrics_plan()), strict_ids=True)
    tenant.push(base_request(base(**ids)), NOW_NS)
    tenant.flush(NOW_NS)
    assert tenant.rejected == rejected
    assert tenant.discarded == {}
    calls = values(tenant.collect().series, "traces_spanmetrics_calls_total")
    assert calls == ({} if rejected else {key(L0): 1})


def test_counters_accumulate_over_collections(implementation: Any) -> None:  # 85
    tenant = implementation(plan(span_metrics_plan(latency=False, size=False, dimensions=["v"])))

    def collect_after(*labels: str) -> dict[str, float]:
        tenant.push(base_request(*[base({"v": label}) for label in labels]), NOW_NS)
        tenant.flush(NOW_NS)
        return {dict(series)["v"]: value for series, value in tenant.collect().series.items()}

    assert collect_after("value-1", "value-2", "value-2") == {"value-1": 1, "value-2": 2}
    second = collect_after("value-2", "value-2", "value-3", "value-3", "value-3")
    assert second == {"value-1": 1, "value-2": 4, "value-3": 3}


def lasting(seconds: float, trace_id: bytes = b"\x0a", **changes: Any) -> Any:
    """Return a span of F-BASE with this duration and trace id."""
    return base(trace_id=trace_id, start_ns=NOW_NS - round(seconds * SECOND_NS), **changes)


def test_exemplars_sit_on_the_smallest_bucket_and_are_reported_once(implementation: Any) -> None:  # 87
    settings = span_metrics_plan(histogram_buckets=[1.0, 2.0], intrinsic_dimensions=NO_INTRINSICS, dimensions=["e"])
    tenant = implementation(plan(settings, trace_id_label_name="trace_id"))
    first, second = lasting(1.0, attributes={"e": "A"}), lasting(1.5, b"\x0b", attributes={"e": "B"})
    tenant.push(base_request(first, second), NOW_NS)
    tenant.flush(NOW_NS)
    collected = tenant.collect()
    assert values(collected.series, "traces_spanmetrics_latency_bucket") == {
        key({"e": "A", "le": "1"}): 1,
        key({"e": "A", "le": "2"}): 1,
        key({"e": "A", "le": "+Inf"}): 1,
        key({"e": "B", "le": "1"}): 0,
        key({"e": "B", "le": "2"}): 1,
        key({"e": "B", "le": "+Inf"}): 1,
    }
    bucket = {"__name__": "traces_spanmetrics_latency_bucket"}
    assert collected.exemplars == {
        key(bucket, e="A", le="1"): [("a", 1.0)],
        key(bucket, e="B", le="2"): [("b", 1.5)],
    }
    assert tenant.collect().exemplars == {}


@pytest.mark.parametrize(
    ("spans", "exemplar"),
    [
        pytest.param([lasting(1), lasting(2, b"\x0b"), lasting(1)], ("b", 2.0), id="the slowest"),
        pytest.param(
            [lasting(1, status=ERROR), lasting(2, b"\x0b")], ("a", 1.0), id="a failed one before a slower one"
        ),
        pytest.param(
            [lasting(1, b"\x01\x00"), lasting(1, b"\xff"), lasting(1, b"\x0b")],
            ("100", 1.0),
            id="the greater trace id as a number",
        ),
        pytest.param([lasting(1), lasting(2, bytes(16)), lasting(3, b"")], ("a", 1.0), id="one that has a trace id"),
        pytest.param(
            [lasting(1, bytes(range(1, 17)))],
            ("102030405060708090a0b0c0d0e0f10", 1.0),
            id="without leading zeros",
        ),
    ],
)
def test_the_exemplar_of_a_bucket_is(implementation: Any, spans: list[Any], exemplar: tuple[str, float]) -> None:
    settings = {"histogram_buckets": [], "intrinsic_dimensions": NO_INTRINSICS}
    for order in (spans, spans[::-1]):
        exemplars = count(implementation, settings, base_request(*order)).exemplars
        assert list(exemplars.values()) == [[exemplar]]


def test_counter_carries_the_best_exemplar_if_wanted() -> None:
    model = ReferenceModel(plan(span_metrics_plan(histogram_buckets=[1.0], intrinsic_dimensions=NO_INTRINSICS)))
    for _ in range(2):
        model.push(base_request(lasting(3), lasting(1, b"\x0b", status=ERROR), lasting(2, b"\x0c")), NOW_NS)
        model.flush(NOW_NS)
        assert "traces_spanmetrics_calls_total" not in {dict(key)["__name__"] for key in model.exemplars()}
        exemplars = model.collect(counter_exemplars=True).exemplars
        assert exemplars[key({"__name__": "traces_spanmetrics_calls_total"})] == [("b", 1.0)]


def test_sum_is_exact_whatever_the_order(implementation: Any) -> None:
    settings = {"histogram_buckets": [], "intrinsic_dimensions": NO_INTRINSICS}
    spans = [base(start_ns=NOW_NS - ns) for ns in (100_000_000, 200_000_000, 2**53 + 1, 1)]
    series = count(implementation, settings, base_request(*spans)).series
    total = values(series, "traces_spanmetrics_latency_sum")
    assert total == {frozenset(): (300_000_000 + 2**53 + 2) / 1e9}


def test_beyond_the_series_limit_totals_go_to_the_overflow_series(implementation: Any) -> None:  # 91
    settings = span_metrics_plan(
        histogram_buckets=[1.0, 2.0], size=False, intrinsic_dimensions=NO_INTRINSICS, dimensions=["e"]
    )
    tenant = implementation(plan(settings, max_active_series=8))
    for _ in range(3):
        for entity in ("1", "2"):
            tenant.push(base_request(lasting(1.5, attributes={"e": entity})), NOW_NS)
            tenant.flush(NOW_NS)
    series = tenant.collect().series
    one, two, overflow = key({"e": "1"}), key({"e": "2"}), key({"metric_overflow": "true"})
    assert values(series, "traces_spanmetrics_calls_total") == {one: 3, two: 3}
    assert values(series, "traces_spanmetrics_latency_count") == {one: 3, overflow: 3}
    assert values(series, "traces_spanmetrics_latency_sum") == {one: 4.5, overflow: 4.5}


def test_bounds_are_sorted_and_keep_all_their_digits(implementation: Any) -> None:  # 90, 113
    bounds = [16.384, 0.002, 1e-7, 1e21, 1.0, 999999999.9999999]
    settings = {"histogram_buckets": bounds, "intrinsic_dimensions": NO_INTRINSICS}
    series = count(implementation, settings, base_request(base())).series
    buckets = values(series, "traces_spanmetrics_latency_bucket")
    below = {key({"le": le}): 0 for le in ("0.0000001", "0.002")}
    above = ("1", "16.384", "999999999.9999999", "1000000000000000000000", "+Inf")
    assert buckets == below | {key({"le": le}): 1 for le in above}


NESTED = {"k1": "v1", "k2": ["a", 5, 0.1]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("größe", "größe"),
        (True, "true"),
        (False, "false"),
        (-7, "-7"),
        (3.0, "3"),
        (1e21, "1000000000000000000000"),
        (1e-9, "0.000000001"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
        (["a", 5, 0.1], "[a50.1]"),
        (NESTED, "{k1:v1k2:[a50.1]}"),
        ([], "[]"),
        ({}, "{}"),
        ([[], {"k": None}], "[[]{k:}]"),
        (b"bytes", ""),
        (None, ""),
        (otlp_raw.AnyValue(string_value_strindex=3), ""),
    ],
)
def test_text_of_an_attribute_value(value: Any, expected: str) -> None:
    assert value_text(any_value(value)) == expected.encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        (-0.0, "-0"),
        (100.0, "100"),
        (1e-7, "0.0000001"),
        (5e-324, "0." + "0" * 323 + "5"),
        (1.7976931348623157e308, "17976931348623157" + "0" * 292),
        (123456789.125, "123456789.125"),
    ],
)
def test_text_of_a_double_has_no_exponent(value: float, expected: str) -> None:
    assert double_text(value) == expected
    assert float(expected) == value


def test_names_are_sanitized_by_character() -> None:
    assert [sanitize(name) for name in ("a..b", "1x", "größe", "")] == ["a__b", "1x", "gr__e", ""]
    reserved = frozenset({"span_kind"})
    assert sanitize_protected("span.kind", reserved) == "__span_kind"
    assert sanitize_protected("span.kinds", reserved) == "span_kinds"


def test_trace_id_text_has_no_leading_zeros() -> None:
    assert trace_id_text(bytes(range(1, 17))) == "102030405060708090a0b0c0d0e0f10"
    assert trace_id_text(bytes(15) + b"\x01") == "1"
    assert trace_id_text(bytes(16)) == trace_id_text(b"") == ""


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        (b"abcdef", 3, b"abc"),
        (b"abcdef", 0, b"abcdef"),
        ("aé".encode(), 3, "aé".encode()),
        ("aé".encode(), 2, b"a"),
        ("😀".encode(), 3, b""),
        (b"\xff\xff\xff", 2, b"\xff\xff"),
        (b"a\x80\x80\x80", 3, b"a\x80\x80"),
    ],
)
def test_cutting_keeps_whole_characters(text: bytes, limit: int, expected: bytes) -> None:
    assert cut(text, limit) == expected
