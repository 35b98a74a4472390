"""Native histograms and their exemplars: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6; where a decision departs from the
reference (Q6, Q22, exemplars) the case is the decision's.
"""

from typing import Any

import pytest

from tests.reference_native import NativeHistogram, bucket_index, schema_of
from tests.traces import (
    CONSUMER,
    ERROR,
    PRODUCER,
    SECOND_NS,
    batch,
    histograms_plan,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)
from tests.unit.edge_cases import MYTH_NS, half

NOW_NS = 1_700_000_000 * SECOND_NS
NO_INTRINSICS = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)
LATENCY = frozenset({("__name__", "traces_spanmetrics_latency")})
NATIVE = histograms_plan("native")


def tenant_of(implementation: Any, form: dict[str, Any], **settings: Any) -> Any:
    """Return a tenant that only observes latencies, without labels."""
    of_spans = {"count": False, "size": False, "intrinsic_dimensions": NO_INTRINSICS} | settings
    return implementation(plan(span_metrics_plan(**of_spans), histograms=form))


def observe(tenant: Any, *spans: Any) -> Any:
    """Push spans at once, and return what is collected."""
    tenant.push(request(batch({}, *spans)), NOW_NS)
    tenant.flush(NOW_NS)
    return tenant.collect()


def lasting(seconds: float, trace_id: bytes = b"\x0a", **more: Any) -> Any:
    return span(trace_id=trace_id, start_ns=NOW_NS - round(seconds * SECOND_NS), end_ns=NOW_NS, **more)


@pytest.mark.parametrize(
    ("factor", "schema"),
    [
        (1.0001, 8),
        (1.01, 7),
        (1.05, 4),
        (1.1, 3),
        (1.2, 2),
        (1.5, 1),
        (2, 0),
        (4, -1),
        (16, -2),
        (65536, -4),
        (1e9, -4),
    ],
)
def test_schema_of_a_factor(implementation: Any, factor: float, schema: int) -> None:
    assert schema_of(factor) == schema
    tenant = tenant_of(implementation, histograms_plan("native", native_bucket_factor=float(factor)))
    assert observe(tenant, lasting(1.5)).histograms[LATENCY].schema == schema


@pytest.mark.parametrize(
    ("seconds", "index"), [(0.001, -79), (1.0, 0), (1.0001, 1), (1.5, 5), (5.0, 19), (2.0, 8), (0.001953125, -72)]
)
def test_index_of_a_value(implementation: Any, seconds: float, index: int) -> None:
    assert bucket_index(seconds, 3) == index
    observed = observe(tenant_of(implementation, NATIVE), lasting(seconds))
    assert observed.histograms == {LATENCY: NativeHistogram(3, 0, {index: 1}, 1, seconds)}
    assert observed.series == {}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [(-4, [0, 0, 1, 1, 2]), (-1, [-1, 0, 1, 2, 9]), (0, [-2, 0, 1, 4, 17]), (1, [-4, 0, 1, 8, 33])],
)
def test_indexes_of_other_schemas(schema: int, expected: list[int]) -> None:
    assert [bucket_index(value, schema) for value in (0.25, 1.0, 1.1, 16.0, 65537.0)] == expected


def test_zero_has_a_count_of_its_own(implementation: Any) -> None:
    observed = observe(tenant_of(implementation, NATIVE), lasting(0), lasting(-1), lasting(1))
    assert observed.histograms == {LATENCY: NativeHistogram(3, 2, {0: 1}, 3, 1.0)}


def test_native_counts_accumulate(implementation: Any) -> None:  # 106, 107
    tenant = tenant_of(implementation, NATIVE)
    assert observe(tenant, lasting(1.5)).histograms == {LATENCY: NativeHistogram(3, 0, {5: 1}, 1, 1.5)}
    second = observe(tenant, lasting(2.5)).histograms
    assert second == {LATENCY: NativeHistogram(3, 0, {5: 1, 11: 1}, 2, 4.0)}
    assert all(isinstance(count, int) for count in (second[LATENCY].count, *second[LATENCY].buckets.values()))


def test_weights_are_added_themselves(implementation: Any) -> None:  # 108 with Q6
    tenant = tenant_of(implementation, NATIVE, span_multiplier_key="r")
    seen = observe(tenant, *(lasting(1.5, attributes={"r": ratio}) for ratio in (2.0, 0.4))).histograms[LATENCY]
    assert seen == NativeHistogram(3, 0, {5: 3.0}, 3.0, 4.5)
    assert all(isinstance(count, float) for count in (seen.zero_count, seen.count, *seen.buckets.values()))


def test_resolution_is_reduced_to_fit(implementation: Any) -> None:
    form = histograms_plan("native", native_max_buckets=10, native_min_reset_duration_s=0.0)
    spans = [lasting(0.001 * 1.5**exponent) for exponent in range(30)]
    seen = observe(tenant_of(implementation, form), *spans).histograms[LATENCY]
    assert (seen.schema, len(seen.buckets), seen.count) == (-1, 9, 30)


def test_resolution_is_not_reduced_below_the_coarsest(implementation: Any) -> None:
    form = histograms_plan("native", native_max_buckets=1, native_min_reset_duration_s=0.0)
    seen = observe(tenant_of(implementation, form), lasting(1e-9), lasting(20)).histograms[LATENCY]
    assert seen == NativeHistogram(-4, 0, {-1: 1, 1: 1}, 2, 20.000000001)


@pytest.mark.parametrize(
    ("mode", "bounds", "floats", "natives"),
    [("classic", [0.04], 23, 0), ("native", [0.04], 2, 3), ("both", [0.04], 23, 3), ("both", [], 17, 3)],
)
def test_samples_and_exemplars_of_an_edge(
    implementation: Any, mode: str, bounds: list[float], floats: int, natives: int
) -> None:  # 79
    settings = service_graphs_plan(
        histogram_buckets=bounds, enable_messaging_system_latency_histogram=True, request=True
    )
    tenant = implementation(plan(service_graphs=settings, histograms=histograms_plan(mode)))
    millisecond = SECOND_NS // 1000
    produced = half("a", PRODUCER, "9", duration_ns=50 * millisecond)
    consumed = half("b", CONSUMER, "a", "9", duration_ns=30 * millisecond, end_ns=MYTH_NS + 40 * millisecond)
    tenant.push(request(produced, consumed), MYTH_NS)
    tenant.flush(MYTH_NS)
    collected = tenant.collect()
    # Of the 23 and 2 samples of the reference, zero samples are not counted here.
    zeros = {"classic": 10, "native": 1, "both": 10 if bounds else 7}[mode]
    assert (len(collected.series), len(collected.histograms)) == (floats - zeros, natives)
    places = {
        (dict(key)["__name__"].removeprefix("traces_service_graph_request_"), dict(key).get("le")): exemplar
        for key, [(_, exemplar)] in collected.exemplars.items()
    }
    low, suffix = ("0.04" if bounds else "+Inf"), ("" if mode == "native" else "_bucket")
    expected = [("client", "+Inf", 0.05), ("server", low, 0.03), ("messaging_system", low, 0.01)]
    assert places == {
        (f"{side}_seconds{suffix}", None if mode == "native" else le): value for side, le, value in expected
    }


def test_both_forms_say_the_same(implementation: Any) -> None:  # 109
    tenant = tenant_of(implementation, histograms_plan("both"), histogram_buckets=[1.0, 2.0])
    collected = observe(tenant, lasting(1.5))
    assert collected.histograms == {LATENCY: NativeHistogram(3, 0, {5: 1}, 1, 1.5)}
    bucket = {("__name__", "traces_spanmetrics_latency_bucket"), ("le", "2")}
    assert collected.exemplars == {frozenset(bucket): [("a", 1.5)]}
    assert {dict(key)["__name__"] for key in collected.series} == {
        f"traces_spanmetrics_latency_{part}" for part in ("bucket", "count", "sum")
    }
    assert tenant.collect().exemplars == {}


@pytest.mark.parametrize(
    ("spans", "exemplars"),
    [
        ([lasting(1.5), lasting(1.6, b"\x0b"), lasting(3, b"\x0c")], [("b", 1.6), ("c", 3.0)]),
        ([lasting(1.5, status=ERROR), lasting(1.6, b"\x0b"), lasting(3, b"\x0c")], [("a", 1.5), ("c", 3.0)]),
        ([lasting(1.5), lasting(1.5, b"\x0b"), lasting(1.6, bytes(16))], [("b", 1.5)]),
        ([lasting(0, b"\x0d"), lasting(1e-9)], [("d", 0.0), ("a", 1e-9)]),
        ([lasting(1.0, b"")], []),
        (
            [lasting(2**n / SECOND_NS, bytes([n + 1])) for n in range(12)],
            [(f"{n + 1:x}", 2**n / 1e9) for n in range(2, 12)],
        ),
        (
            [lasting(2**n / SECOND_NS, bytes([n + 1]), status=None if n else ERROR) for n in range(12)],
            [(f"{n + 1:x}", 2**n / 1e9) for n in (0, *range(3, 12))],
        ),
    ],
)
def test_exemplars_are_the_best_of_each_power_of_two(
    implementation: Any, spans: list[Any], exemplars: list[tuple[str, float]]
) -> None:  # 110, 111 with Q22
    for order in (spans, spans[::-1]):
        tenant = tenant_of(implementation, NATIVE)
        assert observe(tenant, *order).exemplars == ({LATENCY: exemplars} if exemplars else {})
        assert tenant.collect().exemplars == {}
