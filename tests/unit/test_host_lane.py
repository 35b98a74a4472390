import asyncio
from collections.abc import Collection

import pytest
import structlog

from cluster.gateway import host_lane
from cluster.gateway.host_lane import GroupBounds, HostCalls, HostLane
from cluster.gateway.retention import SentFrame
from tenants.identity import TenantId
from tenants.processing.flush_record import ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tests.unit.conditions import until
from tests.unit.frame_taker import ALONE, NEVER_S, FrameTaker
from tests.unit.tenant_work import ACME

KEY = ShardKey(ACME, 0, 1)
OTHER = ShardKey(TenantId("other"), 3, 4)
REQUEST = b"fingerprint 1234"


class Lane(HostLane):
    """A lane to one host; lost frames are kept, and count as sent again when ``takes_lost`` says so."""

    def __init__(
        self, host: FrameTaker, bounds: GroupBounds = ALONE, *, poll_s: float = NEVER_S, call_timeout_s: float = 5.0
    ) -> None:
        self.lost: list[SentFrame] = []
        self.moved: set[bytes] = set()
        self.takes_lost = True
        calls = HostCalls(host.take, host.durable, host.adopt)
        super().__init__(
            "h", calls, bounds, self.send_again, poll_s, has_moved=self.has_moved, call_timeout_s=call_timeout_s
        )

    def put(self, frame: bytes, key: ShardKey = KEY) -> SentFrame:
        return self.add(key, (key.index, key.count), REQUEST, frame)

    async def count(self, *frames: bytes) -> list[bool]:
        return await asyncio.gather(*(self.put(frame).is_counted for frame in frames))

    def has_moved(self, sent: SentFrame, host: str) -> bool:
        assert host == "h"
        return sent.frame in self.moved

    async def send_again(self, lost: SentFrame) -> bool:
        self.lost.append(lost)
        return self.takes_lost


async def test_frames_travel_together_until_the_group_is_full() -> None:
    host = FrameTaker()
    lane = Lane(host, GroupBounds(max_bytes=6, wait_s=NEVER_S))
    first, second = lane.put(b"abc"), lane.put(b"de", OTHER)
    assert (lane.queued_bytes, host.groups) == (5, [])
    third = lane.put(b"f")
    assert await asyncio.gather(*(sent.is_counted for sent in (first, second, third))) == [True, True, True]
    heads = (
        FrameHead(KEY, (0, 1), REQUEST, 3),
        FrameHead(OTHER, (3, 4), REQUEST, 2),
        FrameHead(KEY, (0, 1), REQUEST, 1),
    )
    assert host.groups == [FrameGroup(heads, b"abcdef")]
    assert (lane.queued_bytes, lane.groups, lane.failures) == (0, 1, 0)


async def test_group_is_sent_when_its_first_frame_has_waited() -> None:
    host = FrameTaker()
    lane = Lane(host, GroupBounds(max_bytes=1 << 20, wait_s=0.01))
    started = asyncio.get_running_loop().time()
    assert await lane.count(b"a") == [True]
    assert asyncio.get_running_loop().time() - started >= 0.009
    # The timer of a group is gone with it: the next group waits its own time.
    assert await lane.count(b"b") == [True]
    assert host.payloads == [b"a", b"b"]


async def test_full_group_leaves_no_timer_for_the_next() -> None:
    lane = Lane(FrameTaker(), GroupBounds(max_bytes=2, wait_s=0.02))
    lane.put(b"ab")
    await asyncio.sleep(0.012)
    late = lane.put(b"c")
    await asyncio.sleep(0.012)  # the first group's time is over, the second's is not
    assert not late.is_counted.done()
    assert await late.is_counted


async def test_calls_begin_in_the_order_of_frames_and_three_are_in_flight() -> None:
    host = FrameTaker()
    host.hold()
    lane = Lane(host)
    counted = [lane.put(bytes([letter])).is_counted for letter in b"abcdefgh"]
    await until(lambda: host.at_once == 3)
    assert (host.payloads, lane.queued_bytes) == ([b"a", b"b", b"c"], 8)
    host.release()
    assert all(await asyncio.gather(*counted))
    assert b"".join(host.payloads) == b"abcdefgh"
    assert lane.queued_bytes == 0


async def test_failed_call_tells_all_its_frames_and_no_others() -> None:
    lane = Lane(FrameTaker(ConnectionError("gone")), GroupBounds(max_bytes=2, wait_s=NEVER_S))
    with structlog.testing.capture_logs() as logs:
        assert await lane.count(b"a", b"b", b"c", b"d") == [False, False, True, True]
    assert (lane.queued_bytes, lane.groups, lane.failures) == (0, 2, 1)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("calls to shard host fail", "warning"),
        ("shard host answers again", "info"),
    ]
    assert logs[0]["error"] == "ConnectionError: gone"
    assert len(lane.retention) == 2


async def test_host_that_keeps_failing_fills_no_log() -> None:
    lane = Lane(FrameTaker(*(ConnectionError("gone") for _ in range(5))))
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            assert await lane.count(b"a") == [False]
    assert lane.failures == 5
    assert len(logs) == 1


async def test_frames_that_the_host_could_not_count_are_told_apart() -> None:
    lane = Lane(FrameTaker((1,)), GroupBounds(max_bytes=3, wait_s=NEVER_S))
    assert await lane.count(b"a", b"b", b"c") == [True, False, True]
    assert (lane.failures, len(lane.retention)) == (0, 2)


# While the host claims shards


class Claimer(FrameTaker):
    """Counts the first groups only when it is sent them once more, after a claim that takes until it may end."""

    def __init__(self, groups: int) -> None:
        super().__init__(*[(0,)] * groups)
        self.claims = True
        self.may_end = asyncio.Event()

    async def adopt(self, keys: Collection[ShardKey]) -> Collection[ShardKey]:
        await self.may_end.wait()
        return await super().adopt(keys)


async def test_frame_whose_shard_was_not_claimed_is_sent_once_more_when_it_is() -> None:
    host = FrameTaker((1, 2), (0,))
    host.claims = True
    lane = Lane(host, GroupBounds(max_bytes=3, wait_s=NEVER_S))
    # The last one cannot be counted even then.
    assert await lane.count(b"a", b"b", b"c") == [True, False, True]
    assert (host.payloads, host.adopted) == ([b"abc", b"bc"], [{KEY}])
    assert (lane.queued_bytes, lane.unclaimed_bytes, lane.failures, len(lane.retention)) == (0, 0, 0, 2)


async def test_claim_that_hangs_keeps_only_those_waiting_who_need_it() -> None:
    host = Claimer(5)
    lane = Lane(host, call_timeout_s=NEVER_S)
    unclaimed = [lane.put(b"a", OTHER).is_counted for _ in range(5)]
    await until(lambda: lane.unclaimed_bytes == 5)
    assert await lane.count(*[b"b"] * 10) == [True] * 10
    assert (lane.queued_bytes, [future.done() for future in unclaimed]) == (0, [False] * 5)
    host.may_end.set()
    assert await asyncio.gather(*unclaimed) == [True] * 5
    assert (lane.queued_bytes, lane.unclaimed_bytes) == (0, 0)


async def test_frames_that_wait_for_a_claim_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_lane, "_MAX_UNCLAIMED_BYTES", 1)
    host = Claimer(3)
    lane = Lane(host, call_timeout_s=NEVER_S)
    waiting = lane.put(b"aa").is_counted
    await until(lambda: lane.unclaimed_bytes == 2)
    assert await lane.count(b"b", b"c") == [False, False]
    host.may_end.set()
    assert await waiting


async def test_claim_that_fails_or_hangs_for_long_is_given_up() -> None:
    async def fail(_keys: object) -> Collection[ShardKey]:
        raise ConnectionError("gone")

    for adopt in (fail, Claimer(1).adopt):
        host = FrameTaker((0,))
        lane = Lane(host, call_timeout_s=0.05)
        lane._calls = HostCalls(host.take, host.durable, adopt)
        with structlog.testing.capture_logs() as logs:
            assert await lane.count(b"a") == [False]
        assert [line["event"] for line in logs] == ["calls to shard host fail"]
        assert (lane.failures, lane.unclaimed_bytes, host.payloads) == (1, 0, [b"a"])


# While the host does not answer


async def test_hanging_host_is_given_up_in_time_also_by_those_who_wait_for_a_place() -> None:
    host = FrameTaker()
    host.hold()
    lane = Lane(host, call_timeout_s=0.05)
    async with asyncio.timeout(20):
        assert await lane.count(*[b"a"] * 10) == [False] * 10
    assert (len(host.groups), host.at_once, lane.queued_bytes) == (3, 0, 0)
    host.release()
    assert await lane.count(b"b") == [True]


async def test_frames_of_clients_that_went_away_while_they_waited_are_not_sent() -> None:
    host = FrameTaker()
    host.hold()
    lane = Lane(host)
    busy = [lane.put(b"x").is_counted for _ in range(3)]
    gone, staying = lane.put(b"g"), lane.put(b"s")
    gone.is_counted.cancel()
    host.release()
    assert all(await asyncio.gather(*busy, staying.is_counted))
    assert host.payloads == [b"x", b"x", b"x", b"s"]
    assert lane.queued_bytes == 0


# Until it is journalled


async def test_frames_are_kept_until_they_are_journalled() -> None:
    host = FrameTaker()
    lane = Lane(host, poll_s=0.005)
    sent = [lane.put(b"abc"), lane.put(b"de", OTHER)]
    await asyncio.gather(*(frame.is_counted for frame in sent))
    assert (lane.retention.size_bytes, set(lane.retention.keys)) == (5, {KEY, OTHER})
    await until(lambda: host.asked > 1)
    assert not any(frame.is_durable.done() for frame in sent)
    host.journal()
    await until(lambda: all(frame.is_durable.done() for frame in sent))
    assert (lane.retention.size_bytes, lane.lost) == (0, [])
    asked = host.asked
    await asyncio.sleep(0.02)
    # Nothing is left to ask for, until the next frame.
    assert host.asked == asked
    assert await lane.count(b"f") == [True]
    await until(lambda: host.asked > asked)


async def test_frames_that_the_host_lost_are_sent_again_until_somebody_takes_them() -> None:
    host = FrameTaker()
    lane = Lane(host, poll_s=0.005)
    lane.takes_lost = False
    assert await lane.count(b"a", b"b") == [True, True]
    with structlog.testing.capture_logs():
        host.lose()
        await until(lambda: len(lane.lost) > 3)
        assert (lane.retention.size_bytes, lane.replayed) == (2, 0)
        lane.takes_lost = True
        await until(lambda: not lane.retention)
    assert (lane.retention.size_bytes, lane.replayed) == (0, 2)
    assert {lost.frame for lost in lane.lost} == {b"a", b"b"}


async def test_host_that_does_not_answer_keeps_the_frames_where_they_are() -> None:
    host = FrameTaker()
    lane = Lane(host, poll_s=0.005)
    assert await lane.count(b"a") == [True]
    durable, failures = host.durable, 3

    async def failing(keys: object) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise ConnectionError("gone")
        return await durable(keys)  # type: ignore[arg-type]

    lane._calls = HostCalls(host.take, failing, host.adopt)  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as logs:
        host.journal()
        await until(lambda: not lane.retention)
    assert lane.failures == 3
    assert [line["event"] for line in logs] == ["calls to shard host fail"]
    assert lane.lost == []


# When shards move, and hosts leave


async def test_frame_that_came_too_late_is_sent_elsewhere_before_anybody_hears_of_it() -> None:
    lane = Lane(FrameTaker((0, 1)), GroupBounds(max_bytes=2, wait_s=NEVER_S))
    lane.moved = {b"m"}
    assert await lane.count(b"m", b"s") == [True, False]
    assert [lost.frame for lost in lane.lost] == [b"m"]
    lane.takes_lost = False
    other = FrameTaker((0, 1))
    lane._calls = HostCalls(other.take, other.durable, other.adopt)
    assert await lane.count(b"m", b"s") == [False, False]


async def test_lane_is_empty_when_nothing_waits_travels_or_is_retained() -> None:
    host = FrameTaker()
    host.hold()
    lane = Lane(host, GroupBounds(max_bytes=2, wait_s=NEVER_S), poll_s=0.005)
    assert lane.is_empty
    waiting = lane.put(b"a")
    assert not lane.is_empty
    lane.put(b"b")
    await until(lambda: host.at_once == 1)
    assert not lane.is_empty
    host.release()
    assert await waiting.is_counted
    assert not lane.is_empty
    host.journal()
    await until(lambda: lane.is_empty)


async def test_what_a_host_has_that_leaves_and_does_not_answer_is_sent_elsewhere() -> None:
    host = FrameTaker()
    lane = Lane(host, poll_s=0.005)
    lane.takes_lost = False
    assert await lane.count(b"a") == [True]
    lane.is_leaving = True

    async def away(_keys: object) -> object:
        raise ConnectionError("gone")

    with structlog.testing.capture_logs():
        lane.put_calls(HostCalls(host.take, away, host.adopt))  # type: ignore[arg-type]
        await until(lambda: len(lane.lost) > 1)
        assert not lane.is_empty
        lane.takes_lost = True
        await until(lambda: lane.is_empty)
    assert {lost.frame for lost in lane.lost} == {b"a"}
