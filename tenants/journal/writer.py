"""Commits the entries of all tenants in groups, in the order in which they were submitted.

Nothing is put in force, and so nothing acknowledged, before it is committed. Knows neither what entries mean nor when a
checkpoint is due.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Final

import structlog

from tenants.endpoint.backoff import Backoff
from tenants.endpoint.surroundings import Clock
from tenants.identity.tenant_id import TenantId
from tenants.journal.body_codec import MAX_BODY_BYTES
from tenants.journal.entries import Entry, encode
from tenants.journal.errors import Fenced, JournalBacklogFull, JournalClosed
from tenants.journal.store import JournalSizes, JournalStore
from tenants.store.errors import StoreError, StoreUnavailable
from tenants.tracing.spans import Tracer, part, sampled, within

MAX_PENDING_BYTES: Final = 256 << 20
"""Of entries that wait or are being committed. Some minutes of many tenants' records, while the database is away."""

_MIN_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0

_CHECKPOINT_BYTES: Final = 4 << 20
"""Checkpoints are written together up to about this size: entries wait meanwhile."""

_TURN_S: Final = 0.01
"""Longest that callbacks keep the event loop before others have a turn: a commit may have thousands."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _PendingEntry:
    tenant: TenantId
    body: bytes
    then: Callable[[], None] | None
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _PendingForget:
    tenant: TenantId
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _PendingCheckpoint:
    tenant: TenantId
    make: Callable[[], bytes]
    done: asyncio.Future[None]
    follows: int
    """How many entries were submitted, since the writer began, when it was asked for."""


class JournalWriter:
    """The way into the journal: what is submitted while a commit runs goes into the next one.

    One event loop owns it; commits run in a thread. A commit that fails is tried again, the same entries in the same
    order, until it succeeds or the writer is closed; nothing of it is put in force before. If the journal belongs to
    somebody else (:class:`~tenants.journal.errors.Fenced`) or holds something else than was written, that is final:
    everything that waits or is submitted later fails with it.

    State held: what is not committed, in memory, at most ``max_pending_bytes`` or one entry. If the process dies it is
    lost, and nobody was told that it was safe.

    Args:
        store: open; whoever opened it closes it, after the writer. Nobody else may write to it meanwhile.
        clock: pauses after failures.
        rng: their jitter.
        max_pending_bytes: see :data:`MAX_PENDING_BYTES`.
        tracer: of Millrace's own traces; None: none.
        on_end: is told, once, why nothing is committed any more; not if the writer is being closed.

    Attributes:
        commits: groups of entries that were committed.
        entries: in them.
        written_bytes: of these entries, before compression.
        commit_s: seconds that the thread was at work, in sum.
        checkpoints: that were written.
        failures: attempts that failed, checkpoints included.
        is_failing: whether entries wait because the last attempt failed.
        pending_bytes: of entries that are not in force.
    """

    def __init__(
        self,
        store: JournalStore,
        clock: Clock,
        rng: random.Random,
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        tracer: Tracer | None = None,
        on_end: Callable[[Exception], None] | None = None,
    ) -> None:
        self.commits = 0
        self.entries = 0
        self.written_bytes = 0
        self.commit_s = 0.0
        self.checkpoints = 0
        self.failures = 0
        self.is_failing = False
        self.pending_bytes = 0
        self._store = store
        self._tracer = tracer
        self._clock = clock
        self._max_pending_bytes = max_pending_bytes
        self._backoff = Backoff(_MIN_PAUSE_S, _MAX_PAUSE_S, rng)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        # What is being committed stays in front until it is in force.
        self._queue: deque[_PendingEntry | _PendingForget] = deque()
        self._checkpoints: deque[_PendingCheckpoint] = deque()
        self._submitted = 0
        self._settled = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._end: Exception | None = None
        self._on_end = on_end

    def submit(self, tenant: TenantId, entry: Entry, then: Callable[[], None] | None = None) -> asyncio.Future[None]:
        """Queue an entry. Never blocks.

        Args:
            tenant: whose journal it goes into, behind everything submitted for it before.
            entry: what is to be committed.
            then: puts it in force. It is called in the event loop as soon as the entry is committed: in the order of
                the submits, those of one commit before those of the next. Also if the future was cancelled.

        Returns:
            Done when ``then`` was called; holds what it raised, or why nothing is committed any more: ``Fenced``,
            ``JournalDamaged``, ``JournalClosed``, or ``StoreUnavailable`` if the writer was closed meanwhile.

        Raises:
            JournalBacklogFull: too much waits; the entry was not taken.
            ValueError: the entry cannot be written.
        """
        body = encode(entry)
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"an entry of {len(body)} bytes cannot be stored; {MAX_BODY_BYTES} can")
        # One is always taken, however large: refused, it would come again for ever.
        if self.pending_bytes and self.pending_bytes + len(body) > self._max_pending_bytes:
            raise JournalBacklogFull(self.pending_bytes, self._max_pending_bytes)
        done = asyncio.get_running_loop().create_future()
        if not self._is_refused(done):
            self.pending_bytes += len(body)
            self._enqueue(_PendingEntry(tenant, body, then, done))
        return done

    async def checkpoint(self, tenant: TenantId, make: Callable[[], bytes]) -> None:
        """Write a checkpoint in place of the tenant's entries; returns when it is committed.

        Args:
            tenant: whose.
            make: returns the state. It is called in the event loop when everything submitted before is in force; the
                checkpoint stands for all entries of the tenant that are in force then.

        Raises:
            StoreUnavailable: it could not be written, and is not tried again; all entries are there still.
            JournalError: nothing is committed any more.
        """
        done = asyncio.get_running_loop().create_future()
        if not self._is_refused(done):
            self._checkpoints.append(_PendingCheckpoint(tenant, make, done, self._submitted))
            self._wake()
        await done

    async def forget(self, tenant: TenantId) -> None:
        """Remove the tenant's journal, as it is when everything submitted before is in force.

        Raises:
            StoreUnavailable: the writer was closed before it succeeded.
            JournalError: nothing is committed any more.
        """
        done = asyncio.get_running_loop().create_future()
        if not self._is_refused(done):
            self._enqueue(_PendingForget(tenant, done))
        await done

    def sizes(self, tenant: TenantId) -> JournalSizes:
        """Return how large a tenant's journal is. Does not block."""
        return self._store.sizes(tenant)

    async def close(self) -> None:
        """Commit what waits; if that fails, it is not tried again, and its futures tell. Can be repeated."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown(wait=False)

    def _is_refused(self, done: asyncio.Future[None]) -> bool:
        if self._end is None and not self._closing.is_set():
            return False
        done.set_exception(self._end or JournalClosed())
        return True

    def _enqueue(self, pending: _PendingEntry | _PendingForget) -> None:
        self._queue.append(pending)
        self._submitted += 1
        self._wake()

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="journal")

    async def _run(self) -> None:
        try:
            while self._queue or self._checkpoints:
                await self._work()
                await self._write_checkpoints()
        except Exception as error:  # noqa: BLE001  (after a bug, too, later entries must not be committed before others)
            self._give_up(error)
        finally:
            self._task = None

    async def _work(self) -> None:
        """Commit what waits: entries, or else what is in front of them."""
        if self._queue and isinstance(self._queue[0], _PendingForget):
            forget = self._queue[0]
            await self._persist(partial(self._store.forget, forget.tenant))
            self._queue.popleft()
            self._settled += 1
            _resolve(forget.done, None)
            return
        batch = [pending for pending in takewhile(_is_entry, self._queue) if isinstance(pending, _PendingEntry)]
        if not batch:
            return
        size = sum(len(pending.body) for pending in batch)
        said = {"millrace.entries": len(batch), "millrace.bytes": size}
        with within(sampled(self._tracer, "commit journal", said)):
            with part("write"):
                await self._persist(partial(self._store.append, self._positioned(batch)))
            self.commits += 1
            self.entries += len(batch)
            self.written_bytes += size
            with part("put in force"):
                await self._put_in_force(batch)

    def _positioned(self, batch: Sequence[_PendingEntry]) -> list[tuple[TenantId, int, bytes]]:
        last: dict[TenantId, int] = {}
        positioned = []
        for pending in batch:
            tenant = pending.tenant
            last[tenant] = position = last.get(tenant, self._store.last_position(tenant)) + 1
            positioned.append((tenant, position, pending.body))
        return positioned

    async def _put_in_force(self, batch: Sequence[_PendingEntry]) -> None:
        loop = asyncio.get_running_loop()
        outcomes: list[Exception | None] = []
        turn_ends_at = loop.time() + _TURN_S
        for pending in batch:
            outcomes.append(_outcome(pending.then))
            if loop.time() > turn_ends_at:
                await asyncio.sleep(0)
                turn_ends_at = loop.time() + _TURN_S
        for pending, outcome in zip(batch, outcomes, strict=True):
            self._queue.popleft()
            self.pending_bytes -= len(pending.body)
            _resolve(pending.done, outcome)
        self._settled += len(batch)

    async def _write_checkpoints(self) -> None:
        group: dict[TenantId, _PendingCheckpoint] = {}
        rows: list[tuple[TenantId, int, bytes]] = []
        while self._checkpoints and sum(len(body) for _, _, body in rows) < _CHECKPOINT_BYTES:
            pending = self._checkpoints[0]
            tenant = pending.tenant
            if pending.follows > self._settled or tenant in group:
                break
            self._checkpoints.popleft()
            try:
                rows.append((tenant, self._store.last_position(tenant), pending.make()))
            except Exception as error:  # noqa: BLE001  (whoever asked for it is told)
                _resolve(pending.done, error)
            else:
                group[tenant] = pending
        if rows:
            await self._try_checkpoints(list(group.values()), rows)

    async def _try_checkpoints(
        self, group: Sequence[_PendingCheckpoint], rows: Sequence[tuple[TenantId, int, bytes]]
    ) -> None:
        problem: Exception | None = None
        try:
            await self._in_thread(partial(self._store.checkpoints, rows))
        except StoreUnavailable as error:
            # Entries are there still, and go on: a large checkpoint may fail where they do not.
            self.failures += 1
            problem = error
        except Exception as error:
            problem = error
            raise
        else:
            self.checkpoints += len(rows)
        finally:
            for pending in group:
                _resolve(pending.done, problem)

    async def _persist(self, work: Callable[[], None]) -> None:
        """Do this until it succeeds; raise what failed if it is of no use to go on, or the writer is being closed."""
        while True:
            try:
                await self._in_thread(work)
            except StoreUnavailable as error:
                self._on_failed(error)
                if self._closing.is_set():
                    raise
                await self._pause()
            else:
                self._on_succeeded()
                return

    async def _in_thread(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await loop.run_in_executor(self._thread, work)
        finally:
            self.commit_s += loop.time() - started

    async def _pause(self) -> None:
        """Wait before the next attempt, or until the writer is being closed."""
        waits = [
            asyncio.ensure_future(self._clock.sleep(self._backoff.next_pause_s(None))),
            asyncio.ensure_future(self._closing.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _on_failed(self, error: StoreUnavailable) -> None:
        self.failures += 1
        if not self.is_failing:
            log.error("journal cannot be written to, entries wait", problem=str(error))
        self.is_failing = True

    def _on_succeeded(self) -> None:
        self._backoff.reset()
        if self.is_failing:
            log.info("journal is written to again", failures=self.failures)
        self.is_failing = False

    def _give_up(self, error: Exception) -> None:
        """Commit nothing any more: what waits fails with this, and what comes."""
        self._end = error
        if isinstance(error, Fenced):
            log.warning("journal belongs to somebody else", problem=str(error))
        else:
            bug = None if isinstance(error, StoreError) else error
            log.error(
                "nothing is journalled any more", problem=str(error), pending_bytes=self.pending_bytes, exc_info=bug
            )
        for pending in (*self._queue, *self._checkpoints):
            _resolve(pending.done, error)
        self._queue.clear()
        self._checkpoints.clear()
        self.pending_bytes = 0
        if self._on_end is not None and not self._closing.is_set():
            self._on_end(error)


def _is_entry(pending: _PendingEntry | _PendingForget) -> bool:
    return isinstance(pending, _PendingEntry)


def _outcome(then: Callable[[], None] | None) -> Exception | None:
    try:
        if then is not None:
            then()
    except Exception as error:  # noqa: BLE001  (the others' entries are in force, and this one is committed)
        return error
    return None


def _resolve(done: asyncio.Future[None], problem: Exception | None) -> None:
    # Whoever gave up waiting has cancelled it.
    if done.done():
        return
    if problem is None:
        done.set_result(None)
    else:
        done.set_exception(problem)
