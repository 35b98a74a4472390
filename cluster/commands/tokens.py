"""What ``millrace tokens`` does: makes, lists and ends tokens at the store itself.

For the first operator, and for when nobody has a token any more. A running service finds what was done here within
``overrides.user_configurable_overrides.poll_interval``.
"""

import asyncio
import getpass
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.control_plane import open_store
from cluster.json_output import write_json
from tenants.api.token_routes import token_json
from tenants.control.caller import Caller
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.tokens import TokenService
from tenants.identity.access import Scope
from tenants.identity.tenant_id import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings.service_config import load_service_config
from tenants.store.tokens import TokenStore


def create(
    config: Path | None,
    environ: Mapping[str, str],
    scopes: Collection[Scope],
    *,
    tenant: str | None,
    days: int | None,
    note: str,
) -> str:
    """Make a token and return its value, which is kept nowhere.

    Raises:
        SettingsError: the service configuration has faults.
        StartError: the store cannot be opened.
        ProblemError: no tenant id, or the scopes do not go with having a tenant or none.
    """
    owner = _tenant_id(tenant)
    with _tokens(config, environ) as tokens:
        lifetime_ms = None if days is None else days * 86_400_000
        _, text = asyncio.run(tokens.create(owner, frozenset(scopes), lifetime_ms, note, _caller()))
        return text


def show(config: Path | None, environ: Mapping[str, str], tenant: str | None, out: Console, *, as_json: bool) -> None:
    """List tokens, without their values. Raises as :func:`create`."""
    with _tokens(config, environ) as tokens:
        records = asyncio.run(tokens.list(_tenant_id(tenant)))
    if as_json:
        write_json([token_json(record) for record in records], out)
        return
    table = Table("ID", "Tenant", "Scopes", "Made", "Expires", "State", "Note")
    now_ms = _now_ms()
    for record in records:
        is_over = record.expires_ms is not None and record.expires_ms <= now_ms
        table.add_row(
            record.token_id,
            record.tenant or "all",
            ", ".join(sorted(record.scopes)),
            _day(record.created_ms),
            _day(record.expires_ms),
            "revoked" if record.revoked_ms is not None else "expired" if is_over else "valid",
            record.note,
        )
    out.print(table)


def revoke(config: Path | None, environ: Mapping[str, str], token_id: str) -> None:
    """End a token. Raises as :func:`create`; ProblemError: there is no such token."""
    with _tokens(config, environ) as tokens:
        asyncio.run(tokens.revoke(None, token_id, _caller()))


@contextmanager
def _tokens(path: Path | None, environ: Mapping[str, str]) -> Iterator[TokenService]:
    database = open_store(load_service_config(path, environ))

    async def nobody_listens(_version: int, _table: TokenTable) -> None:
        pass

    try:
        yield TokenService(TokenStore(database), nobody_listens, _now_ms)
    finally:
        database.close()


def _tenant_id(text: str | None) -> TenantId | None:
    try:
        return None if text is None else TenantId(text)
    except ValueError as error:
        raise ProblemError(ProblemKind.INVALID_TENANT, f"--tenant {error}") from None


def _caller() -> Caller:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # In a container of any user id there may be no name.
        name = f"uid-{os.getuid()}"
    return Caller(f"cli:{name}", "")


def _day(ms: int | None) -> str:
    return "never" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
