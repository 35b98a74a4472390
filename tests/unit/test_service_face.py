import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from prometheus_client.parser import text_string_to_metric_families

from cluster.errors import StartError
from cluster.face_server import FaceServer
from cluster.measurements import Measurements
from cluster.page_tenants import PageTenants
from cluster.service_face import service_router
from cluster.version import VERSION
from tenants.api.access import Guard, guarded
from tenants.api.problem_response import add_problem_handlers
from tenants.control.write_limiter import WriteLimiter
from tenants.endpoint import EndpointCounters, TenantEndpointSnapshot
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity import TenantId
from tenants.identity.authenticator import Authenticator
from tenants.identity.identification import Identification
from tenants.identity.token_table import TokenTable
from tests.unit.conditions import is_open
from tests.unit.tenant_work import ACME


class Service:
    def __init__(self) -> None:
        self.ready = True
        self.measured: dict[str, Measurements] = {}
        self.snapshots: dict[TenantId, TenantCollectorSnapshot] = {}

    async def is_ready(self) -> bool:
        return self.ready

    async def measure(self) -> Mapping[str, Measurements]:
        return self.measured

    async def tenants(self) -> Mapping[TenantId, TenantCollectorSnapshot]:
        return self.snapshots

    def status(self) -> Mapping[str, Any]:
        return {"version": VERSION, "state": "running"}


def application(service: Service, *, inspect_is_open: bool = True, max_tenants: int = 1_000) -> FastAPI:
    """The routes of the service behind the guard of the API."""
    authenticator = Authenticator(lambda: 0)
    authenticator.put_tokens(1, TokenTable())
    identification = Identification("trusted_header", ACME, authenticator)
    app = FastAPI(dependencies=[Depends(guarded)], docs_url=None, openapi_url=None)
    app.state.guard = Guard(identification, WriteLimiter(lambda: 0, lambda: 0.5), inspect_is_open=inspect_is_open)
    add_problem_handlers(app)
    app.include_router(service_router(service, PageTenants(max_tenants)))
    return app


async def get(service: Service, path: str, *, inspect_is_open: bool = True) -> httpx.Response:
    transport = httpx.ASGITransport(application(service, inspect_is_open=inspect_is_open))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get(path)


@pytest.mark.parametrize(("ready", "status", "text"), [(True, 200, "ready\n"), (False, 503, "not ready\n")])
async def test_ready_is_said_by_status_and_text(ready: bool, status: int, text: str) -> None:
    service = Service()
    service.ready = ready
    answer = await get(service, "/ready")
    assert (answer.status_code, answer.text) == (status, text)


async def test_metrics_of_the_process_and_of_all_actors_are_on_one_page() -> None:
    service = Service()
    service.measured = {
        "service": [("millrace_build_info", ("1", "2", "release"), 1.0)],
        "gateway-0": [("millrace_spans_received_total", ("acme",), 7)],
        "gateway-1": [("millrace_spans_received_total", ("acme",), 5)],
    }
    answer = await get(service, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    page = list(text_string_to_metric_families(answer.text))
    names = [family.name for family in page]
    assert len(set(names)) == len(names)
    samples = {(s.name, s.labels.get("actor")): s.value for family in page for s in family.samples}
    assert samples["millrace_spans_received_total", "gateway-1"] == 5
    assert samples["millrace_build_info", "service"] == 1
    assert ("process_cpu_seconds_total", None) in samples


async def test_page_is_good_before_anything_is_measured() -> None:
    assert (await get(Service(), "/metrics")).status_code == 200


async def test_status_tells_how_each_tenant_is_doing() -> None:
    service = Service()
    registry = {"active_series": 7, "series_limited": 1, "edges": 3, "state_bytes": 9}
    endpoint = EndpointCounters("main", "http://h/", samples_sent=5, last_error="http_500: no")
    way_out = TenantEndpointSnapshot((endpoint,), (), {"no_endpoint": 0})
    snapshot = TenantCollectorSnapshot(registry, way_out, collections=2, collection_s=0.1, records=4)
    service.snapshots = {TenantId("b"): snapshot, TenantId("a"): snapshot}
    status = (await get(service, "/status")).json()
    assert (status["version"], status["state"]) == (VERSION, "running")
    assert list(status["tenants"]) == ["a", "b"]
    tenant = status["tenants"]["a"]
    endpoint_figures = tenant.pop("endpoints")[0]
    assert tenant.pop("retiring_endpoints") == []
    assert tenant == {
        "active_series": 7,
        "series_limited": 1,
        "edges": 3,
        "collections": 2,
        "samples_discarded": {"no_endpoint": 0},
    }
    assert (endpoint_figures["endpoint"], endpoint_figures["last_error"]) == ("main", "http_500: no")


@pytest.mark.parametrize("path", ["/", "/docs", "/metrics/x"])
async def test_nothing_else_is_served(path: str) -> None:
    assert (await get(Service(), path)).status_code == 404


@pytest.mark.parametrize(("path", "status"), [("/ready", 200), ("/metrics", 403), ("/status", 403)])
async def test_only_readiness_is_for_everybody_while_requests_carry_tokens(path: str, status: int) -> None:
    assert (await get(Service(), path, inspect_is_open=False)).status_code == status


async def test_server_listens_until_it_is_stopped() -> None:
    server = FaceServer(application(Service()), "127.0.0.1:0")
    port = await server.start()
    async with httpx.AsyncClient() as client, asyncio.timeout(10):
        answer = await client.get(f"http://127.0.0.1:{port}/ready")
    assert answer.text == "ready\n"
    with pytest.raises(StartError, match=f"127.0.0.1:{port}"):
        await FaceServer(application(Service()), f"127.0.0.1:{port}").start()
    await server.stop()
    assert not is_open(port)


async def test_server_that_never_started_can_be_stopped() -> None:
    await FaceServer(application(Service()), "127.0.0.1:0").stop()
