"""Tells a tenant's shard of the spans that were refused unread, for what is not told is missing in the ledger."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cluster.gateway.beside_the_loop import beside_the_loop
from tenants import _engine
from tenants.identity.tenant_id import TenantId

MAX_TENANTS: Final = 10_000
"""Tenants with spans to be told of. Beyond it the refused spans of further ones are not in their ledgers."""

_INTERVAL_S: Final = 1.0
_FINGERPRINT: Final = 16

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Send = Callable[[TenantId, bytes, bytes], Awaitable[bool]]
"""Have a shard of the tenant count a frame (fingerprint, frame); whether it has."""


class RefusedReport:
    """Counts refused spans and tells of them once a second. One event loop owns it.

    State held: what was refused since the last second. Lost with the process: a span that is missing in the ledger is
    missing among those received, too.
    """

    def __init__(self, send: Send, interval_s: float = _INTERVAL_S) -> None:
        self._send = send
        self._interval_s = interval_s
        self._refused: dict[TenantId, _engine.RefusedSpans] = {}
        self._telling: asyncio.Task[None] | None = None

    async def add(self, tenant: TenantId, body: bytes, reason: str, *, is_told: bool) -> int:
        """Return how many spans a refused request has.

        Args:
            tenant: who sent it.
            body: the request; if it is damaged, the spans before the damage are counted.
            reason: as the engine knows it.
            is_told: whether the tenant has a ledger.
        """
        refused = self._of(tenant) if is_told else _engine.RefusedSpans()
        spans = await beside_the_loop(len(body), lambda: refused.add(body, reason))
        if self._refused and self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_all())
        return spans

    def _of(self, tenant: TenantId) -> _engine.RefusedSpans:
        refused = self._refused.get(tenant)
        if refused is None:
            refused = _engine.RefusedSpans()
            if len(self._refused) < MAX_TENANTS:
                self._refused[tenant] = refused
        return refused

    async def _tell_all(self) -> None:
        try:
            while self._refused:
                await asyncio.sleep(self._interval_s)
                await self.tell()
        finally:
            self._telling = None

    async def tell(self) -> None:
        """Tell of everything that was refused so far; returns when the shards have it."""
        refused, self._refused = self._refused, {}
        await asyncio.gather(*(self._tell(tenant, spans) for tenant, spans in refused.items()))

    async def _tell(self, tenant: TenantId, refused: _engine.RefusedSpans) -> None:
        frame = refused.take()
        # Its own: two seconds may tell the same.
        fingerprint = secrets.token_bytes(_FINGERPRINT)
        while frame is not None:
            try:
                if await self._send(tenant, fingerprint, frame):
                    return
            except Exception:
                log.exception("refused spans could not be told", tenant=str(tenant))
                return
            await asyncio.sleep(self._interval_s)
