"""From a request's bytes to shard hosts that have counted it: split, group, send, answer.

Groups the frames of all tenants for one host into one call, because a call costs the same whatever it carries. Holds no
tenancy policy beyond the tenant's profile, and does not know how the call is made.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from cluster.gateway.intake import Accepted
from cluster.gateway.refusal import RefusalReason, Refused
from cluster.measurements import Measurements, per_tenant
from cluster.placement import Routes
from tenants import _engine
from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import FrameGroup

Send = Callable[[FrameGroup], Awaitable[None]]
"""Carry a group to a host; returns when it is counted, raises if that is not known."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_CALLS_IN_FLIGHT = 3
_MAX_QUEUED_BYTES = 64 << 20
_CALL_TIMEOUT_S = 20.0
_RETRY_AFTER_S = 1.0
_SPLIT_IN_THREAD_BYTES = 1 << 20
_MAX_COUNTED_TENANTS = 20_000
_OTHER_TENANTS = "__other__"


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """When a group is complete.

    Attributes:
        max_bytes: it is sent when it holds this many.
        wait_s: it is sent when its first frame has waited this long.
    """

    max_bytes: int
    wait_s: float


class HostLane:
    """The way to one shard host: frames wait for company, a few groups are in flight. One event loop owns it."""

    def __init__(self, name: str, send: Send, bounds: GroupBounds) -> None:
        self.name = name
        self.queued_bytes = 0
        self.groups = 0
        self.failures = 0
        self._send = send
        self._bounds = bounds
        self._credits = asyncio.Semaphore(_CALLS_IN_FLIGHT)
        self._frames: list[tuple[ShardKey, bytes]] = []
        self._bytes = 0
        self._sent: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, key: ShardKey, frame: bytes) -> asyncio.Future[bool]:
        """Queue one frame; the future tells whether the host has counted it."""
        loop = asyncio.get_running_loop()
        if self._sent is None:
            self._sent = loop.create_future()
            self._timer = loop.call_later(self._bounds.wait_s, self._close_group)
        sent = self._sent
        self._frames.append((key, frame))
        self._bytes += len(frame)
        self.queued_bytes += len(frame)
        if self._bytes >= self._bounds.max_bytes:
            self._close_group()
        return sent

    def _close_group(self) -> None:
        sent, frames, size = self._sent, self._frames, self._bytes
        if self._timer is not None:
            self._timer.cancel()
        self._sent, self._frames, self._bytes, self._timer = None, [], 0, None
        if sent is not None:
            task = asyncio.get_running_loop().create_task(self._deliver(frames, size, sent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, frames: list[tuple[ShardKey, bytes]], size: int, sent: asyncio.Future[bool]) -> None:
        group = FrameGroup(tuple((key, len(frame)) for key, frame in frames), b"".join(frame for _, frame in frames))
        is_counted = False
        try:
            async with self._credits:
                self.groups += 1
                await asyncio.wait_for(self._send(group), _CALL_TIMEOUT_S)
                is_counted = True
        except Exception as error:  # noqa: BLE001  (whatever it was, the clients are told to send again)
            self.failures += 1
            log.warning("call to shard host failed", host=self.name, error=f"{type(error).__name__}: {error}"[:300])
        finally:
            self.queued_bytes -= size
            if not sent.done():
                sent.set_result(is_counted)


class Dispatcher:
    """Takes requests for the receivers (:class:`cluster.gateway.intake.Intake`). One event loop owns it.

    Holds only what is in flight. A request is answered when every host concerned has counted its frames; if one of
    them cannot be asked, the client is told to send all of it again.
    """

    def __init__(self, book: ProfileBook, routes: Routes, sends: Mapping[str, Send], bounds: GroupBounds) -> None:
        self.book = book
        self._routes = routes
        self._lanes = {name: HostLane(name, send, bounds) for name, send in sends.items()}
        self._spans: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._discarded: Counter[tuple[str, str]] = Counter()

    async def submit(self, tenant: TenantId, body: bytes) -> Accepted | Refused:
        """Split the request, hand its frames over, and answer."""
        profile = self.book.get(tenant)
        count = profile.settings.shards
        if self._queued_bytes > _MAX_QUEUED_BYTES:
            return Refused(RefusalReason.OVERLOADED, "the shard hosts do not keep up", _RETRY_AFTER_S)
        try:
            if len(body) > _SPLIT_IN_THREAD_BYTES:
                split = await asyncio.to_thread(_engine.split, body, profile.plan, count, time.time_ns())
            else:
                split = _engine.split(body, profile.plan, count, time.time_ns())
        except _engine.MalformedRequest as error:
            return Refused(RefusalReason.MALFORMED, str(error))
        outcomes = [
            self._lanes[self._routes.host_of(tenant, index)].add(ShardKey(tenant, index, count), frame)
            for index, frame in split.frames
        ]
        if outcomes and not all(await asyncio.gather(*outcomes)):
            return Refused(RefusalReason.UNAVAILABLE, "a shard host is restarting; send it again", _RETRY_AFTER_S)
        self._count(str(tenant), body, split)
        return _answer(split)

    @property
    def _queued_bytes(self) -> int:
        return sum(lane.queued_bytes for lane in self._lanes.values())

    def _count(self, tenant: str, body: bytes, split: _engine.Split) -> None:
        """Count what was accepted (tenancy D-18). Tenants beyond the bound are counted together."""
        if tenant not in self._bytes and len(self._bytes) >= _MAX_COUNTED_TENANTS:
            tenant = _OTHER_TENANTS
        self._bytes[tenant] += len(body)
        self._spans[tenant] += split.received_spans
        for reason, spans in (split.rejected | split.discarded).items():
            self._discarded[tenant, reason] += spans

    def measure(self) -> Measurements:
        """Return the dispatcher's metrics."""
        measured: Measurements = [("millrace_dispatch_queued_bytes", (), self._queued_bytes)]
        for lane in self._lanes.values():
            measured.append(("millrace_dispatch_groups_total", (lane.name,), lane.groups))
            measured.append(("millrace_dispatch_failures_total", (lane.name,), lane.failures))
        measured += per_tenant("millrace_requests_received_bytes_total", self._bytes.items())
        measured += per_tenant("millrace_spans_received_total", self._spans.items())
        for (tenant, reason), spans in self._discarded.items():
            stage = "span_metrics" if reason == "invalid_utf8" else "gateway"
            measured.append(("millrace_spans_discarded_total", (tenant, stage, reason), spans))
        return measured


def _answer(split: _engine.Split) -> Accepted:
    rejected = split.rejected
    if not rejected:
        return Accepted()
    reasons = ", ".join(f"{spans} {reason}" for reason, spans in rejected.items())
    return Accepted(
        sum(rejected.values()), f"spans without a valid id: {reasons}; ids are 16 and 8 bytes, not all zero"
    )
