"""One tenant from its settings to its series (processors §5, cases 127 to 129 and 134)."""

from typing import Any

import pytest

from tenants._engine import Plan, Shard, split
from tenants.processing.plan import plan_json
from tests.conformance.case import Classic, Difference, conformance, row
from tests.conformance.driver import Tenant, assert_series
from tests.conformance.fixtures import CALLS, CLIENT_SECONDS, LATENCY, NOW_NS, SERVER_SECONDS, SIZE, TOTAL
from tests.conformance.registry_driver import INTERVAL_MS, START_MS, Interval, Registered, observation
from tests.conformance.resolved import BOTH_PROCESSORS, call, plan_of, settings
from tests.traces import CLIENT, SECOND_NS, SERVER, batch, request, span

DAY_NS = 86_400 * SECOND_NS
SPAN = {"span_kind": "SPAN_KIND_UNSPECIFIED", "status_code": "STATUS_CODE_UNSET"}
SLACK_NS = 30 * SECOND_NS


def spans_of(service: str, kind: str) -> dict[str, str]:
    """Return the label set of the spans of :func:`call`, which are called as their service handles them."""
    name = {"lb": "lb-get", "app": "app-handle"}[service]
    return {"service": service, "span_name": name, "span_kind": kind, "status_code": "STATUS_CODE_UNSET"}


@conformance("127")
def test_127_from_end_to_end() -> None:
    buckets = {"histogram_buckets": [1, 2]}
    processor = {"span_metrics": buckets, "service_graphs": buckets}
    tenant = Tenant(
        plan_of({"processors": BOTH_PROCESSORS, "max_active_series": 1000, "processor": processor}), strict_ids=True
    )
    pushed = request(
        call("lb", "lb-get", CLIENT, 1, 0, 2),
        call("app", "app-handle", SERVER, 2, 1, 1),
        call("app", "app-handle", SERVER, 3, 9, 1, NOW_NS - 300 * SECOND_NS),
        call("app", "app-handle", SERVER, 4, 9, 1, NOW_NS + 10 * DAY_NS),
        call("app", "\udcff\udcff", SERVER, 5, 9, 1),
    )
    tenant.push(pushed, NOW_NS)
    tenant.flush(NOW_NS)
    two_seconds = Classic({"1": 0, "2": 1, "+Inf": 1}, sum=2)
    one_second = Classic({"1": 1, "2": 1, "+Inf": 1}, sum=1)
    edge = {"client": "lb", "server": "app"}
    lb, app = spans_of("lb", "SPAN_KIND_CLIENT"), spans_of("app", "SPAN_KIND_SERVER")
    first, second = (resource.scope_spans[0].spans[0].ByteSize() for resource in pushed.resource_spans[:2])
    expected: dict[str, Any] = {
        TOTAL: [(edge, 1)],
        CLIENT_SECONDS: [(edge, two_seconds)],
        SERVER_SECONDS: [(edge, one_second)],
        CALLS: [(lb, 1), (app, 1)],
        LATENCY: [(lb, two_seconds), (app, one_second)],
        SIZE: [(lb, first), (app, second)],
    }
    assert_series(tenant.collect().series, expected, nothing_else=True)
    assert tenant.received_spans == 5
    assert tenant.discarded == {
        ("gateway", "outside_metrics_ingestion_slack"): 2,
        ("span_metrics", "invalid_utf8"): 1,
    }
    assert (tenant.counters["active_series"], tenant.counters["series_added"]) == (25, 25)


@pytest.mark.parametrize(
    ("offset_ns", "is_kept"),
    [
        row("128a", "as early as allowed", -SLACK_NS, True),
        row("128b", "as late as allowed", SLACK_NS, True),
        row("128c", "1 ns too early", -SLACK_NS - 1, False),
        row("128d", "1 ns too late", SLACK_NS + 1, False),
    ],
)
def test_slack_has_inclusive_bounds(offset_ns: int, is_kept: bool) -> None:
    tenant = Tenant(plan_of({"processors": ["span-metrics-count"]}))
    tenant.push(request(batch({}, span(end_ns=NOW_NS + offset_ns))), NOW_NS)
    tenant.flush(NOW_NS)
    assert_series(tenant.collect().series, {CALLS: [(SPAN, 1)]} if is_kept else {}, nothing_else=True)
    assert tenant.discarded == ({} if is_kept else {("gateway", "outside_metrics_ingestion_slack"): 1})


@conformance("129")
def test_129_a_skipped_push_is_counted_and_generates_nothing() -> None:
    body = request(batch({"service.name": "a"}, span(end_ns=NOW_NS), span(end_ns=0))).SerializeToString()
    compiled = Plan(plan_json(settings({"processors": BOTH_PROCESSORS})))
    parts = split(body, compiled, 1, NOW_NS, skip_generation=True)
    assert parts.skipped_processor_pushes == 2
    assert parts.received_spans == 2
    shard = Shard(compiled)
    for _, frame in parts.frames:
        shard.apply(frame, NOW_NS)
    # What there is tells the ledger of it.
    assert (shard.stats()["entities"], shard.stats()["open_edges"]) == (0, 0)
    assert parts.discarded == {("gateway", "outside_metrics_ingestion_slack"): 1}
    assert split(body, compiled, 1, NOW_NS).skipped_processor_pushes == 0


@conformance("134", Difference("Q26", "series end with a staleness marker at once, where the reference freezes them"))
def test_134_without_processors_all_series_end() -> None:
    tenant = Registered(plan_of({"processors": BOTH_PROCESSORS}))
    tenant.count(observation(seconds=1.5))
    first_ms, second_ms, third_ms = (START_MS + number * INTERVAL_MS for number in (1, 2, 3))
    sent = tenant.samples_at(first_ms)
    tenant.use(plan_of({"processors": []}), first_ms)
    tenant.count(observation(seconds=1.5), at_ms=first_ms)
    assert tenant.samples_at(second_ms) == Interval(end=sent).samples(first_ms, second_ms)
    assert tenant.stats("active_series") == (0,)
    assert tenant.samples_at(third_ms) == {}
