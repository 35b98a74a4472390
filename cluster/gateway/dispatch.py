"""From a request's bytes to shard hosts that have counted it: split, group, send, answer.

Groups the frames of all tenants for one host into one call, because a call costs the same whatever it carries. Holds no
tenancy policy beyond the tenant's profile, and does not know how the call is made.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import structlog

from cluster.gateway.beside_the_loop import beside_the_loop
from cluster.gateway.host_lane import GroupBounds, HostCalls, HostLane
from cluster.gateway.intake import Accepted
from cluster.gateway.refusal import RefusalReason, Refused
from cluster.gateway.refused_report import RefusedReport
from cluster.gateway.retention import SentFrame
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
from tenants.processing.profile import ProfileBook, TenantProfile
from tenants.settings.in_force import OverridesChange, Put
from tenants.tracing.spans import current, timed

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

MAX_DELAYED_BYTES = 64 << 20
"""Size of all requests whose answers are held back at a tenant's wish: beyond it answers are given at once."""

MAX_QUEUED_BYTES = 64 << 20
"""Bytes of frames that wait or are on their way. Beyond it requests are refused; those being split still come in."""

MAX_RETAINED_BYTES = 256 << 20
"""Default of ``cluster.retained_bytes``."""

_DURABLE_TIMEOUT_S = 30.0
"""Longest a request waits to be journalled, where its tenant wants that."""

_RETRY_AFTER_S = 1.0
_TENANTS_AT_A_TIME = 20
"""Tenants whose settings are resolved before requests have their turn again: 0.1 ms each."""


class Dispatcher:
    """Takes requests for the receivers (:class:`cluster.gateway.intake.Intake`). One event loop owns it.

    A request is answered when every host concerned has counted its frames, or, where the tenant's
    ``ingestion.acknowledge`` is ``durable``, when they are journalled; if one of them cannot be asked, the client is
    told to send all of it again, and the request has cost its tokens nevertheless. What was counted already is known by
    the request's fingerprint.

    State held: what is in flight, frames that no journal holds yet, and the tokens of tenants' rates. Lost with the
    process: what was counted is safe with the hosts, and clients send again what was not answered.

    Args:
        book: the tenants' settings.
        routes: where a shard is.
        hosts: how the shard hosts are called, by name.
        bounds: when a group of frames is complete.
        poll_s: time between two looks at what is journalled.
        clock_ns: the time of day.
        monotonic_ns: a clock that never goes back.
        random: spreads what clients would otherwise do at once.
        gateways: how many gateways share the rates whose strategy is global.
        max_queued_bytes: see :data:`MAX_QUEUED_BYTES`.
        max_delayed_bytes: see :data:`MAX_DELAYED_BYTES`.
        max_retained_bytes: frames that no journal holds yet; beyond it requests are refused.
        is_traced: whether some requests are in traces of Millrace itself.
    """

    def __init__(
        self,
        book: ProfileBook,
        routes: Routes,
        hosts: Mapping[str, HostCalls],
        bounds: GroupBounds,
        clock_ns: Callable[[], int],
        *,
        poll_s: float,
        monotonic_ns: Callable[[], int],
        random: Random,
        gateways: int,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        max_delayed_bytes: int = MAX_DELAYED_BYTES,
        max_retained_bytes: int = MAX_RETAINED_BYTES,
        is_traced: bool = False,
    ) -> None:
        self.book = book
        self._routes = routes
        self._clock_ns = clock_ns
        self._max_queued_bytes = max_queued_bytes
        self._max_retained_bytes = max_retained_bytes
        self._is_traced = is_traced
        self._bounds = bounds
        self._poll_s = poll_s
        self._lanes = {name: self._new_lane(name, calls) for name, calls in hosts.items()}
        self._tally = TenantTally()
        self._refused = RefusedReport(self._report)
        self._monotonic_ns = monotonic_ns
        self._admission = Admission(random, gateways)
        self._delay = ArtificialDelay(random, monotonic_ns, max_bytes=max_delayed_bytes)

    def put_gateways(self, gateways: int) -> None:
        """Share rates whose strategy is global between so many gateways from now on."""
        self._admission.put_gateways(gateways)

    def put_routes(self, routes: Routes, hosts: Mapping[str, HostCalls]) -> None:
        """Send by these routes from now on, unless they are older than those in force.

        A host that is not in them any more is asked for what it has until :meth:`is_done_with` says otherwise.

        Args:
            routes: where a shard is.
            hosts: how the hosts of the routes are called, by name.
        """
        if routes.version < self._routes.version:
            return
        self._routes = routes
        for name, calls in hosts.items():
            if name in self._lanes:
                self._lanes[name].put_calls(calls)
            else:
                self._lanes[name] = self._new_lane(name, calls)
        for name, lane in self._lanes.items():
            lane.is_leaving = name not in routes.shard_hosts

    def is_done_with(self, host: str) -> bool:
        """Whether a host that left has nothing that is not journalled, and nothing is on its way to it."""
        lane = self._lanes.get(host)
        if lane is not None and lane.is_leaving and lane.is_empty:
            del self._lanes[host]
        return host not in self._lanes

    def end_delays(self) -> None:
        """Hold no answer back any more, for the gateway drains."""
        self._delay.end()

    async def settle(self, deadline_s: float) -> bool:
        """Wait until everything that was counted is journalled, at most ``deadline_s`` seconds; whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                # What one host lost another one may have to keep.
                while settling := [task for lane in self._lanes.values() if (task := lane.settling) is not None]:
                    await asyncio.wait(settling)
        return not self._retained_bytes

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
        if self._retained_bytes > self._max_retained_bytes:
            return Refused(RefusalReason.OVERLOADED, "the journal does not keep up", _RETRY_AFTER_S)
        settings = profile.settings
        refused = self._admission.admit(settings, len(body), self._monotonic_ns())
        if refused is None:
            return None
        await self._count_refused(profile, body, refused.reason)
        return _refused(refused)

    async def _count_refused(self, profile: TenantProfile, body: bytes, reason: str) -> None:
        # Blocked tenants have no ledger: nothing is generated for them.
        settings = profile.settings
        spans = await self._refused.add(settings.tenant, body, reason, is_told=settings.is_generating)
        self._tally.count_refused(settings.tenant, reason, spans)

    async def _report(self, tenant: TenantId, fingerprint: bytes, frame: bytes) -> bool:
        settings = self.book.get(tenant).settings
        if not settings.is_generating:
            return True
        key = ShardKey(tenant, 0, settings.shards)
        return await self._lane_of(key).add(key, (key.index, key.count), fingerprint, frame).is_counted

    async def tell_refused(self) -> None:
        """Have the ledgers of all tenants tell of the spans that were refused so far, where a shard can be had."""
        await self._refused.tell()

    async def _dispatch(self, profile: TenantProfile, body: bytes, skip_generation: bool) -> Accepted | Refused:
        tenant, count = profile.settings.tenant, profile.settings.shards
        now_ns = self._clock_ns()
        span = current() if self._is_traced else None

        def split_body() -> _engine.Split:
            return _engine.split(body, profile.plan, count, now_ns, skip_generation=skip_generation)

        try:
            splitting = beside_the_loop(len(body), split_body)
            split = await (splitting if span is None else timed(span.child("split"), splitting))
        except _engine.MalformedRequest as error:
            await self._count_refused(profile, body, RefusalReason.MALFORMED)
            return Refused(RefusalReason.MALFORMED, str(error))
        # Most tenants that have no processor send all the same.
        fingerprint = _engine.fingerprint(body) if split.frames else b""
        keyed = [(ShardKey(tenant, index, count), frame) for index, frame in split.frames]
        sent = [self._lane_of(key).add(key, (key.index, count), fingerprint, frame, span=span) for key, frame in keyed]
        if sent and not all(await asyncio.gather(*(frame.is_counted for frame in sent))):
            return Refused(RefusalReason.UNAVAILABLE, "a shard host is restarting; send it again", _RETRY_AFTER_S)
        if sent and profile.settings.ingestion.acknowledge == "durable" and not await _are_durable(sent):
            return Refused(
                RefusalReason.UNAVAILABLE, "it is counted, but not journalled; send it again", _RETRY_AFTER_S
            )
        self._tally.count(tenant, len(body), split)
        # Asked again: they may have changed while the request was under way.
        settings = self.book.get(tenant).settings
        self._tally.use(settings)
        # Whoever wants no metrics need not be told that there are none.
        has_news = not split.rejected and not skip_generation
        return _answer(split, self._admission.warning(settings, self._monotonic_ns()) if has_news else "")

    def _lane_of(self, key: ShardKey) -> HostLane:
        return self._lanes[self._routes.host_of(key.tenant, key.index)]

    def _new_lane(self, name: str, calls: HostCalls) -> HostLane:
        return HostLane(name, calls, self._bounds, self._replay, self._poll_s, has_moved=self._has_moved)

    def _has_moved(self, sent: SentFrame, host: str) -> bool:
        key = sent.key
        is_here = self._routes.host_of(key.tenant, key.index) == host
        return not is_here or key.count != self.book.get(key.tenant).settings.shards

    async def _replay(self, lost: SentFrame) -> bool:
        """Send a lost frame to whoever has its range now; each takes the rows of its own range."""
        tenant = lost.key.tenant
        made_for = ShardKey(tenant, *lost.made_for)
        count = self.book.get(tenant).settings.shards
        keys = [key for index in range(count) if (key := ShardKey(tenant, index, count)).overlaps(made_for)]
        sent = [
            self._lane_of(key).add(key, lost.made_for, lost.fingerprint, lost.frame, since_s=lost.since_s)
            for key in keys
        ]
        is_counted = all(await asyncio.gather(*(frame.is_counted for frame in sent)))
        if is_counted:
            _when_durable(sent, lost.is_durable)
        return is_counted

    @property
    def _retained_bytes(self) -> int:
        return sum(lane.retention.size_bytes for lane in self._lanes.values())

    @property
    def _queued_bytes(self) -> int:
        return sum(lane.queued_bytes for lane in self._lanes.values())

    @property
    def _unclaimed_bytes(self) -> int:
        # Bounded by each lane: who waits for the journal keeps nobody out.
        return sum(lane.unclaimed_bytes for lane in self._lanes.values())

    def measure(self) -> Measurements:
        """Return the dispatcher's metrics."""
        plans = (self.book.get(tenant).plan for tenant in self._tally.tenants)
        measured: Measurements = [
            ("millrace_dispatch_queued_bytes", (), self._queued_bytes + self._unclaimed_bytes),
            ("millrace_gateway_workspace_bytes", (), sum(plan.workspace_bytes() for plan in plans)),
        ]
        for lane in self._lanes.values():
            measured.append(("millrace_dispatch_groups_total", (lane.name,), lane.groups))
            measured.append(("millrace_dispatch_failures_total", (lane.name,), lane.failures))
            measured.append(("millrace_retained_bytes", (lane.name,), lane.retention.size_bytes))
            measured.append(("millrace_retained_seconds", (lane.name,), lane.retained_s))
            measured.append(("millrace_replayed_frames_total", (lane.name,), lane.replayed))
        return measured + self._tally.measure()


async def _are_durable(sent: Sequence[SentFrame]) -> bool:
    # Shielded by wait: a request that gives up must not take the futures along.
    _, pending = await asyncio.wait([frame.is_durable for frame in sent], timeout=_DURABLE_TIMEOUT_S)
    return not pending


def _when_durable(sent: Sequence[SentFrame], is_durable: asyncio.Future[None]) -> None:
    """Set ``is_durable`` when all of these are."""

    def settle(_: object) -> None:
        if not is_durable.done():
            is_durable.set_result(None)

    asyncio.gather(*(frame.is_durable for frame in sent)).add_done_callback(settle)


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
