"""What the engine's registry does with time and with changing settings, which the model of one plan cannot say."""

import json
import sys
import threading
from typing import Any

import pytest

from tenants import _engine
from tests import remote_write
from tests.remote_write import is_stale_marker
from tests.traces import batch, plan, request, service_graphs_plan, span, span_metrics_plan

NOW_NS = 1_700_000_000_000_000_000
START_MS = NOW_NS // 1_000_000
SECOND_MS = 1000

SPAN_METRICS = span_metrics_plan(histogram_buckets=[0.1, 0.5])


class Tenant:
    """One shard and its registry, under a plan that may change."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.plan = _engine.Plan(json.dumps(settings))
        self.shard = _engine.Shard(self.plan)
        self.registry = _engine.Registry(self.plan, START_MS)

    def count(self, *durations_s: float, name: str = "op", now_ms: int = START_MS) -> bytes:
        """Count one span for each duration and return the shard's record."""
        spans = [span(name=name, start_ns=NOW_NS - int(duration * 1e9), end_ns=NOW_NS) for duration in durations_s]
        parts = _engine.split(
            request(batch({"service.name": "a"}, *spans)).SerializeToString(),
            self.plan,
            1,
            NOW_NS,
            strict_ids=False,
        )
        for _, frame in parts.frames:
            self.shard.apply(frame, now_ms * 1_000_000)
        return self.shard.flush(now_ms * 1_000_000)

    def add(self, *durations_s: float, name: str = "op", now_ms: int = START_MS) -> None:
        """Count spans and merge them."""
        record = self.count(*durations_s, name=name, now_ms=now_ms)
        self.registry.merge(0, record, now_ms * 1_000_000)

    def collect(self, now_ms: int) -> dict[str, list[tuple[int, float]]]:
        """Return the samples of every series by metric name, with its ``le`` in braces."""
        return named(self.registry.collect(now_ms, [], 2000))


def named(batches: list[_engine.WriteBatch]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for write in batches:
        for key, series in remote_write.decode(write.body).items():
            labels = dict(key)
            le = f"{{{labels['le']}}}" if "le" in labels else ""
            operation = f" {labels['span_name']}" if labels.get("span_name", "op") != "op" else ""
            found[labels["__name__"] + le + operation] = list(series.samples)
    return found


def values(samples: dict[str, list[tuple[int, float]]]) -> dict[str, float]:
    """Return the newest value of each series, staleness markers as None."""
    return {name: series[-1][1] for name, series in samples.items()}


def ended(samples: dict[str, list[tuple[int, float]]]) -> set[str]:
    return {name for name, series in samples.items() if is_stale_marker(series[-1][1])}


def test_a_series_without_updates_ends_with_a_marker_and_begins_again_at_zero() -> None:
    tenant = Tenant(plan(SPAN_METRICS, stale_duration_s=60.0))
    tenant.add(0.2)
    first = tenant.collect(START_MS + 15 * SECOND_MS)
    assert not ended(first)
    last = tenant.collect(START_MS + 61 * SECOND_MS)
    assert ended(last) == set(first)
    assert tenant.registry.stats()["active_series"] == 0
    assert tenant.collect(START_MS + 76 * SECOND_MS) == {}
    again_ms = START_MS + 80 * SECOND_MS
    tenant.add(0.3, now_ms=again_ms)
    again = tenant.collect(again_ms + SECOND_MS)
    calls = "traces_spanmetrics_calls_total"
    assert again[calls] == [(START_MS + 76 * SECOND_MS + 1, 0.0), (again_ms + SECOND_MS, 1.0)]


def test_other_buckets_keep_what_stays_and_end_what_goes() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.05, 0.2, 0.9)
    before = tenant.collect(START_MS + SECOND_MS)
    tenant.plan = _engine.Plan(json.dumps(plan(span_metrics_plan(histogram_buckets=[0.3, 0.5]))))
    tenant.registry.set_plan(tenant.plan)
    after = tenant.collect(START_MS + 2 * SECOND_MS)
    bucket = "traces_spanmetrics_latency_bucket"
    assert ended(after) == {f"{bucket}{{0.1}}"}
    for kept in (f"{bucket}{{0.5}}", f"{bucket}{{+Inf}}", "traces_spanmetrics_latency_count"):
        assert values(after)[kept] == values(before)[kept]
    # What is known of 0.3 is that the observation below 0.1 is below it too.
    assert values(after)[f"{bucket}{{0.3}}"] == 1
    assert not ended(tenant.collect(START_MS + 3 * SECOND_MS))


def test_records_under_former_buckets_are_merged_into_the_present_ones() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.05)
    spans = request(batch({"service.name": "a"}, span(name="op", start_ns=NOW_NS - 200_000_000, end_ns=NOW_NS)))
    parts = _engine.split(spans.SerializeToString(), tenant.plan, 1, NOW_NS, strict_ids=False)
    tenant.shard.apply(parts.frames[0][1], NOW_NS)
    changed = _engine.Plan(json.dumps(plan(span_metrics_plan(histogram_buckets=[0.15, 1.0]))))
    tenant.registry.set_plan(changed)
    former = tenant.shard.set_plan(changed, NOW_NS)
    tenant.registry.merge(0, former, NOW_NS)
    tenant.plan = changed
    tenant.add(0.9)
    collected = values(tenant.collect(START_MS + SECOND_MS))
    assert collected["traces_spanmetrics_calls_total"] == 3
    assert collected["traces_spanmetrics_latency_sum"] == 1.15
    assert collected["traces_spanmetrics_latency_bucket{0.15}"] == 1
    assert collected["traces_spanmetrics_latency_bucket{1}"] == 3


def test_a_processor_that_is_switched_off_ends_its_series_and_starts_again_from_zero() -> None:
    on = plan(SPAN_METRICS, service_graphs_plan())
    off = plan(None, service_graphs_plan())
    tenant = Tenant(on)
    tenant.add(0.2)
    first = tenant.collect(START_MS + SECOND_MS)
    tenant.registry.set_plan(_engine.Plan(json.dumps(off)))
    assert ended(tenant.collect(START_MS + 2 * SECOND_MS)) == set(first)
    assert tenant.registry.stats()["active_series"] == 0
    assert tenant.collect(START_MS + 3 * SECOND_MS) == {}
    tenant.registry.set_plan(tenant.plan)
    tenant.add(0.2)
    assert values(tenant.collect(START_MS + 4 * SECOND_MS))["traces_spanmetrics_calls_total"] == 1


def test_one_metric_switched_off_leaves_the_others_alone() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.2)
    tenant.collect(START_MS + SECOND_MS)
    without_size = plan(span_metrics_plan(histogram_buckets=[0.1, 0.5], size=False))
    tenant.registry.set_plan(_engine.Plan(json.dumps(without_size)))
    after = tenant.collect(START_MS + 2 * SECOND_MS)
    assert ended(after) == {"traces_spanmetrics_size_total"}
    assert values(after)["traces_spanmetrics_calls_total"] == 1


def test_a_slot_freed_by_a_series_that_ended_is_taken_by_the_next() -> None:
    tenant = Tenant(plan(SPAN_METRICS, stale_duration_s=60.0, max_active_series=7))
    tenant.add(0.2, name="first")
    tenant.add(0.2, name="second", now_ms=START_MS + 30 * SECOND_MS)
    assert "traces_spanmetrics_calls_total second" not in tenant.collect(START_MS + 45 * SECOND_MS)
    tenant.collect(START_MS + 61 * SECOND_MS)
    tenant.add(0.2, name="third", now_ms=START_MS + 62 * SECOND_MS)
    third = tenant.collect(START_MS + 75 * SECOND_MS)
    assert values(third)["traces_spanmetrics_calls_total third"] == 1


def test_overflow_that_ended_leaves_its_place_to_a_label_set_and_comes_again_under_its_own_name() -> None:
    limited = {"stale_duration_s": 60.0, "limiter_type": "entity", "max_active_entities": 1}
    tenant = Tenant(plan(span_metrics_plan(latency=False, size=False), **limited))
    calls = "traces_spanmetrics_calls_total"
    for round_ms in (START_MS, START_MS + 70 * SECOND_MS):
        tenant.add(0.2, name=f"first at {round_ms}", now_ms=round_ms)
        tenant.add(0.2, name=f"second at {round_ms}", now_ms=round_ms)
        sent = tenant.collect(round_ms + SECOND_MS)
        # The overflow has no span name.
        assert values(sent) == {f"{calls} first at {round_ms}": 1, calls: 1}
        assert ended(tenant.collect(round_ms + 61 * SECOND_MS)) == set(sent)
        assert tenant.registry.stats()["active_entities"] == 0


def test_series_that_end_and_begin_again_take_no_more_memory_each_time() -> None:
    tenant = Tenant(plan(SPAN_METRICS, stale_duration_s=60.0))
    held: list[int] = []
    for round_ms in range(START_MS, START_MS + 200 * 70 * SECOND_MS, 70 * SECOND_MS):
        tenant.add(0.2, now_ms=round_ms)
        held.append(tenant.registry.stats()["state_bytes"])
        sent = tenant.collect(round_ms + SECOND_MS)
        assert ended(tenant.collect(round_ms + 61 * SECOND_MS)) == set(sent)
    assert max(held) < 2 * held[0]


def test_demand_behind_learned_names_is_published_every_fifteen_seconds() -> None:
    tenant = Tenant(plan(SPAN_METRICS, span_name_sanitization="dry_run"))
    published: list[int] = []
    for after_ms, name in ((0, "first"), (1, "second"), (14_999, "third"), (15_000, "fourth"), (29_999, "fifth")):
        tenant.add(0.2, name=name, now_ms=START_MS + after_ms)
        published.append(tenant.registry.stats()["post_sanitization_demand_estimate"])
    # What comes with the record that tells the time is published with the next.
    assert published == [0, 0, 0, 3, 3]
    tenant.add(0.2, now_ms=START_MS + 30_000)
    assert tenant.registry.stats()["post_sanitization_demand_estimate"] == 5


def test_ending_everything_marks_every_series_that_was_sent() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.2)
    sent = tenant.collect(START_MS + SECOND_MS)
    tenant.add(0.2, name="never sent")
    gone = named(tenant.registry.end_all(START_MS + 2 * SECOND_MS, [], 2000))
    assert ended(gone) == set(gone) == set(sent)
    assert tenant.collect(START_MS + 3 * SECOND_MS) == {}


def test_definitions_come_again_for_a_registry_that_knows_none() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.2)
    waiting = tenant.count(0.2)
    successor = _engine.Registry(tenant.plan, START_MS)
    with pytest.raises(_engine.MalformedFrame, match="not defined"):
        successor.merge(0, waiting, NOW_NS)
    successor.merge(0, tenant.shard.redefine(), NOW_NS)
    successor.merge(0, waiting, NOW_NS)
    collected = named(successor.collect(START_MS + SECOND_MS, [], 2000))
    assert values(collected)["traces_spanmetrics_calls_total"] == 1


def test_damaged_frames_and_records_are_refused_and_count_nothing() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    record = tenant.count(0.2)
    for damaged in (b"", record[:-1], b"x" + record[1:], record + b"x"):
        with pytest.raises(_engine.MalformedFrame):
            tenant.registry.merge(0, damaged, NOW_NS)
        with pytest.raises(_engine.MalformedFrame):
            tenant.shard.apply(damaged, NOW_NS)
    assert tenant.registry.stats()["active_series"] == 0
    assert tenant.shard.flush(NOW_NS) == b""


def test_the_gil_is_released_while_a_request_is_split() -> None:
    spans = [span(name=f"op {index}", start_ns=NOW_NS - 1, end_ns=NOW_NS) for index in range(60_000)]
    body = request(batch({"service.name": "a"}, *spans)).SerializeToString()
    compiled = _engine.Plan(json.dumps(plan(SPAN_METRICS)))
    started, has_ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        _engine.split(body, compiled, 1, NOW_NS, strict_ids=False)
        has_ended.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread that does not let go keeps the GIL until it is done
    try:
        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        assert not has_ended.is_set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_a_record_behind_one_that_was_lost_adds_nothing() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.2, name="first")
    tenant.count(0.2, name="second")  # its definition is lost with the record
    for name in ("first", "second"):
        body = request(batch({"service.name": "a"}, span(name=name, start_ns=NOW_NS - 1, end_ns=NOW_NS)))
        parts = _engine.split(body.SerializeToString(), tenant.plan, 1, NOW_NS, strict_ids=False)
        tenant.shard.apply(parts.frames[0][1], NOW_NS)
    both = tenant.shard.flush(NOW_NS)
    with pytest.raises(_engine.MalformedFrame, match="not defined"):
        tenant.registry.merge(0, both, NOW_NS)
    collected = values(tenant.collect(START_MS + SECOND_MS))
    assert collected["traces_spanmetrics_calls_total first"] == 1


def test_a_record_can_be_read_again_after_its_series_went_idle() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    tenant.add(0.2)
    late_ms = START_MS + 400 * SECOND_MS
    body = request(batch({"service.name": "a"}, span(name="op", start_ns=NOW_NS - 1, end_ns=NOW_NS)))
    parts = _engine.split(body.SerializeToString(), tenant.plan, 1, NOW_NS, strict_ids=False)
    tenant.shard.apply(parts.frames[0][1], NOW_NS)
    record = tenant.shard.flush(late_ms * 1_000_000)
    successor = _engine.Registry(tenant.plan, START_MS)
    successor.merge(0, tenant.shard.redefine(), late_ms * 1_000_000)
    successor.merge(0, record, late_ms * 1_000_000)
    collected = values(named(successor.collect(late_ms + SECOND_MS, [], 2000)))
    assert collected["traces_spanmetrics_calls_total"] == 1


def test_batches_hold_no_more_samples_than_asked_unless_one_label_set_does() -> None:
    tenant = Tenant(plan(SPAN_METRICS))
    for index in range(20):
        tenant.add(0.2, name=f"op {index}")
    per_set = 2 * 7
    for asked, most in ((1, per_set), (per_set, per_set), (5 * per_set + 1, 5 * per_set)):
        fresh = _engine.Registry(tenant.plan, START_MS)
        fresh.merge(0, tenant.shard.redefine(), NOW_NS)
        for index in range(20):
            fresh.merge(0, tenant.count(0.2, name=f"op {index}"), NOW_NS)
        sizes = [write.samples for write in fresh.collect(START_MS + SECOND_MS, [], asked)]
        assert max(sizes) == most
        assert sum(sizes) == 20 * per_set
