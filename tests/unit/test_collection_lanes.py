"""A collection in lanes: a series is always in the same one, and nothing is there twice or missing."""

from itertools import pairwise
from typing import Any

import pytest

from tenants import _engine
from tenants.endpoint.collection_encoder import CollectionEncoder, lanes_for
from tenants.endpoint.encoding import Encoding
from tenants.endpoint.endpoint_settings import endpoint_configs
from tenants.processing.profile import TenantProfile
from tenants.settings.protobuf_message import ProtobufMessage
from tests import traces
from tests.engine_driver import EngineDriver
from tests.remote_write import SeriesKey, TimeSeries, decode
from tests.remote_write_v2 import decode_v2
from tests.unit.tenant_work import ACME, NOW_NS, book, group, overrides, spans_on

NOW_MS = NOW_NS // 1_000_000
NAMES = [f"operation {number}" for number in range(200)]
DROP_KIND = {"regex": "span_kind", "action": "labeldrop"}


def profile(*, rules: tuple[dict[str, str], ...] = (), max_lanes: int = 4) -> TenantProfile:
    endpoint = {
        "url": "http://h.example/",
        "max_samples_per_send": 100,
        "max_lanes": max_lanes,
        "write_relabel_configs": list(rules),
    }
    return book(overrides(acme=spans_on(remote_write=[endpoint]))).get(ACME)


def record(settings: TenantProfile, names: list[str]) -> bytes:
    shard = _engine.Shard(settings.plan)
    shard.apply(group(settings, *names, count=1).payload, NOW_NS)
    return shard.flush(NOW_NS)


def registry(settings: TenantProfile, data: bytes) -> _engine.Registry:
    made = _engine.Registry(settings.plan, NOW_MS - 60_000, seed=7)
    made.merge(1, data, NOW_NS)
    return made


def decoded(body: bytes, message: ProtobufMessage) -> dict[SeriesKey, TimeSeries]:
    if message is ProtobufMessage.V1:
        return decode(body)
    return {key: each.series for key, each in decode_v2(body).series.items()}


def entity(key: SeriesKey) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in key if name not in {"__name__", "le"})


@pytest.mark.parametrize("message", list(ProtobufMessage))
def test_series_is_always_in_the_same_lane_and_with_all_of_its_label_set(message: ProtobufMessage) -> None:
    settings = profile()
    lanes: list[dict[frozenset[tuple[str, str]], int]] = []
    for names in (NAMES, NAMES[::-1], NAMES[50:]):
        # Registries of their own: as if processes had come one after the other.
        data = record(settings, names)
        ((batches, _),) = registry(settings, data).collect_each(NOW_MS, [], 100, [(None, message.value)], lanes=4)
        ((undivided, _),) = registry(settings, data).collect_each(NOW_MS, [], 100, [(None, message.value)])
        assert {batch.lanes for batch in batches} == {4}
        assert {(batch.lane, batch.lanes) for batch in undivided} == {(0, 1)}
        whole = {key: series for batch in undivided for key, series in decoded(batch.body, message).items()}
        seen: dict[SeriesKey, TimeSeries] = {}
        of: dict[frozenset[tuple[str, str]], int] = {}
        for batch in batches:
            for key, series in decoded(batch.body, message).items():
                assert key not in seen
                seen[key] = series
                assert of.setdefault(entity(key), batch.lane) == batch.lane
        assert seen == whole
        lanes.append(of)
    for one, other in pairwise(lanes):
        assert all(other.get(labels, lane) == lane for labels, lane in one.items())
    sizes = [sum(lane == number for lane in lanes[0].values()) for number in range(4)]
    assert min(sizes) > len(NAMES) / 8


def test_every_step_but_the_first_follows() -> None:
    def plan(*dimensions: str) -> dict[str, Any]:
        return traces.plan(span_metrics=traces.span_metrics_plan(dimensions=dimensions))

    tenant = EngineDriver(plan("a"), started_at_ms=1000)
    span = traces.span("op", trace_id=b"\x01" * 16, end_ns=2 * 10**9, attributes={"a": "1"})
    tenant.push(traces.request(traces.batch({"service.name": "shop"}, span)), 2 * 10**9)
    tenant.flush(2 * 10**9)
    tenant.set_plan(plan(), 3 * 10**9)  # which ends its series before they were ever sent
    encoding = Encoding(message=ProtobufMessage.V1)
    batches = CollectionEncoder().encode(tenant.registry, profile().settings, 20_000, [encoding])[encoding]
    times = [{at_ms for each in decode(batch.body).values() for at_ms, _ in each.samples} for batch in batches]
    assert times == [{1001}, {19_999}, {20_000}]
    assert [batch.follows for batch in batches] == [False, True, True]


def test_lane_of_a_label_set_does_not_depend_on_the_version() -> None:
    settings = profile()
    ((batches, _),) = registry(settings, record(settings, ["a"])).collect_each(
        NOW_MS, [], 100, [(None, ProtobufMessage.V1.value)], lanes=16
    )
    # What another version has put on disk is in its lanes.
    assert {batch.lane for batch in batches} == {2}


def test_rules_that_change_labels_leave_one_lane() -> None:
    settings = profile(rules=(DROP_KIND,))
    encoder = CollectionEncoder()
    (config,) = endpoint_configs(settings.settings)
    relabel = config.relabel
    for now_ms in (NOW_MS, NOW_MS + 15_000):
        made = registry(settings, record(settings, NAMES))
        encoded = encoder.encode(made, settings.settings, now_ms, [Encoding(relabel), Encoding()])
        assert {(batch.lane, batch.lanes) for batch in encoded[Encoding(relabel)]} == {(0, 1)}
    assert {batch.lanes for batch in encoded[Encoding()]} == {4}


@pytest.mark.parametrize(
    ("batches", "before", "most", "lanes"),
    [
        (0, 1, 4, 1),
        (7, 1, 4, 1),
        (8, 1, 4, 2),
        (15, 1, 4, 2),
        (16, 1, 4, 4),
        (1000, 1, 4, 4),
        (1000, 1, 7, 4),
        (1000, 1, 16, 16),
        (1000, 1, 1, 1),
        (9, 4, 4, 4),
        (7, 4, 4, 1),
        (1000, 16, 4, 4),
        (40, 16, 4, 4),
    ],
)
def test_lanes_grow_and_shrink_with_the_collection(batches: int, before: int, most: int, lanes: int) -> None:
    assert lanes_for(batches, before, most) == lanes
