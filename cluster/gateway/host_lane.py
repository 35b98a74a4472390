"""The way from a gateway to one shard host: frames wait for company, travel, and are kept until they are journalled."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from cluster.gateway.retention import Retention, SentFrame
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tenants.tracing.spans import Attributes, Span

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_CALLS_IN_FLIGHT = 3
_CALL_TIMEOUT_S = 20.0
_MAX_UNCLAIMED_BYTES = 8 << 20
"""While frames of so many bytes wait for the host to claim their shards, no further ones do. More than comes in the
time of a claim, and little beside what all tenants may have waiting."""


@dataclass(frozen=True, slots=True)
class HostCalls:
    """How a shard host is called.

    Attributes:
        send: carry a group to the host; returns, for each frame, the flush record that will hold it, None if it could
            not be counted; raises if nothing is known.
        durable: ask for the last journalled record of each of these shards that the host has.
        adopt: have the host claim those of these shards that it does not have; returns those that it has then.
    """

    send: Callable[[FrameGroup], Awaitable[Sequence[Place | None]]]
    durable: Callable[[Collection[ShardKey]], Awaitable[Mapping[ShardKey, Place]]]
    adopt: Callable[[Collection[ShardKey]], Awaitable[Collection[ShardKey]]]


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

HasMoved = Callable[[SentFrame, str], bool]
"""Whether a frame would be sent elsewhere now than to this host, or as one of another shard."""


class HostLane:
    """Frames wait for company, a few groups are in flight, and what the host counted is kept until it is journalled.

    Frames whose shard the host has not claimed yet wait beside the others, and are sent once more when it has.

    One event loop owns it.

    Args:
        name: of the host.
        calls: how it is called.
        bounds: when a group is complete.
        replay: what becomes of a frame that the host lost.
        poll_s: time between two looks at what is journalled.
        has_moved: says which of the frames that were not counted are sent again at once.
        call_timeout_s: longest a group waits for an answer.

    Attributes:
        unclaimed_bytes: of frames that wait for the host to claim their shards.
        is_leaving: whether the host is to end. If it does not answer then, all that it has is sent elsewhere.
    """

    def __init__(
        self,
        name: str,
        calls: HostCalls,
        bounds: GroupBounds,
        replay: Replay,
        poll_s: float,
        *,
        has_moved: HasMoved,
        call_timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.queued_bytes = 0
        self.unclaimed_bytes = 0
        self.groups = 0
        self.failures = 0
        self.replayed = 0
        self.is_leaving = False
        self.retention = Retention()
        self._calls = calls
        self._bounds = bounds
        self._replay = replay
        self._has_moved = has_moved
        self._poll_s = poll_s
        self._call_timeout_s = call_timeout_s
        self._credits = asyncio.Semaphore(_CALLS_IN_FLIGHT)
        self._frames: list[SentFrame] = []
        # Of requests in the group that is being filled.
        self._spans: list[Span] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._is_failing = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way or retained, lost frames that are being sent again included."""
        return not (self._frames or self._tasks or self.retention or self.retention.size_bytes)

    def put_calls(self, calls: HostCalls) -> None:
        """Call the host like this from now on: it may be another process of the same name."""
        self._calls = calls

    def add(
        self,
        key: ShardKey,
        made_for: tuple[int, int],
        fingerprint: bytes,
        frame: bytes,
        *,
        since_s: float | None = None,
        span: Span | None = None,
    ) -> SentFrame:
        """Queue one frame.

        Args:
            key: the shard that is to count it.
            made_for: index and count of the range that the request was split for.
            fingerprint: of the request.
            frame: its bytes.
            since_s: when its request came, if not just now.
            span: of the request, if it is traced.
        """
        loop = asyncio.get_running_loop()
        if not self._frames:
            self._timer = loop.call_later(self._bounds.wait_s, self._close_group)
        # Futures for each frame: a client that goes away cancels its own, and the others of the group do not notice.
        since_s = loop.time() if since_s is None else since_s
        sent = SentFrame(key, made_for, fingerprint, frame, loop.create_future(), loop.create_future(), since_s)
        self._frames.append(sent)
        if span is not None and span not in self._spans:
            self._spans.append(span)
        self._bytes += len(frame)
        self.queued_bytes += len(frame)
        if self._bytes >= self._bounds.max_bytes:
            self._close_group()
        return sent

    @property
    def retained_s(self) -> float:
        """How long the oldest request that is retained waits for the journal; 0 if none is."""
        since_s = self.retention.since_s
        return 0.0 if since_s is None else asyncio.get_running_loop().time() - since_s

    @property
    def settling(self) -> asyncio.Task[None] | None:
        """Runs as long as something is retained."""
        return self._settling

    def _close_group(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        frames, spans, size = self._frames, self._spans, self._bytes
        self._frames, self._spans, self._bytes, self._timer = [], [], 0, None
        self._begin(self._deliver(frames, spans, size))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(
        self, frames: list[SentFrame], spans: list[Span], size: int, *, is_first_time: bool = True
    ) -> None:
        # Until the host has answered nothing is known to be counted, also if this task is cancelled.
        places: Sequence[Place | None] = [None] * len(frames)
        unclaimed: list[SentFrame] = []
        may_wait = False
        try:
            # The wait for a place counts too: whoever waits behind a host that hangs gets an answer in time.
            async with asyncio.timeout(self._call_timeout_s), self._credits:
                # Whose client is gone by now will come again.
                frames = [sent for sent in frames if not sent.is_counted.cancelled()]
                if frames:
                    places = await self._call(frames, spans)
                may_wait = is_first_time and self.unclaimed_bytes <= _MAX_UNCLAIMED_BYTES
        except Exception as error:  # noqa: BLE001  (whatever it was, the clients are told to send again)
            self._on_failed(f"{type(error).__name__}: {error}"[:300])
        finally:
            self.queued_bytes -= size
            for sent, place in zip(frames, places, strict=False):
                if place is not None:
                    self._keep(sent, place)
                if sent.is_counted.done():
                    continue
                if place is None and self._has_moved(sent, self.name):
                    self._begin(self._send_elsewhere(sent))
                elif place is None and may_wait:
                    unclaimed.append(sent)
                else:
                    sent.is_counted.set_result(place is not None)
            if unclaimed:
                self._begin(self._send_when_claimed(unclaimed))

    async def _send_when_claimed(self, frames: list[SentFrame]) -> None:
        """Have the host claim what it lacks, and send it once more what it did not count of that."""
        size = sum(len(sent.frame) for sent in frames)
        claimed: Collection[ShardKey] = ()
        self.unclaimed_bytes += size
        try:
            async with asyncio.timeout(self._call_timeout_s):
                claimed = await self._calls.adopt(frozenset(sent.key for sent in frames))
        except Exception as error:  # noqa: BLE001  (as with every call)
            self._on_failed(f"{type(error).__name__}: {error}"[:300])
        finally:
            self.unclaimed_bytes -= size
            for sent in frames:
                if sent.key not in claimed and not sent.is_counted.done():
                    sent.is_counted.set_result(False)
        if again := [sent for sent in frames if sent.key in claimed]:
            size = sum(len(sent.frame) for sent in again)
            self.queued_bytes += size
            await self._deliver(again, [], size, is_first_time=False)

    async def _send_elsewhere(self, sent: SentFrame) -> None:
        """Send again what came too late here. Ends: only if it moves once more meanwhile, it is sent once more."""
        is_counted = False
        try:
            is_counted = await self._replay(sent)
        finally:
            if not sent.is_counted.done():
                sent.is_counted.set_result(is_counted)

    async def _call(self, frames: list[SentFrame], spans: list[Span]) -> Sequence[Place | None]:
        self.groups += 1
        heads = tuple(FrameHead(sent.key, sent.made_for, sent.fingerprint, len(sent.frame)) for sent in frames)
        group = FrameGroup(heads, b"".join(sent.frame for sent in frames))
        places = await (self._traced_send(group, spans) if spans else self._calls.send(group))
        if self._is_failing:
            self._is_failing = False
            log.info("shard host answers again", host=self.name, failures=self.failures)
        return places

    async def _traced_send(self, group: FrameGroup, spans: list[Span]) -> Sequence[Place | None]:
        """Send a group; its host goes on with the trace of the first of these requests."""
        said: Attributes = {
            "millrace.host": self.name,
            "millrace.frames": len(group.heads),
            "millrace.bytes": len(group.payload),
        }
        calls = [span.child("send frames", said, kind="client") for span in spans]
        try:
            return await self._calls.send(replace(group, traceparent=calls[0].traceparent))
        except BaseException as error:
            for call in calls:
                call.fail(type(error).__name__)
            raise
        finally:
            for call in calls:
                call.end()

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
        durable = await self._durable(asked)
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

    async def _durable(self, asked: tuple[ShardKey, ...]) -> Mapping[ShardKey, Place]:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await self._calls.durable(asked)
        except Exception as error:
            if not self.is_leaving:
                raise
            # It may not come back. Whoever has its ranges knows what is journalled, and counts the rest.
            self._on_failed(f"{type(error).__name__}: {error}"[:300])
            return {}

    def _on_failed(self, problem: str) -> None:
        self.failures += 1
        # Once, not for each of a hundred groups a second; the counter has the rest.
        if not self._is_failing:
            log.warning("calls to shard host fail", host=self.name, error=problem)
        self._is_failing = True
