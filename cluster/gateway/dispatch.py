"""From a request's bytes to shard hosts that have counted it: split, group, send, answer.

Groups the frames of all tenants for one host into one call, because a call costs the same whatever it carries. Holds no
tenancy policy beyond the tenant's profile, and does not know how the call is made.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from cluster.gateway.intake import Accepted
from cluster.gateway.refusal import RefusalReason, Refused
from cluster.gateway.tenant_tally import TenantTally
from cluster.measurements import Measurements
from cluster.placement import Routes
from tenants import _engine
from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import FrameGroup
from tenants.settings.overrides import RuntimeOverrides

Send = Callable[[FrameGroup], Awaitable[Collection[int]]]
"""Carry a group to a host; returns when it is counted, with the positions of the frames that could not be; raises if
that is not known."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

MAX_QUEUED_BYTES = 64 << 20
"""Bytes of frames that wait or are on their way. Beyond it requests are refused; those being split still come in."""

_CALLS_IN_FLIGHT = 3
_CALL_TIMEOUT_S = 20.0
_RETRY_AFTER_S = 1.0
_SPLIT_IN_THREAD_BYTES = 1 << 20
_TENANTS_AT_A_TIME = 20
"""Tenants whose settings are resolved before requests have their turn again: 0.1 ms each."""


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """When a group is complete.

    Attributes:
        max_bytes: it is sent when it holds this many.
        wait_s: it is sent when its first frame has waited this long.
    """

    max_bytes: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    key: ShardKey
    frame: bytes
    is_counted: asyncio.Future[bool]


class HostLane:
    """The way to one shard host: frames wait for company, a few groups are in flight. One event loop owns it."""

    def __init__(self, name: str, send: Send, bounds: GroupBounds, *, call_timeout_s: float = _CALL_TIMEOUT_S) -> None:
        self.name = name
        self.queued_bytes = 0
        self.groups = 0
        self.failures = 0
        self._send = send
        self._bounds = bounds
        self._call_timeout_s = call_timeout_s
        self._credits = asyncio.Semaphore(_CALLS_IN_FLIGHT)
        self._frames: list[_Waiting] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_failing = False

    def add(self, key: ShardKey, frame: bytes) -> asyncio.Future[bool]:
        """Queue one frame; the future tells whether the host has counted it. Cancelling it stops nothing."""
        loop = asyncio.get_running_loop()
        if not self._frames:
            self._timer = loop.call_later(self._bounds.wait_s, self._close_group)
        # One for each frame: a client that goes away cancels its own, and the others of the group do not notice.
        is_counted = loop.create_future()
        self._frames.append(_Waiting(key, frame, is_counted))
        self._bytes += len(frame)
        self.queued_bytes += len(frame)
        if self._bytes >= self._bounds.max_bytes:
            self._close_group()
        return is_counted

    def _close_group(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        frames, size = self._frames, self._bytes
        self._frames, self._bytes, self._timer = [], 0, None
        task = asyncio.get_running_loop().create_task(self._deliver(frames, size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, frames: list[_Waiting], size: int) -> None:
        # Until the host has answered nothing is known to be counted, also if this task is cancelled.
        uncounted: Collection[int] = range(len(frames))
        try:
            # The wait for a place counts too: whoever waits behind a host that hangs gets an answer in time.
            async with asyncio.timeout(self._call_timeout_s), self._credits:
                # Whose client is gone by now will come again.
                frames = [waiting for waiting in frames if not waiting.is_counted.cancelled()]
                if frames:
                    uncounted = await self._call(frames)
        except Exception as error:  # noqa: BLE001  (whatever it was, the clients are told to send again)
            self._on_failed(f"{type(error).__name__}: {error}"[:300])
        finally:
            self.queued_bytes -= size
            for position, waiting in enumerate(frames):
                if not waiting.is_counted.done():
                    waiting.is_counted.set_result(position not in uncounted)

    async def _call(self, frames: list[_Waiting]) -> Collection[int]:
        self.groups += 1
        shards = tuple((waiting.key, len(waiting.frame)) for waiting in frames)
        uncounted = await self._send(FrameGroup(shards, b"".join(waiting.frame for waiting in frames)))
        if self._is_failing:
            self._is_failing = False
            log.info("shard host answers again", host=self.name, failures=self.failures)
        return uncounted

    def _on_failed(self, problem: str) -> None:
        self.failures += 1
        # Once, not for each of a hundred groups a second; the counter has the rest.
        if not self._is_failing:
            log.warning("calls to shard host fail", host=self.name, error=problem)
        self._is_failing = True


class Dispatcher:
    """Takes requests for the receivers (:class:`cluster.gateway.intake.Intake`). One event loop owns it.

    Holds only what is in flight. A request is answered when every host concerned has counted its frames; if one of
    them cannot be asked, the client is told to send all of it again.
    """

    def __init__(
        self,
        book: ProfileBook,
        routes: Routes,
        sends: Mapping[str, Send],
        bounds: GroupBounds,
        clock_ns: Callable[[], int],
        *,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self.book = book
        self._routes = routes
        self._clock_ns = clock_ns
        self._max_queued_bytes = max_queued_bytes
        self._lanes = {name: HostLane(name, send, bounds) for name, send in sends.items()}
        self._tally = TenantTally()

    async def put_overrides(self, version: int, runtime: RuntimeOverrides) -> None:
        """Put newer overrides in force for the next requests, and show them in the metrics of those who sent before.

        Not left to the next request: who sends nothing any more would be shown for ever as what it was.
        """
        if not self.book.put_overrides(version, runtime):
            return
        tenants = self._tally.tenants
        for count, tenant in enumerate(tenants, start=1):
            try:
                self._tally.use(self.book.get(tenant).settings)
            except Exception:
                log.exception("settings could not be put in force", tenant=str(tenant))
            if count % _TENANTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        for tenant in self.book.faults.keys() & set(tenants):
            self._tally.count_update_failure(tenant)

    async def submit(self, tenant: TenantId, body: bytes, *, skip_generation: bool = False) -> Accepted | Refused:
        """Split the request, hand its frames over, and answer."""
        profile = self.book.get(tenant)
        count = profile.settings.shards
        if self._queued_bytes > self._max_queued_bytes:
            return Refused(RefusalReason.OVERLOADED, "the shard hosts do not keep up", _RETRY_AFTER_S)
        arguments = (body, profile.plan, count, self._clock_ns())
        try:
            if len(body) > _SPLIT_IN_THREAD_BYTES:
                split = await asyncio.to_thread(_engine.split, *arguments, skip_generation=skip_generation)
            else:
                split = _engine.split(*arguments, skip_generation=skip_generation)
        except _engine.MalformedRequest as error:
            return Refused(RefusalReason.MALFORMED, str(error))
        outcomes = [
            self._lanes[self._routes.host_of(tenant, index)].add(ShardKey(tenant, index, count), frame)
            for index, frame in split.frames
        ]
        if outcomes and not all(await asyncio.gather(*outcomes)):
            return Refused(RefusalReason.UNAVAILABLE, "a shard host is restarting; send it again", _RETRY_AFTER_S)
        self._count(tenant, len(body), split)
        return _answer(split)

    def _count(self, tenant: TenantId, body_bytes: int, split: _engine.Split) -> None:
        is_new = self._tally.count(tenant, body_bytes, split)
        # Asked again: they may have changed while the request was under way.
        self._tally.use(self.book.get(tenant).settings)
        if is_new and tenant in self.book.faults:
            self._tally.count_update_failure(tenant)

    @property
    def _queued_bytes(self) -> int:
        return sum(lane.queued_bytes for lane in self._lanes.values())

    def measure(self) -> Measurements:
        """Return the dispatcher's metrics."""
        plans = (self.book.get(tenant).plan for tenant in self._tally.tenants)
        measured: Measurements = [
            ("millrace_dispatch_queued_bytes", (), self._queued_bytes),
            ("millrace_gateway_workspace_bytes", (), sum(plan.workspace_bytes() for plan in plans)),
        ]
        for lane in self._lanes.values():
            measured.append(("millrace_dispatch_groups_total", (lane.name,), lane.groups))
            measured.append(("millrace_dispatch_failures_total", (lane.name,), lane.failures))
        return measured + self._tally.measure()


def _answer(split: _engine.Split) -> Accepted:
    rejected = split.rejected
    if not rejected:
        return Accepted()
    reasons = ", ".join(f"{spans} {reason}" for reason, spans in rejected.items())
    return Accepted(
        sum(rejected.values()), f"spans without a valid id: {reasons}; ids are 16 and 8 bytes, not all zero"
    )
