"""Rules of endpoints, from the settings to what receivers get."""

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants import _engine
from tenants.endpoint.collection_encoder import CollectionEncoder
from tenants.endpoint.encoding import Encoding
from tenants.endpoint.tenant_collector import TenantCollector
from tenants.processing.profile import TenantProfile
from tenants.settings.model import validate
from tenants.settings.protobuf_message import ProtobufMessage
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.write_relabel import rules_json
from tests import traces
from tests.engine_driver import EngineDriver
from tests.reference_relabel import relabelled
from tests.remote_write import decode, is_stale_marker
from tests.unit.journalled import journalled, merge
from tests.unit.receiver import Receiver
from tests.unit.tenant_work import ACME, NOW_NS, book, group, overrides, spans_on

CALLS = "traces_spanmetrics_calls_total"
NOW_MS = NOW_NS // 1_000_000

ONLY_CALLS = [{"source_labels": ["__name__"], "regex": CALLS, "action": "keep"}]
WITHOUT_NAMES = [*ONLY_CALLS, {"regex": "span_name", "action": "labeldrop"}]
RENAMED = [{"source_labels": ["__name__"], "regex": "traces_(.+)", "target_label": "__name__", "replacement": "my_$1"}]


def profile(endpoints: Iterable[tuple[Receiver, list[dict[str, Any]]]], **settings: Any) -> TenantProfile:
    written = [
        {
            "name": f"e{index}",
            "url": receiver.url,
            "protobuf_message": "prometheus.WriteRequest",
            "write_relabel_configs": rules,
        }
        for index, (receiver, rules) in enumerate(endpoints)
    ]
    return book(overrides(acme=spans_on(remote_write=written, **settings))).get(ACME)


@asynccontextmanager
async def collecting(settings: TenantProfile) -> AsyncIterator[TenantCollector]:
    async with journalled() as bench:
        collector = bench.collector(settings)
        collector.start()
        try:
            yield collector
        finally:
            await collector.close()


def counted(settings: TenantProfile, *names: str) -> bytes:
    shard = _engine.Shard(settings.plan)
    shard.apply(group(settings, *names, count=1).payload, NOW_NS)
    return shard.flush(NOW_NS)


def series(bodies: Iterable[bytes]) -> list[dict[str, str]]:
    return [dict(sorted(key)) for body in bodies for key in decode(body)]


async def test_each_endpoint_gets_what_its_rules_leave() -> None:
    async with Receiver() as plain, Receiver() as calls, Receiver() as again, Receiver() as renamed:
        endpoints = [(plain, []), (calls, ONLY_CALLS), (again, ONLY_CALLS), (renamed, RENAMED)]
        settings = profile(endpoints)
        async with collecting(settings) as collector:
            await merge(collector, 0, counted(settings, "a", "b"))
            await collector.collect()
            assert await collector.drain(10)
    whole = series(plain.bodies)
    assert len(whole) > 30
    assert series(calls.bodies) == [each for each in whole if each["__name__"] == CALLS]
    assert calls.bodies == again.bodies
    assert len(calls.bodies) == len(plain.bodies) == 3  # zeros, values, and those of the drain
    expected = [{**each, "__name__": each["__name__"].replace("traces_", "my_")} for each in whole]
    assert sorted(map(str, series(renamed.bodies))) == sorted(map(str, expected))


async def test_external_labels_are_there_when_rules_are_applied() -> None:
    rules = [*ONLY_CALLS, {"source_labels": ["cluster", "span_name"], "target_label": "both"}]
    text = "metrics_generator: {registry: {external_labels: {cluster: k}}}"
    async with Receiver() as receiver:
        endpoint = {"url": receiver.url, "protobuf_message": "prometheus.WriteRequest", "write_relabel_configs": rules}
        settings = book(overrides(acme=spans_on(remote_write=[endpoint])), text).get(ACME)
        async with collecting(settings) as collector:
            await merge(collector, 0, counted(settings, "a"))
            await collector.collect()
            assert await collector.drain(10)
    assert {each["both"] for each in series(receiver.bodies)} == {"k;a"}


async def test_series_that_become_one_are_sent_once_and_counted() -> None:
    async with Receiver() as receiver:
        settings = profile([(receiver, WITHOUT_NAMES)])
        async with collecting(settings) as collector:
            assert collector.snapshot().relabel_left_out == {"collision": 0, "without_name": 0, "too_large": 0}
            # The second is the first by its labels, whoever came first.
            await merge(collector, 0, counted(settings, "b", "b", "b"))
            await merge(collector, 1, counted(settings, "a"))
            await merge(collector, 1, counted(settings, "c"))
            await collector.collect()
            await receiver.wait_for_requests(2)
            assert collector.snapshot().relabel_left_out == {"collision": 2, "without_name": 0, "too_large": 0}
    zero, value = (sent.samples for body in receiver.bodies for sent in decode(body).values())
    assert [points[0][1] for points in (zero, value)] == [0, 1]


async def test_series_without_a_name_does_not_spoil_the_others() -> None:
    rules = [*ONLY_CALLS, {"source_labels": ["span_name"], "regex": "a", "target_label": "__name__", "replacement": ""}]
    async with Receiver() as receiver:
        settings = profile([(receiver, rules)])
        async with collecting(settings) as collector:
            await merge(collector, 0, counted(settings, "a", "b"))
            await collector.collect()
            await receiver.wait_for_requests(2)
            assert collector.snapshot().relabel_left_out["without_name"] == 1
    assert [each["span_name"] for each in series(receiver.bodies)] == ["b", "b"]


async def test_endpoint_whose_rules_change_goes_on_with_the_new_ones() -> None:
    async with Receiver() as receiver:
        settings = profile([(receiver, ONLY_CALLS)])
        async with collecting(settings) as collector:
            await merge(collector, 0, counted(settings, "a"))
            await collector.collect()
            await receiver.wait_for_requests(2)
            collector.use(profile([(receiver, [*ONLY_CALLS, *RENAMED])]))
            await collector.collect()
            await receiver.wait_for_requests(3)
            assert collector.snapshot().endpoint.retiring == ()
    names = [{each["__name__"] for each in series([body])} for body in receiver.bodies]
    assert names == [{CALLS}, {CALLS}, {CALLS.replace("traces_", "my_")}]


def registry_of(settings: TenantProfile, *names: str) -> _engine.Registry:
    registry = _engine.Registry(settings.plan, NOW_MS)
    registry.merge(0, counted(settings, *names), NOW_NS)
    return registry


def endpoint(*rules: dict[str, Any]) -> RemoteWriteEndpoint:
    return validate(RemoteWriteEndpoint, {"url": "http://h/", "write_relabel_configs": list(rules)})


def relabel(*rules: dict[str, Any]) -> _engine.Relabel | None:
    text = rules_json(endpoint(*rules).write_relabel_configs)
    return _engine.Relabel(text) if text else None


def each_collected(registry: _engine.Registry, now_ms: int, *rules: _engine.Relabel | None) -> list[list[bytes]]:
    collected = registry.collect_each(now_ms, [], 2000, [(each, ProtobufMessage.V1) for each in rules])
    return [[batch.body for batch in batches] for batches, _ in collected]


def test_markers_of_series_that_end_are_relabelled_too() -> None:
    registry = registry_of(book().get(ACME), "a", "b")
    rules = relabel(*RENAMED)
    _, before = each_collected(registry, NOW_MS + 1000, None, rules)
    _, after = each_collected(registry, NOW_MS + 3_600_000, None, rules)
    ended = [key for body in after for key, each in decode(body).items() if is_stale_marker(each.samples[-1][1])]
    assert sorted(ended) == sorted(key for body in before for key in decode(body))
    assert {dict(key)["__name__"].split("_")[0] for key in ended} == {"my"}


def test_marker_gives_way_to_a_series_that_goes_on() -> None:
    settings = book().get(ACME)
    registry = registry_of(settings, "a")
    rules = relabel(*WITHOUT_NAMES)
    each_collected(registry, NOW_MS + 1000, rules)
    half_an_hour = 1_800_000
    shard = _engine.Shard(settings.plan)
    shard.apply(group(settings, "b", count=1).payload, NOW_NS)
    registry.merge(1, shard.flush(NOW_NS), NOW_NS + half_an_hour * 1_000_000)
    (bodies,) = each_collected(registry, NOW_MS + half_an_hour + 1, rules)
    ((_, sent),) = decode(bodies[0]).items()
    assert not is_stale_marker(sent.samples[-1][1])
    (bodies,) = each_collected(registry, NOW_MS + 4 * half_an_hour, rules)
    ((_, sent),) = decode(bodies[0]).items()
    assert is_stale_marker(sent.samples[-1][1])


def test_what_ends_behind_rules_is_sent_one_sample_of_a_series_at_a_time() -> None:
    def plan(*dimensions: str) -> dict[str, Any]:
        return traces.plan(span_metrics=traces.span_metrics_plan(dimensions=dimensions))

    def count(second: int) -> None:
        span = traces.span("op", trace_id=second.to_bytes(16), end_ns=second * 10**9, attributes={"a": "1"})
        tenant.push(traces.request(traces.batch({"service.name": "shop"}, span)), second * 10**9)
        tenant.flush(second * 10**9)

    encoding = Encoding(rules_json(endpoint(*RENAMED).write_relabel_configs), ProtobufMessage.V1)
    settings, encoder = book().get(ACME).settings, CollectionEncoder()
    tenant = EngineDriver(plan("a"), started_at_ms=1000)
    count(2)
    encoder.encode(tenant.registry, settings, 10_000, [encoding])
    count(11)
    tenant.set_plan(plan(), 12 * 10**9)  # which cannot make the series with "a" any more
    batches = encoder.encode(tenant.registry, settings, 20_000, [encoding])[encoding]
    before, last = (decode(batch.body) for batch in batches)
    assert before.keys() == last.keys()
    for sent, sent_ms in ((before, 19_999), (last, 20_000)):
        assert all([at_ms for at_ms, _ in each.samples] == [sent_ms] for each in sent.values())
    assert [batch.follows for batch in batches] == [False, True]


@pytest.mark.parametrize("mode", ["native", "both"])
def test_native_histograms_are_relabelled_whole(mode: str) -> None:
    registry = registry_of(book(overrides(acme=spans_on(generate_native_histograms=mode))).get(ACME), "a")
    plain, renamed = each_collected(registry, NOW_MS + 1000, None, relabel(*RENAMED))

    def natives(bodies: list[bytes]) -> list[Any]:
        return [each.histograms for body in bodies for each in decode(body).values() if each.histograms]

    assert natives(plain)
    assert natives(renamed) == natives(plain)


_RULES = st.lists(
    st.sampled_from(
        [
            *RENAMED,
            {"regex": "span_name", "action": "labeldrop"},
            {"regex": "le|__name__|span_name", "action": "labelkeep"},
            {"source_labels": ["span_name"], "action": "hashmod", "modulus": 2, "target_label": "span_name"},
            {"source_labels": ["le"], "regex": "0?.*[13579]", "action": "drop"},
            {"source_labels": ["__name__"], "regex": ".*_(bucket|total)", "action": "keep"},
            {"regex": "(s.*)", "replacement": "my_$1", "action": "labelmap"},
            {"source_labels": ["span_name"], "action": "uppercase", "target_label": "span_name"},
        ]
    ),
    max_size=4,
)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), _RULES, st.randoms(use_true_random=False))
def test_what_is_sent_is_what_the_model_leaves_in_order(
    names: list[str], rules: list[dict[str, Any]], rng: random.Random
) -> None:
    endpoint = validate(RemoteWriteEndpoint, {"url": "http://h/", "write_relabel_configs": rules})
    plain_rules = [rule.model_dump() for rule in endpoint.write_relabel_configs]
    settings = book().get(ACME)
    rng.shuffle(names)
    registry = registry_of(settings, *names)
    plain, sent = each_collected(registry, NOW_MS + 1000, None, relabel(*rules))
    expected: dict[tuple[tuple[str, str], ...], Any] = {}
    whole = [(dict(key), each.samples) for body in plain for key, each in decode(body).items()]
    for labels, samples in sorted(whole, key=lambda each: each[0].get("span_name", "")):
        left = relabelled(labels, plain_rules)
        if left is not None and "__name__" in left:
            expected.setdefault(tuple(sorted(left.items())), samples)
    found = {tuple(sorted(key)): each.samples for body in sent for key, each in decode(body).items()}
    assert found == expected
