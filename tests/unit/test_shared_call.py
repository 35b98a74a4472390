"""One call for all who ask at the same time."""

import asyncio

import pytest

from tenants.control.shared_call import SharedCall
from tests.unit.conditions import until


class _Slow:
    """Answers with the number of the call, when it may."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_end = asyncio.Event()
        self.fails = False

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        await self.may_end.wait()
        if self.fails:
            raise OSError("no answer")
        return number


async def test_who_asks_while_a_call_is_under_way_waits_for_the_next() -> None:
    slow = _Slow()
    shared = SharedCall(slow)
    first = asyncio.create_task(shared())
    await until(lambda: slow.calls == 1)
    rest = [asyncio.create_task(shared()) for _ in range(100)]
    await asyncio.sleep(0)
    slow.may_end.set()
    assert await first == 1
    assert await asyncio.gather(*rest) == [2] * 100
    assert await shared() == 3


async def test_all_get_what_was_raised_and_the_next_call_is_a_new_one() -> None:
    slow = _Slow()
    slow.fails = True
    shared = SharedCall(slow)
    asked = [asyncio.create_task(shared()) for _ in range(3)]
    await until(lambda: slow.calls == 1)
    slow.may_end.set()
    for result in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(result, OSError)
    with pytest.raises(OSError, match="no answer"):
        await shared()
    assert slow.calls == 2
    slow.fails = False
    assert await shared() == 3


async def test_who_gives_up_does_not_end_the_call_of_others() -> None:
    slow = _Slow()
    shared = SharedCall(slow)
    impatient, patient = asyncio.create_task(shared()), asyncio.create_task(shared())
    await until(lambda: slow.calls == 1)
    impatient.cancel()
    await asyncio.wait([impatient])
    slow.may_end.set()
    assert await patient == 1
