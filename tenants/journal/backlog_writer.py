"""Makes the changes of all tenants' backlogs in groups, off the event loop, in the order of the calls."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from tenants.identity.tenant_id import TenantId
from tenants.journal.backlog_store import BacklogChange, BacklogStore
from tenants.store.errors import StoreError, StoreUnavailable

_GROUP_BYTES: Final = 16 << 20
"""Changes are made together up to about this size: the journal's own entries wait meanwhile."""

_READERS: Final = 2

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    change: BacklogChange
    done: asyncio.Future[None]


class BacklogWriter:
    """The way to the backlogs on disk. One event loop owns it; nothing is tried again here.

    State held: the changes that wait; their bodies are in the queues of endpoints too, which bound them.

    Args:
        store: whoever opened its database closes it, after this.

    Attributes:
        batches: that were written.
        written_bytes: of their bodies.
        failures: groups of changes that the database did not take.
        is_failing: whether the last one was not taken.
    """

    def __init__(self, store: BacklogStore) -> None:
        self.batches = 0
        self.written_bytes = 0
        self.failures = 0
        self.is_failing = False
        self._store = store
        # One that writes: changes keep their order.
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="backlog")
        self._reading = ThreadPoolExecutor(_READERS, thread_name_prefix="backlog-read")
        self._queue: deque[_Pending] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def change(self, change: BacklogChange) -> None:
        """Make a change; returns when it is committed.

        Raises:
            StoreError: it was not made, or nobody knows; making it again is right.
        """
        if self._is_closed:
            raise StoreUnavailable("the backlog is closed")
        done = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(change, done))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="backlog")
        await done

    async def bodies(self, tenant: TenantId, endpoint: str, sequences: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of batches; see :meth:`BacklogStore.bodies`.

        Raises:
            StoreError: they cannot be read now.
        """
        if self._is_closed:
            raise StoreUnavailable("the backlog is closed")
        work = partial(self._store.bodies, tenant, endpoint, sequences)
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def close(self) -> None:
        """Make the changes that wait, and no more. Can be repeated."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait([self._task])
        self._writing.shutdown(wait=False)
        self._reading.shutdown(wait=False)

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._commit(self._next_group())
        finally:
            self._task = None

    def _next_group(self) -> list[_Pending]:
        group = [self._queue.popleft()]
        size = group[0].change.size_bytes
        while self._queue and size + self._queue[0].change.size_bytes <= _GROUP_BYTES:
            size += self._queue[0].change.size_bytes
            group.append(self._queue.popleft())
        return group

    async def _commit(self, group: Sequence[_Pending]) -> None:
        problem: BaseException | None = None
        changes = [pending.change for pending in group]
        try:
            await asyncio.get_running_loop().run_in_executor(self._writing, self._store.apply, changes)
        except Exception as error:  # noqa: BLE001  (whoever asked is told, and the next group is another matter)
            problem = error
            self._on_failed(error)
        else:
            self._on_succeeded()
            self.batches += sum(len(change.added) for change in changes)
            self.written_bytes += sum(change.size_bytes for change in changes)
        for pending in group:
            # Whoever gave up waiting has cancelled it.
            if pending.done.done():
                continue
            if problem is None:
                pending.done.set_result(None)
            else:
                pending.done.set_exception(problem)

    def _on_failed(self, error: Exception) -> None:
        self.failures += 1
        if not self.is_failing:
            bug = None if isinstance(error, StoreError) else error
            log.error("backlog cannot be written to, batches wait in memory", problem=str(error), exc_info=bug)
        self.is_failing = True

    def _on_succeeded(self) -> None:
        if self.is_failing:
            log.info("backlog is written to again", failures=self.failures)
        self.is_failing = False
