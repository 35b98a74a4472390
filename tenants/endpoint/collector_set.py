"""All tenants of one collector process. Knows neither where records come from nor what is in them.

What ails one tenant stays with it: the others are merged, collected and measured.
"""

import asyncio
from collections.abc import Collection, Hashable

import structlog

from tenants import _engine
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.tenant_collector import TenantCollector, TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.processing.profile import ProfileBook

_TENANTS_AT_A_TIME = 100

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class CollectorSet:
    """The tenants of one process, each begun by its first record. One event loop owns it.

    All state is in memory and lost with the process.
    """

    def __init__(self, book: ProfileBook, around: Surroundings) -> None:
        self.book = book
        self._around = around
        self._tenants: dict[TenantId, TenantCollector] = {}

    def merge(self, tenant: TenantId, source: Hashable, data: bytes) -> bool:
        """Add one record of the tenant's shard that ``source`` stands for.

        Returns:
            False if that is not possible just now: nothing was added, and the record has to come again.

        Raises:
            MalformedFrame: the record cannot be read, now or later.
        """
        try:
            collector = self._tenants.get(tenant) or self._begin(tenant)
            return collector.merge(source, data)
        except _engine.MalformedFrame:
            raise
        except Exception:
            log.exception("flush record could not be merged, it has to wait", tenant=str(tenant))
            return False

    def forget_source(self, tenant: TenantId, source: Hashable) -> None:
        """Drop what is only needed to read records of a shard that is gone; its series stay."""
        if tenant in self._tenants:
            self._tenants[tenant].forget_source(source)

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
        """Let go of the tenants that generate nothing any more and have sent everything."""
        for tenant, collector in list(self._tenants.items()):
            try:
                if collector.is_finished:
                    del self._tenants[tenant]
                    await collector.close()
                    log.info("tenant ended", tenant=str(tenant))
            except Exception:
                log.exception("tenant could not be ended", tenant=str(tenant))

    async def drain(self, deadline_s: float) -> bool:
        """Collect every tenant a last time and send what waits; return whether nothing is left."""
        tenants = dict(self._tenants)
        drains = (collector.drain(deadline_s) for collector in tenants.values())
        answers = await asyncio.gather(*drains, return_exceptions=True)
        for tenant, answer in zip(tenants, answers, strict=True):
            if isinstance(answer, BaseException):
                log.error("tenant could not be drained", tenant=str(tenant), exc_info=answer)
        return all(answer is True for answer in answers)

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
        collector = TenantCollector(self.book.get(tenant), self._around)
        collector.start()
        self._tenants[tenant] = collector
        log.info("tenant begins", tenant=str(tenant))
        return collector
