"""The control plane of one service: the store, the services around it, and what keeps them up to date.

Lives in the driver. Spans do not need it: while it or its store is down, they flow on under the settings in force.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sized

import structlog
from fastapi import FastAPI

from cluster.errors import StartError
from cluster.measurements import Measurements
from tenants.api.access import Guard, GuardedRouter
from tenants.api.admin_routes import AdminRoutes
from tenants.api.application import Routes, build_application
from tenants.api.insight_routes import InsightRoutes
from tenants.api.overrides_routes import OverridesRoutes
from tenants.api.status_routes import StatusRoutes
from tenants.api.token_routes import TokenRoutes
from tenants.api.usage_routes import UsageRoutes
from tenants.console.sessions import Sessions
from tenants.control.caller import Caller
from tenants.control.documents import DocumentService
from tenants.control.effective import EffectiveSettings
from tenants.control.figures import Readers, TenantFigures
from tenants.control.in_force import SettingsInForce
from tenants.control.insight import TenantInsight
from tenants.control.overview import TenantOverview
from tenants.control.sizing import SIZING_INTERVAL_S, ShardSizing
from tenants.control.tenants import TenantService
from tenants.control.timeline import Timeline
from tenants.control.tokens import PutTable, TokenService
from tenants.control.usage import UsageMeter
from tenants.control.write_limiter import WriteLimiter
from tenants.identity.authenticator import Authenticator
from tenants.identity.identification import Identification
from tenants.identity.token_table import TokenTable
from tenants.settings.service_config import ServiceConfig
from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.database import Database
from tenants.store.documents import DocumentStore
from tenants.store.errors import StoreError
from tenants.store.tenants import TenantStore
from tenants.store.tokens import TokenStore
from tenants.store.url import store_url
from tenants.store.usage import UsageStore

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_FORGETTING_S = 3600.0


def open_store(config: ServiceConfig) -> Database:
    """Open the configured store, or the file in the data directory.

    Raises:
        StartError: it cannot be opened.
    """
    try:
        return Database.open(store_url(config))
    except StoreError as error:
        raise StartError(f"store: {error}") from None


class ControlPlane:
    """Everything that answers for settings, tenants, tokens and usage. One event loop owns it."""

    def __init__(
        self,
        config: ServiceConfig,
        database: Database,
        in_force: SettingsInForce,
        push_tokens: PutTable,
        readers: Readers,
        *,
        shard_hosts: Callable[[], int],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._database = database
        self._push_tokens = push_tokens
        self._read_figures = readers.figures
        # A token that was made at the store opens at once.
        self._authenticator = Authenticator(_now_ms, look=lambda: _try(self.tokens.look))
        self._identification = Identification(config.auth.mode, config.single_tenant, self._authenticator)
        self.documents = DocumentService(config, DocumentStore(database), in_force, _now_ms)
        self.tenants = TenantService(TenantStore(database), in_force, _now_ms)
        self.tokens = TokenService(TokenStore(database), self._put_tokens, _now_ms)
        self._timeline = Timeline(_now_ms)
        self._insight = TenantInsight(readers.look, self._timeline, _now_ms)
        readers = Readers(self._noted_figures, readers.ledger, readers.look)
        self.usage = UsageMeter(UsageStore(database), readers.figures, _now_ms)
        self.sizing = ShardSizing(
            readers.figures, in_force, shard_hosts, config.cluster.shard_spans_per_second, time.monotonic
        )
        self.sessions = Sessions(time.monotonic)
        self._writes = WriteLimiter(clock_ns, random.random)
        self._pages: Sized = ()
        self._audit = AuditStore(database)
        effective = EffectiveSettings(config, in_force)
        overview = TenantOverview(
            config, in_force, effective, self.documents, self.tenants, readers=readers, timeline=self._timeline
        )
        has_documents = config.overrides.user_configurable_overrides.enabled
        self._routes = Routes(
            overrides=OverridesRoutes(
                self.documents, effective, is_enabled=has_documents, is_compatible=config.compat == "tempo"
            ),
            admin=AdminRoutes(self.tenants, overview, self._audit),
            tokens=TokenRoutes(self.tokens),
            usage=UsageRoutes(self.usage, overview, effective, _now_ms),
            status=StatusRoutes(config, in_force, effective, _now_ms),
            insight=InsightRoutes(self._insight),
        )
        self._running: list[asyncio.Task[None]] = []

    def application(self, version: str, *routers: GuardedRouter) -> FastAPI:
        """Build the application of the port, with the routers of its owner."""
        guard = Guard(self._identification, self._writes, inspect_is_open=self._config.auth.mode == "trusted_header")
        return build_application(version, guard, self._routes, *routers)

    def application_with_console(self, version: str, *routers: GuardedRouter) -> FastAPI:
        """Build it with the console; once in a process."""
        # Who only asks for something on the command line need not wait for it to be imported.
        from tenants.console.console import add_console  # noqa: PLC0415
        from tenants.console.doors import door_router  # noqa: PLC0415
        from tenants.console.visitor import Door  # noqa: PLC0415

        api = self.application(version, *routers)
        door = Door(api, self._identification, self.sessions)
        self._pages = door.pages
        api.include_router(door_router(door))
        add_console(api, door)
        return api

    async def load(self) -> None:
        """Put everything in force that is stored; before spans are accepted.

        Raises:
            StartError: the store does not answer.
        """
        try:
            await self.tenants.load()
            if self._config.overrides.user_configurable_overrides.enabled:
                await self.documents.load()
            await self.tokens.load()
        except StoreError as error:
            raise StartError(f"store: {error}") from None

    async def note(self, caller: Caller, action: str, detail: Mapping[str, object]) -> None:
        """Write down that an operator did something with the service as a whole.

        Raises:
            StoreError: the store does not answer.
        """
        entry = AuditEntry(_now_ms(), caller.actor, action, None, detail, caller.source_ip, None)
        await asyncio.to_thread(self._audit.append, entry)

    def measure(self) -> Measurements:
        """Return what could not be put in force."""
        failures = self.documents.failures.items()
        return [
            *[("millrace_settings_document_failures_total", (tenant,), count) for tenant, count in failures],
            ("millrace_timeline_tenants", (), len(self._timeline)),
            ("millrace_timeline_tenants_left_out", (), self._timeline.left_out),
            ("millrace_insight_tenants", (), len(self._insight)),
            ("millrace_console_sessions", (), len(self.sessions)),
            ("millrace_console_pages", (), len(self._pages)),
        ]

    async def _noted_figures(self) -> Mapping[str, Mapping[str, TenantFigures]]:
        """Read what all processes count, whoever asks, and remember it."""
        figures = await self._read_figures()
        self._timeline.add(figures)
        return figures

    def start(self) -> None:
        """Begin to look for what other processes changed, and to add up usage."""
        documents = self._config.overrides.user_configurable_overrides
        looks: list[Callable[[], Awaitable[object]]] = [self.tenants.look, self.tokens.look]
        if documents.enabled:
            looks.append(self.documents.look)
        loop = asyncio.get_running_loop()
        self._running = [
            loop.create_task(_repeat(documents.poll_interval.seconds, *looks)),
            loop.create_task(_repeat(self._config.store.usage_interval.seconds, self.usage.read)),
            loop.create_task(_repeat(SIZING_INTERVAL_S, self.sizing.look)),
            loop.create_task(_repeat(_FORGETTING_S, self._forget_old)),
        ]

    async def stop(self) -> None:
        """Add up usage a last time and let go of everything."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
            await _try(self.usage.read)
        self._authenticator.close()
        await asyncio.to_thread(self._database.close)

    async def _put_tokens(self, version: int, table: TokenTable) -> None:
        self._authenticator.put_tokens(version, table)
        await self._push_tokens(version, table)

    async def _forget_old(self) -> None:
        """Remove what is older than the audit and usage are to be kept."""
        store, now_ms = self._config.store, _now_ms()
        await asyncio.to_thread(self._audit.forget_before, now_ms - store.audit_retention.ns // 1_000_000)
        await self.usage.forget_before(now_ms - store.usage_retention.ns // 1_000_000)


async def _repeat(interval_s: float, *works: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        for work in works:
            await _try(work)


async def _try(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except StoreError as error:
        log.warning("the store does not answer; it is asked again", problem=str(error))
    except Exception:
        log.exception("control plane failed by a bug", work=getattr(work, "__qualname__", str(work)))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
