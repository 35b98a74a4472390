"""Answers that are held back. Only the last test waits, and not for long (tenancy §4.8)."""

import asyncio

import pytest

from tenants.limits import ArtificialDelay
from tenants.settings.scalars import Duration
from tests.unit.tenant_work import SECOND_NS

MINUTE = Duration(60 * SECOND_NS)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def delay(clock: Clock, *, jitter: float = 0.5, max_bytes: int = 100, max_waiting: int = 3) -> ArtificialDelay:
    return ArtificialDelay(lambda: jitter, clock, max_bytes=max_bytes, max_waiting=max_waiting)


async def is_held_back(held: ArtificialDelay, took_ns: int, clock: Clock) -> bool:
    clock.now_ns = took_ns
    waiting = asyncio.ensure_future(held.pad(MINUTE, 0, 1))
    await asyncio.sleep(0)
    is_waiting = not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    return is_waiting


@pytest.mark.parametrize(("jitter", "padded_s"), [(0.0, 54), (0.5, 60), (1.0, 66)])
async def test_answer_that_took_as_long_by_itself_is_not_held_back(clock: Clock, jitter: float, padded_s: int) -> None:
    held = delay(clock, jitter=jitter)
    assert not await is_held_back(held, padded_s * SECOND_NS, clock)
    assert await is_held_back(held, padded_s * SECOND_NS - SECOND_NS // 100, clock)


@pytest.mark.parametrize(("sizes", "beyond"), [([1, 1, 1], 0), ([99], 2), ([60, 40], 1)])
async def test_answers_beyond_the_bounds_are_not_held_back(clock: Clock, sizes: list[int], beyond: int) -> None:
    held = delay(clock)
    waiting = [asyncio.ensure_future(held.pad(MINUTE, 0, size)) for size in sizes]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert await held.pad(MINUTE, 0, beyond) == 0
    waiting.pop().cancel()
    await asyncio.sleep(0)
    waiting.append(asyncio.ensure_future(held.pad(MINUTE, 0, beyond)))
    await asyncio.sleep(0)
    assert not [task for task in waiting if task.done()]
    held.end()
    await asyncio.gather(*waiting)


async def test_whoever_waits_is_let_go_at_the_end_and_nobody_waits_after(clock: Clock) -> None:
    held = delay(clock)
    waiting = asyncio.ensure_future(held.pad(MINUTE, 0, 1))
    await asyncio.sleep(0)
    clock.now_ns = 2 * SECOND_NS
    held.end()
    assert await waiting == 2.0
    async with asyncio.timeout(20):
        assert await held.pad(MINUTE, clock.now_ns, 1) == 0


async def test_answer_is_held_back_for_what_is_missing(clock: Clock) -> None:
    held = delay(clock)
    loop = asyncio.get_running_loop()
    clock.now_ns = 30_000_000
    began = loop.time()
    added = await held.pad(Duration(50_000_000), 0, 1)
    assert added == pytest.approx(0.02)
    assert loop.time() - began >= 0.019
