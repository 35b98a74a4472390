import random
from itertools import pairwise

import pytest

from tenants.endpoint.surroundings import Surroundings
from tests.unit.conditions import until
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Answer, Hold, Step
from tests.unit.sending import batch, seconds, sending_to, settled


async def test_lanes_are_sent_at_once_and_each_in_its_order(around: Surroundings) -> None:
    async with sending_to([Hold()] * 4, around) as (receiver, sender):
        sender.submit([batch(second, lane=lane, lanes=4) for second in range(5) for lane in range(4)])
        await receiver.wait_for_requests(4)
        # One of each lane; a fifth would be the second one of a lane.
        assert seconds(receiver.requests) == [0, 0, 0, 0]
        receiver.release()
        counters = await settled(sender)
    assert receiver.most_at_once == 4
    assert [seconds(receiver.requests, lane) for lane in range(4)] == [[0, 1, 2, 3, 4]] * 4
    assert counters.samples_sent == 20


async def test_lane_that_hangs_holds_up_no_other(around: Surroundings) -> None:
    async with sending_to([Hold()], around) as (receiver, sender):
        first, *others = (batch(second, lane=lane, lanes=2) for second in range(5) for lane in range(2))
        sender.submit([first])
        # That is the one which hangs.
        await receiver.wait_for_requests(1)
        sender.submit(others)
        await receiver.wait_for_requests(6)
        assert [seconds(receiver.requests, lane) for lane in range(2)] == [[0], [0, 1, 2, 3, 4]]
        receiver.release()
        await settled(sender)
    assert seconds(receiver.requests, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("max_lanes", [1, 2])
async def test_no_more_requests_at_once_than_the_setting_allows(around: Surroundings, max_lanes: int) -> None:
    async with sending_to([Hold()] * max_lanes, around, max_lanes=max_lanes) as (receiver, sender):
        sender.submit([batch(second, lane=lane, lanes=8) for second in range(5) for lane in range(8)])
        await receiver.wait_for_requests(max_lanes)
        receiver.release()
        await settled(sender)
    assert receiver.most_at_once == max_lanes
    assert [seconds(receiver.requests, lane) for lane in range(8)] == [[0, 1, 2, 3, 4]] * 8


async def test_other_division_waits_for_every_lane_of_the_one_before(around: Surroundings) -> None:
    async with sending_to([Hold()], around) as (receiver, sender):
        sender.submit([batch(0, lane=lane, lanes=2) for lane in range(2)])
        sender.submit([batch(1, lane=lane, lanes=4) for lane in range(4)])
        await receiver.wait_for_requests(2)
        receiver.release()
        await settled(sender)
    assert seconds(receiver.requests) == [0, 0, 1, 1, 1, 1]


async def test_failing_endpoint_is_asked_by_one_lane_at_a_time_after_pauses_that_do_not_shrink(
    around: Surroundings, clock: FakeClock
) -> None:
    async with sending_to((), around, otherwise=503, max_backoff_s=1) as (receiver, sender):

        async def recover() -> None:
            if len(clock.sleeps) == 25:
                receiver.otherwise = 204

        clock.on_sleep = recover
        sender.submit([batch(second, lane=lane, lanes=4) for second in range(3) for lane in range(4)])
        counters = await settled(sender)
    # All four lanes met the outage at once; from then on there was one request for each pause.
    assert len(receiver.requests) == 4 + 24 + 12
    assert len(clock.sleeps) == 25
    assert all(earlier <= later for earlier, later in pairwise(clock.sleeps))
    assert clock.sleeps[0] == pytest.approx(0.03, rel=0.1)
    assert clock.sleeps[-1] == pytest.approx(1, rel=0.1)
    assert [seconds(receiver.requests[28:], lane) for lane in range(4)] == [[0, 1, 2]] * 4
    assert counters.attempts_failed == {"http_503": 28}


async def test_success_that_was_under_way_does_not_end_the_pause_of_a_failure_after_it(
    around: Surroundings, clock: FakeClock
) -> None:
    async with sending_to([Hold(), 503, 503], around) as (receiver, sender):
        sender.submit([batch(0, lane=lane, lanes=2) for lane in range(2)])
        await until(lambda: bool(sender.snapshot().attempts_failed))
        receiver.release()
        await settled(sender)
    assert clock.sleeps == [pytest.approx(pause, rel=0.1) for pause in (0.03, 0.06)]


async def test_longest_pause_that_a_lane_was_asked_for_counts(around: Surroundings, clock: FakeClock) -> None:
    answers: list[Step] = [429, Answer(429, {"Retry-After": "20"}), Answer(503, {"Retry-After": "3"})]
    async with sending_to(answers, around) as (_, sender):
        sender.submit([batch(0, lane=lane, lanes=3) for lane in range(3)])
        await settled(sender)
    assert len(clock.sleeps) == 1
    assert 20 <= clock.sleeps[0] <= 22


@pytest.mark.parametrize("seed", range(4))
async def test_order_holds_in_every_lane_whatever_the_receiver_does(around: Surroundings, seed: int) -> None:
    dice = random.Random(seed)
    steps: list[Step] = [204, 204, 503, 429, 400, 500, Answer(503, {"Retry-After": "1"})]
    async with sending_to(dice.choices(steps, k=200), around) as (receiver, sender):
        for second in range(40):
            lanes = dice.choice([2, 4])
            sender.submit([batch(second, lane=lane, lanes=lanes) for lane in range(lanes)])
        counters = await settled(sender)
    for lane in range(4):
        got = seconds(receiver.requests, lane)
        assert got == sorted(got)
    assert counters.pending_batches == 0
