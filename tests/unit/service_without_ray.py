"""The whole service in one event loop: the real classes of all actors, behind handles that need no Ray."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import collector_host, controller, ray_compat, shard_host
from cluster.gateway import gateway
from cluster.measurements import Measurements
from cluster.runtime_watch import RuntimeWatch
from cluster.service import MillraceService
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity import TenantId
from tenants.settings import RuntimeFile, ServiceConfig
from tenants.store.database import Database
from tenants.store.documents import DocumentStore
from tests.unit import actor_handle
from tests.unit.actor_handle import ActorHandle
from tests.unit.disk import PATH, Disk
from tests.unit.tenant_work import NOW_NS, SECOND_NS, config

SETTINGS = """
listen: {otlp_grpc: "127.0.0.1:0", otlp_http: "127.0.0.1:0"}
multitenancy_enabled: true
cluster: {shard_hosts: 2, flush_interval: 10ms, group_wait: 1ms}
"""


class ServiceWithoutRay:
    """A running service. Its time stands still until it is moved."""

    def __init__(self, settings: ServiceConfig, disk: Disk, database: Database) -> None:
        self.now_ns = NOW_NS
        self.actors: dict[str, ActorHandle] = {}
        self.runtime = RuntimeWatch(RuntimeFile(PATH, disk.read))
        self.service = MillraceService(settings, self.runtime, database)
        self._documents = DocumentStore(database)
        self.client = httpx.AsyncClient(verify=False, trust_env=False)

    def create_actor(self, actor_class: type, name: str, **_options: Any) -> ActorHandle:
        return self.actors.setdefault(name, ActorHandle(actor_class(name)))

    async def export(self, body: bytes, tenant: TenantId, **headers: str) -> None:
        """Send one request over HTTP, as a client does."""
        port = self.service._ports["gateway-0"].otlp_http
        sent = {"content-type": "application/x-protobuf", "x-scope-orgid": str(tenant), **headers}
        answer = await self.client.post(f"http://127.0.0.1:{port}/v1/traces", content=body, headers=sent)
        assert answer.status_code == 200

    def store_document(self, tenant: TenantId, document: Mapping[str, Any]) -> None:
        """Store a document that nobody has checked."""
        self._documents.put(str(tenant), document, None, "test", 0)

    async def until_merged(self, tenant: TenantId, records: int) -> None:
        """Wait until so many records of the tenant have arrived at its collector."""
        await self._until(lambda tenants: tenant in tenants and tenants[tenant].records >= records)

    async def until_sent(self) -> None:
        """Wait until every endpoint of every tenant has taken something."""
        await self._until(
            lambda tenants: all(each.batches_sent for one in tenants.values() for each in one.endpoint.endpoints)
        )

    async def _until(self, condition: Callable[[Mapping[TenantId, TenantCollectorSnapshot]], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition(await self.service.tenants()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def collect(self) -> None:
        """Collect every tenant now."""
        for tenant in self.actors["collector-0"].actor._tenants._tenants.values():
            await tenant.collect()

    async def measure(self) -> Mapping[str, Measurements]:
        return await self.service.measure()

    def pass_by(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND_NS


@asynccontextmanager
async def service_without_ray(
    monkeypatch: pytest.MonkeyPatch, disk: Disk, text: str = ""
) -> AsyncIterator[ServiceWithoutRay]:
    directory = tempfile.TemporaryDirectory()
    database = Database.open(f"sqlite:///{directory.name}/millrace.db")
    settings = config(SETTINGS + text).model_copy(update={"data_dir": Path(directory.name)})
    made = ServiceWithoutRay(settings, disk, database)
    monkeypatch.setattr(ray_compat, "create_actor", made.create_actor)
    monkeypatch.setattr(ray_compat, "find_actors", lambda _: {})
    monkeypatch.setattr(ray_compat, "slots", lambda _: 0)
    monkeypatch.setattr(ray_compat, "nodes", lambda: [ray_compat.Node("node", "127.0.0.1", True, False, 0, {})])
    monkeypatch.setattr(ray_compat, "kill", lambda _: None)
    monkeypatch.setattr(ray_compat, "wait_for", actor_handle.wait_for)
    for module in (collector_host, controller, gateway, shard_host):
        # It directs the log of a process; this one is the tests'.
        monkeypatch.setattr(module, "set_up_logging", lambda *_: None)
    monkeypatch.setattr("time.time_ns", lambda: made.now_ns)
    await made.service._start()
    try:
        yield made
    finally:
        await made.service._drain()
        await made.service._control.stop()
        for traced in (made.service, *(handle.actor for handle in made.actors.values())):
            if (tracer := getattr(traced, "_tracer", None)) is not None:
                await asyncio.to_thread(tracer.close, 5)
        await made.client.aclose()
        directory.cleanup()
