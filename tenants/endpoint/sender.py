"""Sends the batches of one tenant to one endpoint, one at a time and in order. Never looks into a batch."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import structlog

from tenants.endpoint.backoff import Backoff
from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters, EndpointState
from tenants.endpoint.endpoint_access import EndpointAccess
from tenants.endpoint.errors import SecretUnavailableError
from tenants.endpoint.exchange import Outcome, Verdict, exchange
from tenants.endpoint.log_limit import LogLimit
from tenants.endpoint.queue import BatchQueue
from tenants.endpoint.surroundings import Surroundings


class EndpointSender:
    """One queue, one request in flight, one back-off.

    Order: a batch is answered for good before the next one is sent, so the samples of a series arrive in the
    order of their timestamps, and a batch sent again is still the newest of its series (remote-write §1.5,
    §2.5 point 7). What the receiver refuses (4xx) is dropped and counted, never sent again. What fails
    otherwise is sent again until it is answered, or is older than ``max_sample_age_s``.

    State held: what waits, in memory, at most ``max_queue_bytes`` and the batch in flight. If the process
    dies it is lost; series being cumulative, the next collection repeats their counts.

    Every method must be called from the event loop that :meth:`start` was called in.
    """

    def __init__(self, tenant: str, config: EndpointConfig, around: Surroundings) -> None:
        self._config = config
        self._around = around
        self._access = EndpointAccess(config, around)
        self._queue = BatchQueue(config.max_queue_bytes)
        self._in_flight: Batch | None = None
        self._backoff = Backoff(config.min_backoff_s, config.max_backoff_s, around.rng)
        self._counters = EndpointCounters(config.label, config.display_url)
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()  # nothing waits, nothing is in flight
        self._settled.set()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(
            tenant=tenant, endpoint=config.label
        )
        self._failing_log, self._refused_log, self._dropped_log = LogLimit(), LogLimit(), LogLimit()
        self._secret_log = LogLimit()
        self._is_reported_failing = False

    @property
    def config(self) -> EndpointConfig:
        """The settings in force."""
        return self._config

    def start(self) -> None:
        """Begin to send. Does not wait; call once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"send to {self._config.label}")
        self._task.add_done_callback(self._on_task_done)

    def submit(self, batches: Iterable[Batch]) -> None:
        """Queue batches for sending, in this order. Never blocks.

        At the bound of the queue the oldest batches are dropped and counted. After :meth:`close` everything
        is counted as failed with the reason ``closed``.
        """
        for batch in batches:
            self._counters.samples_submitted += batch.samples
            if self._is_closed:
                self._count_failed("closed", batch)
                continue
            dropped = self._queue.push(batch)
            if dropped:
                self._drop(dropped)
            self._settled.clear()
            self._arrived.set()

    def reconfigure(self, config: EndpointConfig) -> None:
        """Go on with other settings, from the next request on; what waits stays, as far as it still fits."""
        self._config = config
        self._access.reconfigure(config)
        self._backoff.set_bounds(config.min_backoff_s, config.max_backoff_s)
        self._counters.endpoint, self._counters.url = config.label, config.display_url
        self._log = self._log.bind(endpoint=config.label)
        dropped = self._queue.set_max_bytes(config.max_queue_bytes)
        if dropped:
            self._drop(dropped)

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
            self._log.warning(
                "endpoint not drained in time",
                deadline_s=deadline_s,
                batches=left.pending_batches,
                samples=left.pending_samples,
                last_error=left.last_error,
            )
            return False
        return True

    async def close(self) -> None:
        """Stop at once: break off the request in flight, count what waits as failed. Can be repeated."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._access.close()
        unsent = self._queue.clear()
        if self._in_flight is not None:
            unsent.insert(0, self._in_flight)
            self._in_flight = None
        if unsent:
            self._count_failed("closed", *unsent)
            self._log.error(
                "endpoint closed with samples unsent",
                batches=len(unsent),
                samples=sum(batch.samples for batch in unsent),
            )
        self._counters.state = EndpointState.CLOSED
        self._settled.set()

    @property
    def oldest_pending_ms(self) -> int | None:
        """Timestamp of the oldest batch that waits or is in flight; None if there is none."""
        oldest = self._in_flight or self._queue.oldest
        return None if oldest is None else oldest.timestamp_ms

    def snapshot(self) -> EndpointCounters:
        """Return the counters as they are now; the copy does not change any more."""
        in_flight = self._in_flight
        return replace(
            self._counters,
            samples_failed=dict(self._counters.samples_failed),
            pending_samples=self._queue.queued_samples + (in_flight.samples if in_flight else 0),
            pending_bytes=self._queue.queued_bytes + (in_flight.size_bytes if in_flight else 0),
            pending_batches=len(self._queue) + (1 if in_flight else 0),
        )

    async def _run(self) -> None:
        while True:
            # The batch in flight is not in the queue: a batch that the receiver may have stored already must
            # not be counted as dropped.
            self._in_flight = self._queue.pop()
            if self._in_flight is None:
                self._counters.state = EndpointState.IDLE
                self._settled.set()
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._deliver(self._in_flight)

    async def _deliver(self, batch: Batch) -> None:
        """Send one batch until it is settled."""
        attempt = 0
        while True:
            self._counters.state = EndpointState.SENDING
            outcome = await self._attempt(batch, attempt)
            if outcome.verdict is Verdict.DELIVERED:
                self._on_delivered(batch)
                return
            self._counters.last_error = f"{outcome.reason}: {outcome.message}"
            if outcome.verdict is Verdict.REJECTED:
                self._on_rejected(batch, outcome)
                return
            # Also before giving up: the next batch meets the same sick endpoint and must not rush at it.
            await self._pause(outcome, attempt)
            age_s = (self._around.clock.now_ms() - batch.timestamp_ms) / 1000
            if age_s > self._config.max_sample_age_s:
                self._on_too_old(batch)
                return
            attempt += 1
            self._counters.retries += 1

    async def _attempt(self, batch: Batch, attempt: int) -> Outcome:
        try:
            granted = await self._access.get()
        except SecretUnavailableError as error:
            return Outcome(Verdict.RETRY, "secret", str(error))
        if granted.problem and (withheld := self._secret_log.admit(self._around.clock.now_ms())) is not None:
            self._log.error(
                "secret of the endpoint cannot be read again, the last good one stays",
                problem=granted.problem,
                withheld_lines=withheld,
            )
        return await exchange(batch, attempt, granted, self._around)

    async def _pause(self, outcome: Outcome, attempt: int) -> None:
        pause_s = self._backoff.next_pause_s(outcome.retry_after_s)
        withheld = self._failing_log.admit(self._around.clock.now_ms())
        if withheld is not None:
            self._is_reported_failing = True
            self._log.warning(
                "endpoint failing, will retry",
                reason=outcome.reason,
                message=outcome.message,
                attempt=attempt,
                pause_s=round(pause_s, 3),
                pending_batches=len(self._queue) + 1,
                withheld_lines=withheld,
            )
        self._counters.state = EndpointState.BACKING_OFF
        await self._around.clock.sleep(pause_s)

    def _on_delivered(self, batch: Batch) -> None:
        counters = self._counters
        self._in_flight = None
        counters.samples_sent += batch.samples
        counters.exemplars_sent += batch.exemplars
        counters.batches_sent += 1
        counters.bytes_sent += batch.size_bytes
        counters.last_success_ms = self._around.clock.now_ms()
        counters.highest_sent_timestamp_ms = max(batch.timestamp_ms, counters.highest_sent_timestamp_ms or 0)
        counters.last_error = ""
        self._backoff.reset()
        if self._is_reported_failing:
            self._is_reported_failing = False
            self._log.info("endpoint takes samples again", pending_batches=len(self._queue))

    def _on_rejected(self, batch: Batch, outcome: Outcome) -> None:
        self._in_flight = None
        self._count_failed(outcome.reason, batch)
        self._backoff.reset()
        withheld = self._refused_log.admit(self._around.clock.now_ms())
        if withheld is not None:
            self._log.error(
                "endpoint refused samples, they are dropped",
                status=outcome.status,
                message=outcome.message,
                samples=batch.samples,
                withheld_lines=withheld,
            )

    def _on_too_old(self, batch: Batch) -> None:
        self._in_flight = None
        self._count_failed("too_old", batch)
        self._report_dropped("samples failed until they were too old, they are dropped", batch.samples)

    def _drop(self, batches: list[Batch]) -> None:
        samples = sum(batch.samples for batch in batches)
        self._counters.samples_dropped += samples
        self._report_dropped("queue full, the oldest samples are dropped", samples)

    def _report_dropped(self, event: str, samples: int) -> None:
        withheld = self._dropped_log.admit(self._around.clock.now_ms())
        if withheld is not None:
            self._log.error(event, samples=samples, last_error=self._counters.last_error, withheld_lines=withheld)

    def _count_failed(self, reason: str, *batches: Batch) -> None:
        failed = self._counters.samples_failed
        failed[reason] = failed.get(reason, 0) + sum(batch.samples for batch in batches)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._counters.state = EndpointState.CRASHED
        self._counters.last_error = f"bug: {type(error).__name__}"
        self._log.error("sender stopped by a bug, nothing is sent any more", exc_info=error)
