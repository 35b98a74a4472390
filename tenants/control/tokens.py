"""API tokens: made, listed without their value, revoked; and the table of those that are valid (tenancy §3.1)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from tenants.control.caller import Caller
from tenants.control.problem import ProblemError, ProblemKind
from tenants.identity.access import Scope, check_grant
from tenants.identity.tenant_id import TenantId
from tenants.identity.token import hash_secret, new_token
from tenants.identity.token_table import TokenTable
from tenants.store.audit import AuditEntry
from tenants.store.tokens import TokenRecord, TokenStore

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

MAX_TOKENS_PER_TENANT = 100
MAX_LIFETIME_MS = 10 * 366 * 86_400_000

PutTable = Callable[[int, TokenTable], Awaitable[None]]
"""Put a table in force wherever requests are authenticated; the number grows with every change."""


class TokenService:
    """All tokens. One event loop owns it; the store is asked in threads. Values leave it once, when they are made."""

    def __init__(self, store: TokenStore, put_table: PutTable, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._put_table = put_table
        self._clock_ms = clock_ms
        self._change_token = -1

    async def load(self) -> None:
        """Put the tokens in force that are valid."""
        await self.look()

    async def look(self) -> bool:
        """Put in force what has changed since; return whether there was anything."""
        token = await asyncio.to_thread(self._store.change_token)
        if token == self._change_token:
            return False
        records = await asyncio.to_thread(self._store.all_valid, self._clock_ms())
        await self._put_table(token, TokenTable.of(records))
        self._change_token = token
        return True

    async def create(
        self, tenant: TenantId | None, scopes: frozenset[Scope], lifetime_ms: int | None, note: str, caller: Caller
    ) -> tuple[TokenRecord, str]:
        """Make a token; returns its record, and its value, which is kept nowhere.

        Raises:
            ProblemError: no scope, a scope that does not go with having a tenant or none, or too many tokens.
        """
        try:
            check_grant(tenant, scopes)
        except ValueError as error:
            raise ProblemError(ProblemKind.INVALID_REQUEST, str(error)) from None
        if lifetime_ms is not None and not 0 < lifetime_ms <= MAX_LIFETIME_MS:
            raise ProblemError(ProblemKind.INVALID_REQUEST, "the lifetime should be more than 0 and at most 10 years")
        now_ms = self._clock_ms()
        valid = [record for record in await self.list(tenant) if _is_valid(record, now_ms)]
        if tenant is not None and len(valid) >= MAX_TOKENS_PER_TENANT:
            raise ProblemError(
                ProblemKind.CONFLICT, f"the tenant has {len(valid)} tokens, the most there may be; revoke one"
            )
        made = new_token()
        # Slow on purpose.
        secret_hash = await asyncio.to_thread(hash_secret, made)
        record = TokenRecord(
            token_id=made.token_id,
            tenant=None if tenant is None else str(tenant),
            scopes=frozenset(scope.value for scope in scopes),
            secret_hash=secret_hash,
            created_ms=now_ms,
            expires_ms=None if lifetime_ms is None else now_ms + lifetime_ms,
            revoked_ms=None,
            note=note,
            created_by=caller.actor,
        )
        detail: dict[str, Any] = {"token": made.token_id, "scopes": sorted(record.scopes), "note": note}
        audit = AuditEntry(now_ms, caller.actor, "token.create", record.tenant, detail, caller.source_ip, None)
        await asyncio.to_thread(self._store.add, record, audit=audit)
        await self.look()
        return record, made.text

    async def list(self, tenant: TenantId | None) -> list[TokenRecord]:
        """Return the tokens of a tenant, or all; also those that are no longer valid, while they are kept."""
        return await asyncio.to_thread(self._store.listed, None if tenant is None else str(tenant))

    async def revoke(self, tenant: TenantId | None, token_id: str, caller: Caller) -> None:
        """End a token at once; ``tenant`` is the only one whose tokens the caller may end, None: any.

        Raises:
            ProblemError: there is no such token; those of others are not told apart from none.
        """
        record = await asyncio.to_thread(self._store.get, token_id)
        if record is None or (tenant is not None and record.tenant != str(tenant)):
            raise ProblemError(ProblemKind.NOT_FOUND, "there is no such token")
        now_ms = self._clock_ms()
        detail = {"token": token_id}
        audit = AuditEntry(now_ms, caller.actor, "token.revoke", record.tenant, detail, caller.source_ip, None)
        await asyncio.to_thread(self._store.revoke, token_id, now_ms, audit=audit)
        await self.look()


def _is_valid(record: TokenRecord, now_ms: int) -> bool:
    return record.revoked_ms is None and (record.expires_ms is None or record.expires_ms > now_ms)
