"""From a configuration to a running service, and down again.

The process that runs this is the Ray driver. It reads the configuration and the runtime file, starts the controller,
and serves the service's own port. Spans do not pass through it.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from cluster import ray_compat
from cluster.actor_routes import actor_router, actor_row
from cluster.control_plane import ControlPlane, open_store
from cluster.errors import StartError
from cluster.face_server import FaceServer
from cluster.gateway.gateway import Ports
from cluster.gateway.listen import CannotListenError
from cluster.limits_exporter import LimitsExporter
from cluster.log_pipe import log_pipe
from cluster.log_setup import set_up_logging
from cluster.measurements import OTHER_TENANTS, Measurements
from cluster.page_tenants import PageTenants
from cluster.placement import Layout, Scale
from cluster.process_measurements import measure_process
from cluster.runtime_watch import RuntimeWatch
from cluster.scale_push import ScalePush
from cluster.scale_routes import scale_router
from cluster.service_face import SERVICE, service_router
from cluster.settings_push import SettingsPush
from cluster.tenant_figures import tenant_figures
from cluster.tls import certificates
from cluster.version import VERSION
from tenants import _engine
from tenants.api.traced import TracedApi
from tenants.control.caller import Caller
from tenants.control.figures import Readers, TenantFigures
from tenants.control.problem import ProblemError, ProblemKind
from tenants.endpoint.collector_set import TenantLook
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings.in_force import OverridesChange, OverridesInForce
from tenants.settings.runtime_file import RuntimeFile
from tenants.settings.service_config import ServiceConfig
from tenants.store.database import Database
from tenants.store.errors import StoreError
from tenants.tracing.opening import open_tracer
from tenants.tracing.spans import CLOSE_S

if TYPE_CHECKING:
    # Imports ray, which must not happen before its environment is prepared.
    from cluster.controller import Standing

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")

_CONTROLLER = "controller"
_WATCH_INTERVAL_S = 1.0
_TIMES_AT_REST = 2
"""So many intervals pass between two looks while everything is as it is wanted."""
_TENANT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 10.0
_DRAIN_GRACE_S = 10.0
"""The controller bounds its draining by itself; beyond this it hangs."""


class MillraceService:
    """One running service, seen from its driver.

    Implements :class:`cluster.service_face.Service`. While the controller is down, answers without it: not ready, and
    the metrics of this process alone.
    """

    def __init__(self, config: ServiceConfig, runtime: RuntimeWatch, database: Database) -> None:
        self._config = config
        self._runtime = runtime
        self._controller: Any = None
        self._ports: dict[str, Ports] = {}
        self._http_port = 0
        self._is_draining = False
        self._started_at = time.time()
        self._is_controller_silent = False
        self._tokens = (0, TokenTable())
        self._tracer = open_tracer(config.tracing, SERVICE, VERSION)
        self._scale = ScalePush(self._push_scale, _now_ms, config.cluster.shard_hosts, self._tracer)
        self._limits = LimitsExporter(config)
        self._settings = SettingsPush(self._push_change, self._tell_controller, _now_ms, self._tracer)
        self._settings.put(runtime=runtime.overrides)
        self._layout = Layout(0, (), (), is_everywhere=False)
        self._page_tenants = PageTenants(config.metrics_page.max_tenants)
        self._control = ControlPlane(
            config,
            database,
            self._settings,
            self._push_tokens,
            Readers(self._read_figures, self._read_ledger, self._look_at),
            # Those that are missing too: tenants are not divided anew because a node is lost for a while.
            shard_hosts=lambda: len(self._layout.shard_hosts) + len(self._layout.missing),
        )

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then drain.

        Returns:
            The exit code: 0 if everything accepted was sent, 1 if something was left.

        Raises:
            StartError: the service cannot start.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        # After ray.init: Ray puts its own handlers in place.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        app = self._control.application_with_console(
            VERSION, service_router(self, self._page_tenants), scale_router(self), actor_router(self)
        )
        if self._tracer is not None:
            app.add_middleware(TracedApi, tracer=self._tracer)
        face = FaceServer(
            app, str(self._config.listen.http), certificates(self._config.listen.http_tls, "listen.http_tls")
        )
        self._http_port = await face.start()
        background: list[asyncio.Task[Any]] = []
        try:
            await self._control.load()
            starting = loop.create_task(self._start())
            stop = loop.create_task(stopping.wait())
            background = [starting, stop]
            await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                self._log_started()
                self._control.start()
                background += [loop.create_task(self._watch_runtime()), loop.create_task(self._watch_controller())]
                await stop
            await self._control.stop()
            return 0 if await self._drain() else 1
        finally:
            for task in background:
                task.cancel()
            await face.stop()
            if self._tracer is not None:
                await asyncio.to_thread(self._tracer.close, CLOSE_S)

    async def _start(self) -> None:
        self._controller = ray_compat.create_actor(
            _controller_class(), _CONTROLLER, slot="controller_slot", is_slot_optional=True, max_concurrency=64
        )
        try:
            await self._settings.tell()
        except Exception as error:
            cause = ray_compat.raised_in_actor(error)
            if isinstance(cause, CannotListenError | StartError | StoreError):
                raise StartError(str(cause)) from None
            raise

    async def _tell_controller(self, overrides: OverridesInForce) -> None:
        scale = self._scale.scale
        try:
            self._ports = await self._controller.start.remote(self._config, overrides, *self._tokens, scale)
        except Exception as error:
            if isinstance(cause := ray_compat.raised_in_actor(error), StartError):
                self._scale.refuse(scale, str(cause))
            raise
        self._scale.fulfil(scale)

    async def _push_scale(self, scale: Scale) -> None:
        await self._controller.rescale.remote(scale)

    async def _push_tokens(self, version: int, table: TokenTable) -> None:
        self._tokens = (version, table)
        if self._ports:
            await self._controller.put_tokens.remote(version, table)

    async def _read_figures(self) -> dict[str, dict[str, TenantFigures]]:
        return tenant_figures(await self.measure())

    async def _read_ledger(self, tenant: TenantId) -> list[tuple[str, str, str, int]] | None:
        rows: list[tuple[str, str, str, int]] | None = await self._of_tenant("ledger", tenant)
        return rows

    async def _look_at(self, tenant: TenantId) -> TenantLook | None:
        seen: TenantLook | None = await self._of_tenant("look", tenant)
        return seen

    async def _of_tenant(self, what: str, tenant: TenantId) -> Any:
        """Ask the tenant's collector through the controller; None: it cannot tell now."""
        if self._controller is None:
            return None
        try:
            async with asyncio.timeout(_TENANT_TIMEOUT_S):
                return await getattr(self._controller, what).remote(tenant)
        except Exception as error:  # noqa: BLE001  (whatever ails an actor, it cannot tell now)
            cause = f"{type(error).__name__}: {error}"[:300]
            log.warning("collector does not tell", what=what, tenant=str(tenant), error=cause)
            return None

    async def _push_change(self, change: OverridesChange) -> bool:
        is_taken: bool = await self._controller.put_overrides.remote(change)
        return is_taken

    def _log_started(self) -> None:
        listen = self._config.listen
        for name, ports in self._ports.items():
            log.info(
                "service is ready",
                gateway=name,
                otlp_grpc=f"{listen.otlp_grpc.host}:{ports.otlp_grpc}",
                otlp_http=f"{listen.otlp_http.host}:{ports.otlp_http}",
                http=f"{listen.http.host}:{self._http_port}",
            )

    async def _watch_runtime(self) -> None:
        period_s = self._config.overrides.per_tenant_override_period.seconds
        while True:
            await asyncio.sleep(period_s)
            try:
                if await self._runtime.look():
                    self._settings.put(runtime=self._runtime.overrides)
                    # If that fails, the controller is found behind, and told.
                    await self._settings.push()
            except Exception:
                log.exception("runtime file could not be put in force")

    async def _watch_controller(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S * (_TIMES_AT_REST if self._is_at_rest else 1))
            try:
                await self._look_after_controller()
            except Exception:
                log.exception("controller could not be told its settings")

    @property
    def _is_at_rest(self) -> bool:
        """Whether everything is as it is wanted, as far as was heard."""
        is_everywhere = self._settings.everywhere == self._settings.overrides.version
        return is_everywhere and self._scale.is_done(self._layout) and not self._layout.missing

    async def _look_after_controller(self) -> None:
        """Start the controller again if it was restarted, empty, or missed newer overrides."""
        standing: Standing | None = await self._answer(self._controller.standing.remote(), None)
        if standing is None:
            return
        await self._settings.look(*standing.settings)
        if not standing.layout.version:
            # It was restarted, and knew of nobody.
            return
        self._layout = standing.layout
        self._scale.look(standing.layout)
        self._ports = dict(standing.ports) or self._ports

    async def _drain(self) -> bool:
        self._is_draining = True
        if self._controller is None:
            return True
        log.info("stopping")
        deadline_s = self._config.cluster.drain_timeout.seconds
        try:
            async with asyncio.timeout(deadline_s + _DRAIN_GRACE_S):
                if self._ports:
                    # A controller that has just been restarted knows of no actors: it would have nothing to drain.
                    await self._look_after_controller()
                is_sent: bool = await self._controller.drain.remote(deadline_s)
        except Exception:
            log.exception("service could not be drained")
            is_sent = False
        finally:
            ray_compat.kill(self._controller)
        if not is_sent:
            log.error("not everything that was accepted could be sent", drain_timeout_s=deadline_s)
        return is_sent

    async def rescale(self, shard_hosts: int, caller: Caller) -> None:
        """Begin to spread tenants over another number of shard hosts; 0: as the configuration does without one.

        Holds until this process ends, whatever becomes of the controller.

        Raises:
            ProblemError: the service is not running.
        """
        if not self._can_ask:
            raise ProblemError(ProblemKind.UNAVAILABLE, "the service is starting or draining; try again")
        await self._control.note(caller, "cluster.rescale", {"shard_hosts": shard_hosts})
        self._scale.wish(shard_hosts)

    async def cluster(self) -> dict[str, Any]:
        """Return how far the last wish for another number of shard hosts has come, and how far overrides have got."""
        layout = await self._answer(self._controller.layout.remote(), None) if self._can_ask else None
        version = self._settings.overrides.version
        return {
            "shard_hosts": {
                "wanted": self._scale.scale.shard_hosts,
                "running": list(layout.shard_hosts) if layout else [],
                "leaving": list(layout.leaving) if layout else [],
                "missing": list(layout.missing) if layout else [],
                "is_done": self._scale.is_done(layout),
                "problem": self._scale.problem,
            },
            "overrides": {"version": version, "everywhere": self._settings.everywhere},
        }

    async def actors(self) -> dict[str, Any]:
        """Return nodes and actors, with what tells how each of them does."""
        measured = await self.measure()
        nodes, places = await asyncio.gather(asyncio.to_thread(ray_compat.nodes), asyncio.to_thread(ray_compat.places))
        return {
            "nodes": [
                {"id": node.id, "address": node.address, "is_alive": node.is_alive, "is_draining": node.is_draining}
                for node in nodes
            ],
            "actors": [actor_row(name, measured[name], places.get(name)) for name in sorted(measured)],
        }

    @property
    def _can_ask(self) -> bool:
        return bool(self._ports) and not self._is_draining

    async def is_ready(self) -> bool:
        """Whether spans are accepted."""
        return self._can_ask and await self._answer(self._controller.is_ready.remote(), otherwise=False)

    async def measure(self) -> Mapping[str, Measurements]:
        """Return the metrics of all actors and of this process."""
        engine = _engine.build_info()
        overrides = self._settings.overrides
        own: Measurements = [
            ("millrace_build_info", (VERSION, engine["version"], engine["profile"]), 1.0),
            ("millrace_settings_version", (), overrides.version),
            *measure_process(),
            *_layer_sizes(overrides),
            ("millrace_shard_hosts", ("running",), len(self._layout.shard_hosts)),
            ("millrace_shard_hosts", ("leaving",), len(self._layout.leaving)),
            ("millrace_shard_hosts", ("missing",), len(self._layout.missing)),
            ("millrace_page_tenants_left_out", (), self._page_tenants.left_out),
            *self._runtime.measure(),
            *self._control.measure(),
            *(self._tracer.measure() if self._tracer is not None else ()),
        ]
        actors: dict[str, Measurements] = {}
        if self._can_ask:
            is_down: Measurements = [("millrace_actor_up", (), 0.0)]
            actors = await self._answer(self._controller.measure.remote(), {_CONTROLLER: is_down})
        own += self._limits.measure(overrides, self._tenants_seen(actors))
        return {SERVICE: own, **actors}

    def _tenants_seen(self, actors: Mapping[str, Measurements]) -> set[str]:
        """Return the tenants that have sent spans since the gateways started."""
        figures = tenant_figures(actors)
        return {name for of_actor in figures.values() for name in of_actor if name != OTHER_TENANTS}

    async def tenants(self) -> Mapping[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant that has series."""
        nobody: dict[TenantId, TenantCollectorSnapshot] = {}
        return await self._answer(self._controller.tenants.remote(), nobody) if self._can_ask else nobody

    async def _answer(self, call: Awaitable[T], otherwise: T) -> T:
        """Wait for the controller's answer; ``otherwise`` if it does not come in time, because it is restarting."""
        try:
            answer = await asyncio.wait_for(call, _ANSWER_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001  (whatever ails the controller, this process has to answer)
            if not self._is_controller_silent:
                log.warning("controller does not answer", error=f"{type(error).__name__}: {error}"[:300])
            self._is_controller_silent = True
            return otherwise
        self._is_controller_silent = False
        return answer

    def status(self) -> Mapping[str, Any]:
        """Return ports, settings and times."""
        good = self._runtime.good
        return {
            "version": VERSION,
            "engine": _engine.build_info(),
            "started_at": datetime.fromtimestamp(self._started_at, UTC).isoformat(timespec="seconds"),
            "state": "draining" if self._is_draining else "running" if self._ports else "starting",
            "gateways": {
                name: {"otlp_grpc": ports.otlp_grpc, "otlp_http": ports.otlp_http}
                for name, ports in self._ports.items()
            },
            "overrides": {
                "version": self._settings.overrides.version,
                "last_reload_successful": self._runtime.is_good,
                "sha256": good.sha256 if good else None,
                "entries": len(good.overrides) if good else 0,
            },
        }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _layer_sizes(overrides: OverridesInForce) -> Measurements:
    sizes = {
        "runtime": len(overrides.runtime),
        "api": len(overrides.documents),
        "operator": len(overrides.limits),
        "state": len(overrides.states),
    }
    return [("millrace_settings_tenants", (layer,), size) for layer, size in sizes.items()]


def load_runtime_file(config: ServiceConfig) -> RuntimeWatch:
    """Read the runtime file for the first time, if one is configured.

    Raises:
        StartError: it cannot be read or has faults.
    """
    path = config.overrides.per_tenant_override_config
    if path is None:
        return RuntimeWatch(None)
    file = RuntimeFile(
        path,
        Path.read_bytes,
        config=config,
        environ=os.environ if config.overrides.expand_env else None,
        allow_mass_removal=config.overrides.allow_mass_removal,
    )
    return RuntimeWatch(file)


def serve(config: ServiceConfig, ray_address: str | None) -> int:
    """Run the service in this process until it is told to stop; returns the exit code.

    Args:
        config: the service configuration.
        ray_address: of an existing cluster; None starts a Ray of our own.

    Raises:
        StartError: the service cannot start. Nothing is left running; on an existing cluster, actors that did come up
            are, for the next try.
    """
    set_up_logging(config.log, SERVICE)
    runtime = load_runtime_file(config)
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"data_dir {config.data_dir} cannot be made: {error.strerror}") from None
    database = open_store(config)
    log.info("starting", version=VERSION, ray=ray_address or "embedded")
    # On a cluster of its own nodes the actors' lines go to the logs of their pods.
    with nullcontext() if ray_address else log_pipe():
        try:
            ray_compat.start(ray_address)
            return asyncio.run(MillraceService(config, runtime, database).run())
        except SystemExit:
            # Ray's own answer to SIGTERM, in force until the service has put its handlers in place.
            log.info("told to stop before anything was accepted")
            return 0
        finally:
            ray_compat.stop()
            log.info("stopped")


def _controller_class() -> type:
    # Imports ray, which must not happen before its environment is prepared.
    from cluster.controller import Controller  # noqa: PLC0415

    return Controller
