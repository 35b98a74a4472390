"""The service's own port over a real store and real HTTP, without Ray; and commands that are typed against it."""

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.face_server import FaceServer
from cluster.page_tenants import PageTenants
from cluster.scale_routes import scale_router
from cluster.service_face import service_router
from cluster.version import VERSION
from tenants.control.caller import Caller
from tenants.endpoint import EndpointCounters, TenantEndpointSnapshot
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity import TenantId
from tenants.identity.access import Scope
from tests.unit.control_plane_bench import ControlPlaneBench
from tests.unit.test_service_face import Service

FIGURES = {"active_series": 7, "series_limited": 1, "edges": 3, "state_bytes": 9}


class Face(Service):
    """What the port says of itself; change it as a test needs."""

    def __init__(self, bench: ControlPlaneBench) -> None:
        super().__init__()
        self.bench = bench
        self.state = "running"
        self.is_reloaded = True
        self.measured = {
            "service": [("millrace_settings_version", (), 1.0)],
            "gateway-0": [("millrace_actor_up", (), 1.0), ("millrace_settings_version", (), 9.0)],
        }

    def status(self) -> Mapping[str, Any]:
        return {
            "version": VERSION,
            "engine": {"version": "1.2.3", "profile": "release"},
            "state": self.state,
            "started_at": "2026-01-01T00:00:00+00:00",
            "gateways": {"gateway-0": {"otlp_grpc": 4317, "otlp_http": 4318}},
            "overrides": {"version": 1, "last_reload_successful": self.is_reloaded, "sha256": None, "entries": 2},
        }

    def has(self, tenant: str, endpoint: EndpointCounters) -> None:
        """Have a tenant with series and one endpoint."""
        way_out = TenantEndpointSnapshot((endpoint,), (), {})
        self.snapshots[TenantId(tenant)] = TenantCollectorSnapshot(FIGURES, way_out, 2, 0.1, 4)

    async def rescale(self, shard_hosts: int, caller: Caller) -> None:
        raise AssertionError("nobody rescales here")

    async def cluster(self) -> dict[str, Any]:
        settings = self.bench.settings
        return {"overrides": {"version": settings.overrides.version, "everywhere": settings.everywhere}}


class ServedService:
    """An asynchronous context manager.

    Attributes:
        bench: the control plane.
        face: what the port says of itself.
        token: an operator's.
    """

    def __init__(self, folder: Path, config: str = "") -> None:
        self.bench = ControlPlaneBench(folder, config)
        self.face = Face(self.bench)

    async def __aenter__(self) -> Self:
        await self.bench.__aenter__()
        application = self.bench.control.application(
            "test", service_router(self.face, PageTenants(1_000)), scale_router(self.face)
        )
        self._server = FaceServer(application, "127.0.0.1:0")
        self.url = f"http://127.0.0.1:{await self._server.start()}"
        self.token = await self.bench.token(Scope.OPERATOR)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._server.stop()
        await self.bench.__aexit__(*error)

    async def run(self, *arguments: str, token: str | None = None) -> Result:
        """Type a command; with an operator's token unless another one, or an empty one, is given."""
        environ = {"COLUMNS": "250", "MILLRACE_TOKEN": self.token if token is None else token}
        runner = CliRunner(env=environ)
        return await asyncio.to_thread(runner.invoke, app, [*arguments, "--url", self.url])


def counters(**values: Any) -> EndpointCounters:
    """An endpoint that is as given."""
    return dataclasses.replace(EndpointCounters("main", "http://h/"), **values)
