import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any

import pytest
import structlog

from tenants import _engine
from tenants.endpoint import tenant_collector
from tenants.endpoint.tenant_collector import TenantCollector
from tenants.journal.errors import JournalBacklogFull
from tenants.processing.flush_record import FlushRecord, Place
from tenants.processing.profile import TenantProfile
from tenants.store.errors import StoreUnavailable
from tests.remote_write import decode, is_stale_marker
from tests.unit.conditions import until
from tests.unit.fake_clock import START_MS
from tests.unit.journalled import HOST, Bench, journalled, merge
from tests.unit.receiver import Hang, Hold, Receiver
from tests.unit.standing_clock import StandingClock
from tests.unit.tenant_work import ACME, NOW_NS, book, calls, group, overrides, spans_on

LABELS_ARE_LOOKED_AT_EVERY_MS = 15_000  # processors §4.8


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with journalled() as made:
        yield made


@pytest.fixture
def clock(bench: Bench) -> StandingClock:
    return bench.clock


def profile(*urls: str, generator: dict[str, Any] | None = None, **settings: Any) -> TenantProfile:
    endpoints = {"remote_write": [{"url": url, "protobuf_message": "prometheus.WriteRequest"} for url in urls]}
    entry = spans_on(**endpoints, **settings) if generator is None else {**endpoints, **generator}
    return book(overrides(acme=entry)).get(ACME)


@asynccontextmanager
async def collecting(settings: TenantProfile, bench: Bench) -> AsyncIterator[TenantCollector]:
    collector = bench.collector(settings)
    collector.start()
    try:
        yield collector
    finally:
        await collector.close()


class Shard:
    """A shard of the engine whose records are handed over at once."""

    def __init__(self, settings: TenantProfile) -> None:
        self._profile = settings
        self._shard = _engine.Shard(settings.plan)

    def record(self, *names: str) -> bytes:
        self._shard.apply(group(self._profile, *names, count=1).payload, NOW_NS)
        return self._shard.flush(NOW_NS)


@contextmanager
def encoding(collector: TenantCollector) -> Iterator[threading.Event]:
    """Let the next collection take until the event is set, as that of a big tenant does."""
    registry = collector._state.registry
    finish = threading.Event()

    class Slow:
        def collect_each(self, *arguments: Any, **named: Any) -> Any:
            assert finish.wait(10)
            return registry.collect_each(*arguments, **named)

        def __getattr__(self, name: str) -> Any:
            assert finish.is_set(), f"{name} waits for the registry in the event loop"
            return getattr(registry, name)

    collector._state.registry = Slow()  # type: ignore[assignment]
    try:
        yield finish
    finally:
        finish.set()
        collector._state.registry = registry


async def begin_collection(collector: TenantCollector) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(collector.collect())
    await until(collector._lock.locked)
    return task


def times(bodies: list[bytes]) -> list[int]:
    return [series.samples[-1][0] for body in bodies for series in list(decode(body).values())[:1]]


async def test_series_are_sent_at_the_tenants_interval(bench: Bench, clock: StandingClock) -> None:
    async with Receiver() as receiver:
        settings = profile(receiver.url, collection_interval="10s")
        async with collecting(settings, bench) as collector:
            shards = [Shard(settings), Shard(settings)]
            for source, shard in enumerate(shards):
                assert await merge(collector, source, shard.record("a", "b"))
            await clock.pass_by(20)  # its phase is somewhere within the interval
            await receiver.wait_for_requests(3)
            assert await merge(collector, 0, shards[0].record("b"))
            await clock.pass_by(10)
            await receiver.wait_for_requests(4)
            # Zeros have a request of their own, before all.
            zeros, *bodies = receiver.bodies
            assert calls([zeros]) == {"a": 0, "b": 0}
            assert calls(bodies[:1]) == {"a": 2, "b": 2}
            assert calls(bodies[2:]) == {"a": 2, "b": 3}
            sent = times(bodies)
            assert [later - earlier for earlier, later in pairwise(sent)] == [10_000, 10_000]
            assert 0 < sent[0] - START_MS <= 10_000
            await until(lambda: collector.snapshot().collections == 3)
            assert collector.snapshot().records == 3


async def test_definitions_of_each_shard_are_its_own(bench: Bench) -> None:
    settings = profile()
    collector = bench.collector(settings)
    one, two = Shard(settings), Shard(settings)
    await merge(collector, 0, one.record("a", "b"))
    await merge(collector, 1, two.record("b", "a"))
    await merge(collector, 0, one.record("b"))
    assert calls(b.body for b in collector._state.registry.collect(START_MS + 10, [], 2000)) == {"a": 2, "b": 3}


async def test_record_that_cannot_be_read_costs_its_shard_the_range(bench: Bench) -> None:
    settings = profile()
    collector = bench.collector(settings)
    await merge(collector, 0, Shard(settings).record("a"))
    ((key, place),) = collector.acknowledged(HOST)
    with structlog.testing.capture_logs() as logs:
        await merge(collector, 0, b"damaged")
        await until(lambda: not list(collector.acknowledged(HOST)))
    assert [line["event"] for line in logs] == ["flush record cannot be read"]
    record = FlushRecord(key, Place(place.epoch, place.sequence + 1), b"")
    assert (collector.is_fenced(record), list(collector.acknowledged(HOST))) == (True, [])
    assert collector.snapshot().records == 1


async def test_timestamps_grow_whatever_the_clock_does(bench: Bench, clock: StandingClock) -> None:
    async with Receiver() as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            await collector.collect()
            await collector.collect()
            clock.time_ms -= 60_000
            await collector.collect()
            clock.time_ms += 120_000
            await collector.collect()
            await receiver.wait_for_requests(5)
    sent = times(receiver.bodies)
    assert sent == sorted(set(sent))
    assert sent[0] > START_MS
    assert sent[-1] == clock.time_ms


# While a thread encodes


async def test_record_that_comes_while_encoding_is_refused_and_can_come_again(bench: Bench) -> None:
    settings = profile()
    async with collecting(settings, bench) as collector:
        shard = Shard(settings)
        await merge(collector, 0, shard.record("a"))
        late = shard.record("a")
        with encoding(collector) as finish:
            collection = await begin_collection(collector)
            assert not await merge(collector, 0, late)
            assert collector.snapshot().records == 1
            finish.set()
            await collection
        assert await merge(collector, 0, late)
        assert collector.snapshot().records == 2


async def test_nothing_waits_for_the_encoding_in_the_event_loop(bench: Bench) -> None:
    settings = profile()
    async with collecting(settings, bench) as collector:
        shard = Shard(settings)
        await merge(collector, 0, shard.record("a"))
        before = collector.snapshot()
        with encoding(collector) as finish:
            collection = await begin_collection(collector)
            assert collector.snapshot().registry == before.registry
            collector.use(profile(max_active_series=1))
            collector.use(profile(generator={}))
            assert not collector.is_finished
            finish.set()
            await collection
        assert collector.snapshot().collections == 1
        await collector.collect()  # still under the former settings
        await collector.collect()
        assert collector.snapshot().registry["entities"] == 0


async def test_tenant_that_is_being_encoded_is_not_finished_before_it_is_sent(bench: Bench) -> None:
    settings = profile()
    async with collecting(settings, bench) as collector:
        await merge(collector, 0, Shard(settings).record("a"))
        await collector.collect()
        collector.use(profile(generator={}))
        await collector.collect()  # still under the former settings
        with encoding(collector) as finish:
            collection = await begin_collection(collector)  # this one writes the staleness markers
            assert not collector.is_finished
            finish.set()
            await collection
        assert collector.is_finished


@pytest.mark.parametrize("way", ["drain", "close"])
async def test_collection_that_has_begun_is_finished_before_the_end(bench: Bench, way: str) -> None:
    async with Receiver() as receiver:
        settings = profile(receiver.url, collection_interval="1s")
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            with encoding(collector) as finish:
                clock: Any = bench.clock
                clock.move(2)
                await until(collector._lock.locked)
                end = asyncio.ensure_future(collector.drain(10) if way == "drain" else collector.close())
                done, _ = await asyncio.wait([end], timeout=0.02)
                assert not done
                finish.set()
                await end
            assert collector.snapshot().collections == (2 if way == "drain" else 1)
    if way == "drain":
        # The zero sample of a new series is encoded only once.
        assert [calls([body]) for body in receiver.bodies] == [{"a": 0}, {"a": 1}, {"a": 1}]


# Settings


class Noting:
    """The registry, with notes of what is called."""

    def __init__(self, registry: Any) -> None:
        self.called: list[str] = []
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        self.called.append(name)
        return getattr(self._registry, name)


async def test_only_what_changed_is_touched(bench: Bench) -> None:
    async with Receiver(otherwise=Hold()) as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            await collector.collect()
            await receiver.wait_for_requests(1)
            registry = Noting(collector._state.registry)
            collector._state.registry = registry  # type: ignore[assignment]
            with structlog.testing.capture_logs() as logs:
                collector.use(settings)
                collector.use(profile(receiver.url))  # equal, another object
                assert (logs, registry.called) == ([], [])
                collector.use(profile(receiver.url, collection_interval="30s"))
                assert collector._schedule.interval_s == 30
                assert registry.called == []
                collector.use(profile(receiver.url, collection_interval="30s", max_active_series=3))
                # What was counted under the former plan is sent before the registry goes on with this one.
                assert registry.called == []
                # None of this disturbed what was on its way.
                assert [each.pending_batches for each in collector.snapshot().endpoint.endpoints] == [2]
                assert collector.snapshot().endpoint.retiring == ()
                collector.use(profile(receiver.url + "/other", collection_interval="30s", max_active_series=3))
            assert len(collector.snapshot().endpoint.retiring) == 1
            assert [line["event"] for line in logs] == ["settings of the tenant changed"] * 3
            receiver.release()
            await collector.collect()
            used = [name for name in registry.called if name in {"collect_each", "set_plan"}]
            assert used == ["collect_each", "set_plan"]


async def test_series_of_a_processor_that_is_switched_off_end_and_the_tenant_is_finished(bench: Bench) -> None:
    async with Receiver() as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            await collector.collect()
            assert not collector.is_finished
            collector.use(profile(receiver.url, generator={}))
            assert not collector.is_finished  # its series have not ended yet
            await collector.collect()
            await collector.collect()
            await receiver.wait_for_requests(4)
            await until(lambda: collector.is_finished)
    assert [calls([body]) for body in receiver.bodies[:3]] == [{"a": 0}, {"a": 1}, {"a": 1}]
    assert all(is_stale_marker(series.samples[-1][1]) for series in decode(receiver.bodies[3]).values())


async def test_tenant_is_not_finished_while_an_endpoint_has_something_to_send(bench: Bench) -> None:
    async with Receiver(otherwise=Hold()) as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            await collector.collect()
            collector.use(profile(receiver.url, generator={}))
            await collector.collect()
            await collector.collect()
            assert not collector.is_finished
            collector.use(profile(generator={}))  # the endpoint goes, and sends the rest
            assert not collector.is_finished
            receiver.release()
            await until(lambda: collector.is_finished)
    assert len(receiver.requests) == 4


async def test_tenant_that_generates_is_never_finished(bench: Bench) -> None:
    assert not bench.collector(profile()).is_finished
    assert bench.collector(profile(generator={})).is_finished


async def test_external_labels_and_size_of_batches_are_the_tenants(bench: Bench) -> None:
    async with Receiver() as receiver:
        text = "metrics_generator: {registry: {external_labels: {cluster: x}, inject_tenant_id_as: tenant}}"
        entry = spans_on(
            remote_write=[
                {"url": receiver.url, "max_samples_per_send": 40, "protobuf_message": "prometheus.WriteRequest"},
                {"url": receiver.url + "/2", "max_samples_per_send": 90, "protobuf_message": "prometheus.WriteRequest"},
            ]
        )
        settings = book(overrides(acme=entry), text).get(ACME)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a", "b", "c"))
            await collector.collect()
            assert await collector.drain(10)
    sizes = [sum(len(series.samples) for series in decode(body).values()) for body in receiver.bodies]
    # The most modest endpoint decides; a label set is not divided.
    assert max(sizes) < 90
    labels = [dict(key) for body in receiver.bodies for key in decode(body)]
    assert {(each["cluster"], each["tenant"]) for each in labels} == {("x", "acme")}


async def test_settings_with_an_endpoint_that_cannot_be_used_are_counted(bench: Bench) -> None:
    # The settings let this port pass, the sender does not.
    bad, worse = "http://bad.example:0/", "http://worse.example:0/"
    with structlog.testing.capture_logs():
        async with collecting(profile("http://good.example/", bad), bench) as collector:
            assert collector.snapshot().endpoint_update_failures == 1
            collector.use(profile("http://good.example/"))
            assert collector.snapshot().endpoint_update_failures == 1
            collector.use(profile("http://good.example/", bad, worse))
            snapshot = collector.snapshot()
            assert (snapshot.endpoint_update_failures, len(snapshot.endpoint.endpoints)) == (2, 1)


# Collection disabled


async def test_collection_that_is_disabled_sends_nothing_and_ends_what_is_stale(bench: Bench) -> None:
    async with Receiver() as receiver:
        settings = profile(receiver.url, collection_interval="10s")
        async with collecting(settings, bench) as collector:
            shard = Shard(settings)
            registry = Noting(collector._state.registry)
            collector._state.registry = registry  # type: ignore[assignment]
            collector.use(profile(receiver.url, collection_interval="10s", disable_collection=True))
            await merge(collector, 0, shard.record("a"))
            for _ in range(2):
                await collector.collect()
            assert [name for name in registry.called if name in {"collect", "sweep"}] == ["sweep", "sweep"]
            assert collector.snapshot().collections == 2
            assert collector.snapshot().registry["active_series"] > 0
            # What was counted meanwhile is there when it is enabled again.
            collector.use(settings)
            await merge(collector, 0, shard.record("a"))
            await collector.collect()
            await receiver.wait_for_requests(2)
            assert collector.snapshot().collections == 3
    assert [calls([body]) for body in receiver.bodies] == [{"a": 0}, {"a": 2}]


async def test_collection_is_disabled_from_the_next_one_on(bench: Bench) -> None:
    async with Receiver() as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            with encoding(collector) as finish:
                collection = await begin_collection(collector)
                collector.use(profile(receiver.url, disable_collection=True))
                finish.set()
                await collection
            await receiver.wait_for_requests(2)
            await collector.collect()
            assert await collector.drain(10)
    assert len(receiver.requests) == 2


# Figures


async def test_figures_of_labels_and_names_are_those_of_the_engine(bench: Bench, clock: StandingClock) -> None:
    settings = profile(max_cardinality_per_label=2, span_name_sanitization="dry_run")
    collector = bench.collector(settings)
    shard = Shard(settings)
    await merge(collector, 0, shard.record("GET /a/1", "GET /a/2", "GET /a/3"))
    clock.time_ms += LABELS_ARE_LOOKED_AT_EVERY_MS
    for _ in range(2):
        await merge(collector, 0, shard.record("GET /a/1"))
    await collector.collect()
    snapshot = collector.snapshot()
    values_limited, demand = snapshot.labels["span_name"]
    assert values_limited > 0
    assert round(demand) == 3
    buckets, total = snapshot.drain_tokens_per_line
    greatest, names = buckets[-1]
    assert greatest == math.inf
    assert names >= 3
    assert total > names


async def test_native_histograms_are_samples_too(bench: Bench) -> None:
    async with Receiver() as receiver:
        generator = {"processors": ["span-metrics-latency"], "generate_native_histograms": "native"}
        settings = profile(receiver.url, generator=generator)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            await collector.collect()
            assert await collector.drain(10)
            (endpoint,) = collector.snapshot().endpoint.endpoints
    assert endpoint.samples_sent == endpoint.samples_submitted > 0


@pytest.mark.parametrize(
    ("limiter", "limits"), [("series", {"series": 7, "entities": None}), ("entity", {"series": None, "entities": 5})]
)
async def test_limit_is_that_of_the_limiter_in_force(bench: Bench, limiter: str, limits: dict[str, int | None]) -> None:
    entry = overrides(acme=spans_on(max_active_series=7, max_active_entities=5))
    settings = book(entry, f"metrics_generator: {{limiter_type: {limiter}}}").get(ACME)
    async with collecting(settings, bench) as collector:
        snapshot = collector.snapshot()
        assert {"series": snapshot.max_active_series, "entities": snapshot.max_active_entities} == limits


# The end


async def test_drain_collects_once_more_and_sends_everything(bench: Bench) -> None:
    async with Receiver([503, 204]) as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            clock: Any = bench.clock
            draining = asyncio.ensure_future(collector.drain(10))
            await receiver.wait_for_requests(1)
            while not draining.done():
                clock.move(1)  # the back-off after 503
                await asyncio.sleep(0.001)
            assert await draining
            await collector.close()
    assert calls(receiver.bodies) == {"a": 1}


async def test_drain_keeps_to_its_deadline_and_says_that_something_is_left(bench: Bench) -> None:
    async with Receiver(otherwise=Hang()) as receiver:
        settings = profile(receiver.url)
        async with collecting(settings, bench) as collector:
            await merge(collector, 0, Shard(settings).record("a"))
            async with asyncio.timeout(20):
                assert not await collector.drain(0.05)
            (endpoint,) = collector.snapshot().endpoint.endpoints
            assert (endpoint.samples_failed, endpoint.pending_batches) == ({}, 2)
            # It is there for who comes after.
            assert len(bench.store.backlog.index(ACME)) == 1


async def test_collection_that_fails_is_said_and_the_next_one_comes_at_its_time(
    bench: Bench, clock: StandingClock
) -> None:
    settings = profile(collection_interval="10s")
    async with collecting(settings, bench) as collector:
        registry = collector._state.registry
        failures: list[Exception] = [RuntimeError("bug"), RuntimeError("bug")]

        class Failing:
            def collect_each(self, *arguments: Any, **named: Any) -> Any:
                if failures:
                    raise failures.pop()
                return registry.collect_each(*arguments, **named)

            def __getattr__(self, name: str) -> Any:
                return getattr(registry, name)

        collector._state.registry = Failing()  # type: ignore[assignment]
        with structlog.testing.capture_logs() as logs:
            await clock.pass_by(30)
            await until(lambda: collector.snapshot().collections == 3)
            assert collector.snapshot().collections_failed == {"other": 2}
            assert [line["event"] for line in logs if line["log_level"] == "error"] == [
                "collection failed by a bug"
            ] * 2
            failures.append(RuntimeError("bug"))
            assert not await collector.drain(1)
            assert collector.snapshot().collections_failed == {"other": 3}


async def test_collection_that_fails_is_not_tried_again_at_once_for_the_sake_of_other_settings(
    bench: Bench, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def full(*_: Any) -> None:
        attempts.append(clock.now_ms())
        raise JournalBacklogFull(1, 1)

    settings = profile()
    async with collecting(settings, bench) as collector:
        assert await merge(collector, 0, Shard(settings).record("a"))
        monkeypatch.setattr(bench.journal, "submit", full)
        collector.use(profile(generator=spans_on(processor={"span_metrics": {"dimensions": ["x"]}})))
        await clock.pass_by(4)
        monkeypatch.undo()
    assert len(attempts) in {3, 4}
    assert len(set(attempts)) == len(attempts)


async def test_checkpoint_that_cannot_be_written_holds_up_no_collection(
    bench: Bench, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def no_room(*_: Any) -> None:
        attempts.append(clock.now_ms())
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(tenant_collector, "MIN_CHECKPOINT_BYTES", 1)
    monkeypatch.setattr(bench.store, "checkpoints", no_room)
    settings = profile(collection_interval="10s")
    async with collecting(settings, bench) as collector:
        assert await merge(collector, 0, Shard(settings).record("a"))
        with structlog.testing.capture_logs() as logs:
            await clock.pass_by(90)
            await until(lambda: collector.snapshot().collections == 9)
        assert collector.snapshot().collections_failed == {"other": 0}
    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= 60_000
    assert [line["event"] for line in logs].count("checkpoint cannot be written") == 2


async def test_registry_that_is_broken_does_not_hide_that_collections_fail(bench: Bench) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise _engine.EngineError("an earlier call panicked in this object; it cannot be used any more")

    settings = profile()
    async with collecting(settings, bench) as collector:
        await merge(collector, 0, Shard(settings).record("a"))
        before = collector.snapshot()
        registry, collector._state.registry = collector._state.registry, Broken()  # type: ignore[assignment]
        with pytest.raises(_engine.EngineError):
            await collector.collect()
        after = collector.snapshot()
        collector._state.registry = registry
    assert (after.registry, after.collections_failed) == (before.registry, {"other": 1})
