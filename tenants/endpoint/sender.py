"""Sends the batches of one tenant to one endpoint: each lane's in order, one at a time. Never looks into a batch."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final

from tenants.endpoint.batch import Batch
from tenants.endpoint.cancelling import cancel
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters, EndpointState
from tenants.endpoint.division import cut
from tenants.endpoint.encoding import Encoding
from tenants.endpoint.endpoint_access import EndpointAccess, Granted
from tenants.endpoint.endpoint_backlog import EndpointBacklog
from tenants.endpoint.errors import SecretUnavailableError
from tenants.endpoint.exchange import Outcome, Verdict
from tenants.endpoint.negotiation import Negotiation
from tenants.endpoint.pace import PAUSES, Pace
from tenants.endpoint.queue import BatchQueue, Lane, Waiting
from tenants.endpoint.size_limit import SizeLimit
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.suspicion import Step, Suspicion
from tenants.endpoint.tally import Tally
from tenants.store.errors import StoreError, StoreUnavailable
from tenants.tracing.spans import TENANT, Attributes, Span, within

_AHEAD_BYTES: Final = 1 << 20
"""Of a lane's bodies, read from disk at once."""
_AHEAD: Final = 50

_CLOSE_S: Final = 5.0
"""Longest that closing waits for the disk."""

_MIN_RESTART_S: Final = 30.0
_MAX_RESTART_S: Final = 600.0
"""Pauses after a bug: what has hit it may be gone by then, or be dropped for its age."""

_TOO_LARGE: Final = 413
_MAYBE_POISON: Final = 500


class EndpointSender:
    """One queue in lanes, one back-off.

    Order: a series is always in the same lane. There a batch is settled for good before the next one is sent, so the
    samples of a series arrive in the order of their timestamps, and a batch sent again is still the newest of its
    series (remote-write §1.5, §2.5 point 7). Where a batch was on disk, it is also gone from there before its lane goes
    on to another collection: who comes after this process never sends what is not the newest. For the same reason a
    batch that follows others of its collection is on disk before it is sent and until the next collection, and they
    are not: of a collection that is on disk nothing else is sent again.

    What becomes of a batch (remote-write §1.6): what the receiver refuses (400 and others) is dropped and counted.
    What is too large (413) is halved, down to one series if need be, and those that follow are cut to what was taken
    (:mod:`tenants.endpoint.size_limit`). Where it does not let us in (401, 403) or there is nobody
    (404) the endpoint pauses, and is asked once a minute, or as soon as its settings change. What fails otherwise is
    sent again, alone, after growing pauses that all lanes share; those go on together when one succeeds. A batch that
    is answered 500 for ever, when others are taken, is divided until what is wrong is found
    (:mod:`tenants.endpoint.suspicion`). Whatever is older than ``max_sample_age_s`` is dropped.

    State held: what waits, at most ``max_queue_bytes`` and a batch on its way for each lane. What :meth:`spill` has put
    on disk outlives the process, and is not in memory; what is in memory is lost with it, and encoded again from the
    journal.

    Every method must be called from the event loop that :meth:`start` was called in.

    Attributes:
        ended: set when it is closed, and has nothing to do with the disk any more.
    """

    def __init__(
        self, tenant: str, config: EndpointConfig, around: Surroundings, backlog: EndpointBacklog | None = None
    ) -> None:
        """Prepare to send.

        Args:
            tenant: for logs and traces.
            config: the endpoint.
            around: what is needed from outside.
            backlog: the disk; None: what waits is in memory only.
        """
        self._tenant = tenant
        self._config = config
        self._around = around
        self._backlog = backlog
        self._access = EndpointAccess(config, around)
        self._negotiation = Negotiation(config.protobuf_message)
        self._queue = BatchQueue(config.max_queue_bytes)
        self._suspicion = Suspicion()
        self._size_limit = SizeLimit()
        self._tally = Tally(tenant, config, around.clock)
        self._pace = Pace(config, around, self._tally.log)
        self._restored_ms: frozenset[int] = frozenset()
        self._unwanted_rows: list[int] = []
        # Settled, and on disk until the next collection: they say that what they follow is not to be sent again.
        self._decisive_rows: dict[int, int] = {}
        self._spilling: asyncio.Task[None] | None = None
        self._disk = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()  # nothing waits, nothing is in flight
        self._settled.set()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._has_left = False
        self.ended = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called: what is submitted is not sent any more."""
        return self._is_closed

    @property
    def config(self) -> EndpointConfig:
        """The settings in force."""
        return self._config

    @property
    def encoding(self) -> Encoding:
        """What batches for the endpoint should be."""
        return Encoding(self._config.relabel, self._negotiation.message(self._around.clock.now_ms()))

    def start(self, after: Sequence[asyncio.Event] = ()) -> None:
        """Begin to send, once all these events are set. Does not wait; call once."""
        self._task = asyncio.get_running_loop().create_task(self._live(after), name=f"send to {self._config.label}")

    def restore(self, stored: Sequence[Waiting]) -> None:
        """Go on with what is on disk; call before anything else.

        What is submitted later of the same collections is not sent: it would be the same.
        """
        self._tally.submitted(sum(waiting.batch.samples for waiting in stored))
        self._restored_ms = frozenset(waiting.batch.timestamp_ms for waiting in stored)
        self._drop(self._queue.restore(stored))
        self._announce()

    def submit(self, batches: Iterable[Batch]) -> None:
        """Queue batches for sending, in this order. Never blocks.

        At the bound of the queue the oldest batches are dropped and counted. After :meth:`close` everything
        is counted as failed with the reason ``closed``.
        """
        for batch in batches:
            if batch.timestamp_ms in self._restored_ms:
                continue
            self._tally.submitted(batch.samples)
            if self._is_closed:
                self._tally.failed("closed", batch.samples)
                continue
            self._drop(self._queue.push(batch))
        self._drop_old()
        self._announce()
        if self._backlog is not None and self._queue.loaded_bytes > self._config.max_memory_bytes:
            self._spill_soon()

    def reconfigure(self, config: EndpointConfig) -> None:
        """Go on with other settings, from the next request on; what waits stays, as far as it still fits."""
        if config == self._config:
            return
        self._config = config
        self._access.reconfigure(config)
        self._negotiation.pinned = config.protobuf_message
        self._tally.use(config)
        self._pace.use(config, self._tally.log)
        self._drop(self._queue.set_max_bytes(config.max_queue_bytes))

    async def spill(self) -> None:
        """Put everything on disk that is not settled, at once; returns when it is there.

        Where the disk does not take it, it stays in memory, and the oldest beyond ``max_memory_bytes`` is dropped.
        """
        if self._backlog is None:
            return
        # One at a time: what the other has under way is on disk only when that has ended.
        async with self._disk:
            await self._spill(self._backlog)

    async def _spill(self, backlog: EndpointBacklog) -> None:
        added = sorted(self._queue.volatile(), key=lambda waiting: waiting.sequence)
        # From now on whoever settles one of them has to remove it, behind this.
        for waiting in added:
            waiting.is_stored = True
        is_added = False
        try:
            rows, self._unwanted_rows = self._unwanted_rows, []
            await self._remove(rows)
            if added:
                await backlog.add(added)
            is_added = True
        except StoreError as error:
            self._tally.counters.last_error = f"backlog: {error}"
        finally:
            if not is_added:
                self._on_not_added(added)
        if is_added:
            self._queue.unload(added)
            self._queue.unload_ahead()
        else:
            self._drop(self._queue.drop_loaded(self._config.max_memory_bytes))

    async def drain(self, deadline_s: float) -> bool:
        """Wait until everything submitted is sent or given up, at most ``deadline_s`` seconds.

        Sending goes on as ever, back-off included, and is not stopped at the deadline: call :meth:`close`.

        Returns:
            Whether nothing is left; otherwise a log line says what is.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._settled.wait()
        except TimeoutError:
            left = self.snapshot()
            self._tally.log.warning(
                "endpoint not drained in time",
                deadline_s=deadline_s,
                batches=left.pending_batches,
                samples=left.pending_samples,
                last_error=left.last_error,
            )
            return False
        return True

    async def close(self, *, keeps: bool = True) -> None:
        """Stop at once, and break off what is in flight. Can be repeated.

        Args:
            keeps: what is not sent goes on disk, if there is one, for who comes after; what does not get there is
                counted as failed. Otherwise all of it is, and removed.
        """
        self._is_closed = True
        await cancel(self._task, self._spilling)
        await self._access.close()
        # Who closed it before may have been broken off.
        if not self._has_left:
            await self._leave(keeps=keeps)
            self._has_left = True
        self._tally.counters.state = EndpointState.CLOSED
        self._settled.set()
        self.ended.set()

    async def _leave(self, *, keeps: bool) -> None:
        if self._backlog is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    if keeps:
                        await self._leave_rows(self._queue.lanes)
                        await self.spill()
                    else:
                        await self._backlog.clear()
            except Exception as error:  # noqa: BLE001  (bugs of the disk too: what is unsent is counted, and it ends)
                self._tally.log.warning("backlog could not be brought up to date", problem=str(error) or "timeout")
        unsent = [*self._queue.volatile()] if keeps else [*self._queue.on_the_way(), *self._queue.clear()]
        if unsent:
            samples = sum(each.left_samples for each in unsent)
            self._tally.failed("closed", samples)
            self._tally.log.error("endpoint closed with samples unsent", batches=len(unsent), samples=samples)
        self._queue.forget({*unsent})

    @property
    def oldest_volatile_ms(self) -> int | None:
        """Timestamp of the oldest batch that is in memory alone; None if there is none."""
        return min((each.batch.timestamp_ms for each in self._queue.volatile()), default=None)

    def snapshot(self) -> EndpointCounters:
        """Return the counters as they are now; the copy does not change any more."""
        queue, on_the_way = self._queue, self._queue.on_the_way()
        oldest_ms = queue.oldest_ms
        age_ms = 0 if oldest_ms is None else self._around.clock.now_ms() - oldest_ms
        return replace(
            self._tally.counters,
            message=self.encoding.message,
            samples_failed=dict(self._tally.counters.samples_failed),
            attempts_failed=dict(self._tally.counters.attempts_failed),
            pending_samples=queue.queued_samples + sum(each.left_samples for each in on_the_way),
            pending_bytes=queue.queued_bytes + sum(each.size_bytes for each in on_the_way),
            pending_batches=self._pending_batches,
            stored_batches=queue.unloaded_batches,
            stored_bytes=queue.queued_bytes - queue.loaded_bytes,
            oldest_pending_ms=oldest_ms,
            lag_s=max(0, age_ms) / 1000,
        )

    @property
    def _pending_batches(self) -> int:
        return len(self._queue) + len(self._queue.on_the_way())

    # The way of a batch

    async def _live(self, after: Sequence[asyncio.Event]) -> None:
        """Send, also after a bug: what a lane had on its way is what it begins with again."""
        for event in after:
            await event.wait()
        clock, pause_s = self._around.clock, _MIN_RESTART_S
        while True:
            began_ms = clock.now_ms()
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001  (it is logged, and what waits must be sent one day)
                if clock.now_ms() - began_ms > _MAX_RESTART_S * 1000:
                    pause_s = _MIN_RESTART_S
                self._tally.crashed(error, pause_s)
            await clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_RESTART_S)

    async def _run(self) -> None:
        while True:
            await self._leave_rows(self._queue.leave_division())
            if not any(lane.first for lane in self._queue.lanes):
                if self._queue:
                    continue
                self._tally.counters.state = EndpointState.IDLE
                self._settled.set()
                self._arrived.clear()
                await self._arrived.wait()
            elif self._pace.is_held:
                await self._probe()
            else:
                await self._flow()

    async def _flow(self) -> None:
        """Send, in all lanes at once, until nothing waits or something fails; what is on its way then is waited for."""
        running: dict[Lane, asyncio.Task[bool]] = {}
        loop = asyncio.get_running_loop()
        arrival: asyncio.Task[bool] | None = None
        try:
            while True:
                self._arrived.clear()
                lanes = [] if self._pace.is_held else [lane for lane in self._queue.lanes if lane.first]
                for lane in sorted(lanes, key=_turn):
                    if lane not in running and len(running) < self._config.max_lanes:
                        running[lane] = loop.create_task(self._advance(lane))
                if not running:
                    return
                if arrival is None or arrival.done():
                    arrival = loop.create_task(self._arrived.wait())
                await asyncio.wait({*running.values(), arrival}, return_when=asyncio.FIRST_COMPLETED)
                for lane, task in list(running.items()):
                    if task.done():
                        del running[lane]
                        task.result()
        finally:
            await cancel(*running.values(), arrival)

    async def _probe(self) -> None:
        """Wait, then send one batch, alone: two lanes that try at once would be two endpoints in trouble."""
        self._tally.counters.state = self._pace.state or EndpointState.SENDING
        await self._pace.wait(self._pending_batches)
        is_tried = False
        while self._pace.is_held and not is_tried:
            lanes = [lane for lane in self._queue.lanes if lane.first]
            if not lanes:
                return
            is_tried = await self._advance(min(lanes, key=_turn))

    async def _advance(self, lane: Lane) -> bool:
        """Send what is first in a lane, once; return whether that was tried."""
        waiting = self._queue.take(lane)
        if waiting is None:
            return False
        if self._is_too_old(waiting):
            self._tally.too_old(waiting.left_samples)
            self._settle(lane)
            return False
        self._tally.counters.state = EndpointState.SENDING
        holds = self._pace.holds
        outcome = await self._attempt(lane, waiting)
        if outcome is None:
            self._tally.failed("backlog_lost", waiting.left_samples)
            self._settle(lane)
            return False
        await self._judge(lane, waiting, outcome, holds)
        return True

    async def _attempt(self, lane: Lane, waiting: Waiting) -> Outcome | None:
        """Send it once; None: it is lost."""
        try:
            await self._remove(self._rows_before(lane, waiting))
            if waiting.batch.follows and not waiting.is_stored:
                await self.spill()
            await self._load(lane, waiting)
        except StoreError as error:
            return Outcome(Verdict.RETRY, "backlog", str(error))
        if not waiting.is_loaded:
            return None
        await self._cut(waiting)
        try:
            async with self._access.granted() as granted:
                outcome = await self._exchange(waiting, granted)
        except SecretUnavailableError as error:
            return Outcome(Verdict.RETRY, "secret", str(error))
        if outcome.fell_back:
            self._tally.fell_back(outcome)
        return outcome

    async def _exchange(self, waiting: Waiting, granted: Granted) -> Outcome:
        if granted.problem:
            self._tally.secret_not_read(granted.problem)
        self._tally.counters.retries += waiting.attempts > 0
        with within(self._span_of(waiting)) as span:
            outcome = await self._negotiation.exchange(waiting.piece, waiting.attempts, granted, self._around)
            if span is not None:
                _say(span, outcome)
        return outcome

    def _span_of(self, waiting: Waiting) -> Span | None:
        """Begin an attempt as a part of its collection, if that is traced."""
        tracer, batch = self._around.tracer, waiting.batch
        collection = None if tracer is None else tracer.recall((self._tenant, batch.timestamp_ms))
        if collection is None:
            return None
        said: Attributes = {
            TENANT: self._tenant,
            "peer.service": self._config.name,
            "millrace.attempt": waiting.attempts,
            "millrace.bytes": len(waiting.piece.body),
            "millrace.samples": waiting.piece.samples,
            # What waits, also for a pause to end, is late.
            "millrace.lag_ms": self._around.clock.now_ms() - batch.timestamp_ms,
            "millrace.pause": str(self._pace.state or ""),
        }
        return collection.child("remote write", said, kind="client")

    def _rows_before(self, lane: Lane, waiting: Waiting) -> list[int]:
        """Take what has to be gone from disk before this is sent."""
        now_ms, rows = waiting.batch.timestamp_ms, []
        if lane.settled_ms < now_ms or waiting.batch.follows:
            rows, lane.settled_rows = lane.settled_rows, []
        former = [row for row, at_ms in self._decisive_rows.items() if at_ms < now_ms]
        for row in former:
            del self._decisive_rows[row]
        return rows + former

    async def _load(self, lane: Lane, waiting: Waiting) -> None:
        """Read a body from disk, and some of those behind it."""
        if waiting.is_loaded or self._backlog is None:
            return
        wanted, size = [waiting], waiting.size_bytes
        # Of an endpoint that takes nothing, nothing else has to be in memory.
        for other in islice(lane.waiting, 0 if self._pace.is_held else _AHEAD):
            size += other.size_bytes
            if size > _AHEAD_BYTES or other.is_loaded:
                break
            wanted.append(other)
        bodies = await self._backlog.bodies([each.sequence for each in wanted])
        for each in wanted:
            if each.sequence in bodies:
                self._queue.load(each, bodies[each.sequence])

    # What becomes of it

    async def _judge(self, lane: Lane, waiting: Waiting, outcome: Outcome, holds: int) -> None:
        """Do with what was sent as it was answered."""
        if outcome.verdict is not Verdict.DELIVERED:
            self._tally.counters.last_error = f"{outcome.reason}: {outcome.message}"
        if outcome.verdict is Verdict.RETRY:
            await self._on_failed(lane, waiting, outcome)
            return
        if outcome.status in PAUSES:
            self._tally.attempt_failed(outcome)
            self._pace.kept_out(outcome, PAUSES[outcome.status])
            return
        if outcome.status == _TOO_LARGE:
            await self._on_too_large(lane, waiting, outcome)
            return
        self._pace.answered(holds, self._pending_batches)
        if outcome.verdict is Verdict.DELIVERED:
            now_ms = self._around.clock.now_ms()
            self._tally.delivered(waiting.piece, outcome)
            self._suspicion.delivered(now_ms)
            self._size_limit.taken(waiting.piece.size_bytes, waiting.excess, now_ms)
        else:
            self._tally.rejected(waiting.piece, outcome)
        self._settle_piece(lane, waiting)

    async def _on_too_large(self, lane: Lane, waiting: Waiting, outcome: Outcome) -> None:
        size_bytes, now_ms = waiting.piece.size_bytes, self._around.clock.now_ms()
        waiting.excess = excess = self._size_limit.refused(size_bytes, waiting.excess, now_ms)
        if self._size_limit.is_worth_dividing(excess) and await self._divide(waiting, outcome):
            excess.is_divided = True
            self._tally.attempt_failed(outcome)
            return
        self._tally.rejected(waiting.piece, outcome)
        self._settle_piece(lane, waiting)
        # It may take nothing at all.
        self._pace.failed(outcome)

    async def _on_failed(self, lane: Lane, waiting: Waiting, outcome: Outcome) -> None:
        waiting.attempts += 1
        self._tally.attempt_failed(outcome)
        if outcome.status != _MAYBE_POISON:
            self._pace.failed(outcome)
            return
        now_ms = self._around.clock.now_ms()
        waiting.trouble = trouble = waiting.trouble or self._suspicion.begin(now_ms)
        is_alone = self._suspicion.is_alone(trouble)
        match self._suspicion.next_step(trouble, waiting.attempts, waiting.piece.series, now_ms):
            case Step.DIVIDE:
                await self._divide(waiting, outcome)
            case Step.TURN:
                waiting.turn()
            case Step.DROP:
                self._tally.rejected(waiting.piece, outcome)
                self._settle_piece(lane, waiting)
            case Step.WAIT:
                pass
        if is_alone:
            # The other lanes have nothing to do with it.
            pause_s = min(self._config.max_backoff_s, self._config.min_backoff_s * 2.0 ** min(waiting.attempts, 30))
            await self._around.clock.sleep(pause_s)
        else:
            self._pace.failed(outcome)

    async def _divide(self, waiting: Waiting, outcome: Outcome) -> bool:
        """Put two in place of what was sent; return whether that was possible."""
        divide = partial(self._around.divide, waiting.piece)
        pieces = await self._around.threads.run(divide, is_long=False)
        if len(pieces) < 2:
            return False
        waiting.divide(pieces)
        self._tally.divided(outcome)
        return True

    async def _cut(self, waiting: Waiting) -> None:
        """Put what will be taken in place of a batch that would be too large."""
        size_bytes = self._size_limit.fitting_bytes(waiting.size_bytes, self._around.clock.now_ms())
        if size_bytes is None or waiting.pieces or waiting.attempts:
            return
        work = partial(cut, waiting.batch, size_bytes, self._around.divide)
        pieces = await self._around.threads.run(work, is_long=False)
        if len(pieces) > 1:
            waiting.divide(pieces)

    def _settle_piece(self, lane: Lane, waiting: Waiting) -> None:
        if waiting.settle_piece():
            if waiting.excess is not None:
                self._size_limit.settled(waiting.excess)
            self._settle(lane)

    def _settle(self, lane: Lane) -> None:
        waiting, lane.current = lane.current, None
        if waiting is None or not waiting.is_stored:
            return
        if waiting.batch.follows and not _is_followed(lane, waiting.batch):
            self._decisive_rows[waiting.sequence] = waiting.batch.timestamp_ms
        else:
            lane.settled_rows.append(waiting.sequence)
            lane.settled_ms = waiting.batch.timestamp_ms

    def _is_too_old(self, waiting: Waiting) -> bool:
        return waiting.batch.timestamp_ms < self._oldest_wanted_ms()

    def _oldest_wanted_ms(self) -> int:
        return self._around.clock.now_ms() - int(self._config.max_sample_age_s * 1000)

    def _drop_old(self) -> None:
        dropped = self._queue.drop_older(self._oldest_wanted_ms())
        if dropped:
            self._tally.too_old(sum(waiting.left_samples for waiting in dropped))
            self._forget_rows(dropped)

    def _drop(self, dropped: Sequence[Waiting]) -> None:
        if dropped:
            self._tally.dropped(sum(waiting.left_samples for waiting in dropped))
            self._forget_rows(dropped)

    # The disk

    def _announce(self) -> None:
        if self._queue:
            self._settled.clear()
            self._arrived.set()

    def _spill_soon(self) -> None:
        if self._spilling is None or self._spilling.done():
            self._spilling = asyncio.get_running_loop().create_task(self.spill())

    def _on_not_added(self, batches: Iterable[Waiting]) -> None:
        for waiting in batches:
            waiting.is_stored = False
            # It may be there all the same; and what removes it later must not meet it under that number again.
            self._unwanted_rows.append(waiting.sequence)
            self._queue.renumber(waiting)

    def _forget_rows(self, dropped: Iterable[Waiting]) -> None:
        self._unwanted_rows += [waiting.sequence for waiting in dropped if waiting.is_stored]

    async def _leave_rows(self, lanes: Iterable[Lane]) -> None:
        """Remove what these lanes, and what was dropped, have left on disk."""
        rows, self._unwanted_rows = self._unwanted_rows, []
        for lane in lanes:
            rows += lane.settled_rows
            lane.settled_rows = []
        with contextlib.suppress(StoreError):
            await self._remove(rows)

    async def _remove(self, rows: Sequence[int]) -> None:
        """Remove rows for good. If the disk does not answer they go later: better sent twice than not at all.

        Raises:
            StoreError: somebody else owns the disk.
        """
        if not rows or self._backlog is None:
            return
        try:
            await self._backlog.remove(rows)
        except StoreUnavailable:
            self._unwanted_rows += rows


def _say(span: Span, outcome: Outcome) -> None:
    if outcome.status is not None:
        span.set({"http.response.status_code": outcome.status})
    if outcome.verdict is not Verdict.DELIVERED:
        # Not the receiver's words, which may say anything.
        span.fail(outcome.reason)


def _is_followed(lane: Lane, batch: Batch) -> bool:
    """Whether another that follows is behind it: that one is the note then, and this must be gone before it is sent."""
    return any(each.batch.follows and each.batch.timestamp_ms == batch.timestamp_ms for each in lane.waiting)


def _turn(lane: Lane) -> tuple[int, int, int]:
    """Who is tried next: the oldest, but one that is answered 500 lets the others have a turn."""
    first = lane.first
    if first is None:
        return (0, 0, 0)
    rounds = first.attempts // 3 if first.trouble is not None else 0
    return rounds, first.batch.timestamp_ms, first.sequence
