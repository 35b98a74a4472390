"""The way from a gateway to one shard host: frames wait for company, travel, and are kept until they are journalled."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from cluster.gateway.retention import Retention, SentFrame
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_CALLS_IN_FLIGHT = 3
_CALL_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class HostCalls:
    """How a shard host is called.

    Attributes:
        send: carry a group to the host; returns, for each frame, the flush record that will hold it, None if it could
            not be counted; raises if nothing is known.
        durable: ask for the last journalled record of each of these shards that the host has.
    """

    send: Callable[[FrameGroup], Awaitable[Sequence[Place | None]]]
    durable: Callable[[Collection[ShardKey]], Awaitable[Mapping[ShardKey, Place]]]


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """When a group is complete.

    Attributes:
        max_bytes: it is sent when it holds this many.
        wait_s: it is sent when its first frame has waited this long.
    """

    max_bytes: int
    wait_s: float


Replay = Callable[[SentFrame], Awaitable[bool]]
"""Send a lost frame again, wherever its range is now; whether it was counted there."""


class HostLane:
    """Frames wait for company, a few groups are in flight, and what the host counted is kept until it is journalled.

    One event loop owns it.

    Args:
        name: of the host.
        calls: how it is called.
        bounds: when a group is complete.
        replay: what becomes of a frame that the host lost.
        poll_s: time between two looks at what is journalled.
        call_timeout_s: longest a group waits for an answer.
    """

    def __init__(
        self,
        name: str,
        calls: HostCalls,
        bounds: GroupBounds,
        replay: Replay,
        poll_s: float,
        *,
        call_timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.queued_bytes = 0
        self.groups = 0
        self.failures = 0
        self.replayed = 0
        self.retention = Retention()
        self._calls = calls
        self._bounds = bounds
        self._replay = replay
        self._poll_s = poll_s
        self._call_timeout_s = call_timeout_s
        self._credits = asyncio.Semaphore(_CALLS_IN_FLIGHT)
        self._frames: list[SentFrame] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._is_failing = False

    def add(self, key: ShardKey, made_for: tuple[int, int], fingerprint: bytes, frame: bytes) -> SentFrame:
        """Queue one frame."""
        loop = asyncio.get_running_loop()
        if not self._frames:
            self._timer = loop.call_later(self._bounds.wait_s, self._close_group)
        # Futures for each frame: a client that goes away cancels its own, and the others of the group do not notice.
        sent = SentFrame(key, made_for, fingerprint, frame, loop.create_future(), loop.create_future())
        self._frames.append(sent)
        self._bytes += len(frame)
        self.queued_bytes += len(frame)
        if self._bytes >= self._bounds.max_bytes:
            self._close_group()
        return sent

    def _close_group(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        frames, size = self._frames, self._bytes
        self._frames, self._bytes, self._timer = [], 0, None
        task = asyncio.get_running_loop().create_task(self._deliver(frames, size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, frames: list[SentFrame], size: int) -> None:
        # Until the host has answered nothing is known to be counted, also if this task is cancelled.
        places: Sequence[Place | None] = [None] * len(frames)
        try:
            # The wait for a place counts too: whoever waits behind a host that hangs gets an answer in time.
            async with asyncio.timeout(self._call_timeout_s), self._credits:
                # Whose client is gone by now will come again.
                frames = [sent for sent in frames if not sent.is_counted.cancelled()]
                if frames:
                    places = await self._call(frames)
        except Exception as error:  # noqa: BLE001  (whatever it was, the clients are told to send again)
            self._on_failed(f"{type(error).__name__}: {error}"[:300])
        finally:
            self.queued_bytes -= size
            for sent, place in zip(frames, places, strict=False):
                if place is not None:
                    self._keep(sent, place)
                if not sent.is_counted.done():
                    sent.is_counted.set_result(place is not None)

    async def _call(self, frames: list[SentFrame]) -> Sequence[Place | None]:
        self.groups += 1
        heads = tuple(FrameHead(sent.key, sent.made_for, sent.fingerprint, len(sent.frame)) for sent in frames)
        places = await self._calls.send(FrameGroup(heads, b"".join(sent.frame for sent in frames)))
        if self._is_failing:
            self._is_failing = False
            log.info("shard host answers again", host=self.name, failures=self.failures)
        return places

    def _keep(self, sent: SentFrame, place: Place) -> None:
        sent.place = place
        self.retention.keep(sent)
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle_all())

    async def _settle_all(self) -> None:
        """Look at what is journalled until nothing is left to ask for."""
        try:
            while self.retention:
                await asyncio.sleep(self._poll_s)
                try:
                    await self._settle()
                except Exception as error:  # noqa: BLE001  (it is asked again)
                    self._on_failed(f"{type(error).__name__}: {error}"[:300])
        finally:
            self._settling = None

    async def _settle(self) -> None:
        asked = self.retention.keys
        async with asyncio.timeout(self._call_timeout_s):
            durable = await self._calls.durable(asked)
        lost = self.retention.settle(durable, asked)
        if not lost:
            return
        log.warning("shard host lost frames that it had counted, they are sent again", host=self.name, frames=len(lost))
        outcomes = await asyncio.gather(*(self._replay(sent) for sent in lost), return_exceptions=True)
        for sent, outcome in zip(lost, outcomes, strict=True):
            if outcome is True:
                self.replayed += 1
                self.retention.drop(sent)
            else:
                self.retention.put_back(sent)

    def _on_failed(self, problem: str) -> None:
        self.failures += 1
        # Once, not for each of a hundred groups a second; the counter has the rest.
        if not self._is_failing:
            log.warning("calls to shard host fail", host=self.name, error=problem)
        self._is_failing = True
