"""A tenant whose endpoint fails, and whose collector dies meanwhile: nothing is lost, reordered or sent anew."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import structlog

from tenants import _engine
from tenants.endpoint import HttpClients, Surroundings
from tenants.endpoint.cancelling import cancel
from tenants.endpoint.recovery import recover
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.tenant_collector import TenantCollector
from tenants.journal.backlog_writer import BacklogWriter
from tenants.journal.entries import BeginEntry
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import ShardKey
from tenants.processing.profile import TenantProfile
from tenants.processing.tenant_state import TenantState
from tenants.settings.protobuf_message import ProtobufMessage
from tests.remote_write import is_stale_marker
from tests.unit.conditions import until
from tests.unit.journalled import COLLECTOR, HOST, merge, nobody_releases
from tests.unit.receiver import LOOPBACK, Answer, Receiver, Reset, WireStep
from tests.unit.standing_clock import StandingClock
from tests.unit.tenant_work import ACME, NOW_NS, book, group, overrides, spans_on
from tests.unit.witness import Witness

INTERVAL_S: Final = 15
CALLS: Final = "traces_spanmetrics_calls_total"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def profile(url: str, message: str = "auto") -> TenantProfile:
    endpoint = {"url": url, "remote_timeout": "5s", "max_samples_per_send": 40, "protobuf_message": message}
    return book(overrides(acme=spans_on(remote_write=[endpoint], collection_interval="15s"))).get(ACME)


class Life:
    """A collector's process from its start to its death, on a journal that others had and will have."""

    def __init__(self, folder: Path, settings: TenantProfile, clock: StandingClock, incarnation: int) -> None:
        self.clock = clock
        self.settings = settings
        self._clients = HttpClients(LOOPBACK)
        self._store = JournalStore.open(f"sqlite:///{folder}/journal.db", COLLECTOR, incarnation)
        self._backlog = BacklogWriter(self._store.backlog)
        rng = random.Random(incarnation)
        self._journal = JournalWriter(self._store, clock, rng)
        self._shard = _engine.Shard(settings.plan)
        self._has_claimed = False
        around = Surroundings(self._clients, clock, rng, "1.2.3", backlog=self._backlog)
        if self._store.last_position(ACME):
            recovered = recover(self._store, ACME, settings.settings)
            self.collector = TenantCollector(recovered.state, settings, around, self._journal, nobody_releases)
            self.collector.start(recovered.undelivered, recovered.backlog)
        else:
            entry = BeginEntry(started_at_ms=clock.now_ms(), plan_text=settings.plan_text, seed=7)
            self._journal.submit(ACME, entry)
            state = TenantState(ACME, entry)
            self.collector = TenantCollector(state, settings, around, self._journal, nobody_releases)
            self.collector.start()

    @property
    def sender(self) -> EndpointSender:
        (sender,) = self.collector._endpoint._senders
        return sender

    async def count(self, *names: str) -> None:
        """Count spans."""
        if not self._has_claimed:
            self._has_claimed = True
            await self.collector.claim(HOST, [ShardKey(ACME, 0, 4)])
        self._shard.apply(group(self.settings, *names, count=1).payload, NOW_NS)
        record = self._shard.flush(NOW_NS)
        while not await merge(self.collector, 0, record):
            await until(lambda: not self.collector._lock.locked())

    async def collect(self) -> int:
        """Let an interval pass, and wait for the collection; return its timestamp."""
        collections = self.collector.snapshot().collections
        self.clock.move(INTERVAL_S)
        await until(lambda: self.collector.snapshot().collections > collections)
        await until(lambda: not self.collector._lock.locked())
        return self.collector._state.collected_at_ms

    async def until_sent(self) -> None:
        """Wait until nothing waits any more."""
        await until(lambda: self.sender.snapshot().pending_batches == 0)

    async def die(self) -> None:
        """End as after SIGKILL: nothing more is sent or written."""
        await cancel(self.collector._task, *(sender._task for sender in self.collector._endpoint._senders))
        for access in self.collector._endpoint._senders:
            await access._access.close()
        await self.release()

    async def end(self) -> None:
        """End as after SIGTERM."""
        await self.collector.drain(10)
        await self.release()

    async def release(self) -> None:
        """Give back what the process had."""
        await self._backlog.close()
        await self._journal.close()
        self._store.close()
        await self._clients.close()


@asynccontextmanager
async def moving(clock: StandingClock) -> AsyncIterator[None]:
    """Let time pass quickly, for pauses."""

    async def move() -> None:
        while True:
            clock.move(1)
            await asyncio.sleep(0.001)

    task = asyncio.ensure_future(move())
    try:
        yield
    finally:
        await cancel(task)


def values(witness: Witness) -> dict[str, list[float]]:
    """What was taken of each counter of calls, stale markers left out."""
    return {
        dict(key)["span_name"]: [value for _, value in samples if not is_stale_marker(value)]
        for key, samples in witness.of(CALLS).items()
    }


async def test_endpoint_is_down_for_an_hour_and_the_collector_is_killed_meanwhile(tmp_path: Path) -> None:
    clock, witness = StandingClock(), Witness()
    is_down = True
    down: list[WireStep] = [503, 429, Answer(503, {"Retry-After": "7"}), 502, Reset()]
    dice = random.Random(1)

    def answer() -> tuple[bool, WireStep]:
        return (False, dice.choice(down)) if is_down else (True, 204)

    timestamps: list[int] = []
    async with Receiver(otherwise=witness.judge(answer)) as receiver:
        settings = profile(receiver.url)
        most_loaded = 0
        for incarnation in (1, 2):
            life = Life(tmp_path, settings, clock, incarnation)
            for _ in range(120):
                await life.count("a", "b")
                timestamps.append(await life.collect())
                most_loaded = max(most_loaded, life.sender._queue.loaded_bytes)
            if incarnation == 1:
                await life.die()
        assert witness.samples == {}
        counters = life.sender.snapshot()
        assert 3500 < counters.lag_s <= 3600 + INTERVAL_S
        # All are on disk but those of the last collection, and what is on its way.
        assert counters.pending_batches - counters.stored_batches <= counters.pending_batches // 240 + 1
        # A collection at most is in memory, however long the outage.
        assert most_loaded <= 2 * counters.pending_bytes / 240
        is_down = False
        async with moving(clock):
            await until(lambda: life.sender.snapshot().pending_batches == 0)
        assert life.sender.snapshot().samples_failed == {}
        await life.end()
    assert witness.faults == []
    for key, samples in witness.of(CALLS).items():
        at = [timestamp_ms for timestamp_ms, _ in samples]
        # The zero sample, every collection of the hour, and the last one.
        assert at[1:241] == timestamps, dict(key)
    assert {name: (got[0], got[1], got[240]) for name, got in values(witness).items()} == {
        "a": (0, 1, 240),
        "b": (0, 1, 240),
    }


def anything(dice: random.Random) -> tuple[bool, WireStep]:
    """Mostly good; else a failure, before or after the receiver has stored what came."""
    if dice.random() < 0.6:
        return True, 204
    step: WireStep = dice.choice([500, 503, 429, Answer(429, {"Retry-After": "2"}), Reset(), Reset(9)])
    return dice.random() < 0.3, step


@pytest.mark.parametrize("seed", range(6))
async def test_collector_dies_again_and_again_and_the_receiver_sees_a_history_without_a_flaw(
    tmp_path: Path, seed: int
) -> None:
    dice, clock, witness = random.Random(seed), StandingClock(), Witness()
    is_sound = False

    def answer() -> tuple[bool, WireStep]:
        return (True, 204) if is_sound else anything(dice)

    counted = 0
    collected: set[int] = set()
    async with Receiver(otherwise=witness.judge(answer)) as receiver:
        settings = profile(receiver.url, dice.choice(["auto", "prometheus.WriteRequest"]))
        for incarnation in range(1, 9):
            life = Life(tmp_path, settings, clock, incarnation)
            for _ in range(dice.randrange(1, 6)):
                counted += 1
                # A series that is new begins with a zero, which no receiver takes any more once it has its value.
                await life.count("a", "b", f"new {counted // 2}")
                collected.add(await life.collect())
                for _ in range(dice.randrange(30)):
                    clock.move(0.02)
                    await asyncio.sleep(0.001 * dice.random())
            if incarnation < 8:
                await life.die()
        is_sound = True
        async with moving(clock):
            await until(lambda: life.sender.snapshot().pending_batches == 0, 60)
        await life.end()
    assert witness.faults == []
    got = values(witness)
    assert {name: max(got[name]) for name in "ab"} == dict.fromkeys("ab", counted)
    assert all(each[:2] == [0, 1] for each in got.values())
    assert len(got) == 2 + counted // 2 + 1
    for key, samples in witness.of(CALLS).items():
        if dict(key)["span_name"] in {"a", "b"}:
            assert collected <= {timestamp_ms for timestamp_ms, _ in samples}


@pytest.mark.parametrize("ends", ["die", "end"])
@pytest.mark.parametrize("message", list(ProtobufMessage))
async def test_who_comes_after_everything_was_delivered_sends_no_zero_again(
    tmp_path: Path, ends: str, message: ProtobufMessage
) -> None:
    clock, witness = StandingClock(), Witness()
    async with Receiver(otherwise=witness.judge(lambda: (True, 204))) as receiver:
        settings = profile(receiver.url, message.value)
        for incarnation in (1, 2, 3):
            life = Life(tmp_path, settings, clock, incarnation)
            async with moving(clock):
                await life.until_sent()
            await life.count("a", f"new {incarnation}")
            await life.collect()
            await life.until_sent()
            if ends == "die":
                await life.die()
            else:
                # Its last collection has something new too.
                await life.count(f"late {incarnation}")
                await life.end()
    assert witness.faults == []
    assert witness.repeated > 0
    names = {"a"} | {f"{name} {number}" for name in ["new", *["late"] * (ends == "end")] for number in (1, 2, 3)}
    assert {name: got[:2] for name, got in values(witness).items()} == {name: [0, 1] for name in names}
