"""Limits of series, entities and values per label (processors §4.7, §4.8, §4.10, cases 91 to 94, 102 to 105, 112)."""

from typing import Any, Final

import pytest

from tests.conformance.case import Classic, Difference, Labels, conformance, row
from tests.conformance.driver import assert_series
from tests.conformance.fixtures import CALLS, HOST_INFO, LATENCY, SIZE, TARGET_INFO
from tests.conformance.registry_driver import (
    INTERVAL_MS,
    NEW_ZERO,
    OVERFLOW,
    START_MS,
    Interval,
    Registered,
    bare_metrics,
    observation,
    play,
)
from tests.traces import batch, histograms_plan, host_info_plan, plan, request

TWO_BOUNDS = [1.0, 2.0]
ALL_THREE = bare_metrics("label", count=True, latency=True, size=True, histogram_buckets=TWO_BOUNDS)
ONE, TWO = {"label": "1"}, {"label": "2"}

CARDINALITY_MS: Final = 1_700_000_100_000
"""A moment at which both a look at the limits (every 15 s) and a slot of the window (5 min) begin."""
LOOK_MS, SLOT_MS, STALE_MS = 15_000, 300_000, 900_000
OVERFLOW_VALUE = "__cardinality_overflow__"


@conformance("91", NEW_ZERO)
def test_91_a_histogram_beyond_the_limit_is_a_whole_histogram_of_the_overflow() -> None:
    histograms = bare_metrics("label", latency=True, histogram_buckets=TWO_BOUNDS)
    tenant = play(
        plan(histograms, max_active_series=10),
        [
            Interval(
                counted=[observation("1", 1.0), observation("2", 1.5), observation("3", 3.0)],
                begin={
                    LATENCY: [
                        (ONE, Classic({"1": 1, "2": 1, "+Inf": 1}, sum=1)),
                        (TWO, Classic({"1": 0, "2": 1, "+Inf": 1}, sum=1.5)),
                        (OVERFLOW, Classic({"1": 0, "2": 0, "+Inf": 1}, sum=3)),
                    ]
                },
            )
        ],
    )
    assert tenant.stats("active_series", "series_limited", "active_series_demand_estimate") == (10, 5, 15)


def three_rounds(**limits: Any) -> tuple[Registered, int]:
    """Return a tenant after three merges of one observation per entity, and the size of one span.

    Its counter is ``calls_total``, its histogram ``latency``, and ``size_total`` stands for the gauge, which costs the
    same.
    """
    tenant = Registered(plan(ALL_THREE, **limits))
    for _ in range(3):
        tenant.count(observation("1", 1.5), observation("2", 1.5))
    return tenant, observation("1", 1.5).ByteSize()


OF_THREE = Classic({"1": 0, "2": 3, "+Inf": 3}, sum=4.5)


def spread(size: int, calls: Labels, latency: Labels, sizes: Labels) -> dict[str, Any]:
    """Return the series after :func:`three_rounds`, with where those of the second entity went."""
    return {
        CALLS: [(ONE, 3), (calls, 3)],
        LATENCY: [(ONE, OF_THREE), (latency, OF_THREE)],
        SIZE: [(ONE, 3 * size), (sizes, 3 * size)],
    }


@conformance("92")
def test_92_a_series_limit_lets_in_what_still_fits() -> None:
    tenant, size = three_rounds(max_active_series=8)
    assert_series(tenant.collect().series, spread(size, TWO, OVERFLOW, OVERFLOW), nothing_else=True)
    assert tenant.stats("active_series", "series_added", "series_limited") == (8, 8, 18)
    assert tenant.stats("active_series_demand_estimate", "entity_demand_estimate") == (14, 3)


@conformance("93")
def test_93_an_entity_limit_turns_away_an_entity_in_every_metric() -> None:
    tenant, size = three_rounds(limiter_type="entity", max_active_entities=1)
    assert_series(tenant.collect().series, spread(size, OVERFLOW, OVERFLOW, OVERFLOW), nothing_else=True)
    assert tenant.stats("active_entities", "entities_added", "entities_limited") == (1, 1, 9)


@conformance("94", Difference("Q25", "an entity that ends is counted as removed once, not once per metric"))
def test_94_the_slot_of_an_entity_is_free_when_its_last_series_ended() -> None:
    tenant = Registered(plan(ALL_THREE, limiter_type="entity", max_active_entities=1, stale_duration_s=60.0))
    tenant.count(observation("1"))
    tenant.samples_at(START_MS + 60_000)
    assert tenant.stats("active_entities", "entities_removed") == (1, 0)
    tenant.samples_at(START_MS + 60_001)
    assert tenant.stats("active_entities", "entities_removed") == (0, 1)
    late_ms = START_MS + 61_000
    tenant.count(observation("2", at_ms=late_ms), at_ms=late_ms)
    assert {dict(key).get("label") for key in tenant.samples_at(late_ms + 1)} == {"2"}
    assert tenant.stats("active_entities", "entities_added", "entities_limited") == (1, 2, 0)


class Requests(Registered):
    """A tenant whose spans have a method and a URL, with a limit of values per label."""

    def __init__(self, limit: int) -> None:
        super().__init__(self.plan(limit), started_at_ms=CARDINALITY_MS)

    @staticmethod
    def plan(limit: int) -> dict[str, Any]:
        """Return the settings with this limit."""
        return plan(bare_metrics("method", "url", count=True), max_cardinality_per_label=limit)

    def urls(self, count: int, after_ms: int) -> None:
        """Count one span for each of so many URLs."""
        at_ms = CARDINALITY_MS + after_ms
        urls = [{"method": "GET", "url": f"/{number}"} for number in range(count)]
        self.count(*(observation(attributes=url, at_ms=at_ms) for url in urls), at_ms=at_ms)

    def calls(self, after_ms: int) -> dict[str, float]:
        """Collect and return the calls by URL."""
        values: dict[str, float] = {}
        for key, samples in self.samples_at(CARDINALITY_MS + after_ms).items():
            labels = dict(key)
            assert (labels["__name__"], labels["method"]) == (CALLS, "GET")
            if (value := samples[-1][1]) is not None:
                values[labels["url"]] = value
        return values


def once(count: int) -> dict[str, float]:
    """Return one call for each of so many URLs."""
    return {f"/{number}": 1 for number in range(count)}


@conformance("102")
def test_102_a_label_over_its_limit_has_one_value_from_the_next_look_on() -> None:
    tenant = Requests(5)
    tenant.urls(10, 0)
    assert tenant.calls(1) == once(10)
    tenant.urls(10, LOOK_MS)
    assert tenant.calls(LOOK_MS + 1) == once(10) | {OVERFLOW_VALUE: 10}
    assert tenant.stats("active_series") == (11,)
    assert tenant.registry.label_stats() == {"method": (0, 1), "url": (10, 10)}


@conformance("103a")
def test_103a_as_many_values_as_the_limit_pass() -> None:
    tenant = Requests(5)
    tenant.urls(5, 0)
    tenant.urls(5, LOOK_MS)
    assert tenant.calls(LOOK_MS + 1) == {f"/{number}": 2 for number in range(5)}


@conformance("103b")
def test_103b_one_value_more_overflows_until_four_slots_have_passed() -> None:
    tenant = Requests(5)
    tenant.urls(6, 0)
    known = once(6)
    for slot in range(4):
        # The window of 15 minutes has four slots; the values of the first one leave it when it comes again.
        tenant.urls(1, slot * SLOT_MS + LOOK_MS)
        if slot * SLOT_MS + LOOK_MS > STALE_MS:
            known = {}  # what counts as overflow is no update of the series that had the value before
        assert tenant.calls(slot * SLOT_MS + LOOK_MS + 1) == known | {OVERFLOW_VALUE: slot + 1}
    tenant.urls(1, 4 * SLOT_MS)
    tenant.urls(1, 4 * SLOT_MS + LOOK_MS)
    assert tenant.calls(4 * SLOT_MS + LOOK_MS + 1) == {"/0": 2, OVERFLOW_VALUE: 4}
    assert tenant.registry.label_stats()["url"] == (4, 1)


@conformance("104")
def test_104_the_limit_is_switched_on_and_off() -> None:
    tenant = Requests(0)
    tenant.urls(10, 0)
    assert tenant.registry.label_stats() == {}
    tenant.use(tenant.plan(5), CARDINALITY_MS)
    tenant.urls(10, LOOK_MS)
    assert tenant.calls(LOOK_MS + 1) == dict.fromkeys(once(10), 2)
    tenant.urls(10, 2 * LOOK_MS)
    assert tenant.calls(2 * LOOK_MS + 1)[OVERFLOW_VALUE] == 10
    known = tenant.registry.label_stats()
    assert known["url"] == (10, 10)
    tenant.use(tenant.plan(0), CARDINALITY_MS + 2 * LOOK_MS)
    for look in (3, 4):
        tenant.urls(20, look * LOOK_MS)
        assert tenant.calls(look * LOOK_MS + 1)["/19"] == look - 2
        assert tenant.registry.label_stats() == known


@conformance("105")
def test_105_labels_of_info_metrics_are_not_limited() -> None:
    info = bare_metrics(count=True, enable_target_info=True)
    tenant = Registered(plan(info, None, host_info_plan(), max_cardinality_per_label=5), started_at_ms=CARDINALITY_MS)
    hosts = [{"service.name": "a", "cluster": f"c{number}", "host.id": f"h{number}"} for number in range(10)]
    for at_ms in (CARDINALITY_MS, CARDINALITY_MS + LOOK_MS):
        message = request(*(batch(host, observation(at_ms=at_ms)) for host in hosts))
        tenant.push_and_merge(message, at_ms)
    expected: dict[str, Any] = {
        CALLS: [({"job": "a"}, 20)],
        TARGET_INFO: [({"job": "a", "cluster": host["cluster"], "host_id": host["host.id"]}, 1) for host in hosts],
        HOST_INFO: [({"grafana_host_id": host["host.id"], "host_source": "host.id"}, 1) for host in hosts],
    }
    assert_series(tenant.collect().series, expected, nothing_else=True)
    assert tenant.registry.label_stats() == {"job": (0, 1)}


@pytest.mark.parametrize(
    ("mode", "bounds", "cost"),
    [
        row("112a", "classic", "classic", TWO_BOUNDS, 5),
        row("112b", "classic without bounds", "classic", [], 3),
        row("112c", "native", "native", TWO_BOUNDS, 1),
        row("112d", "both, two bounds", "both", TWO_BOUNDS, 6),
        row("112e", "both, three bounds", "both", [*TWO_BOUNDS, 3.0], 7),
        row(
            "112f",
            "both without bounds",
            "both",
            [],
            4,
            differs=Difference("Q24", "counted as the four series that are sent, where the reference counts three"),
        ),
    ],
)
def test_what_a_histogram_costs(mode: str, bounds: list[float], cost: int) -> None:
    settings = bare_metrics(latency=True, histogram_buckets=bounds)
    tenant = Registered(plan(settings, histograms=histograms_plan(mode)))
    tenant.count(observation())
    tenant.collect_at(START_MS + INTERVAL_MS)
    assert tenant.stats("active_series", "active_series_demand_estimate") == (cost, cost)
