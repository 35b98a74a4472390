"""The wish for a number of shard hosts: held until it is fulfilled or cannot be."""

import asyncio

import structlog

from cluster.errors import StartError
from cluster.placement import Layout, Scale
from cluster.scale_push import ScalePush
from tests.unit.conditions import until


class Told:
    """A controller that fulfils wishes, or does not."""

    def __init__(self) -> None:
        self.scales: list[Scale] = []
        self.error: Exception | None = None
        self.now_ms = 100
        self.push = ScalePush(self._take, lambda: self.now_ms, 2)

    async def _take(self, scale: Scale) -> None:
        self.scales.append(scale)
        await asyncio.sleep(0)
        if self.error:
            raise self.error

    async def wish(self, hosts: int) -> None:
        self.push.wish(hosts)
        await until(lambda: not self.push.is_pushing)


def layout(version: int, *leaving: str, is_everywhere: bool = True) -> Layout:
    return Layout(version, ("shard-host-0",), leaving, is_everywhere)


async def test_wishes_are_carried_in_order_and_each_is_later_than_the_one_before() -> None:
    told = Told()
    assert told.push.scale == Scale(100, 2)
    await told.wish(3)
    told.now_ms = 500
    await told.wish(1)
    assert told.scales == [Scale(101, 3), Scale(500, 1)]


async def test_wish_is_fulfilled_when_everybody_knows_and_nobody_leaves() -> None:
    told = Told()
    told.push.wish(1)
    assert not told.push.is_done(layout(101))  # still under way
    await until(lambda: not told.push.is_pushing)
    assert not told.push.is_done(None)
    assert not told.push.is_done(layout(100))
    assert not told.push.is_done(layout(101, "shard-host-1"))
    assert not told.push.is_done(layout(101, is_everywhere=False))
    assert told.push.is_done(layout(101))


async def test_wish_that_cannot_be_fulfilled_gives_way_to_what_was_before() -> None:
    told = Told()
    await told.wish(3)
    told.error = StartError("shard-host-9 did not come up")
    with structlog.testing.capture_logs():
        await told.wish(10)
        assert told.push.problem == "shard-host-9 did not come up"
        # Newer than the wish that some may have heard of.
        assert told.push.scale == Scale(103, 3)
        told.error = None
        told.push.look(layout(101))
        await until(lambda: told.scales[-1] == Scale(103, 3))
    await told.wish(4)
    assert told.push.problem == ""


async def test_wish_that_got_lost_with_the_controller_is_carried_again() -> None:
    told = Told()
    told.error = ConnectionError("the actor died")
    with structlog.testing.capture_logs():
        await told.wish(3)
    assert (told.push.problem, told.push.scale) == ("", Scale(101, 3))
    told.error = None
    told.push.look(layout(0))  # not started yet: the start will tell it
    assert len(told.scales) == 1
    told.push.look(layout(100))
    await until(lambda: told.scales == [Scale(101, 3)] * 2)
    await until(lambda: not told.push.is_pushing)
    told.push.look(layout(101))
    assert not told.push.is_pushing


async def test_start_that_cannot_fulfil_a_wish_gives_it_up_but_not_what_was_before() -> None:
    told = Told()
    told.push.refuse(told.push.scale, "no room")
    # There is nothing to go back to.
    assert (told.push.scale, told.push.problem) == (Scale(100, 2), "")
    told.push.fulfil(told.push.scale)
    await told.wish(5)
    told.push.wish(7)
    late = told.push.scale
    told.push.refuse(Scale(101, 5), "no room")
    assert told.push.scale == late
    await until(lambda: not told.push.is_pushing)
