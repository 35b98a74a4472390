"""What somebody sees who looks at a registry is what is collected from it."""

import json

import pytest

from tenants import _engine
from tenants.processing.registry_view import RegistryView
from tests.traces import batch, plan, request, service_graphs_plan, span, span_metrics_plan
from tests.unit.test_engine_registry import NOW_NS, START_MS, Tenant, named

BOUNDS = [0.1, 0.5]


def test_rows_say_what_is_collected() -> None:
    tenant = Tenant(plan(span_metrics=span_metrics_plan(histogram_buckets=BOUNDS)))
    tenant.add(0.05, 0.2, 2.0)
    tenant.add(0.2, name="other")
    view = RegistryView.of(tenant.registry)
    assert view.span_bounds == [BOUNDS]
    first, second = view.spans
    assert first[0] == ["a", "op", "SPAN_KIND_UNSPECIFIED", "STATUS_CODE_UNSET"]
    assert second[0][1] == "other"
    assert first[1][0] == 3
    ((seconds, buckets),) = first[2]
    assert buckets == [1, 1, 1]
    assert seconds == pytest.approx(2.25)
    collected = tenant.collect(START_MS + 1000)
    assert collected["traces_spanmetrics_calls_total"][-1][1] == 3
    assert dict(view.metrics) == {
        "traces_spanmetrics_calls_total": 2,
        "traces_spanmetrics_latency": 10,
        "traces_spanmetrics_size_total": 2,
    }
    assert ("span_name", 2, 2) in view.labels
    assert ("service", 1, 2) in view.labels


def test_looking_changes_nothing() -> None:
    looked, alone = (Tenant(plan(span_metrics=span_metrics_plan(histogram_buckets=BOUNDS))) for _ in range(2))
    for tenant in (looked, alone):
        tenant.add(0.05, 0.2)
        if tenant is looked:
            RegistryView.of(tenant.registry)
    assert looked.collect(START_MS + 1000) == alone.collect(START_MS + 1000)


def test_rows_beyond_the_bound_are_counted() -> None:
    tenant = Tenant(plan(span_metrics=span_metrics_plan(histogram_buckets=BOUNDS)))
    for number in range(5):
        tenant.add(*[0.05] * (number + 1), name=f"op{number}")
    rows, left_out, _ = tenant.registry.summary("span_metrics", ["span_name", "nothing"], 2)
    assert [row[0] for row in rows] == [["op4", ""], ["op3", ""]]
    assert left_out == 3
    assert len(tenant.registry.cardinality(2)[1]) == 2
    with pytest.raises(ValueError, match="no processor"):
        tenant.registry.summary("host_info", [], 2)


def test_an_ended_label_set_is_not_shown() -> None:
    tenant = Tenant(plan(span_metrics=span_metrics_plan(histogram_buckets=BOUNDS)))
    tenant.add(0.05)
    tenant.registry.end_all(START_MS + 1000, [], 2000)
    assert RegistryView.of(tenant.registry).spans == []


def test_an_edge_has_requests_failures_and_latencies() -> None:
    settings = _engine.Plan(json.dumps(plan(service_graphs=service_graphs_plan())))
    shard, registry = _engine.Shard(settings), _engine.Registry(settings, START_MS)
    call = span(name="call", kind=3, span_id=b"call....", start_ns=NOW_NS - 300_000_000, end_ns=NOW_NS)
    work = span(
        name="work",
        kind=2,
        span_id=b"work....",
        parent=b"call....",
        start_ns=NOW_NS - 200_000_000,
        end_ns=NOW_NS,
        status=2,
    )
    body = request(batch({"service.name": "shop"}, call), batch({"service.name": "pay"}, work)).SerializeToString()
    for _, frame in _engine.split(body, settings, 1, NOW_NS, strict_ids=False).frames:
        shard.apply(frame, NOW_NS)
    registry.merge(0, shard.flush(NOW_NS), NOW_NS)
    ((labels, counters, histograms),) = RegistryView.of(registry).edges
    assert labels == ["shop", "pay", "", ""]
    assert counters[:2] == [1, 1]
    assert [seconds for seconds, _ in histograms[:2]] == pytest.approx([0.2, 0.3])
    assert named(registry.collect(START_MS + 1000, [], 2000))["traces_service_graph_request_total"][-1][1] == 1
