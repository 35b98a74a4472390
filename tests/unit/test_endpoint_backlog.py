"""What waits for an endpoint outlives its process, on disk, and does not fill the memory."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointState
from tenants.endpoint.endpoint_backlog import EndpointBacklog, endpoint_key, stored_batches
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.queue import Waiting
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.journal.backlog_store import BacklogChange, StoredBatch
from tenants.journal.errors import Fenced
from tenants.journal.store import JournalStore
from tenants.store.errors import StoreUnavailable
from tests.unit.conditions import until
from tests.unit.conftest import OpenJournal
from tests.unit.fake_clock import START_MS, FakeClock
from tests.unit.receiver import Hang, Hold, Receiver, Step
from tests.unit.sending import ACME, KEY, assert_closes, batch, disk, divide, seconds, sending, series, settled
from tests.unit.standing_clock import StandingClock


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def around(clock: StandingClock) -> AsyncIterator[Surroundings]:
    async with HttpClients() as clients:
        yield Surroundings(clients, clock, random.Random(7), "1.2.3", divide)


def rows(store: JournalStore) -> list[int]:
    """Which collections are on disk, in seconds."""
    stored = stored_batches(store.backlog.index(ACME).get(KEY, []))
    return [(waiting.batch.timestamp_ms - START_MS) // 1000 for waiting in stored]


def restore(sender: EndpointSender, store: JournalStore) -> None:
    sender.restore(stored_batches(store.backlog.index(ACME).get(KEY, [])))


async def test_nothing_is_written_while_the_endpoint_keeps_up(around: Surroundings, tmp_path: Path) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver() as receiver:
        async with sending(EndpointConfig(receiver.url), around, backlog) as sender:
            for second in range(5):
                sender.submit([batch(second)])
                await settled(sender)
                await sender.spill()
        assert backlog._writer.batches == 0
        assert rows(store) == []


async def test_what_waits_is_on_disk_and_out_of_memory_and_is_sent_in_order(
    around: Surroundings, clock: StandingClock, tmp_path: Path
) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver(otherwise=503) as receiver:
        async with sending(EndpointConfig(receiver.url), around, backlog) as sender:
            for second in range(6):
                sender.submit([batch(second, lane=lane, lanes=2) for lane in range(2)])
                await until(lambda: sender.snapshot().state is EndpointState.BACKING_OFF)
                await sender.spill()
                counters = sender.snapshot()
                # All but what the lanes have on their way.
                assert counters.stored_batches == counters.pending_batches - len(sender._queue.on_the_way())
                assert sender._queue.loaded_bytes == 0
            assert rows(store) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
            receiver.otherwise = 204
            clock.move(1)
            counters = await settled(sender)
            await until(lambda: rows(store) == [])
        assert [seconds(receiver.requests[-12:], lane) for lane in range(2)] == [[0, 1, 2, 3, 4, 5]] * 2
    assert counters.samples_sent == 12


async def test_successor_sends_what_was_on_disk_and_not_the_same_collections_again(
    around: Surroundings, tmp_path: Path
) -> None:
    async with Receiver(otherwise=Hang()) as receiver:
        config = EndpointConfig(receiver.url, timeout_s=5)
        async with disk(tmp_path) as (_, backlog), sending(config, around, backlog) as sender:
            sender.submit([batch(0), batch(1), batch(2)])
            await receiver.wait_for_requests(1)
            await sender.spill()
            # As after SIGKILL: nothing more is written.
            sender._backlog = None
        receiver.otherwise = 204
        async with disk(tmp_path, 2) as (store, backlog):
            sender = EndpointSender("acme", config, around, backlog)
            restore(sender, store)
            sender.start()
            # The last collection, encoded again, and the next.
            sender.submit([batch(2), batch(3)])
            counters = await settled(sender)
            await sender.close()
            assert rows(store) == []
    assert seconds(receiver.requests) == [0, 0, 1, 2, 3]
    assert (counters.samples_submitted, counters.samples_sent) == (4, 4)


STEPS = ("zeros", "values", "lasts")


def steps() -> list[Batch]:
    """A collection of two batches, in steps, with what has only one sample in between."""
    names = ["p-zeros", "p-values", "q-zeros", "q-values", "alone", "p-lasts", "q-lasts"]
    return [replace(batch(0, series=[name]), follows=not name.endswith(("zeros", "alone"))) for name in names]


@pytest.mark.parametrize("requests", range(1, 9))
async def test_successor_sends_no_step_whose_next_one_may_have_arrived(
    around: Surroundings, tmp_path: Path, requests: int
) -> None:
    whole = steps()
    script: list[Step] = [204] * (requests - 1) + [Hang()] * (requests <= len(whole))
    async with Receiver(script) as receiver:
        config = EndpointConfig(receiver.url, timeout_s=5)
        async with disk(tmp_path) as (_, backlog), sending(config, around, backlog) as sender:
            sender.submit(whole)
            await receiver.wait_for_requests(min(requests, len(whole)))
            # As after SIGKILL: nothing more is written.
            sender._backlog = None
        async with disk(tmp_path, 2) as (store, backlog):
            sender = EndpointSender("acme", config, around, backlog)
            restore(sender, store)
            sender.start()
            # The last collection, encoded again.
            sender.submit(whole)
            await settled(sender)
            await sender.close()
    arrived = [name for request in receiver.requests for name in series(request)]
    assert {*arrived} == {name for each in whole for name in each.body.decode().split()[1:]}
    for batch_name in "pq":
        sent = [STEPS.index(name[2:]) for name in arrived if name.startswith(f"{batch_name}-")]
        assert sent == sorted(sent)


async def test_batch_is_gone_from_disk_before_its_lane_goes_on_to_the_next_collection(
    around: Surroundings, tmp_path: Path
) -> None:
    seen: list[list[int]] = []
    async with disk(tmp_path) as (store, backlog), Receiver([Hold()]) as receiver:

        class Watched(EndpointBacklog):
            async def remove(self, sequences: Sequence[int]) -> None:
                await super().remove(sequences)
                seen.append([len(receiver.requests), *rows(store)])

        watched = Watched(backlog._writer, ACME, KEY)
        async with sending(EndpointConfig(receiver.url), around, watched) as sender:
            sender.submit([batch(0), batch(0, series="xy"), batch(1), batch(2)])
            await receiver.wait_for_requests(1)
            await sender.spill()
            receiver.release()
            await settled(sender)
            await until(lambda: rows(store) == [])
    # After two requests of the first collection, after one of the second, and at the end.
    assert seen == [[2, 1, 2], [3, 2], [4]]


async def test_closing_puts_what_waits_on_disk(around: Surroundings, tmp_path: Path) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver(otherwise=Hang()) as receiver:
        async with sending(EndpointConfig(receiver.url), around, backlog) as sender:
            sender.submit([batch(second) for second in range(3)])
            await receiver.wait_for_requests(1)
            await sender.close()
            counters = sender.snapshot()
        assert_closes(counters)
        assert (counters.samples_failed, counters.pending_batches, counters.state) == ({}, 3, EndpointState.CLOSED)
        assert rows(store) == [0, 1, 2]


async def test_endpoint_that_is_removed_leaves_nothing(around: Surroundings, tmp_path: Path) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver(otherwise=Hang()) as receiver:
        async with sending(EndpointConfig(receiver.url), around, backlog) as sender:
            sender.submit([batch(second) for second in range(3)])
            await receiver.wait_for_requests(1)
            await sender.spill()
            await sender.close(keeps=False)
            counters = sender.snapshot()
        assert_closes(counters)
        assert counters.samples_failed == {"closed": 3}
        assert rows(store) == []


async def test_memory_is_bounded_also_between_collections(around: Surroundings, tmp_path: Path) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver(otherwise=Hang()) as receiver:
        config = EndpointConfig(receiver.url, max_memory_bytes=100)
        async with sending(config, around, backlog) as sender:
            sender.submit([batch(0)])
            await receiver.wait_for_requests(1)
            sender.submit([batch(second) for second in range(1, 50)])
            await until(lambda: sender._queue.loaded_bytes == 0)
            assert rows(store) == list(range(50))


async def test_at_the_bound_the_oldest_go_from_disk_too(around: Surroundings, tmp_path: Path) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver(otherwise=Hang()) as receiver:
        config = EndpointConfig(receiver.url, max_queue_bytes=30)
        async with sending(config, around, backlog) as sender:
            for second in range(10):
                sender.submit([batch(second)])  # five bytes each
                await receiver.wait_for_requests(1)
                await sender.spill()
            counters = sender.snapshot()
            assert_closes(counters)
            # The first one is on its way, and spared.
            assert (counters.samples_dropped, counters.pending_batches) == (3, 7)
            assert rows(store) == [0, 4, 5, 6, 7, 8, 9]


async def test_what_has_become_too_old_goes_while_the_endpoint_is_down(
    around: Surroundings, clock: StandingClock, tmp_path: Path
) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver(otherwise=Hang()) as receiver:
        config = EndpointConfig(receiver.url, max_sample_age_s=60)
        async with sending(config, around, backlog) as sender:
            sender.submit([batch(second) for second in (0, 1, 2)])
            await receiver.wait_for_requests(1)
            await sender.spill()
            clock.move(62)
            sender.submit([batch(62)])
            await sender.spill()
            counters = sender.snapshot()
        assert (counters.samples_failed, counters.lag_s) == ({"too_old": 1}, 62)
        assert rows(store) == [0, 2, 62]


async def test_disk_that_takes_nothing_leaves_the_newest_in_memory_up_to_its_bound(
    around: Surroundings, tmp_path: Path
) -> None:
    class Full(EndpointBacklog):
        is_full = True

        async def add(self, batches: object) -> None:
            if self.is_full:
                raise StoreUnavailable("journal.db: database or disk is full")
            await super().add(batches)  # type: ignore[arg-type]

    async with disk(tmp_path) as (store, backlog), Receiver([Hold()]) as receiver:
        full = Full(backlog._writer, ACME, KEY)
        config = EndpointConfig(receiver.url, max_memory_bytes=15)
        async with sending(config, around, full) as sender:
            with structlog.testing.capture_logs() as logs:
                sender.submit([batch(0)])
                await receiver.wait_for_requests(1)
                sender.submit([batch(second) for second in range(1, 8)])
                await sender.spill()
            counters = sender.snapshot()
            assert_closes(counters)
            assert (counters.samples_dropped, sender._queue.loaded_bytes) == (4, 15)
            assert counters.last_error.startswith("backlog: ")
            assert "disk is full" in counters.last_error
            assert sender.oldest_volatile_ms == START_MS
            assert [line["event"] for line in logs] == ["queue full, the oldest samples are dropped"]
            full.is_full = False
            await sender.spill()
            assert (sender.oldest_volatile_ms, rows(store)) == (None, [0, 5, 6, 7])
            receiver.release()
            await settled(sender)
    assert seconds(receiver.requests) == [0, 5, 6, 7]


async def test_disk_that_cannot_be_read_is_waited_for(around: Surroundings, tmp_path: Path) -> None:
    class Away(EndpointBacklog):
        left = 3

        async def bodies(self, sequences: Sequence[int]) -> dict[int, bytes]:
            if self.left:
                self.left -= 1
                raise StoreUnavailable("journal on db.example: connection refused")
            return await super().bodies(sequences)

    clock = FakeClock()
    around = Surroundings(around.clients, clock, around.rng, "1.2.3")
    async with disk(tmp_path) as (_, backlog), Receiver([Hold()]) as receiver:
        away = Away(backlog._writer, ACME, KEY)
        async with sending(EndpointConfig(receiver.url), around, away) as sender:
            sender.submit([batch(0), batch(1)])
            await receiver.wait_for_requests(1)
            await sender.spill()
            receiver.release()
            counters = await settled(sender)
    assert (counters.samples_sent, counters.attempts_failed, len(clock.sleeps)) == (2, {"backlog": 3}, 3)


async def test_batch_that_is_damaged_on_disk_is_counted_and_the_next_one_sent(
    around: Surroundings, tmp_path: Path
) -> None:
    async with disk(tmp_path) as (store, backlog), Receiver() as receiver:
        store.backlog.apply([BacklogChange(ACME, KEY, added=[StoredBatch(1, "{}", b"x")])])
        sender = EndpointSender("acme", EndpointConfig(receiver.url), around, backlog)
        # Of number 7, which is not there.
        lost = batch(0, series="xyz")
        sender.restore([Waiting(7, replace(lost, body=b""), lost.size_bytes, is_stored=True, is_loaded=False)])
        sender.start()
        sender.submit([batch(1)])
        counters = await settled(sender)
        await sender.close()
    assert (counters.samples_failed, counters.samples_sent) == ({"backlog_lost": 3}, 1)


async def test_who_does_not_own_the_journal_any_more_sends_nothing_more(around: Surroundings, tmp_path: Path) -> None:
    async with (
        disk(tmp_path) as (_, backlog),
        Receiver([Hold()]) as receiver,
        sending(EndpointConfig(receiver.url), around, backlog) as sender,
    ):
        sender.submit([batch(0), batch(1)])
        await receiver.wait_for_requests(1)
        await sender.spill()
        async with disk(tmp_path, 2):
            receiver.release()
            await until(lambda: sender.snapshot().state is EndpointState.BACKING_OFF)
            assert "belongs to" in sender.snapshot().last_error
    assert seconds(receiver.requests) == [0]


# The store


def test_backlog_is_there_for_whoever_opens_the_journal(store_url: str, open_journal: OpenJournal) -> None:
    first = open_journal(store_url)
    bodies = {1: b"", 2: b"x" * 1000, 3: random.Random(5).randbytes(200_000)}
    added = [StoredBatch(number, f"facts {number}", body) for number, body in bodies.items()]
    first.backlog.apply([BacklogChange(ACME, "a", added), BacklogChange(ACME, "b", added[:1])])
    again = open_journal(store_url, 2)
    assert again.backlog.index(ACME) == {
        "a": [(1, "facts 1"), (2, "facts 2"), (3, "facts 3")],
        "b": [(1, "facts 1")],
    }
    assert again.backlog.bodies(ACME, "a", [1, 2, 3, 4]) == bodies
    again.backlog.apply([BacklogChange(ACME, "a", [StoredBatch(2, "other", b"y")], removed=[1, 77])])
    assert again.backlog.index(ACME)["a"] == [(2, "other"), (3, "facts 3")]
    assert again.backlog.bodies(ACME, "a", [2]) == {2: b"y"}
    again.backlog.apply([BacklogChange(ACME, "a", is_cleared=True)])
    assert again.backlog.index(ACME) == {"b": [(1, "facts 1")]}
    again.forget(ACME)
    assert again.backlog.index(ACME) == {}


def test_former_owner_writes_nothing(store_url: str, open_journal: OpenJournal) -> None:
    former, owner = open_journal(store_url), open_journal(store_url, 2)
    with pytest.raises(Fenced):
        former.backlog.apply([BacklogChange(ACME, "a", [StoredBatch(1, "", b"x")])])
    assert owner.backlog.index(ACME) == {}


def test_key_of_an_endpoint_stays_when_its_other_settings_change_and_tells_no_secret() -> None:
    url = "http://user:s3cret@h/?token=s3cret"
    key = endpoint_key(EndpointConfig(url, name="one", timeout_s=1))
    assert key == endpoint_key(EndpointConfig(url, name="one", headers=(("A", "b"),)))
    assert key != endpoint_key(EndpointConfig(url, name="two"))
    assert "s3cret" not in key


async def test_changes_that_come_together_are_one_commit(tmp_path: Path) -> None:
    async with disk(tmp_path) as (store, backlog):
        changes = [BacklogChange(ACME, KEY, [StoredBatch(number, '{"size_bytes": 1}', b"x")]) for number in range(20)]
        commits = 0
        apply = store.backlog.apply

        def counted(group: Sequence[BacklogChange]) -> None:
            nonlocal commits
            commits += 1
            apply(group)

        store.backlog.apply = counted  # type: ignore[method-assign]
        await asyncio.gather(*(backlog._writer.change(change) for change in changes))
        assert commits == 1
        assert len(store.backlog.index(ACME)[KEY]) == 20
