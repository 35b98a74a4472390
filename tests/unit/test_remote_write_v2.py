"""What only 2.0 says: since when series count, and what they are; and batches that are said again or divided."""

import json
from typing import Any

import pytest
import snappy

from tenants import _engine
from tenants.settings.protobuf_message import ProtobufMessage
from tests import traces
from tests.engine_driver import EngineDriver
from tests.remote_write import decode, decode_metadata, is_stale_marker
from tests.remote_write_v2 import SeriesV2, decode_v2
from tests.unit.small_batches import SmallTenant

V1, V2 = ProtobufMessage.V1, ProtobufMessage.V2
SECOND_NS, SECOND_MS = 10**9, 1000
CALLS = "traces_spanmetrics_calls_total"
LATENCY = "traces_spanmetrics_latency"
STALE_S = 60


def plan(mode: str = "classic", **histograms: Any) -> dict[str, Any]:
    return traces.plan(
        span_metrics=traces.span_metrics_plan(histogram_buckets=[0.1, 1.0]),
        histograms=traces.histograms_plan(mode, **histograms),
        stale_duration_s=float(STALE_S),
    )


class Tenant(EngineDriver):
    """Counts spans of names at whole seconds, and collects in 2.0."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__(plan, started_at_ms=SECOND_MS)
        self._traces = 0

    def count(self, second: int, *names: str, duration_ms: int = 50) -> None:
        now_ns = second * SECOND_NS
        for name in names:
            self._traces += 1
            span = traces.span(
                name, trace_id=self._traces.to_bytes(16), start_ns=now_ns - duration_ms * 10**6, end_ns=now_ns
            )
            self.push(traces.request(traces.batch({"service.name": "shop"}, span)), now_ns)
        self.flush(now_ns)

    def written(self, second: int, *rules: _engine.Relabel) -> dict[tuple[str, str], SeriesV2]:
        """Collect; return the series by metric and span name, of buckets the last."""
        output = rules[0] if rules else None
        ((batches, _),) = self.registry.collect_each(second * SECOND_MS, [], 2000, [(output, V2.value)])
        found = {}
        for batch in batches:
            for key, each in decode_v2(batch.body).series.items():
                found[dict(key)["__name__"], dict(key).get("span_name", "")] = each
        return found


def test_start_is_the_time_of_the_zero_sample_as_long_as_the_series_lasts() -> None:
    tenant = Tenant(plan("both"))
    tenant.count(2, "a")
    first = tenant.written(10)
    assert first[CALLS, "a"].series.samples == [(1001, 0.0), (10_000, 1.0)]
    tenant.count(11, "a", "b")
    second = tenant.written(20)
    tenant.count(21, "a", "b")
    third = tenant.written(30)
    for written in (first, second, third):
        assert {each.start_ms for (_, name), each in written.items() if name == "a"} == {1001}
    for written in (second, third):
        assert {each.start_ms for (_, name), each in written.items() if name == "b"} == {10_001}


@pytest.mark.parametrize("silence_s", [299, 300, 301, 8 * 3600])
def test_series_begin_behind_the_last_collection_but_not_long_before_their_values(silence_s: int) -> None:
    tenant = Tenant(plan("both"))
    begun_s = 10
    tenant.registry.collect(begun_s * SECOND_MS, [], 2000, V2.value)
    tenant.count(begun_s + silence_s - 1, "a")
    now_ms = (begun_s + silence_s) * SECOND_MS
    zero_ms = max(begun_s * SECOND_MS + 1, now_ms - 300_000)
    written = tenant.written(begun_s + silence_s)
    assert len(written) == 6
    for each in written.values():
        assert each.start_ms == zero_ms
        histograms = [sample.timestamp_ms for sample in each.series.histograms]
        assert [at_ms for at_ms, _ in each.series.samples] + histograms == [zero_ms, now_ms]


def test_start_survives_a_restart() -> None:
    tenant = Tenant(plan("both"))
    tenant.count(2, "a")
    tenant.written(10)
    tenant.count(11, "b")
    checkpoint = tenant.registry.checkpoint()
    tenant.registry = _engine.Registry.restore(_engine.Plan(json.dumps(plan("both"))), checkpoint)
    written = tenant.written(20)
    assert {name: each.start_ms for (_, name), each in written.items()} == {"a": 1001, "b": 10_001}
    assert len(written) == 2 * 6


def test_series_that_ended_has_its_start_in_the_marker_and_another_when_it_comes_back() -> None:
    tenant = Tenant(plan("both"))
    tenant.count(2, "a")
    tenant.written(10)
    ended = tenant.written(100)
    assert {each.start_ms for each in ended.values()} == {1001}
    assert is_stale_marker(ended[CALLS, "a"].series.samples[-1][1])
    assert ended[LATENCY, "a"].series.histograms[-1].is_stale
    tenant.count(101, "a")
    assert {each.start_ms for each in tenant.written(110).values()} == {100_001}


def test_native_histogram_that_is_reset_begins_anew() -> None:
    tenant = Tenant(plan("both", native_max_buckets=1, native_min_reset_duration_s=5.0))
    tenant.count(2, "a")
    tenant.written(10)
    tenant.count(11, "a", duration_ms=900)
    assert tenant.registry.stats()["native_resets"] == 1
    written = tenant.written(20)
    assert written[LATENCY, "a"].start_ms == 10_001
    assert written[LATENCY, "a"].series.histograms[-1].count == 1
    assert written[f"{LATENCY}_count", "a"].start_ms == 1001
    assert tenant.written(30)[LATENCY, "a"].start_ms == 10_001


def test_form_that_is_switched_on_begins_then_and_the_other_goes_on() -> None:
    for former, added, kept in (("classic", LATENCY, f"{LATENCY}_sum"), ("native", f"{LATENCY}_sum", LATENCY)):
        tenant = Tenant(plan(former))
        tenant.count(2, "a")
        tenant.written(10)
        tenant.set_plan(plan("both"), 11 * SECOND_NS)
        tenant.count(12, "a")
        written = tenant.written(20)
        assert (written[added, "a"].start_ms, written[kept, "a"].start_ms) == (10_001, 1001), former
        assert written[CALLS, "a"].start_ms == 1001


def test_relabelled_series_say_what_they_are_and_their_markers_too() -> None:
    rules = _engine.Relabel(
        json.dumps(
            [
                {
                    "source_labels": ["__name__"],
                    "separator": ";",
                    "regex": "traces_(.+)",
                    "modulus": 0,
                    "target_label": "__name__",
                    "replacement": "my_$1",
                    "action": "replace",
                }
            ]
        )
    )
    tenant, twin = Tenant(plan("both")), Tenant(plan("both"))
    for each in (tenant, twin):
        each.count(2, "a")
    plain = {name.removeprefix("traces_"): each for (name, _), each in twin.written(10).items()}
    renamed = {name.removeprefix("my_"): each for (name, _), each in tenant.written(10, rules).items()}
    assert repr(renamed) == repr(plain)
    assert len(renamed["spanmetrics_calls_total"].series.exemplars) == 1
    ended = {name.removeprefix("my_"): each for (name, _), each in tenant.written(100, rules).items()}
    assert ended.keys() == plain.keys()
    assert all(each.metadata == plain[name].metadata for name, each in ended.items())


def test_metadata_of_1_0_is_not_sent_where_rules_may_rename() -> None:
    keeps = {"source_labels": [], "separator": ";", "regex": ".*", "modulus": 0, "target_label": "", "replacement": ""}
    chooses = _engine.Relabel(json.dumps([keeps | {"source_labels": ["__name__"], "action": "keep"}]))
    renames = _engine.Relabel(json.dumps([keeps | {"regex": "span_kind", "action": "labeldrop"}]))
    tenant = Tenant(plan())
    tenant.count(2, "a")
    outputs: list[tuple[_engine.Relabel | None, str]] = [(each, V1.value) for each in (None, chooses, renames)]
    described = [
        [decode_metadata(batch.body) for batch in batches]
        for batches, _ in tenant.registry.collect_each(10_000, [], 2000, outputs)
    ]
    names = {CALLS, LATENCY, "traces_spanmetrics_size_total"}
    assert [[set(each) for each in batches] for batches in described] == [[names], [names], [set()]]
    assert described[0][0][LATENCY].unit == "seconds"


def test_one_entity_and_one_series_are_halved_as_far_as_they_go() -> None:
    body = SmallTenant().batch(V2).body
    bodies = [body]
    for _ in range(6):
        bodies = [half.body for each in bodies for half in _engine.split_batch(each, V2.value)]
    whole = decode_v2(body).series
    parts = [decode_v2(each).series for each in bodies]
    assert [len(part) for part in parts] == [1] * len(whole)
    assert {key for part in parts for key in part} == whole.keys()
    # Each has the symbols that it needs, and no other.
    assert max(len(decode_v2(each).symbols) for each in bodies) < 20


BODIES = {
    "empty": b"",
    "not compressed": b"\xff\xff\xff\xff",
    "claims four gigabytes": b"\xff\xff\xff\xff\x0f\x00a",
    "no message": snappy.compress(b"\x2a\x05a"),
    "a field of another protocol": snappy.compress(b"\x12\x00"),
    "a reference that leads nowhere": snappy.compress(b"\x22\x00\x2a\x04\x0a\x02\x00\x07"),
    "a name without a value": snappy.compress(b"\x22\x00\x2a\x03\x0a\x01\x00"),
    "metadata that leads nowhere": snappy.compress(b"\x22\x00\x2a\x06\x2a\x04\x08\x01\x18\x09"),
    "an unknown field of a series": snappy.compress(b"\x22\x00\x2a\x02\x7a\x00"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_what_is_no_batch_of_ours_is_refused(body: bytes) -> None:
    with pytest.raises(_engine.MalformedFrame, match="damaged batch"):
        _engine.as_remote_write_1(body)


def test_batches_are_read_as_what_they_are_said_to_be() -> None:
    tenant = SmallTenant()
    with pytest.raises(_engine.MalformedFrame, match="damaged batch"):
        _engine.split_batch(tenant.batch(V1).body, V2.value)
    with pytest.raises(_engine.MalformedFrame, match="damaged batch"):
        _engine.split_batch(tenant.batch(V2).body, V1.value)
    with pytest.raises(ValueError, match=r"message must be .* not text"):
        _engine.split_batch(tenant.batch(V2).body, "text")
    with pytest.raises(_engine.MalformedFrame, match="damaged batch"):
        _engine.as_remote_write_1(tenant.batch(V1).body)


def test_start_timestamps_are_lost_in_1_0_and_nothing_else() -> None:
    batch = SmallTenant("a", "b").batch(V2)
    said = _engine.as_remote_write_1(batch.body)
    assert (said.samples, said.exemplars, said.series) == (batch.samples, batch.exemplars, batch.series)
    assert decode(said.body) == {key: each.series for key, each in decode_v2(batch.body).series.items()}
