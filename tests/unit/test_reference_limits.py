"""Limits of series, entities and values per label: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6.5. The engine says more in its statistics
than the model; what both say is compared.
"""

from typing import Any

import pytest

from tests.reference import ReferenceModel
from tests.reference_label_limiter import OVERFLOW_VALUE, LabelLimiter, window_slots
from tests.traces import SECOND_NS, batch, histograms_plan, plan, request, span, span_metrics_plan

NOW_NS = 1_700_000_000 * SECOND_NS
NO_INTRINSICS = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)


def statistics(tenant: Any) -> dict[str, int]:
    """Return the totals of a registry."""
    found: dict[str, int] = tenant.registry.stats()
    return found


def entity(number: int, **more: Any) -> Any:
    """Return a request with one span that lasts 1.5 s, of an entity of its own."""
    return request(batch(more, span(start_ns=NOW_NS - 3 * SECOND_NS // 2, end_ns=NOW_NS, attributes={"e": number})))


def rounds(implementation: Any, settings: dict[str, Any], **limits: Any) -> Any:
    """Return a tenant after three rounds of two entities in three metrics: the traffic of 92."""
    of_spans = {"histogram_buckets": [1.0, 2.0], "intrinsic_dimensions": NO_INTRINSICS, "dimensions": ["e"]} | settings
    tenant = implementation(plan(span_metrics_plan(**of_spans), **limits))
    for _ in range(3):
        for number in (1, 2):
            tenant.push(entity(number), NOW_NS)
            tenant.flush(NOW_NS)
    return tenant


def values(tenant: Any, metric: str) -> dict[str, float]:
    """Return the series of a metric by the label of their entity."""
    series = tenant.collect().series
    labels = {key: dict(key) for key in series if ("__name__", metric) in key}
    return {of.get("e", "overflow" if "metric_overflow" in of else ""): series[key] for key, of in labels.items()}


def test_series_limit_lets_small_metrics_in(implementation: Any) -> None:  # 92
    tenant = rounds(implementation, {}, max_active_series=8)
    tenant.collect()
    expected = {"active_series": 8, "series_added": 8, "series_limited": 18}
    demand = {"active_series_demand_estimate": 14, "entity_demand_estimate": 3}
    assert statistics(tenant).items() >= (expected | demand).items()
    assert values(tenant, "traces_spanmetrics_calls_total") == {"1": 3, "2": 3}
    assert values(tenant, "traces_spanmetrics_latency_sum") == {"1": 4.5, "overflow": 4.5}
    assert list(values(tenant, "traces_spanmetrics_size_total")) == ["1", "overflow"]


def test_entity_limit_keeps_a_new_entity_out_of_all_metrics(implementation: Any) -> None:  # 93
    tenant = rounds(implementation, {}, max_active_entities=1, limiter_type="entity", max_active_series=1)
    tenant.collect()
    expected = {"active_entities": 1, "entities_added": 1, "entities_limited": 9}
    assert statistics(tenant).items() >= expected.items()
    for metric in ("calls_total", "latency_count"):
        assert values(tenant, f"traces_spanmetrics_{metric}") == {"1": 3, "overflow": 3}


@pytest.mark.parametrize(
    ("mode", "bounds", "cost"),
    [("classic", 2, 5), ("classic", 0, 3), ("native", 2, 1), ("both", 2, 6), ("both", 3, 7), ("both", 0, 4)],
)
def test_cost_of_a_histogram(implementation: Any, mode: str, bounds: int, cost: int) -> None:  # 112 with Q24
    settings = span_metrics_plan(histogram_buckets=[1.0, 2.0, 3.0][:bounds], count=False, size=False)
    tenant = implementation(plan(settings, histograms=histograms_plan(mode)))
    tenant.push(entity(1), NOW_NS)
    tenant.flush(NOW_NS)
    assert statistics(tenant)["active_series"] == cost


def test_span_series_claim_room_before_target_info(implementation: Any) -> None:  # 36
    settings = {"enable_target_info": True, "latency": False, "size": False, "dimensions": ["e"]}
    tenant = implementation(plan(span_metrics_plan(**settings), max_active_series=2))
    spans = [span(end_ns=NOW_NS, attributes={"e": number}) for number in (1, 2)]
    tenant.push(request(batch({"service.name": "s", "k": "v"}, *spans)), NOW_NS)
    tenant.flush(NOW_NS)
    assert values(tenant, "traces_spanmetrics_calls_total") == {"1": 1, "2": 1}
    assert values(tenant, "traces_target_info") == {"overflow": 1}


def urls(implementation: Any, limit: int, **settings: Any) -> Any:
    of_spans = {"intrinsic_dimensions": NO_INTRINSICS, "dimensions": ["url", "method"]} | settings
    return implementation(
        plan(span_metrics_plan(latency=False, size=False, **of_spans), max_cardinality_per_label=limit)
    )


def visit(tenant: Any, numbers: Any, at_s: float = 0) -> None:
    """Push and flush one span per url."""
    now_ns = NOW_NS + round(at_s * SECOND_NS)
    for number in numbers:
        attributes = {"url": f"/{number}", "method": "GET"}
        resource = {"service.name": "s", "pod": f"pod-{number}"}
        tenant.push(request(batch(resource, span(end_ns=now_ns, attributes=attributes))), now_ns)
        tenant.flush(now_ns)


def calls(tenant: Any) -> dict[tuple[str, str], float]:
    """Return calls by url and method."""
    found = {}
    for key, value in tenant.collect().series.items():
        labels = dict(key)
        if labels["__name__"] == "traces_spanmetrics_calls_total":
            found[labels["url"], labels["method"]] = value
    return found


def test_values_of_a_label_beyond_its_limit_become_one(implementation: Any) -> None:  # 102
    tenant = urls(implementation, 5)
    visit(tenant, range(10))
    visit(tenant, range(10), 14.9)
    assert calls(tenant) == {(f"/{number}", "GET"): 2 for number in range(10)}
    visit(tenant, range(10), 15)
    expected = {(f"/{number}", "GET"): 2 for number in range(10)} | {(OVERFLOW_VALUE, "GET"): 10}
    assert calls(tenant) == expected
    assert tenant.registry.label_stats()["url"] == (10, 10)
    assert tenant.registry.label_stats()["method"] == (0, 1)


@pytest.mark.parametrize(("values_of_url", "overflows"), [(5, False), (6, True)])
def test_limit_itself_is_allowed(implementation: Any, values_of_url: int, overflows: bool) -> None:  # 103
    tenant = urls(implementation, 5)
    visit(tenant, range(values_of_url))
    visit(tenant, [0], 15)
    assert ((OVERFLOW_VALUE, "GET") in calls(tenant)) == overflows


def test_info_metrics_are_not_limited(implementation: Any) -> None:  # 105
    tenant = urls(implementation, 1, enable_target_info=True, dimensions=["method"])
    visit(tenant, range(3))
    visit(tenant, range(3), 15)
    series = tenant.collect().series
    pods = {dict(key)["pod"] for key in series if ("__name__", "traces_target_info") in key}
    assert pods == {"pod-0", "pod-1", "pod-2"}
    assert "pod" not in tenant.registry.label_stats()


@pytest.mark.parametrize(("stale_s", "slots"), [(900, 4), (1800, 7), (300, 2), (299, 4), (60, 4)])
def test_window_of_values(stale_s: float, slots: int) -> None:
    assert window_slots(stale_s) == slots


def test_limit_clears_when_the_values_left_the_window() -> None:  # 103
    limiter = LabelLimiter(5, 900)
    now_ns = NOW_NS
    for number in range(6):
        limiter.apply((("url", str(number)),), now_ns)
    shown = []
    for _ in range(5):
        now_ns += 300 * SECOND_NS
        shown.append(limiter.apply((("url", "x"),), now_ns))
    assert shown == [(("url", OVERFLOW_VALUE),)] * 3 + [(("url", "x"),)] * 2


def test_limit_is_read_at_the_next_look() -> None:  # 104
    limiter = LabelLimiter(0, 900)
    for number in range(10):
        limiter.apply((("url", str(number)),), NOW_NS)
    assert limiter.stats() == {}
    limiter.limit = 5
    for number in range(10):
        limiter.apply((("url", str(number)),), NOW_NS + 15 * SECOND_NS)
    assert limiter.apply((("url", "0"),), NOW_NS + 30 * SECOND_NS) == (("url", OVERFLOW_VALUE),)
    limiter.limit = 0
    assert limiter.apply((("url", "0"),), NOW_NS + 45 * SECOND_NS) == (("url", "0"),)
    assert limiter.stats() == {"url": (1, 10)}


def test_labels_of_no_series_are_not_tracked() -> None:
    limiter = LabelLimiter(1, 900)
    limiter.apply((("__type__", "x"), ("__unit__", "y"), ("a", "b")), NOW_NS)
    assert list(limiter.stats()) == ["a"]


def test_both_limits_see_the_label_sets_that_are_shown() -> None:
    model = urls(ReferenceModel, 1)
    visit(model, range(3))
    visit(model, range(3), 15)
    assert model.registry.stats()["entity_demand_estimate"] == 4
