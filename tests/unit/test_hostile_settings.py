"""Settings that mean harm: refused with their path, or carried out in time and memory that do not depend on them.

No test looks at a clock. A search that tried every way through a nested repetition would not end in this world's time,
so that a test ends is what it proves.
"""

import json
from typing import Any, Final

import pytest

from tenants import _engine
from tests.engine_driver import EngineDriver
from tests.hostile_traffic import DIMENSION, HONEST, MANY, MIB, of_hostile, spans_of
from tests.remote_write import is_stale_marker
from tests.traces import (
    batch,
    filter_block,
    histograms_plan,
    host_info_plan,
    plan,
    request,
    service_graphs_plan,
    span_metrics_plan,
)

NOW_NS: Final = 1_700_000_000_000_000_000
NOW_MS: Final = NOW_NS // 1_000_000
CALLS: Final = "traces_spanmetrics_calls_total"
STATE_BYTES: Final = 64 << 10

EXPLOSIVE: Final = (
    "(a+)+$",
    "(a*)*b",
    "(a|a)*c",
    "(a|aa)+$",
    "(.*)*x",
    "(a+a+)+y",
    "((((a+)+)+)+)+b",
    "(a?){500}a{500}b",
)
REFUSED_PATTERNS: Final = (
    ("(a{1000}){1000}", "nested repeat counts"),
    ("(?:(?:a{100}){100}){100}", "nested repeat counts"),
    ("a{1000}{1000}", "repetition operator follows another"),
    (r"\pL{1000}", "more than 1048576 bytes when compiled"),
    (r"(?i)[\pL\pN]{900}", "more than 1048576 bytes when compiled"),
    ("a" * 4097, "more than 4096 bytes"),
    ("(" * 1000 + "a" + ")" * 1000, "groups nest deeper"),
    ("(?:" * 1000 + "a" + ")" * 1000, "groups nest deeper"),
    (r"(a)\1", "invalid escape sequence"),
    ("(?=a)a", "unsupported"),
    ("[" * 4000, None),
    ("(", None),
)


def full_plan(
    span_metrics: dict[str, Any] | None = None, service_graphs: dict[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    return plan(
        span_metrics_plan(**span_metrics or {}),
        service_graphs_plan(**service_graphs or {}),
        host_info_plan(),
        **settings,
    )


def counted(settings: dict[str, Any], *spans: Any) -> tuple[EngineDriver, dict[str, float]]:
    """Count spans of a hostile service beside one of an honest one; return calls by service."""
    driver = EngineDriver(settings, strict_ids=True, started_at_ms=NOW_MS - 1000)
    honest = batch({"service.name": HONEST}, spans_of(NOW_NS, MANY))
    driver.push(request(*of_hostile(*spans), honest), NOW_NS)
    driver.flush(NOW_NS)
    calls: dict[str, float] = {}
    for key, series in driver.collect_at(NOW_MS + 1000).items():
        labels = dict(key)
        if labels["__name__"] == CALLS and not is_stale_marker(series.samples[-1][1]):
            service = labels.get("service", "")
            calls[service] = calls.get(service, 0) + series.samples[-1][1]
    return driver, calls


@pytest.mark.parametrize("pattern", EXPLOSIVE)
@pytest.mark.parametrize("block", ["include", "include_any", "exclude"])
def test_pattern_with_nested_repetitions_takes_one_walk_over_a_long_text(pattern: str, block: str) -> None:
    policies = [{block: filter_block("regex", {f"span.{DIMENSION}": pattern})}]
    almost = spans_of(NOW_NS, 0, attributes={DIMENSION: "a" * MIB + "!"})
    driver, calls = counted(full_plan({"filter_policies": policies}, {"filter_policies": policies}), almost)
    # It does not match: what has to match is kept out, what must not is let in. The honest span lacks the attribute.
    is_let_in = block == "exclude"
    assert calls == ({"hostile": 1, HONEST: 1} if is_let_in else {})
    assert driver.discarded == ({} if is_let_in else {("span_metrics", "span_metrics_filtered"): 2})
    assert driver.received_spans == 2


def test_many_patterns_on_a_long_text_take_a_walk_each() -> None:
    blocks = [{"exclude": filter_block("regex", {f"span.{DIMENSION}": f"(a+)+{number}$"})} for number in range(64)]
    spans = [spans_of(NOW_NS, n, attributes={DIMENSION: "a" * MIB + "!"}) for n in range(4)]
    _, calls = counted(full_plan({"filter_policies": blocks}), *spans)
    assert calls == {"hostile": 4, HONEST: 1}
    blocks.append({"exclude": filter_block("regex", {f"span.{DIMENSION}": "one more"})})
    with pytest.raises(_engine.InvalidPlan, match=r"^span_metrics\.filter_policies.*at most 64"):
        _engine.Plan(json.dumps(full_plan({"filter_policies": blocks})))


@pytest.mark.parametrize(("pattern", "says"), REFUSED_PATTERNS)
def test_pattern_that_would_take_too_much_is_refused_with_its_path(pattern: str, says: str | None) -> None:
    with pytest.raises(_engine.InvalidPlan, match=says):
        _engine.check_regex(pattern)
    policies = [
        {"exclude": filter_block("strict", {"name": "x"})},
        {"include": filter_block("regex", {"name": pattern})},
    ]
    for processor in ("span_metrics", "service_graphs"):
        settings = full_plan(**{processor: {"filter_policies": policies}})
        with pytest.raises(_engine.InvalidPlan) as refused:
            _engine.Plan(json.dumps(settings))
        assert str(refused.value).startswith(f"{processor}.filter_policies[1].include.attributes[0].value")
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ([0.1, 0.1], "repeat"),
        ([0.1, 0.2, 0.1], "repeat"),
        ([0.1] * 100, "repeat"),
        ([float("inf")], ""),
        ([float("nan")], ""),
        ([0.0], "above 0"),
        ([-0.0], "above 0"),
        ([-1.0], "above 0"),
        ([number / 10 for number in range(1, 102)], "at most 100"),
        ([float(number) for number in range(1, MANY)], "at most 100"),
        (["0.1"], ""),
    ],
)
@pytest.mark.parametrize("processor", ["span_metrics", "service_graphs"])
def test_bounds_that_no_histogram_has_are_refused_with_their_path(bounds: list[Any], says: str, processor: str) -> None:
    settings = full_plan(**{processor: {"histogram_buckets": bounds}})
    with pytest.raises(_engine.InvalidPlan, match=rf"^{processor}\.histogram_buckets.*{says}"):
        _engine.Plan(json.dumps(settings))


@pytest.mark.parametrize("bounds", [[], [5e-324], [1e-300, 1e308], [5e-324, 1.7976931348623157e308], [0.2, 0.1]])
@pytest.mark.parametrize("mode", ["classic", "native", "both"])
def test_extreme_bounds_count_what_they_should(bounds: list[float], mode: str) -> None:
    settings = full_plan({"histogram_buckets": bounds}, histograms=histograms_plan(mode))
    spans = [
        spans_of(NOW_NS, 0, start_ns=NOW_NS),
        spans_of(NOW_NS, 1, start_ns=0),
        spans_of(NOW_NS, 2, start_ns=NOW_NS - 1),
    ]
    driver, calls = counted(settings, *spans)
    assert calls == {"hostile": 3, HONEST: 1}
    assert driver.registry.stats()["state_bytes"] < STATE_BYTES


PROCESSOR_FAULTS: Final = [
    ("span_metrics", {"dimensions": ["le"]}, "dimensions"),
    ("span_metrics", {"dimensions": ["__name__"]}, "dimensions"),
    ("span_metrics", {"dimensions": [""]}, "dimensions"),
    ("span_metrics", {"dimension_mappings": [{"name": "", "source_labels": ["a"], "join": ""}]}, "dimension_mappings"),
    (
        "span_metrics",
        {"dimension_mappings": [{"name": "le", "source_labels": ["a"], "join": ""}]},
        "dimension_mappings",
    ),
    ("service_graphs", {"dimensions": ["le"]}, "dimensions"),
    ("service_graphs", {"wait_s": -1.0}, "wait_s"),
    ("service_graphs", {"max_items": -1}, "max_items"),
    ("service_graphs", {"max_items": 2**64}, "max_items"),
    ("host_info", {"metric_name": ""}, "metric_name"),
]


@pytest.mark.parametrize(("processor", "settings", "path"), PROCESSOR_FAULTS)
def test_setting_that_cannot_be_carried_out_is_refused_with_its_path(
    processor: str, settings: dict[str, Any], path: str
) -> None:
    document = full_plan()
    document[processor] |= settings
    with pytest.raises(_engine.InvalidPlan, match=rf"^{processor}\.{path}"):
        _engine.Plan(json.dumps(document))


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"ingestion_time_range_slack_s": -1.0}, "ingestion_time_range_slack_s"),
        ({"stale_duration_s": float("nan")}, "stale_duration_s"),
        ({"max_active_series": -1}, "max_active_series"),
        ({"max_cardinality_per_label": 2**64}, "max_cardinality_per_label"),
        ({"max_label_value_length": 1.5}, "max_label_value_length"),
        ({"limiter_type": "none"}, "limiter_type"),
        ({"span_name_sanitization": "on"}, "span_name_sanitization"),
        ({"histograms": histograms_plan("all")}, r"histograms\.mode"),
        ({"histograms": histograms_plan(native_bucket_factor=1.0)}, r"histograms\.native_bucket_factor"),
        ({"histograms": histograms_plan(native_bucket_factor=-1e300)}, r"histograms\.native_bucket_factor"),
        ({"histograms": histograms_plan(native_max_buckets=0)}, r"histograms\.native_max_buckets"),
        ({"histograms": histograms_plan(native_max_buckets=2**32)}, r"histograms\.native_max_buckets"),
        ({"histograms": histograms_plan(native_min_reset_duration_s=-1.0)}, r"histograms\.native_min_reset_duration_s"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_setting_of_all_processors_is_refused_with_its_path(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(_engine.InvalidPlan, match=rf"^{path}"):
        _engine.Plan(json.dumps(full_plan(**settings)))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", "{" * MANY, "[" * MIB, '{"a":' * MANY, '"' + "x" * MIB, "\x00", '{"span_metrics": {}}'],
)
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(_engine.InvalidPlan) as refused:
        _engine.Plan(text)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "settings",
    [
        {"ingestion_time_range_slack_s": 1e300},
        {"stale_duration_s": 1e300},
        {"service_graphs": {"wait_s": 1e300}},
        {"service_graphs": {"wait_s": 0.0}},
        {"service_graphs": {"max_items": 2**64 - 1}},
        {"service_graphs": {"max_items": 0}},
        {"max_active_series": 2**64 - 1},
        {"limiter_type": "entity", "max_active_entities": 2**64 - 1},
        {"max_cardinality_per_label": 2**64 - 1},
        {"max_label_name_length": 0, "max_label_value_length": 0},
        {"max_label_name_length": 2**63, "max_label_value_length": 2**63},
        {"histograms": histograms_plan("both", native_bucket_factor=1.0000000000000002)},
        {"histograms": histograms_plan("both", native_bucket_factor=1e300, native_max_buckets=1)},
        {"histograms": histograms_plan("native", native_max_buckets=2**32 - 1, native_min_reset_duration_s=1e300)},
        {"span_name_sanitization": "enabled", "max_cardinality_per_label": 1},
        {"span_metrics": {"span_multiplier_key": "k" * MIB}},
        {"span_metrics": {"dimensions": [f"d{number}" for number in range(MANY)]}},
    ],
)
def test_extreme_settings_that_are_taken_count_right_and_take_no_room(settings: dict[str, Any]) -> None:
    spans = [spans_of(NOW_NS, number, kind=3, start_ns=NOW_NS - (number + 1) ** 9) for number in range(100)]
    driver, calls = counted(full_plan(**settings), *spans)
    assert calls == {"hostile": 100, HONEST: 1}
    shard = driver.shards[0].stats()["state_bytes"]
    assert shard + driver.registry.stats()["state_bytes"] < STATE_BYTES


def test_label_names_cut_to_one_byte_count_every_span_once() -> None:
    settings = full_plan({"dimensions": ["service.x", "span.y", DIMENSION]}, max_label_name_length=1)
    spans = [spans_of(NOW_NS, number, attributes={DIMENSION: "d", "span.y": "y"}) for number in range(10)]
    driver = EngineDriver(settings, strict_ids=True, started_at_ms=NOW_MS - 1000)
    driver.push(request(*of_hostile(*spans)), NOW_NS)
    driver.flush(NOW_NS)
    collected = driver.collect_at(NOW_MS + 1000)
    calls = [series.samples[-1][1] for key, series in collected.items() if ("__name__", CALLS) in key]
    assert sum(calls) == 10


def test_slack_of_ages_lets_every_time_in_and_durations_of_centuries_are_counted() -> None:
    spans = [
        spans_of(NOW_NS, 0, start_ns=0, end_ns=2**64 - 1),
        spans_of(NOW_NS, 1, start_ns=0, end_ns=0),
        spans_of(NOW_NS, 2, start_ns=2**64 - 1, end_ns=2**64 - 1),
        spans_of(NOW_NS, 3, start_ns=NOW_NS, end_ns=2**64 - 1, kind=2),
    ]
    for mode in ("classic", "native", "both"):
        settings = full_plan(histograms=histograms_plan(mode), ingestion_time_range_slack_s=1e300)
        driver, calls = counted(settings, *spans)
        assert calls == {"hostile": 4, HONEST: 1}
        assert driver.discarded == {}
        driver.flush(2**63)
        assert driver.registry.stats()["state_bytes"] < STATE_BYTES
