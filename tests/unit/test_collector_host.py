import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy.exc import ProgrammingError

from cluster import collector_host, ray_compat
from cluster.collector_host import CollectorHost
from cluster.errors import NotConfiguredError
from cluster.measurements import families
from cluster.placement import Routes
from tenants.endpoint.tenant_collector import TenantCollector
from tenants.identity import TenantId
from tenants.journal.errors import Fenced
from tenants.journal.store import JournalStore, Loaded
from tenants.processing.flush_record import Acknowledgements, Claimed, FlushRecord, Place, Pulled, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import ShardSet
from tenants.settings import ServiceConfig
from tenants.store.errors import StoreUnavailable
from tests.overrides_in_force import whole_of
from tests.unit.actor_handle import ActorHandle
from tests.unit.conditions import until
from tests.unit.receiver import Hang, Receiver
from tests.unit.tenant_work import (
    ACME,
    NOW_NS,
    SECOND_NS,
    calls,
    config,
    edges_on,
    group,
    overrides,
    request,
    span,
    spans_on,
)

GLOBEX = TenantId("globex")
HOUR_NS = 3600 * SECOND_NS
TENANTS = overrides(acme=spans_on(), globex=spans_on(shards=2))
EDGES = overrides(acme=edges_on())


class Host:
    """A shard host without its actor, with shards of its own. It hangs or fails when it is told to."""

    def __init__(self, service: ServiceConfig) -> None:
        book = ProfileBook(service)
        book.put_overrides(whole_of(1, TENANTS))
        self.name = ""
        self.collector: CollectorHost | None = None
        self.shards = ShardSet(book, self.claim, lambda: NOW_NS, claim_pause_ns=0)
        self.pulls: list[tuple[str, Acknowledgements]] = []
        self.is_failing = False
        self.releases: Callable[[], Awaitable[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._answers = asyncio.Event()
        self._answers.set()

    def hang(self) -> None:
        self._answers.clear()

    def go_on(self) -> None:
        self._answers.set()

    def claim(self, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        assert self.collector is not None
        return asyncio.run_coroutine_threadsafe(self.collector.claim(self.name, keys), self._loop).result(5)

    async def apply(self, tenant: TenantId, *names: str) -> None:
        frames = group(self.shards.book.get(tenant), *names)
        assert None not in await self.count(frames)

    async def count(self, frames: FrameGroup) -> tuple[Place | None, ...]:
        await self.adopt([head.key for head in frames.heads])
        return self.shards.apply(frames)

    async def pull(
        self, collector: str, _incarnation: int, acknowledged: Acknowledgements, fenced: Sequence[tuple[ShardKey, int]]
    ) -> Pulled:
        self.pulls.append((collector, acknowledged))
        await self._answers.wait()
        if self.is_failing:
            raise NotConfiguredError("host")
        return self.shards.pull(acknowledged, fenced, lambda _: True)

    async def release(
        self, _collector: str, _incarnation: int, owned: Sequence[tuple[ShardKey, int]]
    ) -> tuple[FlushRecord, ...]:
        if self.releases is not None:
            await self.releases()
        return self.shards.release(owned)

    async def adopt(self, keys: Sequence[ShardKey]) -> frozenset[ShardKey]:
        return await asyncio.to_thread(self.shards.begin, keys)


def service(receiver: Receiver | None = None) -> ServiceConfig:
    url = f"remote_write: [{{url: '{receiver.url}', protobuf_message: prometheus.WriteRequest}}]" if receiver else ""
    return config(f"cluster: {{flush_interval: 10ms}}\n{url}\n")


class Placed(Routes):
    """Routes that a test chooses: all shards of a tenant are on one host, or on any."""

    def __init__(self, version: int, places: Mapping[TenantId, str], *hosts: str) -> None:
        super().__init__(version, tuple(dict.fromkeys((*places.values(), *hosts))), ("collector-0",))
        object.__setattr__(self, "_places", places)

    __slots__ = ("_places",)

    def __reduce__(self) -> Any:
        return Placed, (self.version, self._places, *self.shard_hosts)

    def host_of(self, tenant: TenantId, shard_index: int) -> str:
        return self._places[tenant]


def routes(hosts: Mapping[str, object], version: int = 1, **places: str) -> Routes:
    """By default all tenants are on the first host."""
    both = {ACME: next(iter(hosts)), GLOBEX: next(iter(hosts))}
    return Placed(version, both | {TenantId(tenant): host for tenant, host in places.items()}, *hosts)


@asynccontextmanager
async def collecting(
    settings: ServiceConfig, hosts: Mapping[str, Host], folder: Path | None = None, **places: str
) -> AsyncIterator[CollectorHost]:
    with TemporaryDirectory() as own:
        settings = settings.model_copy(update={"data_dir": folder or Path(own)})
        collector = CollectorHost("collector-0")
        for name, host in hosts.items():
            host.name, host.collector = name, collector
        handles = {name: ActorHandle(host) for name, host in hosts.items()}
        await collector.configure(settings, routes(hosts, **places), handles, whole_of(1, TENANTS))
        try:
            yield collector
        finally:
            for host in hosts.values():
                host.go_on()
            await collector.drain(0)


async def records(collector: CollectorHost) -> dict[str, int]:
    return {str(tenant): snapshot.records for tenant, snapshot in (await collector.snapshots()).items()}


async def until_true(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_merged(collector: CollectorHost, **expected: int) -> None:
    async def are_merged() -> bool:
        return await records(collector) == expected

    await until_true(are_merged)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """``configure`` directs the log of a process; this one is the tests'."""
    monkeypatch.setattr(collector_host, "set_up_logging", lambda *_: None)


async def test_records_of_all_hosts_are_pulled_merged_and_acknowledged() -> None:
    settings = service()
    hosts = {"shard-host-0": Host(settings), "shard-host-1": Host(settings)}
    async with collecting(settings, hosts, globex="shard-host-1") as collector:
        await hosts["shard-host-0"].apply(ACME, "a")
        await hosts["shard-host-1"].apply(GLOBEX, *["b"] * 20)
        await until_merged(collector, acme=1, globex=2)
        key = ShardKey(ACME, 0, 1)
        await until(lambda: hosts["shard-host-0"].shards.durable([key])[key].sequence == 1)
        assert hosts["shard-host-0"].pulls[-1][1].keys() == {key}
        assert {name for host in hosts.values() for name, _ in host.pulls} == {"collector-0"}


async def test_hanging_host_does_not_delay_the_others() -> None:
    settings = service()
    good, bad = Host(settings), Host(settings)
    async with collecting(settings, {"bad": bad, "good": good}, acme="good") as collector:
        await bad.apply(GLOBEX, "a")
        await until_merged(collector, globex=1)
        bad.hang()
        await until(lambda: bool(bad.pulls))
        asked = len(bad.pulls)
        for count in range(1, 4):
            await good.apply(ACME, "a")
            await until_merged(collector, acme=count, globex=1)
        assert len(bad.pulls) - asked <= 1
        # When it answers at last, nothing is missing.
        await bad.apply(GLOBEX, "a")
        bad.go_on()
        await until_merged(collector, acme=3, globex=2)


async def test_host_that_does_not_answer_in_time_is_counted_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_host, "_PULL_TIMEOUT_S", 0.02)
    settings = service()
    host = Host(settings)
    host.hang()
    async with collecting(settings, {"h": host}) as collector:
        await until(lambda: len(host.pulls) >= 3)
        failures = {name: value for name, _, value in await collector.measure()}["millrace_pull_failures_total"]
        assert failures >= 2
        host.go_on()
        await host.apply(ACME, "a")
        await until_merged(collector, acme=1)


async def test_failing_host_stops_nobody() -> None:
    settings = service()
    good, bad = Host(settings), Host(settings)
    bad.is_failing = True
    async with collecting(settings, {"bad": bad, "good": good}, acme="good") as collector:
        await good.apply(ACME, "a")
        await until_merged(collector, acme=1)
        await until(lambda: len(bad.pulls) >= 3)
        bad.is_failing = False
        await bad.apply(GLOBEX, "a")
        await until_merged(collector, acme=1, globex=1)


async def test_host_that_comes_back_empty_goes_on_where_its_records_ended() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        host = Host(settings)
        async with collecting(settings, {"h": host}) as collector:
            await host.apply(ACME, "a")
            await until_merged(collector, acme=1)
            host.shards = ShardSet(host.shards.book, host.claim, lambda: NOW_NS)
            await host.apply(ACME, "a")
            await until_merged(collector, acme=2)
            assert await collector.drain(10)
    assert calls(receiver.bodies[-1:]) == {"a": 2}


async def test_range_that_another_host_claims_is_handed_over_with_its_last_records() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        one, two = Host(settings), Host(settings)
        async with collecting(settings, {"one": one, "two": two}) as collector:
            one.hang()  # nothing is pulled from it
            await until(lambda: bool(one.pulls))
            await one.apply(ACME, "a")
            handles = {"one": ActorHandle(one), "two": ActorHandle(two)}
            assert await collector.put_routes(routes(handles, 2, acme="two"), handles)
            await two.apply(ACME, "a")
            one.go_on()
            await until_merged(collector, acme=2)
            assert await collector.drain(10)
    assert calls(receiver.bodies[-1:]) == {"a": 2}


async def never() -> None:
    await asyncio.Event().wait()


async def not_configured() -> None:
    raise NotConfiguredError("host")


async def cut_off() -> None:
    raise ConnectionError("connection reset")


@asynccontextmanager
async def one_silent(
    settings: ServiceConfig, way: Callable[[], Awaitable[None]]
) -> AsyncIterator[tuple[CollectorHost, Host, Host]]:
    """Two hosts: the first has counted a span and says nothing of it, and its tenant moves to the second."""
    one, two = Host(settings), Host(settings)
    async with collecting(settings, {"one": one, "two": two}) as collector:
        one.hang()  # nothing is pulled from it
        await until(lambda: bool(one.pulls))
        await one.apply(ACME, "a")
        one.releases = way
        handles = {"one": ActorHandle(one), "two": ActorHandle(two)}
        assert await collector.put_routes(routes(handles, 2, acme="two"), handles)
        yield collector, one, two


async def claim(host: Host) -> bool:
    """Let a request come to the host, for whose range it has to claim; return whether it was counted."""
    frames = group(host.shards.book.get(ACME), "a")
    return None not in await host.count(frames)


@pytest.mark.parametrize("way", [never, cut_off])
async def test_range_of_a_host_that_is_silent_stays_its_own_until_it_says_what_it_counted(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(collector_host, "_RELEASE_TIMEOUT_S", 0.2)
    async with Receiver() as receiver, one_silent(service(receiver), way) as (collector, one, two):
        assert not await claim(two)
        assert not await claim(two)
        one.releases = None
        assert await claim(two)
        one.go_on()
        await until_merged(collector, acme=2)
        assert await collector.drain(10)
    assert calls(receiver.bodies[-1:]) == {"a": 2}


@pytest.mark.parametrize(("silence_s", "way"), [(0.0, never), (60.0, not_configured)], ids=["too long", "new process"])
async def test_host_that_is_silent_for_too_long_or_has_lost_its_memory_is_given_up(
    monkeypatch: pytest.MonkeyPatch, silence_s: float, way: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(collector_host, "_RELEASE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(collector_host, "_SILENCE_S", silence_s)
    async with one_silent(service(), way) as (collector, one, two):
        assert await claim(two)
        await until_merged(collector, acme=1)
        one.go_on()
        # It hears that what it counted is void.
        await until(lambda: not one.shards.stats())
        assert await records(collector) == {"acme": 1}


async def test_host_whose_process_the_cluster_knows_to_be_dead_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lives = True
    monkeypatch.setattr(ray_compat, "may_live", lambda _: lives)
    async with one_silent(service(), cut_off) as (collector, one, two):
        assert not await claim(two)
        lives = False
        assert await claim(two)
        await until_merged(collector, acme=1)
        one.go_on()
        await until(lambda: not one.shards.stats())
        assert await records(collector) == {"acme": 1}


async def test_silence_of_a_host_ends_when_it_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_host, "_RELEASE_TIMEOUT_S", 0.2)
    async with one_silent(service(), never) as (collector, one, two):
        assert not await claim(two)
        assert collector._silent_since.keys() == {"one"}
        one.go_on()
        await until(lambda: not collector._silent_since)


async def test_collector_that_comes_back_goes_on_with_the_same_values_and_acknowledgements(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        host = Host(settings)
        async with collecting(settings, {"h": host}, tmp_path) as collector:
            await host.apply(ACME, "a", "b")
            await until_merged(collector, acme=1)
            assert await collector.drain(10)
        async with collecting(settings, {"h": host}, tmp_path) as collector:
            # The shard does not notice: what it defined before need not be defined again.
            await host.apply(ACME, "a")
            await until_merged(collector, acme=1)
            assert await collector.drain(10)
    assert [calls([body]) for body in receiver.bodies[:2]] == [{"a": 0, "b": 0}, {"a": 1, "b": 1}]
    assert calls(receiver.bodies[-1:]) == {"a": 2, "b": 1}


@asynccontextmanager
async def succeeding(
    folder: Path,
) -> AsyncIterator[tuple[CollectorHost, Host, list[int], Callable[[], Awaitable[None]]]]:
    """A collector that is to go on from a journal with two tenants; with its only host, its exits, and its start."""
    settings = service()
    host = Host(settings)
    async with collecting(settings, {"h": host}, folder) as former:
        await host.apply(ACME, "a")
        await host.apply(GLOBEX, *"abcdefgh")
        await until_merged(former, acme=1, globex=2)
    exits: list[int] = []
    collector = CollectorHost("collector-0", exits.append)
    host = Host(settings)
    host.name, host.collector = "h", collector
    here = settings.model_copy(update={"data_dir": folder})

    async def start() -> None:
        await collector.configure(here, routes({"h": host}), {"h": ActorHandle(host)}, whole_of(1, TENANTS))

    yield collector, host, exits, start
    await collector.drain(0)


async def test_recovery_that_fails_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, start_of = JournalStore.load, TenantCollector.start
    failures = [StoreUnavailable("the connection was lost")]
    started: list[TenantId] = []

    def loaded(store: JournalStore, tenant: TenantId) -> Loaded:
        if tenant == GLOBEX and failures:
            raise failures.pop()
        return load(store, tenant)

    def noted(collector: TenantCollector, *arguments: Any) -> None:
        started.append(collector.tenant)
        start_of(collector, *arguments)

    async with succeeding(tmp_path) as (collector, host, exits, start):
        monkeypatch.setattr(JournalStore, "load", loaded)
        monkeypatch.setattr(TenantCollector, "start", noted)
        with pytest.raises(StoreUnavailable):
            await start()
        assert (started, await collector.is_configured()) == ([], False)
        await start()
        await host.apply(ACME, "a")
        await host.apply(GLOBEX, *"abcdefgh")
        await until_merged(collector, acme=1, globex=2)
    assert (started, exits) == ([ACME, GLOBEX], [])


async def test_process_that_begins_behind_its_predecessor_ends(tmp_path: Path) -> None:
    async with succeeding(tmp_path) as (_, _, exits, start):
        # The clock of whoever was here before was ahead.
        JournalStore.open(f"sqlite:///{tmp_path}/journal.db", "collector-0", time.time_ns() + HOUR_NS).close()
        with pytest.raises(Fenced, match="clock"):
            await start()
        assert exits == [1]


async def test_process_that_can_journal_nothing_any_more_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_permission(*_: object) -> None:
        raise ProgrammingError("INSERT", {}, Exception("permission denied for table"))

    async with succeeding(tmp_path) as (_, host, exits, start):
        await start()
        monkeypatch.setattr(JournalStore, "append", no_permission)
        with pytest.raises(AssertionError):
            await host.apply(ACME, "a")
        await until(lambda: exits == [1])


async def test_half_edges_of_a_host_that_came_back_empty_end_without_another_span() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        host = Host(settings)
        host.shards.book.put_overrides(whole_of(2, EDGES))
        async with collecting(settings, {"h": host}) as collector:
            await collector.put_overrides(whole_of(2, EDGES))
            client = request(spans=[span(kind=3)], service="shop")
            frames = group(host.shards.book.get(ACME), body=client)
            assert None not in await host.count(frames)
            await until_merged(collector, acme=1)
            now_ns = NOW_NS + 60 * SECOND_NS
            host.shards = ShardSet(host.shards.book, host.claim, lambda: now_ns)
            await until_merged(collector, acme=2)
            snapshot = (await collector.snapshots())[ACME]
            assert (snapshot.registry["expired_edges_client"], snapshot.shards["open_edges"]) == (1, 0)


async def test_actor_that_was_not_configured_knows_it_and_takes_no_settings() -> None:
    collector = CollectorHost("collector-0")
    assert not await collector.is_configured()
    assert await collector.measure() == [("millrace_settings_version", (), 0)]
    assert await collector.snapshots() == {}
    assert await collector.drain(1)
    with pytest.raises(NotConfiguredError, match="collector-0"):
        await collector.put_overrides(whole_of(1, {}))


async def test_configuring_again_brings_newer_overrides_and_other_hosts() -> None:
    settings = service()
    one, two, three = Host(settings), Host(settings), Host(settings)
    async with collecting(settings, {"one": one, "two": two}) as collector:
        assert await collector.is_configured()
        await one.apply(ACME, "a")
        await until_merged(collector, acme=1)
        three.name, three.collector = "three", collector
        handles = {"two": ActorHandle(two), "three": ActorHandle(three)}
        await collector.configure(settings, routes(handles, 2, acme="three"), handles, whole_of(2, TENANTS))
        asked = len(one.pulls)
        await three.apply(ACME, "a")
        await two.apply(GLOBEX, "a")
        await until_merged(collector, acme=2, globex=1)
        assert len(one.pulls) - asked <= 1
        assert ("millrace_settings_version", (), 2) in await collector.measure()


async def test_drain_fetches_what_the_hosts_still_have_and_sends_it() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        hosts = {"h0": Host(settings), "h1": Host(settings)}
        tenants = dict(zip(hosts.values(), (ACME, GLOBEX), strict=True))
        async with collecting(settings, hosts, globex="h1") as collector:
            for host in hosts.values():
                for _ in range(20):  # more than an outbox holds
                    await host.apply(tenants[host], "a")
                    host.shards.pull({}, (), lambda _: True)
            assert await collector.drain(10)
            asked = [len(host.pulls) for host in hosts.values()]
            await asyncio.sleep(0.05)
            assert [len(host.pulls) for host in hosts.values()] == asked
    assert [calls([body]) for body in receiver.bodies[-2:]] == [{"a": 20}] * 2


async def test_drain_merges_what_came_while_a_tenant_was_being_encoded() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        host = Host(settings)
        async with collecting(settings, {"h": host}) as collector:
            await host.apply(ACME, "a")
            await until_merged(collector, acme=1)
            assert collector._tenants is not None
            async with collector._tenants._tenants[ACME]._lock:
                await host.apply(ACME, "a")
                draining = asyncio.ensure_future(collector.drain(10))
                asked = len(host.pulls)
                await until(lambda: len(host.pulls) > asked + 2)
            assert await draining
    assert calls(receiver.bodies[-1:]) == {"a": 2}


async def test_drain_is_not_held_up_by_a_host_that_hangs() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        good, bad = Host(settings), Host(settings)
        async with collecting(settings, {"good": good, "bad": bad}) as collector:
            await good.apply(ACME, "a")
            bad.hang()
            async with asyncio.timeout(20):
                assert not await collector.drain(2)
    assert calls(receiver.bodies[-1:]) == {"a": 1}


async def test_drain_says_so_when_an_endpoint_is_down() -> None:
    async with Receiver(otherwise=Hang()) as receiver:
        settings = service(receiver)
        host = Host(settings)
        async with collecting(settings, {"h": host}) as collector:
            await host.apply(ACME, "a")
            assert not await collector.drain(0.2)


async def test_tenants_that_are_switched_off_end() -> None:
    settings = config(
        "cluster: {flush_interval: 10ms}\nlog: {level: error}\nmetrics_generator: {registry: {collection_interval: 1s}}"
    )
    host = Host(settings)
    async with collecting(settings, {"h": host}) as collector:
        await host.apply(ACME, "a")
        await until_merged(collector, acme=1)
        assert collector._tenants is not None
        await collector._tenants._tenants[ACME].collect()
        await collector.put_overrides(whole_of(2, {}))
        await collector._tenants._tenants[ACME].collect()
        await until_merged(collector)


async def test_tenants_beyond_the_bound_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_host, "MAX_MEASURED_TENANTS", 1)
    settings = service()
    host = Host(settings)
    async with collecting(settings, {"h": host}) as collector:
        await host.apply(ACME, "a")
        await until_merged(collector, acme=1)
        await host.apply(GLOBEX, "a")
        await until_merged(collector, acme=1, globex=1)
        merged = [labels for name, labels, _ in await collector.measure() if name == "millrace_records_merged_total"]
        assert merged == [("acme",)]


async def test_everything_measured_is_declared() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        host = Host(settings)
        async with collecting(settings, {"h": host}) as collector:
            await host.apply(ACME, "a")
            await until_merged(collector, acme=1)
            assert collector._tenants is not None
            await collector._tenants._tenants[ACME].collect()
            await receiver.wait_for_requests(1)

            async def is_sent() -> bool:
                return any(name.endswith("highest_sent_timestamp_seconds") for name, *_ in await collector.measure())

            await until_true(is_sent)
            measured = await collector.measure()
    assert len(list(families({"collector-0": measured}))) >= 18


# Other routes


async def refused(collector: CollectorHost) -> float:
    return {name: value for name, _, value in await collector.measure()}["millrace_claims_refused_total"]


async def test_range_is_given_to_nobody_but_the_host_of_the_routes() -> None:
    settings = service()
    one, two = Host(settings), Host(settings)
    async with collecting(settings, {"one": one, "two": two}) as collector:
        await one.apply(ACME, "a")
        await until_merged(collector, acme=1)
        frames = group(two.shards.book.get(ACME), "a")
        assert await two.count(frames) == (None,)
        assert await refused(collector) == 1
        # The one that has it was not disturbed.
        await one.apply(ACME, "a")
        await until_merged(collector, acme=2)
        handles = {"one": ActorHandle(one), "two": ActorHandle(two)}
        assert await collector.put_routes(routes(handles, 2, acme="two"), handles)
        # Older ones change nothing.
        assert await collector.put_routes(routes(handles, 1, acme="one"), handles)
        assert None not in await two.count(frames)
        assert await one.count(group(one.shards.book.get(ACME), "a")) == (None,)


async def test_claim_is_answered_with_what_was_given_in_time_and_not_worked_on_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector_host, "_CLAIM_ANSWER_S", 0.05)
    settings = service()
    host = Host(settings)
    async with collecting(settings, {"h": host}) as collector:
        assert collector._tenants is not None
        claim, asked, may_end = collector._tenants.claim, [], asyncio.Event()

        async def hanging(name: str, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
            asked.append(list(keys))
            if keys[0].tenant == GLOBEX:
                await may_end.wait()
            return await claim(name, keys)

        monkeypatch.setattr(collector._tenants, "claim", hanging)
        acme, globex = ShardKey(ACME, 0, 1), [ShardKey(GLOBEX, index, 2) for index in range(2)]
        for _ in range(3):
            assert (await collector.claim("h", [*globex, acme])).keys() == {acme}
        assert asked == [globex, [acme], [acme], [acme]]
        may_end.set()
        await until(lambda: not collector._claiming)
        # What was given to nobody's knowledge is given anew.
        await host.apply(GLOBEX, *["a"] * 20)
        await until_merged(collector, acme=0, globex=2)


async def test_range_of_another_division_than_the_tenants_is_given_to_nobody() -> None:
    settings = service()
    host = Host(settings)
    async with collecting(settings, {"h": host}) as collector:
        await host.apply(GLOBEX, *["a"] * 20)
        await until_merged(collector, globex=2)
        before = group(host.shards.book.get(GLOBEX), *["a"] * 20, count=1)
        assert await host.count(before) == (None,)
        assert await refused(collector) == 1
        assert (await collector.snapshots())[GLOBEX].shards["owned"] == 2
        newer = whole_of(2, overrides(acme=spans_on(), globex=spans_on(shards=1)))
        await collector.put_overrides(newer)
        assert None not in await host.count(before)


async def test_host_that_leaves_hands_over_everything_and_is_not_asked_any_more() -> None:
    async with Receiver() as receiver:
        settings = service(receiver)
        one, two = Host(settings), Host(settings)
        one.shards.book.put_overrides(whole_of(2, EDGES))
        two.shards.book.put_overrides(whole_of(2, EDGES))
        async with collecting(settings, {"one": one, "two": two}) as collector:
            await collector.put_overrides(whole_of(2, EDGES))
            with pytest.raises(ValueError, match="one is in the routes"):
                await collector.evict("one")
            half = {"trace_id": b"t" * 16, "span_id": b"client.."}
            client = request(spans=[span(kind=3, **half)], service="shop")
            frames = group(one.shards.book.get(ACME), body=client)
            one.hang()  # nothing is pulled from it
            await until(lambda: bool(one.pulls))
            assert None not in await one.count(frames)
            handles = {"one": ActorHandle(one), "two": ActorHandle(two)}
            placed = Placed(2, {ACME: "two", GLOBEX: "two"})
            assert await collector.put_routes(placed, handles)
            await collector.evict("one")
            await collector.evict("one")
            # The half edge waits with the successor, to which nobody has sent anything.
            await until(lambda: {key.tenant for key in two.shards.stats()} == {ACME})
            assert [stats["open_edges"] for stats in two.shards.stats().values()] == [1]
            assert await one.count(frames) == (None,)
            assert await collector.put_routes(placed, {"two": handles["two"]})
            one.go_on()
            hosts = {
                labels[0] for name, labels, _ in await collector.measure() if name == "millrace_pull_failures_total"
            }
            assert hosts == {"two"}
            assert collector._tenants is not None
            assert list(collector._tenants._tenants[ACME].acknowledged("one")) == []
            server = span(kind=2, trace_id=b"t" * 16, span_id=b"server..", parent_span_id=b"client..")
            late = group(two.shards.book.get(ACME), body=request(spans=[server], service="stock"))
            assert None not in await two.count(late)

            async def is_edge() -> bool:
                return (await collector.snapshots())[ACME].registry["edges"] == 1

            await until_true(is_edge)


async def test_host_that_leaves_and_does_not_answer_loses_its_ranges_all_the_same() -> None:
    settings = service()
    one, two = Host(settings), Host(settings)
    async with collecting(settings, {"one": one, "two": two}) as collector:
        await one.apply(ACME, "a")
        await until_merged(collector, acme=1)
        handles = {"two": ActorHandle(two)}
        assert await collector.put_routes(Placed(2, {ACME: "two", GLOBEX: "two"}), handles)
        await collector.evict("one")
        assert (await collector.snapshots())[ACME].shards["owned"] == 0
        await two.apply(ACME, "a")
        await until_merged(collector, acme=2)
