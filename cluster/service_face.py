"""What the service says of itself on its own port: ``/ready``, ``/metrics`` and ``/status``. Changes nothing."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import Response
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from cluster.measurements import Measurements, families
from cluster.page_tenants import PageTenants
from tenants.api.access import Access, GuardedRouter
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId

SERVICE = "service"
"""What label ``actor`` says on the metrics of this process."""


class Service(Protocol):
    """What the port shows."""

    async def is_ready(self) -> bool:
        """Whether spans are accepted."""

    async def measure(self) -> Mapping[str, Measurements]:
        """Return the metrics of all actors, this process's own as :data:`SERVICE`."""

    async def tenants(self) -> Mapping[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant that has series."""

    def status(self) -> Mapping[str, Any]:
        """Return what is known without asking anybody: ports, settings, times."""


def service_router(service: Service, page_tenants: PageTenants) -> GuardedRouter:
    """Build the routes; ``/metrics`` names the tenants that ``page_tenants`` lets in."""
    router = GuardedRouter(tags=["service"])
    process = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=process)

    @router.route_for("GET", "/ready", Access.OPEN)
    async def ready() -> Response:
        """200 once the OTLP ports accept, 503 before that and while draining."""
        is_ready = await service.is_ready()
        return Response("ready\n" if is_ready else "not ready\n", 200 if is_ready else 503, media_type="text/plain")

    @router.route_for("GET", "/metrics", Access.INSPECT)
    async def metrics() -> Response:
        """The metrics of this process and of every actor of the service, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Measured(list(families(page_tenants.bounded(await service.measure())))))
        return Response(generate_latest(process) + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @router.route_for("GET", "/status", Access.INSPECT)
    async def status() -> dict[str, Any]:
        """What runs, under which settings, and how each tenant is doing."""
        tenants = await service.tenants()
        return {
            **service.status(),
            "tenants": {str(tenant): _tenant(tenants[tenant]) for tenant in sorted(tenants, key=str)},
        }

    return router


def _tenant(snapshot: TenantCollectorSnapshot) -> dict[str, Any]:
    return {
        "active_series": snapshot.registry["active_series"],
        "series_limited": snapshot.registry["series_limited"],
        "edges": snapshot.registry["edges"],
        "collections": snapshot.collections,
        "samples_discarded": snapshot.endpoint.samples_discarded,
        "endpoints": [asdict(endpoint) for endpoint in snapshot.endpoint.endpoints],
        "retiring_endpoints": [asdict(endpoint) for endpoint in snapshot.endpoint.retiring],
    }


class _Measured(Collector):
    def __init__(self, measured: list[Metric]) -> None:
        self._measured = measured

    def collect(self) -> list[Metric]:
        return self._measured
