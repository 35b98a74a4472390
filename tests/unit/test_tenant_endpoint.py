import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.encoding import Encoding
from tenants.endpoint.endpoint_backlog import EndpointBacklog, endpoint_key
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.tenant_endpoint import TenantEndpoint
from tenants.journal.backlog_writer import BacklogWriter
from tenants.journal.store import JournalStore
from tests.unit.conditions import until
from tests.unit.fake_clock import START_MS, FakeClock
from tests.unit.receiver import Hang, Hold, Receiver
from tests.unit.sending import ACME


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    async with HttpClients() as clients:
        yield Surroundings(clients, FakeClock(), random.Random(7), "1.2.3")


def batch(number: int) -> Batch:
    return Batch(b"batch %d" % number, samples=10, exemplars=0, series=5, timestamp_ms=START_MS + number)


def with_token(url: str, token: str, name: str = "") -> EndpointConfig:
    return EndpointConfig(url, name=name, headers=(("Authorization", token),))


def tokens(receiver: Receiver) -> list[str | None]:
    return [request.header("Authorization") for request in receiver.requests]


@asynccontextmanager
async def serving(
    configs: Sequence[EndpointConfig], around: Surroundings, *, retire_deadline_s: float = 10
) -> AsyncIterator[TenantEndpoint]:
    endpoint = TenantEndpoint("acme", configs, around, retire_deadline_s=retire_deadline_s)
    endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def test_every_endpoint_gets_every_batch_and_a_dead_one_holds_up_nobody(around: Surroundings) -> None:
    async with Receiver() as one, Receiver() as two, Receiver(otherwise=Hang()) as dead:
        configs = [EndpointConfig(each.url, name=name) for each, name in ((one, "1"), (dead, "x"), (two, "2"))]
        async with serving(configs, around) as endpoint:
            endpoint.submit({Encoding(): [batch(1), batch(2)]})
            endpoint.submit({Encoding(): [batch(3)]})
            await one.wait_for_requests(3)
            await two.wait_for_requests(3)
            await until(lambda: sum(each.samples_sent for each in endpoint.snapshot().endpoints) == 60)
            assert not await endpoint.drain(0.05)
            snapshot = endpoint.snapshot()
    assert one.bodies == two.bodies == [b"batch 1", b"batch 2", b"batch 3"]
    assert [(each.endpoint, each.samples_sent, each.pending_samples) for each in snapshot.endpoints] == [
        ("1", 30, 0),
        ("x", 0, 30),
        ("2", 30, 0),
    ]


async def test_without_endpoint_samples_are_counted_as_discarded_and_this_is_said_once(
    around: Surroundings,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving([], around) as endpoint:
            endpoint.submit({Encoding(): []})
            assert logs == []
            for number in range(3):
                endpoint.submit({Encoding(): [batch(number), batch(number)]})
                endpoint.reconfigure([])
            assert await endpoint.drain(0)
            assert endpoint.snapshot().samples_discarded == {"no_endpoint": 60}
    assert [line["event"] for line in logs] == ["tenant has no remote_write endpoint, its samples are discarded"]


async def test_unchanged_and_changed_endpoints_keep_their_queues(around: Surroundings) -> None:
    async with Receiver([Hold()]) as same, Receiver([Hold()]) as changed, Receiver() as new:
        before = [with_token(same.url, "a"), with_token(changed.url, "b")]
        async with serving(before, around) as endpoint:
            endpoint.submit({Encoding(): [batch(1), batch(2)]})
            await same.wait_for_requests(1)
            await changed.wait_for_requests(1)
            endpoint.reconfigure(
                [with_token(new.url, "c"), with_token(changed.url, "rotated"), with_token(same.url, "a")]
            )
            endpoint.submit({Encoding(): [batch(3)]})
            same.release()
            changed.release()
            assert await endpoint.drain(10)
            snapshot = endpoint.snapshot()
    assert same.bodies == changed.bodies == [b"batch 1", b"batch 2", b"batch 3"]
    assert new.bodies == [b"batch 3"]
    assert tokens(same) == ["a"] * 3
    assert tokens(changed) == ["b", "rotated", "rotated"]
    assert [each.endpoint for each in snapshot.endpoints] == [new.url, changed.url, same.url]
    assert snapshot.retiring == ()


async def test_removed_endpoint_sends_what_waited_and_nothing_newer(around: Surroundings) -> None:
    async with Receiver([Hold()]) as removed, Receiver() as kept:
        configs = [with_token(removed.url, "a"), with_token(kept.url, "b")]
        async with serving(configs, around) as endpoint:
            endpoint.submit({Encoding(): [batch(1), batch(2)]})
            await removed.wait_for_requests(1)
            endpoint.reconfigure(configs[1:])
            endpoint.submit({Encoding(): [batch(3)]})
            assert [each.pending_samples for each in endpoint.snapshot().retiring] == [20]
            assert not await endpoint.drain(0.05)
            removed.release()
            assert await endpoint.drain(10)
    assert removed.bodies == [b"batch 1", b"batch 2"]
    assert kept.bodies == [b"batch 1", b"batch 2", b"batch 3"]


async def test_removed_endpoint_that_does_not_drain_is_closed_at_the_deadline(around: Surroundings) -> None:
    with structlog.testing.capture_logs() as logs:
        async with Receiver(otherwise=Hang()) as removed:
            config = EndpointConfig(removed.url)
            async with serving([config], around, retire_deadline_s=0.1) as endpoint:
                endpoint.submit({Encoding(): [batch(1), batch(2)]})
                endpoint.reconfigure([])
                assert await endpoint.drain(5)  # given up, not sent
                await until(lambda: not endpoint.snapshot().retiring)
                assert endpoint.snapshot().endpoints == ()
    assert [line["samples"] for line in logs if "unsent" in line["event"]] == [20]


async def test_of_two_endpoints_with_one_url_the_one_with_the_same_settings_is_kept(
    around: Surroundings,
) -> None:
    async with Receiver() as receiver:
        first, second = with_token(receiver.url, "first"), with_token(receiver.url, "second")
        async with serving([first], around) as endpoint:
            endpoint.submit({Encoding(): [batch(1)]})
            endpoint.reconfigure([first, second])
            endpoint.submit({Encoding(): [batch(2)]})
            assert await endpoint.drain(10)
            assert [each.samples_sent for each in endpoint.snapshot().endpoints] == [20, 10]
            endpoint.reconfigure([second])
            assert [each.samples_sent for each in endpoint.snapshot().endpoints] == [10]


async def test_close_counts_and_stops_the_retiring_too(around: Surroundings) -> None:
    with structlog.testing.capture_logs() as logs:
        async with Receiver(otherwise=Hang()) as one, Receiver(otherwise=Hang()) as two:
            configs = [EndpointConfig(one.url), EndpointConfig(two.url)]
            async with serving(configs, around) as endpoint:
                endpoint.submit({Encoding(): [batch(1)]})
                await one.wait_for_requests(1)
                endpoint.reconfigure(configs[1:])
                async with asyncio.timeout(20):
                    await endpoint.close()
                (counters,) = endpoint.snapshot().endpoints
                assert endpoint.snapshot().retiring == ()
                await endpoint.close()
    assert counters.samples_failed == {"closed": 10}
    assert len([line for line in logs if "unsent" in line["event"]]) == 2


# Put back while it still sends


class Stored(NamedTuple):
    """Senders with a disk."""

    around: Surroundings
    journal: JournalStore

    def rows(self, config: EndpointConfig) -> list[int]:
        """Sequences of what is on disk for an endpoint."""
        return [sequence for sequence, _ in self.journal.backlog.index(ACME).get(endpoint_key(config), [])]


@pytest.fixture
async def stored(around: Surroundings, tmp_path: Path) -> AsyncIterator[Stored]:
    journal = JournalStore.open(f"sqlite:///{tmp_path}/journal.db", "collector-0", 1)
    writer = BacklogWriter(journal.backlog)
    yield Stored(replace(around, backlog=writer), journal)
    await writer.close()
    journal.close()


class HeldClear:
    """Holds whoever removes what is on disk for an endpoint, just before it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_asked = False
        self.go_on = asyncio.Event()
        clear = EndpointBacklog.clear

        async def held(backlog: EndpointBacklog) -> None:
            self.is_asked = True
            await self.go_on.wait()
            await clear(backlog)

        monkeypatch.setattr(EndpointBacklog, "clear", held)


def submit(endpoint: TenantEndpoint, *numbers: int) -> None:
    for number in numbers:
        endpoint.submit({Encoding(): [batch(number)]})


async def test_endpoint_that_is_put_back_goes_on_with_its_queue(stored: Stored) -> None:
    async with Receiver([Hold()]) as receiver:
        config = with_token(receiver.url, "a")
        async with serving([config], stored.around, retire_deadline_s=0.01) as endpoint:
            submit(endpoint, 1, 2)
            await receiver.wait_for_requests(1)
            endpoint.reconfigure([])
            endpoint.reconfigure([with_token(receiver.url, "b")])
            assert endpoint.snapshot().retiring == ()
            submit(endpoint, 3, 4)
            await endpoint.spill()
            # Longer than it could have gone on if it had stayed away.
            assert not await endpoint.drain(0.2)
            assert stored.rows(config) == [1, 2, 3, 4]
            receiver.release()
            assert await endpoint.drain(10)
            (counters,) = endpoint.snapshot().endpoints
    assert receiver.bodies == [b"batch 1", b"batch 2", b"batch 3", b"batch 4"]
    assert tokens(receiver) == ["a", "b", "b", "b"]
    assert (counters.samples_sent, counters.samples_failed) == (40, {})


async def test_endpoint_that_is_put_back_while_it_closes_begins_behind_that(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldClear(monkeypatch)
    async with Receiver([Hold()]) as receiver:
        config = EndpointConfig(receiver.url)
        async with serving([config], stored.around, retire_deadline_s=0.01) as endpoint:
            submit(endpoint, 1, 2)
            await receiver.wait_for_requests(1)
            await endpoint.spill()
            endpoint.reconfigure([])
            await until(lambda: held.is_asked)
            endpoint.reconfigure([config])
            submit(endpoint, 3, 4)
            receiver.script = [Hold()]
            spilling = asyncio.create_task(endpoint.spill())
            assert not await endpoint.drain(0.05)
            assert len(receiver.requests) == 1
            held.go_on.set()
            await spilling
            assert stored.rows(config) == [1, 2]
            receiver.release()
            assert await endpoint.drain(10)
            (counters,) = endpoint.snapshot().endpoints
    assert receiver.bodies == [b"batch 1", b"batch 3", b"batch 4"]
    assert (counters.samples_sent, counters.samples_failed) == (20, {})


async def test_endpoint_under_another_name_begins_when_the_former_has_sent_what_waited(around: Surroundings) -> None:
    async with Receiver([Hold()]) as receiver, serving([with_token(receiver.url, "a", "old")], around) as endpoint:
        submit(endpoint, 1, 2)
        await receiver.wait_for_requests(1)
        endpoint.reconfigure([with_token(receiver.url, "b", "new")])
        submit(endpoint, 3)
        assert not await endpoint.drain(0.1)
        assert len(receiver.requests) == 1
        receiver.release()
        assert await endpoint.drain(10)
    assert receiver.bodies == [b"batch 1", b"batch 2", b"batch 3"]
    assert tokens(receiver) == ["a", "a", "b"]


async def test_what_is_left_of_an_endpoint_from_before_the_start_does_not_take_its_successors_with_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver(otherwise=Hold()) as receiver:
        config = EndpointConfig(receiver.url)
        async with serving([config], stored.around) as endpoint:
            submit(endpoint, 1)
        assert stored.rows(config) == [1]
        held = HeldClear(monkeypatch)
        endpoint = TenantEndpoint("acme", [], stored.around)
        endpoint.start(stored.journal.backlog.index(ACME))
        await until(lambda: held.is_asked)
        endpoint.reconfigure([config])
        submit(endpoint, 2, 3)
        spilling = asyncio.create_task(endpoint.spill())
        assert not (await asyncio.wait([spilling], timeout=0.1))[0]
        held.go_on.set()
        await spilling
        assert stored.rows(config) == [1, 2]
        await endpoint.close()
