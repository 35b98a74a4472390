"""What the sender does with answers that are about the endpoint's door, or about a batch."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import structlog

from tenants.endpoint.counters import EndpointState
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.pace import PROBE_S
from tenants.endpoint.surroundings import Surroundings
from tests.unit.conditions import until
from tests.unit.fake_clock import START_MS, FakeClock
from tests.unit.receiver import Answer, Decide, Received, WireStep
from tests.unit.sending import batch, divide, seconds, sending_to, series, settled
from tests.unit.standing_clock import StandingClock

LETTERS = "abcdefghijklmnop"


@pytest.fixture
async def around(clock: FakeClock) -> AsyncIterator[Surroundings]:
    async with HttpClients() as clients:
        yield Surroundings(clients, clock, random.Random(7), "1.2.3", divide)


# The door


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (401, EndpointState.PAUSED_UNAUTHORIZED),
        (403, EndpointState.PAUSED_UNAUTHORIZED),
        (404, EndpointState.PAUSED_NOT_FOUND),
    ],
)
async def test_endpoint_that_keeps_us_out_is_paused_and_asked_now_and_then(
    around: Surroundings, clock: FakeClock, status: int, state: EndpointState
) -> None:
    states = []
    async with sending_to([status] * 3, around) as (receiver, sender):

        async def look() -> None:
            states.append(sender.snapshot().state)

        clock.on_sleep = look
        with structlog.testing.capture_logs() as logs:
            sender.submit([batch(second, lane=lane, lanes=2) for second in range(3) for lane in range(2)])
            counters = await settled(sender)
    assert states == [state] * len(clock.sleeps)
    assert len(clock.sleeps) in (2, 3)  # both lanes may have asked at first
    assert all(pause == pytest.approx(PROBE_S, rel=0.1) for pause in clock.sleeps)
    # Nothing is lost, and each probe was the oldest batch.
    assert (counters.samples_sent, counters.samples_failed) == (6, {})
    assert counters.attempts_failed == {f"http_{status}": 3}
    assert seconds(receiver.requests)[:3] == [0, 0, 0]
    said = [line["event"] for line in logs]
    assert said[0] == "endpoint is paused until its settings change or it lets us in"
    assert said[-1] == "endpoint takes samples again"


async def test_new_settings_end_a_pause_at_once(around: Surroundings) -> None:
    standing = StandingClock()
    around = replace(around, clock=standing)
    async with sending_to([401], around) as (receiver, sender):
        sender.submit([batch(0)])
        await until(lambda: sender.snapshot().state.is_paused)
        sender.reconfigure(sender.config)  # nothing new
        assert sender.snapshot().state.is_paused
        sender.reconfigure(replace(sender.config, headers=(("Authorization", "new"),)))
        await settled(sender)
    assert [request.header("Authorization") for request in receiver.requests] == [None, "new"]
    assert standing.time_ms == START_MS


async def test_pause_turns_into_a_backoff_when_the_endpoint_fails_otherwise(
    around: Surroundings, clock: FakeClock
) -> None:
    async with sending_to([404, 503, 404], around) as (_, sender):
        sender.submit([batch(0)])
        counters = await settled(sender)
    assert [round(pause) // 10 for pause in clock.sleeps] == [6, 0, 6] or clock.sleeps[0] > 50
    assert clock.sleeps[1] == pytest.approx(0.03, rel=0.1)
    assert counters.samples_sent == 1


# Too large


def at_most(count: int) -> Decide:
    def judge(request: Received) -> WireStep:
        return 413 if len(series(request)) > count else 204

    return judge


@pytest.mark.parametrize("limit", [1, 3, 5])
async def test_batch_that_is_too_large_is_halved_until_it_is_taken(around: Surroundings, limit: int) -> None:
    async with sending_to((), around, otherwise=at_most(limit)) as (receiver, sender):
        sender.submit([batch(0, series=LETTERS), batch(1, series="ab")])
        counters = await settled(sender)
    taken = [request for request in receiver.requests if len(series(request)) <= limit]
    assert "".join(letter for request in taken for letter in series(request)) == LETTERS + "ab"
    assert seconds(taken) == sorted(seconds(taken))
    assert (counters.samples_sent, counters.samples_failed) == (18, {})


def without(*names: str) -> Decide:
    def judge(request: Received) -> WireStep:
        return 413 if {*names} & {*series(request)} else 204

    return judge


def names(count: int) -> list[str]:
    return [f"s{number:04}" for number in range(count)]


async def test_series_that_is_too_large_by_itself_is_dropped_alone(around: Surroundings, clock: FakeClock) -> None:
    async with sending_to((), around, otherwise=without("c")) as (_, sender):
        sender.submit([batch(0, series="abcd"), batch(1)])
        counters = await settled(sender)
    assert (counters.samples_sent, counters.samples_failed) == (4, {"http_413": 1})
    assert clock.sleeps == [pytest.approx(0.03, rel=0.1)]


@pytest.mark.parametrize("hot", [0, 700, 1999])
async def test_single_series_that_is_too_large_does_not_make_small_requests_of_all(
    around: Surroundings, hot: int
) -> None:
    async with sending_to((), around, otherwise=without(names(2000)[hot])) as (receiver, sender):
        for second in range(4):
            sender.submit([batch(second, series=names(2000))])
            counters = await settled(sender)
            # Halved eleven times, each time with one half that is taken.
            assert len(receiver.requests) <= 23 * (second + 1)
    assert (counters.samples_sent, counters.samples_failed) == (4 * 1999, {"http_413": 4})


async def test_small_batch_with_a_series_that_is_too_large_says_nothing_of_a_large_one(around: Surroundings) -> None:
    async with sending_to((), around, otherwise=without("s0000")) as (receiver, sender):
        sender.submit([batch(0, series=names(4)), batch(1, series=names(101)[1:])])
        await settled(sender)
        assert [len(series(request)) for request in receiver.requests if series(request)[0] == "s0001"][-1] == 100


async def test_what_follows_a_batch_that_was_too_large_is_cut_to_what_was_taken(around: Surroundings) -> None:
    async with sending_to((), around, otherwise=at_most(10)) as (receiver, sender):
        refused = []
        for second in range(3):
            sender.submit([batch(second, lane=lane, lanes=2, series=names(1000)) for lane in range(2)])
            counters = await settled(sender)
            refused.append(counters.attempts_failed["http_413"])
        assert (counters.samples_sent, counters.samples_failed) == (6000, {})
        assert refused == [refused[0]] * 3
        taken = [request for request in receiver.requests if len(series(request)) <= 10]
        for lane in range(2):
            assert seconds(taken, lane) == sorted(seconds(taken, lane))


async def test_receiver_for_which_everything_is_too_large_costs_few_requests_and_in_the_end_one_a_batch(
    around: Surroundings, clock: FakeClock
) -> None:
    async with sending_to((), around, otherwise=413) as (receiver, sender):
        counts = []
        for second in range(4):
            before = len(receiver.requests)
            sender.submit([batch(second, series=names(2000))])
            counters = await settled(sender)
            counts.append(len(receiver.requests) - before)
            assert counters.samples_failed == {"http_413": 2000 * (second + 1)}
        # Twenty in a row, and what was halved on the way.
        assert counts[0] < 35
        assert counts[1:] == [1, 1, 1]
        # What is dropped is paused for.
        assert sum(clock.sleeps) > 5
        receiver.otherwise = at_most(1000)
        for second in (600, 615, 1300):
            sender.submit([batch(second, series=names(2000))])
            clock.time_ms = START_MS + second * 1000
            counters = await settled(sender)
        assert (counters.samples_sent, counters.samples_failed) == (6000, {"http_413": 8000})


async def test_receiver_that_was_mended_is_used_fully_again(around: Surroundings, clock: FakeClock) -> None:
    async with sending_to((), around, otherwise=at_most(10)) as (receiver, sender):
        sizes = []
        for second in (0, 15, 590, 605):
            clock.time_ms = START_MS + second * 1000
            sender.submit([batch(second, series=names(16))])
            await settled(sender)
            sizes.append([len(series(request)) for request in receiver.requests])
            receiver.requests.clear()
            receiver.otherwise = 204
    assert sizes == [[16, 8, 8], [8, 8], [8, 8], [16]]


# Poison


def poisoned(*letters: str) -> Decide:
    def judge(request: Received) -> WireStep:
        return 500 if {*letters} & {*series(request)} else 204

    return judge


@pytest.mark.parametrize("poison", ["a", "k", "p", "akp"])
async def test_series_that_is_answered_500_for_ever_is_found_and_dropped_alone(
    around: Surroundings, clock: FakeClock, poison: str
) -> None:
    async with sending_to((), around, otherwise=poisoned(*poison)) as (receiver, sender):
        sender.submit([batch(0, series=LETTERS), batch(1, series="xyz")])
        counters = await settled(sender)
    assert counters.samples_failed == {"http_500": len(poison)}
    assert counters.samples_sent == 19 - len(poison)
    # It was given its time first, and then found soon.
    assert 300 < sum(clock.sleeps) < 420
    assert seconds(receiver.requests) == sorted(seconds(receiver.requests))


async def test_next_poisoned_batch_is_not_waited_for_again(around: Surroundings, clock: FakeClock) -> None:
    async with sending_to((), around, otherwise=poisoned("k")) as (_, sender):
        sender.submit([batch(0, series=LETTERS)])
        await settled(sender)
        found_after = sum(clock.sleeps)
        sender.submit([batch(400 + second, series=LETTERS) for second in range(5)])
        counters = await settled(sender)
    assert counters.samples_failed == {"http_500": 6}
    assert sum(clock.sleeps) - found_after < 30


async def test_poisoned_batch_holds_up_no_other_lane(around: Surroundings) -> None:
    standing = StandingClock()
    around = replace(around, clock=standing)
    async with sending_to((), around, otherwise=poisoned("k")) as (receiver, sender):
        sender.submit([batch(0, lane=0, lanes=2, series="jkl")])
        sender.submit([batch(second, lane=1, lanes=2, series="xyz") for second in range(20)])
        async with asyncio.timeout(10):
            while len(seconds(receiver.requests, 1)) < 20:
                # The first failures may be an outage: all lanes wait for them, some hundredths of a second.
                standing.move(0.01)
                await asyncio.sleep(0.001)
        assert sender.snapshot().samples_failed == {}
        assert standing.time_ms - START_MS < 10_000
        await until(lambda: sender.snapshot().samples_sent == 60)


async def test_outage_with_500_is_survived_without_loss(around: Surroundings, clock: FakeClock) -> None:
    async with sending_to((), around, otherwise=500) as (receiver, sender):

        async def recover() -> None:
            if clock.time_ms > START_MS + 3_600_000:
                receiver.otherwise = 204

        clock.on_sleep = recover
        sender.submit([batch(second, lane=lane, lanes=2, series=LETTERS) for second in range(5) for lane in range(2)])
        counters = await settled(sender)
    assert (counters.samples_sent, counters.samples_failed, counters.samples_dropped) == (160, {}, 0)


async def test_receivers_reason_is_counted_and_the_batch_not_sent_again(around: Surroundings) -> None:
    async with sending_to([Answer(400, body=b"out of order")], around) as (receiver, sender):
        sender.submit([batch(0, series="abc"), batch(1)])
        counters = await settled(sender)
    assert seconds(receiver.requests) == [0, 1]
    assert (counters.samples_failed, counters.samples_sent) == ({"http_400": 3}, 1)
