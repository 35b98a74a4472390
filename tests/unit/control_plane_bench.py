"""The API over a real store, without Ray; settings count as pushed at once."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from cluster.control_plane import ControlPlane
from cluster.settings_push import SettingsPush
from tenants.control.caller import Caller
from tenants.control.figures import Readers, TenantFigures
from tenants.endpoint.collector_set import TenantLook
from tenants.identity.access import Scope
from tenants.identity.tenant_id import TenantId
from tenants.identity.token_table import TokenTable
from tenants.processing.registry_view import NOTHING
from tenants.settings.in_force import OverridesChange, OverridesInForce
from tenants.settings.overrides import Overrides, RuntimeOverrides
from tenants.settings.service_config import ServiceConfig, parse_service_config
from tenants.store.database import Database
from tests.unit.conditions import until

_BASE = """
multitenancy_enabled: true
overrides:
  user_configurable_overrides: {enabled: true, api: {check_for_conflicting_runtime_overrides: true}}
"""

ADMIN = Caller("test", "127.0.0.1")


class ControlPlaneBench:
    """An asynchronous context manager.

    Attributes:
        client: speaks to the application.
        pushed: the version that has been carried to all others; a change is there at once unless ``holds_back``.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        runtime: Mapping[str, Any] | None = None,
        url: str = "",
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config: ServiceConfig = parse_service_config((config or _BASE).encode(), {})
        self.holds_back = False
        self.figures: dict[str, dict[str, TenantFigures]] = {}
        self.ledgers: dict[str, list[tuple[str, str, str, int]]] | None = {}
        self.looks: dict[str, TenantLook | None] = {}
        self.tables: list[tuple[int, TokenTable]] = []
        self._entries: RuntimeOverrides = {
            name: Overrides.model_validate(entry) for name, entry in (runtime or {}).items()
        }
        self._url = url or f"sqlite:///{folder / 'millrace.db'}"
        self._clock_ns = clock_ns
        self._now_ms = 1_700_000_000_000

    async def __aenter__(self) -> Self:
        self.settings = SettingsPush(self._push, self._tell, self._clock_ms)
        self.settings.put(runtime=self._entries)
        self.control = ControlPlane(
            self.config,
            Database.open(self._url),
            self.settings,
            self._push_tokens,
            Readers(self._read_figures, self._read_ledger, self._look_at),
            shard_hosts=lambda: 0,
            clock_ns=self._clock_ns,
        )
        await self.control.load()
        await self.settings.tell()
        self.app = self.control.application("test")
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://millrace.test")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.control.stop()

    async def token(self, *scopes: Scope, tenant: str | None = None, days: int | None = 1) -> str:
        """Make a token; returns its value."""
        _, text = await self.control.tokens.create(
            TenantId(tenant) if tenant else None,
            frozenset(scopes),
            None if days is None else days * 86_400_000,
            "",
            ADMIN,
        )
        return text

    async def expired_token(self, *scopes: Scope) -> str:
        """Make a token that has ended."""
        record, text = await self.control.tokens.create(None, frozenset(scopes), 1, "", ADMIN)
        await until(lambda: time.time() * 1000 > (record.expires_ms or 0))
        return text

    async def ask(
        self,
        method: str,
        path: str,
        *,
        tenant: str | None = "acme",
        token: str | None = None,
        body: object = None,
        content: bytes | None = None,
        **headers: str,
    ) -> httpx.Response:
        """Send one request; header names with underscores for dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if tenant is not None:
            sent["X-Scope-OrgID"] = tenant
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if content is not None:
            return await self.client.request(method, path, headers=sent, content=content)
        return await self.client.request(method, path, headers=sent, json=body)

    def _clock_ms(self) -> int:
        self._now_ms += 1
        return self._now_ms

    async def _push(self, change: OverridesChange) -> bool:
        if not self.holds_back:
            await self.settings.note_everywhere(change.version)
        return True

    async def _tell(self, overrides: OverridesInForce) -> None:
        await self.settings.note_everywhere(overrides.version)

    async def _push_tokens(self, version: int, table: TokenTable) -> None:
        self.tables.append((version, table))

    async def _read_ledger(self, tenant: TenantId) -> list[tuple[str, str, str, int]] | None:
        return None if self.ledgers is None else self.ledgers.get(str(tenant), [])

    async def _look_at(self, tenant: TenantId) -> TenantLook | None:
        return self.looks.get(str(tenant), TenantLook(NOTHING, None))

    async def _read_figures(self) -> dict[str, dict[str, TenantFigures]]:
        return self.figures
