"""Millrace traces itself into another Millrace, which makes metrics of that, as of anybody's traces."""

import time
from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests import traces
from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

OWN: Final = "own-traces"
SECRET: Final = "s3cr3t-of-own-traces"
CALLS: Final = "traces_spanmetrics_calls_total"
ENTRY: Final[Mapping[str, Any]] = {
    "processors": ["span-metrics", "service-graphs"],
    "processor": {"span_metrics": {"dimensions": ["service.instance.id", "millrace.tenant"]}},
}


def tracing(port: int, **more: Any) -> dict[str, Any]:
    """Settings that trace everything."""
    return {"endpoint": f"http://127.0.0.1:{port}", "headers": {"X-Key": SECRET}, "sample_ratio": 1.0, **more}


async def export(service: MillraceProcess, tenant: str) -> None:
    """Send one request."""
    span = traces.span("checkout", end_ns=time.time_ns())
    body = traces.request(traces.batch([("service.name", "shop")], span)).SerializeToString()
    async with GrpcClient(service.grpc_port) as client:
        assert (await client.export(body, tenant)).status == "OK"


async def test_a_millrace_that_is_traced_is_seen_in_another_ones_metrics(
    service: MillraceProcess, prometheus: Prometheus
) -> None:
    await service.put_tenants(**{OWN: ENTRY})
    # No header of ours leaves the way that remote writes of this test take: it has a tenant of its own.
    config = {"tracing": tracing(service.otlp_http_port, tenant=OWN), "remote_write": [{"url": prometheus.url}]}
    seen: set[tuple[str, str]] = set()
    async with MillraceProcess(config) as traced:
        await traced.put_tenants(shop={"processors": ["span-metrics"]})
        await export(traced, "shop")

        async def are_seen() -> bool:
            vector = await prometheus.query(f'{CALLS}{{tenant="{OWN}", service="millrace"}}')
            seen.update((one["metric"]["service_instance_id"], one["metric"]["span_name"]) for one in vector)
            return {
                ("service", "push settings"),
                ("service", "GET /metrics"),
                ("gateway-0", "export request"),
                ("gateway-0", "split"),
                ("gateway-0", "send frames"),
                ("collector-0", "flush"),
                ("collector-0", "commit journal"),
                ("collector-0", "collect"),
                ("collector-0", "remote write"),
            } <= seen and any(actor.startswith("shard-host-") and name == "count frames" for actor, name in seen)

        await eventually(are_seen, 60, lambda: f"only {sorted(seen)} are seen:\n{traced.log}")
        graph = f'traces_service_graph_request_total{{tenant="{OWN}", client="millrace", server="millrace"}}'
        await eventually(lambda: _has(prometheus, graph), 60, lambda: "gateway and shard host are not connected")
        assert await traced.metric("millrace_own_spans_sent_total", actor="gateway-0") >= 3
        assert await traced.metric("millrace_own_spans_dropped_total") == 0
        assert SECRET not in traced.log


async def _has(prometheus: Prometheus, query: str) -> bool:
    return bool(await prometheus.query(query))
