"""From a configuration to a running service, and down again.

The process that runs this is the Ray driver. It reads the configuration and the runtime file, starts the controller,
and serves the service's own port. Spans do not pass through it.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from cluster import ray_compat
from cluster.errors import StartError
from cluster.gateway.gateway import Ports
from cluster.gateway.listen import CannotListenError, bind
from cluster.log_pipe import log_pipe
from cluster.log_setup import set_up_logging
from cluster.measurements import Measurements
from cluster.service_face import SERVICE, service_face
from cluster.version import VERSION
from tenants import _engine
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.runtime_file import Failed, Loaded, RuntimeFile
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_CONTROLLER = "controller"
_FACE_SHUTDOWN_S = 2


class MillraceService:
    """One running service, seen from its driver.

    Implements :class:`cluster.service_face.Service`.
    """

    def __init__(self, config: ServiceConfig, runtime_file: RuntimeFile | None) -> None:
        self._config = config
        self._runtime_file = runtime_file
        self._controller: Any = None
        self._ports: dict[str, Ports] = {}
        self._http_port = 0
        self._is_draining = False
        self._started_at = time.time()
        # Versions follow the clock, so that a restarted driver of the same cluster goes on from higher ones.
        self._version = time.time_ns() // 1_000_000
        self._is_reload_good = True
        self._reload_failures: Counter[str] = Counter()

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
        face = _Face(self, str(self._config.listen.http))
        self._http_port = await face.start()
        background: list[asyncio.Task[Any]] = []
        try:
            starting = loop.create_task(self._start())
            stop = loop.create_task(stopping.wait())
            background = [starting, stop]
            await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                self._log_started()
                background.append(loop.create_task(self._watch_runtime_file()))
                await stop
            return 0 if await self._drain() else 1
        finally:
            for task in background:
                task.cancel()
            await face.stop()

    async def _start(self) -> None:
        self._controller = ray_compat.create_actor(
            _controller_class(), _CONTROLLER, slot="controller_slot", max_concurrency=64
        )
        try:
            self._ports = await self._controller.start.remote(self._config, self._version, self._runtime)
        except Exception as error:
            if isinstance(error, CannotListenError) or isinstance(getattr(error, "cause", None), CannotListenError):
                raise StartError(str(getattr(error, "cause", error))) from None
            raise

    @property
    def _runtime(self) -> RuntimeOverrides:
        good = self._runtime_file.good if self._runtime_file else None
        return good.overrides if good else {}

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

    async def _watch_runtime_file(self) -> None:
        if self._runtime_file is None:
            return
        period_s = self._config.overrides.per_tenant_override_period.seconds
        while True:
            await asyncio.sleep(period_s)
            # In a thread: reading a big file takes seconds, and /ready must answer meanwhile.
            outcome = await asyncio.to_thread(self._runtime_file.poll)
            if isinstance(outcome, Failed):
                self._reload_failures[outcome.reason] += 1
                if self._is_reload_good:
                    log.error("runtime file refused, the last good one stays", problem=str(outcome))
                self._is_reload_good = False
                continue
            if not self._is_reload_good:
                log.info("runtime file is good again")
            self._is_reload_good = True
            if isinstance(outcome, Loaded):
                await self._put_overrides(outcome)

    async def _put_overrides(self, loaded: Loaded) -> None:
        self._version = max(self._version + 1, time.time_ns() // 1_000_000)
        try:
            await self._controller.put_overrides.remote(self._version, loaded.overrides)
        except Exception:
            # The controller is restarting; it is told on the next start or change.
            log.exception("overrides could not be pushed")
            return
        log.info("runtime file loaded", tenants=len(loaded.overrides), sha256=loaded.sha256[:12])

    async def _drain(self) -> bool:
        self._is_draining = True
        if self._controller is None:
            return True
        log.info("stopping")
        deadline_s = self._config.cluster.drain_timeout.seconds
        try:
            is_sent: bool = await self._controller.drain.remote(deadline_s)
        finally:
            ray_compat.kill(self._controller)
        if not is_sent:
            log.error("not everything that was accepted could be sent", drain_timeout_s=deadline_s)
        return is_sent

    async def is_ready(self) -> bool:
        """Whether spans are accepted."""
        if self._is_draining or not self._ports:
            return False
        is_ready: bool = await self._controller.is_ready.remote()
        return is_ready

    async def measure(self) -> Mapping[str, Measurements]:
        """Return the metrics of all actors and of this process."""
        engine = _engine.build_info()
        own: Measurements = [
            ("millrace_build_info", (VERSION, engine["version"], engine["profile"]), 1.0),
            ("millrace_settings_version", (), self._version),
            ("millrace_settings_last_reload_successful", (), float(self._is_reload_good)),
        ]
        for reason, count in self._reload_failures.items():
            own.append(("millrace_settings_reload_failures_total", (reason,), count))
        actors: dict[str, Measurements] = {}
        if self._ports and not self._is_draining:
            actors = await self._controller.measure.remote()
        return {SERVICE: own, **actors}

    async def tenants(self) -> Mapping[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant that has series."""
        if not self._ports or self._is_draining:
            return {}
        tenants: dict[TenantId, TenantCollectorSnapshot] = await self._controller.tenants.remote()
        return tenants

    def status(self) -> Mapping[str, Any]:
        """Return ports, settings and times."""
        good = self._runtime_file.good if self._runtime_file else None
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
                "version": self._version,
                "last_reload_successful": self._is_reload_good,
                "sha256": good.sha256 if good else None,
                "entries": len(good.overrides) if good else 0,
            },
        }


class _Face:
    """The HTTP server of the service's own port, in the event loop of its caller."""

    def __init__(self, service: MillraceService, listen: str) -> None:
        self._listen = listen
        self._server = uvicorn.Server(
            uvicorn.Config(
                service_face(service),
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_FACE_SHUTDOWN_S,
            )
        )
        # Signals are the service's; uvicorn's own handlers would end only this server.
        self._server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        try:
            listener = bind(self._listen)
        except CannotListenError as error:
            raise StartError(str(error)) from None
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        port: int = listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def load_runtime_file(config: ServiceConfig) -> RuntimeFile | None:
    """Read the runtime file for the first time; None if none is configured.

    Raises:
        StartError: it cannot be read or has faults. At start there is no last good one to go on with.
    """
    path = config.overrides.per_tenant_override_config
    if path is None:
        return None
    runtime_file = RuntimeFile(path, Path.read_bytes, allow_mass_removal=config.overrides.allow_mass_removal)
    outcome = runtime_file.poll()
    if isinstance(outcome, Failed):
        raise StartError(str(outcome))
    return runtime_file


def serve(config: ServiceConfig, ray_address: str | None) -> int:
    """Run the service in this process until it is told to stop; returns the exit code.

    Args:
        config: the service configuration.
        ray_address: of an existing cluster; None starts a Ray of our own.

    Raises:
        StartError: the service cannot start; nothing is left running.
    """
    set_up_logging(config.log, SERVICE)
    runtime_file = load_runtime_file(config)
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"data_dir {config.data_dir} cannot be made: {error.strerror}") from None
    log.info("starting", version=VERSION, ray=ray_address or "embedded")
    # On a cluster of its own nodes the actors' lines go to the logs of their pods.
    with nullcontext() if ray_address else log_pipe():
        ray_compat.start(ray_address)
        try:
            return asyncio.run(MillraceService(config, runtime_file).run())
        finally:
            ray_compat.stop()
            log.info("stopped")


def _controller_class() -> type:
    # Imports ray, which must not happen before its environment is prepared.
    from cluster.controller import Controller  # noqa: PLC0415

    return Controller
