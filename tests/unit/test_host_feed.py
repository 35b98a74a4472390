import asyncio
from collections import Counter
from collections.abc import Awaitable, Hashable
from typing import Any

import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.host_feed import HostFeed
from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import Acknowledgements, FlushRecord, Pulled, ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import ShardSet
from tests.overrides_in_force import whole_of
from tests.unit.actor_handle import ActorHandle
from tests.unit.tenant_work import ACME, NOW_NS, SECOND_NS, book, collected, group, overrides, spans_on

GLOBEX = TenantId("globex")
KEY = ShardKey(ACME, 0, 1)


class Tenants:
    """Takes records like a ``CollectorSet`` and keeps them; refuses or cannot read what it is told to."""

    def __init__(self) -> None:
        self.merged: list[tuple[Hashable, bytes]] = []
        self.forgotten: list[Hashable] = []
        self.refuses_once: set[bytes] = set()
        self.unreadable: set[bytes] = set()

    def merge(self, tenant: TenantId, source: Hashable, data: bytes) -> bool:
        if data in self.unreadable:
            raise _engine.MalformedFrame("damaged record")
        if data in self.refuses_once:
            self.refuses_once.remove(data)
            return False
        self.merged.append((source, data))
        return True

    def forget_source(self, tenant: TenantId, source: Hashable) -> None:
        self.forgotten.append(source)

    @property
    def records(self) -> list[bytes]:
        return [data for _, data in self.merged]


class Host:
    """Answers every pull with what the test put there, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Pulled | Exception = Pulled(1, ())
        self.asked: list[tuple[str, int, Acknowledgements]] = []

    def put(self, *records: FlushRecord, epoch: int = 1, gone: tuple[ShardKey, ...] = ()) -> None:
        self.answer = Pulled(epoch, records, gone)

    def pull(self, collector: str, incarnation: int, acknowledged: Acknowledgements) -> Pulled:
        self.asked.append((collector, incarnation, acknowledged))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def feed(tenants: Any) -> HostFeed:
    return HostFeed("host-0", "collector-0", 40, tenants)


def record(sequence: int, data: bytes = b"", key: ShardKey = KEY) -> FlushRecord:
    return FlushRecord(key, sequence, data or b"%d" % sequence)


async def test_record_is_merged_once_and_acknowledged_by_the_next_pull() -> None:
    tenants, host = Tenants(), Host()
    one, handle = feed(tenants), ActorHandle(host)
    host.put(record(5), record(6))
    assert await one.pull(handle) == 2
    host.put(record(5), record(6), record(7))
    assert await one.pull(handle) == 3
    host.put()
    assert await one.pull(handle) == 0
    assert host.asked == [
        ("collector-0", 40, {}),
        ("collector-0", 40, {KEY: 6}),
        ("collector-0", 40, {KEY: 7}),
    ]
    assert tenants.merged == [(("host-0", 1, KEY), data) for data in (b"5", b"6", b"7")]


async def test_record_that_has_to_wait_keeps_back_those_behind_it_and_no_others() -> None:
    tenants, host = Tenants(), Host()
    one, handle = feed(tenants), ActorHandle(host)
    other = ShardKey(GLOBEX, 0, 1)
    tenants.refuses_once = {b"1"}
    host.put(record(1), record(2), record(1, b"g", other))
    await one.pull(handle)
    assert tenants.records == [b"g"]
    await one.pull(handle)
    assert host.asked[-1][2] == {other: 1}
    assert tenants.records == [b"g", b"1", b"2"]


async def test_unreadable_record_is_dropped_and_the_host_asked_to_define_everything_again() -> None:
    tenants, host = Tenants(), Host()
    one, handle = feed(tenants), ActorHandle(host)
    tenants.unreadable = {b"2"}
    host.put(record(1), record(2), record(3))
    with structlog.testing.capture_logs() as logs:
        await one.pull(handle)
    assert [(line["event"], line["shard"], line["log_level"]) for line in logs] == [
        ("flush record cannot be read, its counts are lost", "acme/0of1", "error")
    ]
    assert tenants.records == [b"1", b"3"]
    await one.pull(handle)
    await one.pull(handle)
    assert [(incarnation, acknowledged) for _, incarnation, acknowledged in host.asked] == [
        (40, {}),
        (41, {KEY: 3}),
        (41, {KEY: 3}),
    ]


async def test_host_that_does_not_answer_is_counted_and_said_once() -> None:
    tenants, host = Tenants(), Host()
    one, handle = feed(tenants), ActorHandle(host)
    host.answer = ConnectionError("no way")
    with structlog.testing.capture_logs() as logs:
        assert [await one.pull(handle) for _ in range(3)] == [None] * 3
        host.put(record(1))
        await one.pull(handle)
    assert one.failures == 3
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("pulls from shard host fail", "ConnectionError: no way"),
        ("shard host answers again", None),
    ]
    assert tenants.records == [b"1"]


async def test_new_life_of_a_host_begins_with_new_sequences_and_definitions() -> None:
    tenants, host = Tenants(), Host()
    one, handle = feed(tenants), ActorHandle(host)
    host.put(record(100))
    await one.pull(handle)
    host.put(record(3), epoch=2)
    with structlog.testing.capture_logs() as logs:
        await one.pull(handle)
    assert "began anew" in logs[0]["event"]
    assert tenants.forgotten == [("host-0", 1, KEY)]
    assert tenants.merged[-1] == (("host-0", 2, KEY), b"3")
    await one.pull(handle)
    assert host.asked[-1][2] == {KEY: 3}


async def test_what_was_kept_for_shards_that_are_gone_is_let_go() -> None:
    tenants, host = Tenants(), Host()
    one, handle = feed(tenants), ActorHandle(host)
    host.put(record(1))
    await one.pull(handle)
    host.put(gone=(KEY,))
    await one.pull(handle)
    host.put()
    await one.pull(handle)
    assert host.asked[-1][2] == {}
    assert tenants.forgotten == [("host-0", 1, KEY)]


# From frames to registries: whatever is lost on the way, every frame is counted once


class Registries(Tenants):
    """One registry for each tenant, as the engine has it."""

    def __init__(self, profiles: ProfileBook) -> None:
        super().__init__()
        self.refuses: set[TenantId] = set()
        self._book = profiles
        self._registries: dict[TenantId, _engine.Registry] = {}
        self._numbers: dict[Hashable, int] = {}
        self._collected_ms = NOW_NS // 1_000_000

    def merge(self, tenant: TenantId, source: Hashable, data: bytes) -> bool:
        if tenant in self.refuses:
            return False
        plan = self._book.get(tenant).plan
        if tenant not in self._registries:
            self._registries[tenant] = _engine.Registry(plan, NOW_NS // 1_000_000)
        self._registries[tenant].set_plan(plan)
        number = self._numbers.setdefault(source, len(self._numbers))
        self._registries[tenant].merge(number, data, NOW_NS)
        return True

    def forget_source(self, tenant: TenantId, source: Hashable) -> None:
        if source in self._numbers and tenant in self._registries:
            self._registries[tenant].forget_source(self._numbers.pop(source))

    def totals(self) -> Counter[tuple[TenantId, str]]:
        self._collected_ms += 10
        return Counter(
            {
                (tenant, name): int(value)
                for tenant, registry in self._registries.items()
                for name, value in collected(registry, self._collected_ms).items()
            }
        )


class World:
    """A shard host and its collector. The link between them loses answers; the collector dies and comes again."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS
        self.version = 1
        self.book = book(overrides(acme=spans_on(), globex=spans_on(shards=2)))
        self.shards = ShardSet(self.book, lambda: self.now_ns)
        self.applied: Counter[tuple[TenantId, str]] = Counter()
        self.acknowledged_by_the_dead: Counter[tuple[TenantId, str]] = Counter()
        self.heard: Counter[tuple[TenantId, str]] = Counter()
        self.loses_answers = False
        self.lives = 0
        self.begin_collector()

    def begin_collector(self) -> None:
        self.acknowledged_by_the_dead += self.heard
        self.heard = Counter()
        self.lives += 1
        self.registries = Registries(self.book)
        self.feed: HostFeed = HostFeed("host-0", "collector-0", self.lives * 1000, self.registries)  # type: ignore[arg-type]

    def apply(self, tenant: TenantId, *names: str) -> None:
        assert self.shards.apply(group(self.book.get(tenant), *names)) == ()
        self.applied.update((tenant, name) for name in names)

    def change_settings(self, shards: int, limit: int) -> None:
        self.version += 1
        entry = spans_on(shards=shards, max_active_series=limit)
        self.book.put_overrides(whole_of(self.version, overrides(acme=entry, globex=spans_on(shards=shards))))

    def pull(self, collector: str, incarnation: int, acknowledged: Acknowledgements) -> Pulled:
        # What the host hears now is gone from there, whatever becomes of the collector.
        self.heard = self.registries.totals()
        pulled = self.shards.pull(collector, incarnation, acknowledged, lambda _: True)
        if self.loses_answers:
            raise ConnectionError("answer lost")
        return pulled

    @property
    def counted(self) -> Counter[tuple[TenantId, str]]:
        return self.acknowledged_by_the_dead + self.registries.totals()


Turn = tuple[list[tuple[TenantId, list[str]]], str, tuple[int, int] | None, int]

names = st.lists(st.sampled_from("ab"), min_size=1, max_size=3)
requests = st.lists(st.tuples(st.sampled_from([ACME, GLOBEX]), names), max_size=3)
fates = ["merged", "merged", "answer lost", "acme refused", "globex refused", "not pulled", "collector dies"]
turns = st.tuples(
    requests,
    st.sampled_from(
        ["merged", "merged", "answer lost", "acme refused", "globex refused", "not pulled", "collector dies"]
    ),
    st.none() | st.tuples(st.sampled_from([1, 2, 5]), st.sampled_from([0, 999])),
    st.sampled_from([0, 61]),
)


AGAIN: Turn = ([(ACME, ["a"])], "merged", None, 0)
LOST: Turn = ([(ACME, ["a"])], "answer lost", None, 0)
DIES: Turn = ([(ACME, ["a"])], "collector dies", None, 0)
CHANGED: Turn = ([], "answer lost", (1, 999), 0)
DIES_AFTER_B: Turn = ([(ACME, ["b"])], "collector dies", None, 0)


@settings(max_examples=40)
@example([AGAIN, AGAIN, DIES, AGAIN])
@example([AGAIN, AGAIN, LOST, CHANGED, DIES_AFTER_B, AGAIN])
@given(st.lists(turns, min_size=2, max_size=8))
def test_every_frame_is_counted_exactly_once_whatever_is_lost(script: list[Turn]) -> None:
    """Each turn: requests, what becomes of the pull after them, perhaps other settings, and time that passes."""

    async def play() -> None:
        world = World()
        handle: Any = _Direct(world)
        nothing: list[Turn] = [([], "merged", None, 0)] * 2
        for spans, fate, change, seconds in [*script, *nothing]:
            for tenant, these in spans:
                world.apply(tenant, *these)
            if change:
                world.change_settings(*change)
            world.now_ns += seconds * SECOND_NS
            world.loses_answers = fate == "answer lost"
            world.registries.refuses = (
                {ACME} if fate == "acme refused" else {GLOBEX} if fate == "globex refused" else set()
            )
            if fate != "not pulled":
                await world.feed.pull(handle)
            if fate == "collector dies":
                world.begin_collector()
        assert world.counted == world.applied

    with structlog.testing.capture_logs() as logs:
        asyncio.run(play())
    assert not [line for line in logs if line["log_level"] == "error"]


class _Direct:
    """A handle without copies: what crosses it is copied elsewhere, and here there is much of it."""

    def __init__(self, world: World) -> None:
        self.pull = self
        self._world = world

    def remote(self, *arguments: Any) -> Awaitable[Pulled]:
        async def call() -> Pulled:
            return self._world.pull(*arguments)

        return call()
