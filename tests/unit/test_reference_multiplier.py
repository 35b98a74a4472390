"""Span multipliers: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6; where a decision departs from the
reference (Q6, Q9, weights that cannot be used) the case is the decision's.
"""

from typing import Any

import pytest

from tests.reference_multiplier import tracestate_multiplier
from tests.traces import CLIENT, SECOND_NS, SERVER, batch, plan, request, service_graphs_plan, span, span_metrics_plan
from tests.unit.edge_cases import BOTH_ORDERS, PAIR, RR, RS, SD, graph, half, key, myth, values

NOW_NS = 1_700_000_000 * SECOND_NS
KEYED = {"span_multiplier_key": "r"}
TRACESTATE = {"enable_tracestate_span_multiplier": True}


@pytest.mark.parametrize(
    ("tracestate", "multiplier"),
    [
        ("ot=th:0", 1),
        ("ot=th:8", 2),
        ("ot=th:c", 4),
        ("ot=th:4", 1.3333333333333333),
        ("ot=th:fd70a4", 100.00009536752259),
        ("ot=th:F", 16),
        ("ot=p:3;th:8", 2),
        ("ot=th:8;th:c", 4),
        ("ot=th:xyz", 0),
        ("ot=th:", 0),
        ("ot=th:123456789abcdef", 0),
        ("not=th:8,ot=th:c", 4),
        ("ot=rv:00112233445566", 0),
        ("ot=th:4;rv:00000000000000", 2),
        ("ot=th:4;rv:ffffffffffffff", 1),
        ("ot=th:4;rv:55555555555555", 1),
        ("ot=th:8;", 0),
        ("ot=TH:8", 0),
        ("ot=th:8;rv:zz", 0),
        ("ot=th:ffffffffffffff", 2**56),
        ("a=b , ot=th:8", 2),
        ("ot=th:8 ,x=y", 0),
        ("ot=th:8  ", 2),
        ("ot=th:8,ot=th:c", 2),
        ("ot=,ot=th:8", 0),
        ("ot=th:8;;p:1", 0),
        ("ot=th:8;x:" + "a" * 250, 0),
        ("ot=th:8;x:" + "a" * 249, 2),
        ("", 0),
        ("ot", 0),
    ],
)
def test_multiplier_of_a_tracestate(implementation: Any, tracestate: str, multiplier: float) -> None:
    assert tracestate_multiplier(tracestate.encode()) == multiplier
    one = span(end_ns=NOW_NS, trace_state=tracestate)
    assert calls(implementation, one, **TRACESTATE) == (multiplier or 1)


def collect(implementation: Any, one: Any, resource: Any, settings: dict[str, Any]) -> tuple[dict[str, float], int]:
    """Return the values of a span without labels by metric, and how many multipliers were ignored."""
    tenant = implementation(plan(span_metrics_plan(histogram_buckets=[], **settings)))
    tenant.push(request(batch(resource, one)), NOW_NS)
    tenant.flush(NOW_NS)
    collected = {dict(series)["__name__"]: value for series, value in tenant.collect().series.items()}
    return collected, tenant.ignored_multipliers


def calls(implementation: Any, one: Any, resource: Any = (), **settings: Any) -> float:
    """Return how many calls a span counts as."""
    return collect(implementation, one, resource, settings)[0]["traces_spanmetrics_calls_total"]


def test_calls_and_latencies_are_multiplied_and_sizes_are_not(implementation: Any) -> None:  # 29, 30
    one = span("op", trace_id=b"\x01", span_id=b"\x02", kind=3, start_ns=NOW_NS - SECOND_NS // 2, end_ns=NOW_NS)
    one.attributes.extend(span(attributes={"r": 0.25}).attributes)
    seen, _ = collect(implementation, one, (), KEYED)
    assert seen == {
        "traces_spanmetrics_calls_total": 4,
        "traces_spanmetrics_latency_bucket": 4,
        "traces_spanmetrics_latency_count": 4,
        "traces_spanmetrics_latency_sum": 2,
        "traces_spanmetrics_size_total": 46,
    }


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("on_span", "on_resource", "expected", "ignored"),
    [
        ([1], [], 1, 1),  # 31
        ([0.0], [0.5], 2, 0),
        ([4.0], [], 0.25, 0),
        ([], [], 1, 0),
        ([0.5], [0.25], 2, 0),
        ([], [0.25], 4, 0),
        ([0.0, -1.0, NAN, INF, "0.5", 0.25], [0.5], 4, 0),
        ([0.0, -1.0, NAN, INF, -INF, "0.5", None, True], [], 1, 1),
        ([], [1], 1, 1),
        ([5e-324], [], 2.0**56, 0),
        ([2.0**-60], [], 2.0**56, 0),
        ([2.0**-55], [], 2.0**55, 0),
    ],
)
def test_first_usable_ratio_counts(
    implementation: Any, on_span: list[Any], on_resource: list[Any], expected: float, ignored: int
) -> None:
    one = span(end_ns=NOW_NS, attributes=[("r", value) for value in on_span])
    seen, unusable = collect(implementation, one, [("r", value) for value in on_resource], KEYED)
    assert (seen["traces_spanmetrics_calls_total"], unusable) == (expected, ignored)


@pytest.mark.parametrize(
    ("tracestate", "ratio", "expected"), [("ot=th:c", 0.5, 4), ("", 0.5, 2), ("ot=th:xyz", 0.25, 4)]
)
def test_tracestate_goes_before_the_ratio(
    implementation: Any, tracestate: str, ratio: float, expected: float
) -> None:  # 32
    one = span(end_ns=NOW_NS, trace_state=tracestate, attributes={"r": ratio})
    assert calls(implementation, one, **KEYED, **TRACESTATE) == expected


def test_nothing_is_multiplied_unless_asked_for(implementation: Any) -> None:
    one = span(end_ns=NOW_NS, trace_state="ot=th:8", attributes={"r": 0.5})
    assert calls(implementation, one) == 1


def test_fractions_are_kept_and_sums_are_rounded_to_units(implementation: Any) -> None:  # 89
    tenant = implementation(plan(span_metrics_plan(histogram_buckets=[1.0, 2.0], **KEYED)))
    for ratio, lasting_ns in ((1 / 1.5, SECOND_NS), (0.2, 2 * SECOND_NS)):
        one = span(start_ns=NOW_NS - lasting_ns, end_ns=NOW_NS, attributes={"r": ratio})
        tenant.push(request(batch({}, one)), NOW_NS)
    tenant.flush(NOW_NS)
    series = {
        (dict(series)["__name__"].removeprefix("traces_spanmetrics_"), dict(series).get("le")): value
        for series, value in tenant.collect().series.items()
    }
    assert series["latency_bucket", "1"] == pytest.approx(1.5, rel=1e-15)
    assert series["latency_bucket", "+Inf"] == series["latency_count", None] == pytest.approx(6.5, rel=1e-15)
    assert series["latency_sum", None] == pytest.approx(11.5, rel=1e-15)


@pytest.mark.parametrize(("ratio", "units"), [(2.0**21, 1), (2.0**22, 0), (2.0**20, 1), (2.0**20 / 3, 3)])
def test_each_observation_is_rounded_half_up_in_the_sum(implementation: Any, ratio: float, units: int) -> None:
    one = span(start_ns=NOW_NS - 1, end_ns=NOW_NS, attributes={"r": ratio})
    seen, _ = collect(implementation, one, (), KEYED)
    assert seen["traces_spanmetrics_latency_sum"] == units / 2**20 / 1e9


def test_edges_are_multiplied_and_connection_info_is_not(implementation: Any) -> None:  # 64
    one = myth()
    for group in one.resource_spans:
        group.resource.attributes.extend(batch({"r": 0.5}).resource.attributes)
    tenant = graph(implementation, {**KEYED, "connection_info": True}, one)
    series = tenant.collect().series
    by_metric = {
        metric: {key_ - {("__name__", metric)}: value for key_, value in series.items() if ("__name__", metric) in key_}
        for metric in ("traces_service_graph_request_total", "traces_service_graph_connection_info")
    }
    assert by_metric == {
        "traces_service_graph_request_total": {key(edge): 2 for edge in (RS, SD, RR)},
        "traces_service_graph_connection_info": {key(edge): 1 for edge in (RS, SD, RR)},
    }


@BOTH_ORDERS
@pytest.mark.parametrize(
    ("client", "server", "expected"), [({"r": 0.5}, {}, 2), ({}, {"r": 0.25}, 4), ({"r": 4.0}, {}, 1)]
)
def test_edge_counts_as_its_heavier_half(
    implementation: Any, client: dict[str, Any], server: dict[str, Any], expected: float, step: int
) -> None:  # 74 with Q9
    halves = [half("svc-a", CLIENT, "9", "", client), half("svc-b", SERVER, "a", "9", server)]
    tenant = graph(implementation, KEYED, request(*halves[::step]))
    total, client_sum = values(tenant, "total", "client_seconds_sum")
    assert total == {key(PAIR): expected}
    assert client_sum == {key(PAIR): expected * 1e-9}


def test_lone_half_keeps_its_own_weight(implementation: Any) -> None:
    tenant = graph(implementation, KEYED, request(half("svc-b", SERVER, "a", "", {"r": 4.0})))
    assert list(values(tenant, "total").values()) == [0.25]


def test_span_with_an_ignored_ratio_is_counted_once_for_both_processors(implementation: Any) -> None:
    settings = span_metrics_plan(**KEYED), service_graphs_plan(**KEYED)
    tenant = implementation(plan(*settings))
    tenant.push(request(half("svc-a", CLIENT, "9", "", {"r": "0.5"}, end_ns=NOW_NS)), NOW_NS)
    assert tenant.ignored_multipliers == 1
