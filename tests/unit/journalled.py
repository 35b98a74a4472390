"""A tenant's collector with a real journal, fed as shard hosts feed it."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tenants.endpoint import HttpClients, Surroundings
from tenants.endpoint.tenant_collector import Release, TenantCollector
from tenants.journal.backlog_writer import BacklogWriter
from tenants.journal.entries import BeginEntry
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import FlushRecord, Place, ShardKey
from tenants.processing.profile import TenantProfile
from tenants.processing.tenant_state import TenantState
from tests.unit.receiver import LOOPBACK
from tests.unit.standing_clock import StandingClock

COLLECTOR: Final = "collector-0"
HOST: Final = "shard-host-0"
_SOURCES: Final = 4


async def nobody_releases(_host: str, _owned: Sequence[tuple[ShardKey, int]]) -> Sequence[FlushRecord]:
    """No host answers."""
    return ()


@dataclass(frozen=True, slots=True)
class Bench:
    """What collectors need: surroundings on a clock that stands still, and a journal in a file."""

    around: Surroundings
    clock: StandingClock
    store: JournalStore
    journal: JournalWriter

    def collector(self, settings: TenantProfile, release: Release = nobody_releases) -> TenantCollector:
        """Return the collector of a tenant that begins now."""
        tenant = settings.settings.tenant
        entry = BeginEntry(started_at_ms=self.clock.now_ms(), plan_text=settings.plan_text, seed=7)
        self.journal.submit(tenant, entry)
        return TenantCollector(TenantState(tenant, entry), settings, self.around, self.journal, release)


@asynccontextmanager
async def journal_in(folder: Path, incarnation: int = 1) -> AsyncIterator[tuple[JournalStore, JournalWriter]]:
    """A journal in a file of the folder."""
    store = JournalStore.open(f"sqlite:///{folder}/journal.db", COLLECTOR, incarnation)
    writer = JournalWriter(store, StandingClock(), random.Random(7))
    try:
        yield store, writer
    finally:
        await writer.close()
        store.close()


@asynccontextmanager
async def journalled() -> AsyncIterator[Bench]:
    """A bench with a journal of its own."""
    clock = StandingClock()
    with TemporaryDirectory() as folder:
        async with journal_in(Path(folder)) as (store, writer), HttpClients(LOOPBACK) as clients:
            backlog = BacklogWriter(store.backlog)
            around = Surroundings(clients, clock, random.Random(7), "1.2.3", backlog=backlog)
            try:
                yield Bench(around, clock, store, writer)
            finally:
                await backlog.close()


async def merge(collector: TenantCollector, source: int, data: bytes) -> bool:
    """Hand over the next record of one of four shards; return whether it was taken, and is in force."""
    key = ShardKey(collector.tenant, source, _SOURCES)
    if key not in collector._state.owners:
        await collector.claim(HOST, [key])
    owner = collector._state.owners[key]
    futures = collector.take([FlushRecord(key, Place(owner.epoch, owner.sequence + 1), data)])
    for future in futures:
        await future
    return bool(futures)
