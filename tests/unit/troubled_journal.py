"""A journal store whose writes can be held up, or fail before or after their commit."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection

from tenants.identity.tenant_id import TenantId
from tenants.journal.store import JournalStore


class TroubledStore(JournalStore):
    """A real store. What is in the lists is called before the writes, or right after the commits, that follow.

    One by each; None: nothing ails it.
    """

    before: list[Callable[[], None] | None]
    after: list[Callable[[], None] | None]
    groups: list[list[tuple[TenantId, int]]]
    """Of every append: what it was asked to commit."""

    def trouble(
        self, before: Sequence[Callable[[], None] | None] = (), after: Sequence[Callable[[], None] | None] = ()
    ) -> None:
        self.before, self.after, self.groups = list(before), list(after), []

    def append(self, entries: Sequence[tuple[TenantId, int, bytes]]) -> None:
        self.groups.append([(tenant, position) for tenant, position, _ in entries])
        _next(self.before)
        super().append(entries)

    def checkpoints(self, checkpoints: Sequence[tuple[TenantId, int, bytes]]) -> None:
        _next(self.before)
        super().checkpoints(checkpoints)

    def forget(self, tenant: TenantId) -> None:
        _next(self.before)
        super().forget(tenant)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with super()._write() as connection:
            yield connection
        _next(self.after)


class Gate:
    """Holds up a write until it is opened."""

    def __init__(self) -> None:
        self.has_come = threading.Event()
        self._is_open = threading.Event()

    def __call__(self) -> None:
        self.has_come.set()
        assert self._is_open.wait(10)

    def open(self) -> None:
        self._is_open.set()


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def _next(calls: list[Callable[[], None] | None]) -> None:
    if calls and (call := calls.pop(0)) is not None:
        call()
