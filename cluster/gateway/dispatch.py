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
from tenants.limits.admission import Admission, AdmissionRefused
from tenants.limits.delay import ArtificialDelay
from tenants.limits.rate import Random
from tenants.processing.flush_record import ShardKey
from tenants.processing.long_lived import keep_what_is_there
from tenants.processing.profile import ProfileBook, Put, TenantProfile
from tenants.processing.shard_set import FrameGroup
from tenants.settings.in_force import OverridesChange

Send = Callable[[FrameGroup], Awaitable[Collection[int]]]
"""Carry a group to a host; returns when it is counted, with the positions of the frames that could not be; raises if
that is not known."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

MAX_DELAYED_BYTES = 64 << 20
"""Size of all requests whose answers are held back at a tenant's wish: beyond it answers are given at once."""

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

    Holds only what is in flight, and the tokens of tenants' rates. A request is answered when every host concerned has
    counted its frames; if one of them cannot be asked, the client is told to send all of it again, and the request has
    cost its tokens nevertheless.

    Args:
        book: the tenants' settings.
        routes: where a shard is.
        sends: the ways to the shard hosts, by name.
        bounds: when a group of frames is complete.
        clock_ns: the time of day.
        monotonic_ns: a clock that never goes back.
        random: spreads what clients would otherwise do at once.
        gateways: how many gateways share the rates whose strategy is global.
        max_queued_bytes: see :data:`MAX_QUEUED_BYTES`.
        max_delayed_bytes: see :data:`MAX_DELAYED_BYTES`.
    """

    def __init__(
        self,
        book: ProfileBook,
        routes: Routes,
        sends: Mapping[str, Send],
        bounds: GroupBounds,
        clock_ns: Callable[[], int],
        *,
        monotonic_ns: Callable[[], int],
        random: Random,
        gateways: int,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        max_delayed_bytes: int = MAX_DELAYED_BYTES,
    ) -> None:
        self.book = book
        self._routes = routes
        self._clock_ns = clock_ns
        self._max_queued_bytes = max_queued_bytes
        self._lanes = {name: HostLane(name, send, bounds) for name, send in sends.items()}
        self._tally = TenantTally()
        self._monotonic_ns = monotonic_ns
        self._admission = Admission(random, gateways)
        self._delay = ArtificialDelay(random, monotonic_ns, max_bytes=max_delayed_bytes)

    def put_gateways(self, gateways: int) -> None:
        """Share rates whose strategy is global between so many gateways from now on."""
        self._admission.put_gateways(gateways)

    def end_delays(self) -> None:
        """Hold no answer back any more, for the gateway drains."""
        self._delay.end()

    async def put_overrides(self, change: OverridesChange) -> bool:
        """Put newer overrides in force for the next requests, and show them in the metrics of those who sent before.

        Not left to the next request: who sends nothing any more would be shown for ever as what it was.

        Returns:
            False if the version that they change is not here.
        """
        put = self.book.put_overrides(change)
        if put is not Put.NEW:
            return put is Put.OLD
        changed = change.tenants
        tenants = [tenant for tenant in self._tally.tenants if changed is None or str(tenant) in changed]
        for count, tenant in enumerate(tenants, start=1):
            try:
                self._tally.use(self.book.get(tenant).settings)
            except Exception:
                log.exception("settings could not be put in force", tenant=str(tenant))
            if count % _TENANTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        for tenant in self.book.faults.keys() & set(tenants):
            self._tally.count_update_failure(tenant)
        keep_what_is_there()
        return True

    async def submit(self, tenant: TenantId, body: bytes, *, skip_generation: bool = False) -> Accepted | Refused:
        """Let the request in, split it, hand its frames over, and answer; no sooner than the tenant's settings say."""
        began_ns = self._monotonic_ns()
        profile = self.book.get(tenant)
        if self._tally.count_ingress(tenant, len(body)) and tenant in self.book.faults:
            self._tally.count_update_failure(tenant)
        answer = await self._admit(profile, body) or await self._dispatch(profile, body, skip_generation)
        if (delay := profile.settings.ingestion.artificial_delay).ns:
            added_s = await self._delay.pad(delay, began_ns, len(body))
            self._tally.count_added_latency(tenant, added_s)
        return answer

    async def _admit(self, profile: TenantProfile, body: bytes) -> Refused | None:
        """Refuse what must not come in. What is refused for the hosts' sake costs the tenant no tokens."""
        if self._queued_bytes > self._max_queued_bytes:
            return Refused(RefusalReason.OVERLOADED, "the shard hosts do not keep up", _RETRY_AFTER_S)
        settings = profile.settings
        refused = self._admission.admit(settings, len(body), self._monotonic_ns())
        if refused is None:
            return None
        self._tally.count_refused(settings.tenant, refused.reason, await _spans(body))
        return _refused(refused)

    async def _dispatch(self, profile: TenantProfile, body: bytes, skip_generation: bool) -> Accepted | Refused:
        tenant, count = profile.settings.tenant, profile.settings.shards
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
        self._tally.count(tenant, len(body), split)
        # Asked again: they may have changed while the request was under way.
        settings = self.book.get(tenant).settings
        self._tally.use(settings)
        # Whoever wants no metrics need not be told that there are none.
        has_news = not split.rejected and not skip_generation
        return _answer(split, self._admission.warning(settings, self._monotonic_ns()) if has_news else "")

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


async def _spans(body: bytes) -> int:
    if len(body) > _SPLIT_IN_THREAD_BYTES:
        return await asyncio.to_thread(_engine.count_spans, body)
    return _engine.count_spans(body)


def _refused(refused: AdmissionRefused) -> Refused:
    return Refused(RefusalReason(refused.reason), refused.message, refused.retry_after_s)


def _answer(split: _engine.Split, warning: str) -> Accepted:
    rejected = split.rejected
    if not rejected:
        return Accepted(message=warning)
    reasons = ", ".join(f"{spans} {reason}" for reason, spans in rejected.items())
    return Accepted(
        sum(rejected.values()), f"spans without a valid id: {reasons}; ids are 16 and 8 bytes, not all zero"
    )
