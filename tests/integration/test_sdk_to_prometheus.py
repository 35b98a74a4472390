"""Spans in over the wire, series in a real Prometheus: what the reference model counts, on any number of shards.

Every scenario sends the same spans to three tenants, with 1, 2 and 5 shards.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace.export import SpanExporter

from tests import traces
from tests.integration.comparison import assert_has, assert_has_exemplars, series_of
from tests.integration.load import requests
from tests.integration.otlp_client import Answer, GrpcClient
from tests.integration.sdk_application import ShopApplication
from tests.integration.service import MillraceProcess
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

SHARDS: Final = (1, 2, 5)
ORDERS: Final = 120
IN_FLIGHT: Final = 4
ENTRY: Final = {
    "processors": ["span-metrics", "service-graphs"],
    "processor": {
        "span_metrics": {"dimensions": ["region", "http.response.status_code"]},
        "service_graphs": {"enable_messaging_system_latency_histogram": True, "enable_virtual_node_label": True},
    },
}
PLAN: Final = traces.plan(
    traces.span_metrics_plan(dimensions=["region", "http.response.status_code"]),
    traces.service_graphs_plan(enable_messaging_system_latency_histogram=True, enable_virtual_node_label=True),
)


async def add_tenants(service: MillraceProcess, scenario: str) -> list[str]:
    """Add a tenant for each number of shards."""
    entries = {f"{scenario}-on-{shards}": {**ENTRY, "shards": shards} for shards in SHARDS}
    await service.put_tenants(**entries)
    return list(entries)


async def assert_counted_alike(
    prometheus: Prometheus, tenants: Sequence[str], model: ReferenceModel, sent: Sequence[Any]
) -> None:
    """See that every tenant has the model's series, values and exemplars: and so the same ones."""
    model.flush(0, close_edges=True)
    expected = model.series()
    for tenant in tenants:
        await assert_has(prometheus, tenant, expected)
        await assert_has_exemplars(prometheus, tenant, model, sent)


def grpc_exporter(service: MillraceProcess, tenant: str) -> SpanExporter:
    headers = {"x-scope-orgid": tenant}
    return GrpcExporter(endpoint=f"127.0.0.1:{service.grpc_port}", insecure=True, headers=headers, timeout=20)


def http_exporter(service: MillraceProcess, tenant: str) -> SpanExporter:
    return HttpExporter(
        endpoint=f"http://127.0.0.1:{service.otlp_http_port}/v1/traces",
        headers={"X-Scope-OrgID": tenant},
        compression=Compression.Gzip,
        timeout=20,
    )


@pytest.mark.parametrize("exporter", [grpc_exporter, http_exporter])
async def test_spans_of_an_sdk_application_are_counted_exactly(
    service: MillraceProcess, prometheus: Prometheus, exporter: Callable[[MillraceProcess, str], SpanExporter]
) -> None:
    tenants = await add_tenants(service, exporter.__name__)

    def play() -> ShopApplication:
        application = ShopApplication(lambda: [exporter(service, tenant) for tenant in tenants])
        for number in range(ORDERS):
            application.take_order(number)
        application.close()
        return application

    application = await asyncio.to_thread(play)
    sent = encode_spans(application.captured.get_finished_spans())
    model = ReferenceModel(PLAN, strict_ids=True)
    model.push(sent, time.time_ns())

    assert model.received_spans == 8 * ORDERS
    await assert_counted_alike(prometheus, tenants, model, [sent])
    edges = {
        (labels["client"], labels["server"], labels.get("connection_type", ""), value)
        for key, value in (await series_of(prometheus, tenants[0])).items()
        if (labels := dict(key))["__name__"] == "traces_service_graph_request_total"
    }
    # Not left to the model: what the application does, in words.
    assert edges == {
        ("user", "web", "virtual_node", ORDERS),
        ("web", "payment", "", ORDERS),
        ("payment", "db-1", "database", ORDERS),
        ("web", "shipping", "messaging_system", ORDERS),
        ("web", "mailer", "virtual_node", ORDERS),
    }


async def test_load_of_many_traces_is_counted_exactly(service: MillraceProcess, prometheus: Prometheus) -> None:
    tenants = await add_tenants(service, "load")
    now_ns = time.time_ns()
    bodies = requests(random.Random(42), now_ns, traces=1_500, spans_per_request=100)
    model = ReferenceModel(PLAN, strict_ids=True)
    for body in bodies:
        model.push(body, now_ns)
    assert model.received_spans > 5_000
    assert model.rejected.keys() == {"invalid_trace_id", "invalid_span_id"}

    async with GrpcClient(service.grpc_port) as client:
        for answers in await asyncio.gather(*(send_all(client, tenant, bodies) for tenant in tenants)):
            assert {answer.status for answer in answers} == {"OK"}
            assert sum(answer.rejected_spans for answer in answers) == sum(model.rejected.values())

    await assert_counted_alike(prometheus, tenants, model, bodies)
    for tenant in tenants:
        assert await service.metric("millrace_spans_received_total", tenant=tenant) == model.received_spans - sum(
            model.rejected.values()
        )
        rejected = {("gateway", reason): spans for reason, spans in model.rejected.items()}
        for (stage, reason), count in (rejected | model.discarded).items():
            discarded = "millrace_spans_discarded_total"
            assert await service.metric(discarded, tenant=tenant, stage=stage, reason=reason) == count
        assert await service.metric("millrace_processor_service_graphs_edges_total", tenant=tenant) == model.edges
        for kind, edges in model.expired_edges.items():
            expired = "millrace_processor_service_graphs_expired_edges_total"
            assert await service.metric(expired, tenant=tenant, unmatched_span_kind=kind) == edges


async def send_all(client: GrpcClient, tenant: str, bodies: Sequence[bytes]) -> list[Answer]:
    """Send all requests, a few of them at any time."""
    left, answers = iter(bodies), []

    async def sender() -> None:
        for body in left:
            answers.append(await client.export(body, tenant))

    await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
    return answers
