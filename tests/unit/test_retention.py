import asyncio

from cluster.gateway.retention import NOWHERE, Retention, SentFrame
from tenants.processing.flush_record import Place, ShardKey
from tests.unit.tenant_work import ACME

ONE, TWO = ShardKey(ACME, 0, 2), ShardKey(ACME, 1, 2)


def kept(*places: Place, key: ShardKey = ONE) -> list[SentFrame]:
    loop = asyncio.get_running_loop()
    return [
        SentFrame(key, (key.index, key.count), b"f", b"frame", loop.create_future(), loop.create_future(), 0.0, place)
        for place in places
    ]


def retention(frames: list[SentFrame]) -> Retention:
    made = Retention()
    for frame in frames:
        made.keep(frame)
    return made


async def test_what_is_journalled_goes_and_what_comes_later_stays() -> None:
    frames = kept(Place(3, 1), Place(3, 3), Place(3, 2))
    held = retention(frames)
    assert held.settle({ONE: Place(3, 2)}, (ONE,)) == []
    assert [frame.is_durable.done() for frame in frames] == [True, False, True]
    assert (held.size_bytes, len(held), held.keys) == (5, 1, (ONE,))
    assert held.settle({ONE: Place(3, 3)}, (ONE,)) == []
    assert (held.size_bytes, bool(held)) == (0, False)


async def test_what_an_owner_counted_that_is_no_more_is_lost() -> None:
    frames = kept(Place(3, 1), Place(4, 1), Place(5, 1))
    held = retention(frames)
    # The answer may be older than the newest frame.
    assert held.settle({ONE: Place(4, 0)}, (ONE,)) == [frames[0]]
    assert held.size_bytes == 15
    held.drop(frames[0])
    assert (held.size_bytes, len(held)) == (10, 2)


async def test_what_an_unknown_shard_counted_is_lost_and_nobody_elses() -> None:
    mine, others = kept(Place(3, 1)), kept(Place(3, 1), key=TWO)
    held = retention(mine + others)
    assert held.settle({}, (ONE,)) == mine
    assert held.keys == (TWO,)


async def test_what_was_put_back_is_lost_still() -> None:
    (frame,) = frames = kept(Place(3, 1))
    held = retention(frames)
    assert held.settle({}, (ONE,)) == frames
    held.put_back(frame)
    assert (held.size_bytes, frame.place) == (5, NOWHERE)
    assert held.settle({ONE: Place(9, 9)}, (ONE,)) == frames
    assert not frame.is_durable.done()


async def test_the_oldest_request_counts_also_while_it_is_sent_again() -> None:
    frames = kept(Place(3, 1), Place(3, 2))
    frames[0].since_s, frames[1].since_s = 7.0, 8.0
    held = retention(frames)
    assert held.since_s == 7.0
    assert held.settle({ONE: Place(3, 1)}, (ONE,)) == []
    assert held.since_s == 8.0
    assert held.settle({}, (ONE,)) == [frames[1]]
    assert held.since_s == 8.0
    held.put_back(frames[1])
    assert held.since_s == 8.0
    assert held.settle({}, (ONE,)) == [frames[1]]
    held.drop(frames[1])
    assert held.since_s is None
