"""All tenants of one collector process. Knows neither where records come from nor what is in them.

What ails one tenant stays with it: the others are merged, collected and measured.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from tenants.endpoint.recovery import Recovered, recover
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.tenant_collector import Release, TenantCollector, TenantCollectorSnapshot
from tenants.endpoint.tenant_endpoint import TenantEndpointSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.journal.entries import BeginEntry
from tenants.journal.errors import JournalBacklogFull, JournalDamaged
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import Acknowledgements, Claimed, FlushRecord, Place, ShardKey
from tenants.processing.grouped import grouped
from tenants.processing.profile import ProfileBook
from tenants.processing.registry_view import NOTHING, RegistryView
from tenants.processing.tenant_state import TenantState

_TENANTS_AT_A_TIME = 100

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the records of one pull.

    Attributes:
        futures: done when the records that were taken are in force; the others come again.
        fenced: shards, with their epochs, that do not own their ranges: they may be forgotten.
    """

    futures: tuple[asyncio.Future[None], ...]
    fenced: tuple[tuple[ShardKey, int], ...]


@dataclass(frozen=True, slots=True)
class TenantLook:
    """What somebody sees who looks at a tenant.

    Attributes:
        registry: what it holds.
        endpoint: the way out; None: nothing is generated for the tenant.
    """

    registry: RegistryView
    endpoint: TenantEndpointSnapshot | None


class CollectorSet:
    """The tenants of one process, each begun by the first claim of one of its shards. One event loop owns it.

    State held: that of the tenants, which the journal has too.
    """

    def __init__(self, book: ProfileBook, around: Surroundings, journal: JournalWriter, release: Release) -> None:
        self.book = book
        self._around = around
        self._journal = journal
        self._release = release
        self._tenants: dict[TenantId, TenantCollector] = {}
        # Who may have shards on a host, so that a pull does not walk through all tenants.
        self._by_host: defaultdict[str, set[TenantId]] = defaultdict(set)
        self._damaged: dict[TenantId, str] = {}
        self._ending: set[TenantId] = set()

    @property
    def tenants(self) -> Collection[TenantId]:
        """Those that are here."""
        return self._tenants.keys()

    @property
    def damaged(self) -> Mapping[TenantId, str]:
        """Tenants whose journal cannot be read, and why: nothing is counted for them until it is mended."""
        return self._damaged

    async def recover(self, store: JournalStore, owns: Callable[[TenantId], bool]) -> None:
        """Go on with every tenant that the journal knows and that is ours; call before anything else.

        Raises:
            StoreError: the journal cannot be read; nothing has begun.
        """
        recovered: dict[TenantId, Recovered] = {}
        for tenant in filter(owns, await asyncio.to_thread(store.tenants)):
            try:
                recovered[tenant] = await asyncio.to_thread(recover, store, tenant, self.book.get(tenant).settings)
            except JournalDamaged as error:
                self._damaged[tenant] = str(error)
                log.critical("tenant cannot go on, its journal is damaged", tenant=str(tenant), problem=str(error))
        # Nobody sends or journals anything before all have been read: a caller that fails half-way begins anew.
        for tenant, known in recovered.items():
            collector = self._collector(tenant, known.state)
            for owner in known.state.owners.values():
                self._by_host[owner.host].add(tenant)
            collector.start(known.undelivered, known.backlog)
        if self._tenants:
            log.info("tenants go on from the journal", tenants=len(self._tenants), damaged=len(self._damaged))

    def acknowledged(self, host: str) -> Acknowledgements:
        """Return the last record in force of each shard that a host owns."""
        places: dict[ShardKey, Place] = {}
        for tenant in tuple(self._by_host[host]):
            collector = self._tenants.get(tenant)
            own = dict(collector.acknowledged(host)) if collector is not None else {}
            if not own:
                self._by_host[host].discard(tenant)
            places |= own
        return places

    def orphans(self) -> list[ShardKey]:
        """Return the shards that somebody has to begin, because half edges wait in their ranges and nobody counts."""
        return [key for collector in self._tenants.values() for key in collector.orphans()]

    def take(self, records: Iterable[FlushRecord]) -> Taken:
        """Journal and merge records, each shard's in order.

        Raises:
            StoreError: nothing can be journalled any more.
        """
        futures: list[asyncio.Future[None]] = []
        fenced: dict[tuple[ShardKey, int], None] = {}
        for tenant, own in grouped(records, lambda record: record.key.tenant).items():
            collector = self._tenants.get(tenant)
            void = [record for record in own if collector is None or collector.is_fenced(record)]
            fenced |= dict.fromkeys((record.key, record.place.epoch) for record in void)
            if collector is None:
                continue
            try:
                futures += collector.take(own)
            except JournalBacklogFull:
                # The shards keep their records, and go on counting in place.
                break
        return Taken(tuple(futures), tuple(fenced))

    async def claim(self, host: str, keys: Iterable[ShardKey]) -> dict[ShardKey, Claimed]:
        """Give ranges to a shard host; those that are missing in the answer cannot be had now."""
        by_tenant = grouped(keys, lambda key: key.tenant)
        answers = await asyncio.gather(
            *(self._claim(tenant, host, own) for tenant, own in by_tenant.items()), return_exceptions=True
        )
        claimed: dict[ShardKey, Claimed] = {}
        for tenant, answer in zip(by_tenant, answers, strict=True):
            if isinstance(answer, BaseException):
                log.error("shards could not be claimed", tenant=str(tenant), exc_info=answer)
            else:
                claimed |= answer
        return claimed

    async def _claim(self, tenant: TenantId, host: str, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        if tenant in self._damaged or tenant in self._ending:
            return {}
        collector = self._tenants.get(tenant) or self._begin(tenant)
        try:
            # Of another division nothing is given: who asks is behind, or ahead, and asks again.
            return await collector.claim(host, [key for key in keys if key.count == collector.shards])
        finally:
            # Also if nobody waits for the answer any more: some may be in force.
            self._by_host[host].add(tenant)

    async def let_go(self, host: str, gone: Iterable[tuple[ShardKey, int]]) -> None:
        """Note that a host does not count for these shards, in these epochs, any more."""
        by_tenant = grouped(gone, lambda shard: shard[0].tenant)
        collectors = [(self._tenants[tenant], own) for tenant, own in by_tenant.items() if tenant in self._tenants]
        await asyncio.gather(*(collector.let_go(host, own) for collector, own in collectors))

    async def evict(self, host: str) -> None:
        """Take every range from a host that is to end, with what it counted last. Safe to repeat.

        Raises:
            StoreError: nothing can be journalled any more.
        """
        await asyncio.gather(*(collector.evict(host) for collector in self._tenants.values()))

    def forget(self, host: str) -> None:
        """Forget what a host, which is gone, was still to hear."""
        self._by_host.pop(host, None)
        for collector in self._tenants.values():
            collector.forget(host)

    async def use_overrides(self, changed: Collection[str] | None) -> None:
        """Put the book's overrides in force for the tenants that are here: those that may have changed, None: all."""
        concerned = [tenant for tenant in self._tenants if changed is None or str(tenant) in changed]
        for count, tenant in enumerate(concerned, start=1):
            if tenant in self._tenants:
                try:
                    self._tenants[tenant].use(self.book.get(tenant))
                except Exception:
                    log.exception("settings could not be put in force", tenant=str(tenant))
            if count % _TENANTS_AT_A_TIME == 0:
                await asyncio.sleep(0)

    async def end_finished(self) -> None:
        """Let go of the tenants that generate nothing any more and have sent everything, and of their journal."""
        for tenant, collector in list(self._tenants.items()):
            try:
                if collector.is_finished:
                    # Nobody may begin it anew before its journal is forgotten.
                    self._ending.add(tenant)
                    del self._tenants[tenant]
                    await collector.close()
                    await self._journal.forget(tenant)
                    log.info("tenant ended", tenant=str(tenant))
            except Exception:
                log.exception("tenant could not be ended", tenant=str(tenant))
            finally:
                self._ending.discard(tenant)

    async def drain(self, deadline_s: float) -> bool:
        """Collect every tenant a last time and send what waits; return whether nothing is left."""
        tenants = dict(self._tenants)
        drains = (collector.drain(deadline_s) for collector in tenants.values())
        answers = await asyncio.gather(*drains, return_exceptions=True)
        for tenant, answer in zip(tenants, answers, strict=True):
            if isinstance(answer, BaseException):
                log.error("tenant could not be drained", tenant=str(tenant), exc_info=answer)
        return all(answer is True for answer in answers)

    async def ledger(self, tenant: TenantId) -> list[tuple[str, str, str, int]]:
        """Return a tenant's ledger by service, stage and outcome; nothing of one that is not here."""
        collector = self._tenants.get(tenant)
        return [] if collector is None else await collector.ledger()

    async def look(self, tenant: TenantId) -> TenantLook:
        """Return what is known of a tenant, for somebody who looks; nothing of one that is not here."""
        collector = self._tenants.get(tenant)
        if collector is None:
            return TenantLook(NOTHING, None)
        return TenantLook(await collector.view(), collector.snapshot().endpoint)

    def snapshots(self) -> dict[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant that can tell them."""
        figures = {}
        for tenant, collector in self._tenants.items():
            try:
                figures[tenant] = collector.snapshot()
            except Exception:
                log.exception("tenant could not be measured", tenant=str(tenant))
        return figures

    def _begin(self, tenant: TenantId) -> TenantCollector:
        profile = self.book.get(tenant)
        entry = BeginEntry(profile.plan_text, self._around.clock.now_ms(), secrets.randbits(64))
        # Nobody sees the state before the claim that brought it about is committed, behind this.
        self._journal.submit(tenant, entry)
        collector = self._collector(tenant, TenantState(tenant, entry))
        collector.start()
        log.info("tenant begins", tenant=str(tenant))
        return collector

    def _collector(self, tenant: TenantId, state: TenantState) -> TenantCollector:
        collector = TenantCollector(state, self.book.get(tenant), self._around, self._journal, self._release)
        self._tenants[tenant] = collector
        return collector
