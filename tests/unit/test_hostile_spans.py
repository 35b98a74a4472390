"""Spans that mean harm: each is counted or discarded with its reason, its neighbours are counted, memory is bounded.

Bounds are on what is kept and built, not on seconds; that the tests end says the rest.
"""

from typing import Any, Final

import pytest

from tests.engine_driver import EngineDriver
from tests.hostile_traffic import (
    ATTACKS,
    DIMENSION,
    FIFTY_YEARS_NS,
    GREATEST_WEIGHT,
    HONEST,
    HOSTILE,
    MANY,
    MIB,
    TINY_RATIOS,
    UNUSABLE_RATIOS,
    curious_plan,
    of_hostile,
    spans_of,
)
from tests.remote_write import SeriesKey, TimeSeries
from tests.traces import SECOND_NS, batch, histograms_plan, plan, request, span_metrics_plan

NOW_NS: Final = 1_700_000_000_000_000_000
NOW_MS: Final = NOW_NS // 1_000_000
CALLS: Final = "traces_spanmetrics_calls_total"
LATENCY: Final = "traces_spanmetrics_latency"
MAX_VALUE_BYTES: Final = 2048
SHARDS: Final = 3

# Per label set: its labels, twice where a table finds it by them, its numbers and its place in tables.
BYTES_PER_LABEL_SET: Final = 1536
BYTES_OF_NOTHING: Final = 64 << 10


def tenant(settings: dict[str, Any], shards: int = SHARDS) -> EngineDriver:
    return EngineDriver(settings, shards=shards, strict_ids=True, started_at_ms=NOW_MS - 1000)


def collected(driver: EngineDriver, after_s: int = 1) -> dict[SeriesKey, TimeSeries]:
    driver.flush(NOW_NS)
    return driver.collect_at(NOW_MS + after_s * 1000)


def values(series: dict[SeriesKey, TimeSeries], name: str, **labels: str) -> list[float]:
    """Return the newest value of each series of a metric that has these labels."""
    wanted = {"__name__": name, **labels}.items()
    return [sent.samples[-1][1] for key, sent in series.items() if wanted <= dict(key).items()]


def state_bytes(driver: EngineDriver) -> int:
    shards = sum(shard.stats()["state_bytes"] for shard in driver.shards)
    return shards + driver.registry.stats()["state_bytes"]


def unweighted(**settings: Any) -> dict[str, Any]:
    """Return settings under which a call is a span."""
    off = {"span_multiplier_key": "", "enable_tracestate_span_multiplier": False}
    return curious_plan(off, off, **settings)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_span_is_counted_or_discarded_and_its_neighbours_are_counted(name: str) -> None:
    attack = ATTACKS[name]
    driver = tenant(unweighted())
    driver.push(attack.request(NOW_NS), NOW_NS)
    series = collected(driver)
    assert driver.received_spans == attack.spans + 3
    assert (driver.rejected, driver.discarded) == ({}, attack.discarded)
    assert values(series, CALLS, service=HONEST) == [3]
    assert sum(values(series, CALLS)) == attack.spans - attack.uncounted + 3


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_kept_is_bounded_by_label_sets_and_not_by_what_was_sent(name: str) -> None:
    attack = ATTACKS[name]
    driver = tenant(curious_plan(max_label_value_length=MAX_VALUE_BYTES))
    message = attack.request(NOW_NS)
    for _ in range(3):
        driver.push(message, NOW_NS)
        driver.flush(NOW_NS)
    assert driver.ignored_multipliers == 3 * attack.ignored_multipliers
    label_sets = sum(shard.stats()["entities"] for shard in driver.shards)
    longest = MAX_VALUE_BYTES if name in {"long values", "many attributes"} else 0
    bound = (label_sets + attack.spans) * (BYTES_PER_LABEL_SET + 8 * longest) + BYTES_OF_NOTHING
    assert label_sets <= 3 * attack.spans + 3
    assert state_bytes(driver) < bound
    for key in driver.collect_at(NOW_MS + 1000):
        assert all(len(text.encode()) <= MAX_VALUE_BYTES for pair in key for text in pair)


def test_sampling_ratios_weigh_at_most_two_to_the_56_and_useless_ones_weigh_one() -> None:
    driver = tenant(curious_plan())
    spans = [
        *(spans_of(NOW_NS, n, f"tiny {n}", attributes={"ratio": ratio}) for n, ratio in enumerate(TINY_RATIOS)),
        *(spans_of(NOW_NS, n, "useless", attributes={"ratio": ratio}) for n, ratio in enumerate(UNUSABLE_RATIOS)),
        spans_of(NOW_NS, 99, "threshold", trace_state="ot=th:ffffffffffffff"),
        spans_of(NOW_NS, 101, "long", trace_state="ot=th:8," + "a=b," * (MIB // 4)),
        spans_of(NOW_NS, 102, "nothing but commas", trace_state="," * MIB),
        spans_of(NOW_NS, 100, "greatest", attributes={"ratio": 1.7976931348623157e308}),
    ]
    driver.push(request(*of_hostile(*spans)), NOW_NS)
    series = collected(driver)
    for name in ("tiny 0", "tiny 1", "threshold"):
        assert values(series, CALLS, span_name=name) == [GREATEST_WEIGHT]
    assert values(series, CALLS, span_name="useless") == [len(UNUSABLE_RATIOS)]
    assert values(series, CALLS, span_name="long") == [2]
    assert values(series, CALLS, span_name="nothing but commas") == [1]
    (least,) = values(series, CALLS, span_name="greatest")
    assert 0 < least < 1e-307
    assert driver.ignored_multipliers == len(UNUSABLE_RATIOS)


@pytest.mark.parametrize("mode", ["classic", "native", "both"])
def test_the_heaviest_span_of_all_times_leaves_sums_finite_and_rising(mode: str) -> None:
    weighted = span_metrics_plan(enable_tracestate_span_multiplier=True)
    driver = tenant(plan(weighted, histograms=histograms_plan(mode)), shards=1)
    heaviest = spans_of(NOW_NS, 1, "heavy", start_ns=0, trace_state="ot=th:ffffffffffffff")
    light = spans_of(NOW_NS, 2, "light")
    before = (0.0, 0.0)
    for collection in range(1, 4):
        driver.push(request(*of_hostile(*[heaviest] * 100, light)), NOW_NS)
        series = collected(driver, collection)
        for form in {"classic": ["classic"], "native": ["native"], "both": ["classic", "native"]}[mode]:
            count, total = _latency(series, form, "heavy")
            assert count == collection * 100 * GREATEST_WEIGHT
            assert before[1] < total < float("inf")
            assert total > FIFTY_YEARS_NS / SECOND_NS
            assert _latency(series, form, "light") == (collection, collection)
        before = (count, total)


def _latency(series: dict[SeriesKey, TimeSeries], form: str, span_name: str) -> tuple[float, float]:
    if form == "classic":
        ((count,), (total,)) = (values(series, f"{LATENCY}_{part}", span_name=span_name) for part in ("count", "sum"))
        return count, total
    (newest,) = (
        sent.histograms[-1] for key, sent in series.items() if {("__name__", LATENCY), ("span_name", span_name)} <= key
    )
    return newest.count, newest.sum


def test_a_resource_of_ten_thousand_attributes_has_no_target_info_and_its_spans_are_counted() -> None:
    driver = tenant(unweighted())
    for _ in range(10):
        driver.push(ATTACKS["many attributes"].request(NOW_NS), NOW_NS)
    series = collected(driver)
    # Nobody else's is missing: the honest resource says nothing but its name, so it has none either.
    assert values(series, "traces_target_info") == []
    assert values(series, CALLS, service=HOSTILE, k0="v0", k9999="v9999") == [30]
    assert all(len(key) < 16 for key in series)
    assert state_bytes(driver) < BYTES_OF_NOTHING


def test_a_label_set_beyond_the_bound_is_discarded_where_values_are_not_cut() -> None:
    driver = tenant(unweighted(max_label_value_length=0))
    long = "x" * MIB
    spans = [
        spans_of(NOW_NS, 0, attributes={DIMENSION: long}),
        spans_of(NOW_NS, 1, name=long),
        spans_of(NOW_NS, 2, attributes={DIMENSION: "x" * 100_000}),
        spans_of(NOW_NS, 3),
    ]
    driver.push(request(*of_hostile(*spans), batch({"service.name": long}, spans_of(NOW_NS, 4))), NOW_NS)
    series = collected(driver)
    assert driver.discarded == {("span_metrics", "label_set_too_large"): 3}
    assert sorted(values(series, CALLS)) == [1, 1]
    assert state_bytes(driver) < 4 * 100_000 + BYTES_OF_NOTHING


@pytest.mark.parametrize("attribute", ["host.id", "x"])
def test_info_metrics_keep_within_the_bound_where_values_are_not_cut(attribute: str) -> None:
    driver = tenant(unweighted(max_label_value_length=0))
    for number in range(4):
        own = {attribute: str(number) + "x" * MIB}
        driver.push(request(*of_hostile(spans_of(NOW_NS, number), **own)), NOW_NS)
    series = collected(driver)
    stage = {"host.id": "host_info", "x": "span_metrics"}[attribute]
    assert driver.discarded[stage, "label_set_too_large"] == 4
    assert values(series, CALLS) == [4]
    assert all(len(text) < MIB for key in series for pair in key for text in pair)
    assert state_bytes(driver) < 2 * BYTES_OF_NOTHING


def test_edges_keep_within_the_bound_where_values_are_not_cut() -> None:
    driver = tenant(unweighted(max_label_value_length=0))
    for number in range(4):
        long = {DIMENSION: str(number) + "x" * MIB}
        client = spans_of(NOW_NS, number, kind=3, attributes=long)
        server = spans_of(NOW_NS, number, kind=2, parent=client.span_id, attributes=long)
        driver.push(request(*of_hostile(client), batch({"service.name": "other"}, server)), NOW_NS)
    series = collected(driver)
    # Eight spans, each too large for span metrics and for service graphs.
    assert driver.discarded == dict.fromkeys(
        [("span_metrics", "label_set_too_large"), ("service_graphs", "label_set_too_large")], 8
    )
    assert series == {}
    assert state_bytes(driver) < 2 * BYTES_OF_NOTHING


@pytest.mark.parametrize("mode", ["enabled", "dry_run"])
def test_ten_thousand_span_names_are_learned_in_bounded_memory(mode: str) -> None:
    driver = tenant(unweighted(span_name_sanitization=mode))
    for _ in range(2):
        driver.push(ATTACKS["many names"].request(NOW_NS), NOW_NS)
        driver.flush(NOW_NS)
    series = collected(driver)
    stats = driver.registry.stats()
    assert stats["drain_patterns_detected"] < 10
    assert stats["spans_sanitized"] > 2 * MANY - 100
    learned = values(series, CALLS, service=HOSTILE)
    assert sum(learned) == 2 * MANY
    assert (len(learned) < 20) == (mode == "enabled")
    assert values(series, CALLS, service=HONEST) == [6]
    assert stats["state_bytes"] < 2 * MANY * BYTES_PER_LABEL_SET


def test_ten_thousand_values_of_a_label_become_one_and_other_labels_stay() -> None:
    driver = tenant(unweighted(max_cardinality_per_label=100))
    driver.push(ATTACKS["many values"].request(NOW_NS), NOW_NS)
    driver.flush(NOW_NS)
    # The estimate of the first interval decides over the next (processors §4.8).
    later_ns = NOW_NS + 16 * SECOND_NS
    driver.push(ATTACKS["many values"].request(later_ns), later_ns)
    driver.flush(later_ns)
    series = driver.collect_at(later_ns // 1_000_000 + 1000)
    limited = driver.registry.label_stats()
    assert limited["dim"][0] == MANY
    assert limited["dim"][1] == pytest.approx(MANY, rel=0.1)
    assert limited["service"] == (0, 2)
    assert values(series, CALLS, dim="__cardinality_overflow__") == [MANY]
    assert sum(values(series, CALLS, service=HOSTILE)) == 2 * MANY
    assert values(series, CALLS, service=HONEST) == [6]


@pytest.mark.parametrize(
    "limit",
    [{"limiter_type": "series", "max_active_series": 20}, {"limiter_type": "entity", "max_active_entities": 20}],
)
def test_far_beyond_the_limit_everything_is_counted_in_the_overflow(limit: dict[str, Any]) -> None:
    driver = tenant(unweighted(**limit))
    early = request(batch({"service.name": HONEST}, spans_of(NOW_NS, 0)))
    driver.push(early, NOW_NS)
    driver.flush(NOW_NS)
    for _ in range(3):
        driver.push(ATTACKS["many values"].request(NOW_NS), NOW_NS)
        driver.flush(NOW_NS)
    series = collected(driver)
    assert sum(values(series, CALLS)) == 3 * (MANY + 3) + 1
    # Who came first stays; who comes late is not lost.
    assert values(series, CALLS, service=HONEST) == [10]
    (overflow,) = values(series, CALLS, metric_overflow="true")
    assert overflow >= 3 * (MANY - 20)
    assert len(series) <= 20 + 3
    stats = driver.registry.stats()
    assert stats["active_series"] <= 20
    assert stats["series_limited"] + stats["entities_limited"] >= 3 * (MANY - 20)
    assert stats["state_bytes"] < MANY * BYTES_PER_LABEL_SET


def test_half_edges_of_ten_thousand_traces_stay_within_max_items() -> None:
    items = 100
    driver = tenant(curious_plan(None, {"max_items": items}), shards=1)
    halves = [spans_of(NOW_NS, number, kind=3) for number in range(MANY)]
    driver.push(request(*of_hostile(*halves)), NOW_NS)
    assert driver.shards[0].stats()["open_edges"] == items
    driver.flush(NOW_NS)
    assert driver.dropped_spans == MANY - items
    assert values(driver.collect_at(NOW_MS + 1), CALLS) == [MANY]
    assert state_bytes(driver) < 2 * BYTES_OF_NOTHING
