"""Tells a tenant's shard of the spans that were refused unread, for what is not told is missing in the ledger."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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


@dataclass(slots=True)
class _Waiting:
    """What one tenant is to be told.

    Attributes:
        refused: what was refused since the last frame was made.
        adding: requests that are being counted in threads just now.
        untold: a frame of which no shard is known to have it, and its fingerprint.
    """

    refused: _engine.RefusedSpans
    adding: int = 0
    untold: tuple[bytes, bytes] | None = None


class RefusedReport:
    """Counts refused spans and tells of them once a second. One event loop owns it.

    Each tenant is told for itself: a shard that cannot be had keeps nothing from the others.

    State held: what was refused since the last second, and what no shard has taken yet. Lost with the process: a span
    that is missing in the ledger is missing among those received, too.
    """

    def __init__(self, send: Send, interval_s: float = _INTERVAL_S) -> None:
        self._send = send
        self._interval_s = interval_s
        self._waiting: dict[TenantId, _Waiting] = {}
        self._attempts: dict[TenantId, asyncio.Task[None]] = {}
        self._telling: asyncio.Task[None] | None = None

    async def add(self, tenant: TenantId, body: bytes, reason: str, *, is_told: bool) -> int:
        """Return how many spans a refused request has.

        Args:
            tenant: who sent it.
            body: the request; if it is damaged, the spans before the damage are counted.
            reason: as the engine knows it.
            is_told: whether the tenant has a ledger.
        """
        waiting = self._of(tenant) if is_told else _Waiting(_engine.RefusedSpans())
        waiting.adding += 1
        try:
            spans = await beside_the_loop(len(body), lambda: waiting.refused.add(body, reason))
        finally:
            waiting.adding -= 1
        if self._waiting and self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_for_ever())
        return spans

    def _of(self, tenant: TenantId) -> _Waiting:
        waiting = self._waiting.get(tenant)
        if waiting is None:
            waiting = _Waiting(_engine.RefusedSpans())
            if len(self._waiting) < MAX_TENANTS:
                self._waiting[tenant] = waiting
        return waiting

    async def _tell_for_ever(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._interval_s)
                for tenant in tuple(self._waiting):
                    self._attempt(tenant)
        finally:
            self._telling = None

    async def tell(self) -> None:
        """Try to tell of everything that was refused so far; returns when every tenant's shard has answered.

        What a shard has not taken is kept for the next time.
        """
        await asyncio.gather(*(self._tell_once(tenant) for tenant in tuple(self._waiting)))

    async def _tell_once(self, tenant: TenantId) -> None:
        if (under_way := self._attempts.get(tenant)) is not None:
            # Of what was refused since it began it does not tell.
            await asyncio.wait([under_way])
        await asyncio.wait([self._attempt(tenant)])

    def _attempt(self, tenant: TenantId) -> asyncio.Task[None]:
        """Return the attempt to tell a tenant that is under way, or begin one."""
        attempt = self._attempts.get(tenant)
        if attempt is None:
            attempt = self._attempts[tenant] = asyncio.get_running_loop().create_task(self._tell(tenant))
            attempt.add_done_callback(lambda _: self._attempts.pop(tenant))
        return attempt

    async def _tell(self, tenant: TenantId) -> None:
        waiting = self._waiting.get(tenant)
        if waiting is None or not await self._send_untold(tenant, waiting):
            return
        frame = waiting.refused.take()
        if frame is not None:
            # Its own: two seconds may tell the same. And one for all attempts, so that it is counted once.
            waiting.untold = (secrets.token_bytes(_FINGERPRINT), frame)
            await self._send_untold(tenant, waiting)
        elif not waiting.adding:
            del self._waiting[tenant]

    async def _send_untold(self, tenant: TenantId, waiting: _Waiting) -> bool:
        """Return whether no frame is left that was made."""
        if waiting.untold is not None:
            try:
                if not await self._send(tenant, *waiting.untold):
                    return False
            except Exception:
                # It would fail again.
                log.exception("refused spans could not be told", tenant=str(tenant))
            waiting.untold = None
        return True
