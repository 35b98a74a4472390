"""What a tenant may send, and what it is told when that is too much: cases 93 to 107."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cluster.gateway import gateway as gateway_module
from cluster.gateway.gateway import Gateway
from cluster.placement import Routes
from tenants.settings.in_force import OverridesInForce, whole
from tenants.settings.overrides import Overrides
from tenants.settings.service_config import parse_service_config
from tests.integration.load import SECOND_NS, attributes
from tests.integration.otlp_client import JSON, Answer, GrpcClient, HttpClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS, until_counted
from tests.integration.tenancy.case import case
from tests.integration.tenancy.sized_request import sized_request
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

SPANS: Final[Mapping[str, Any]] = {"processors": ["span-metrics"]}
TIGHT: Final[Mapping[str, Any]] = {"rate_limit_bytes": 2000, "burst_size_bytes": 2000}
LABELS_ARE_LOOKED_AT_EVERY_S: Final = 15


@pytest_asyncio.fixture(loop_scope="session")
async def grpc(service: MillraceProcess) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(service.grpc_port) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def http(service: MillraceProcess) -> AsyncIterator[HttpClient]:
    async with HttpClient(service.otlp_http_port) as client:
        yield client


def spans(*names: str, count: int = 1, ends_ago_s: float = 0, **more: str) -> ExportTraceServiceRequest:
    """Return server spans: ``count`` of a service for each name."""
    end_ns = time.time_ns() - int(ends_ago_s * SECOND_NS)
    request = ExportTraceServiceRequest()
    for position, name in enumerate(names):
        group = request.resource_spans.add()
        group.resource.attributes.extend(attributes({"service.name": name}))
        scope = group.scope_spans.add()
        for index in range(count):
            identity = time.time_ns() + position * 1000 + index
            scope.spans.append(
                Span(
                    trace_id=identity.to_bytes(16),
                    span_id=identity.to_bytes(8),
                    name="work",
                    kind=Span.SPAN_KIND_SERVER,
                    start_time_unix_nano=end_ns - SECOND_NS // 10,
                    end_time_unix_nano=end_ns,
                    attributes=attributes(dict(more)),
                )
            )
    return request


async def discarded(service: MillraceProcess, tenant: str, reason: str) -> float:
    return await service.metric("millrace_spans_discarded_total", tenant=tenant, reason=reason)


async def received(service: MillraceProcess, tenant: str) -> float:
    return await service.metric("millrace_spans_received_total", tenant=tenant)


@case(93)
async def test_93_rate_and_burst_over_grpc(service: MillraceProcess, grpc: GrpcClient) -> None:
    await service.put_entries(rate93={"ingestion": TIGHT, "metrics_generator": SPANS})
    answers = await asyncio.gather(*(grpc.export(sized_request(1000), "rate93") for _ in range(3)))
    refused = [answer for answer in answers if not answer.is_accepted]
    assert [answer.status for answer in refused] == ["RESOURCE_EXHAUSTED"]
    assert refused[0].message.startswith("RATE_LIMITED")
    assert "rate93" in refused[0].message
    assert "1000 bytes" in refused[0].message
    # Half a second would do; told is a second at least, give or take a fifth.
    assert refused[0].retry_delay_s is not None
    assert 0.8 <= refused[0].retry_delay_s <= 1.2
    assert await discarded(service, "rate93", "rate_limited") == 1
    assert await received(service, "rate93") == 2

    async def is_let_in() -> bool:
        return (await grpc.export(sized_request(1000), "rate93")).is_accepted

    await eventually(is_let_in, 20, lambda: "still refused")


@case(94)
@pytest.mark.parametrize("content_type", ["application/x-protobuf", JSON])
async def test_94_rate_over_http(service: MillraceProcess, http: HttpClient, content_type: str) -> None:
    tenant = f"rate94{'j' if content_type == JSON else 'p'}"
    await service.put_entries(**{tenant: {"ingestion": TIGHT, "metrics_generator": SPANS}})
    for _ in range(2):
        assert (await http.export(sized_request(1000), tenant)).is_accepted
    body = b'{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}' % b",".join([_json_span()] * 20)
    answer = await http.export(sized_request(1000) if content_type != JSON else body, tenant, content_type=content_type)
    assert (answer.status, answer.code, answer.content_type) == ("429", 8, content_type)
    assert answer.message.startswith("RATE_LIMITED")
    assert answer.retry_after is not None
    assert int(answer.retry_after) >= 1
    assert answer.retry_delay_s is not None


def _json_span() -> bytes:
    identity = time.time_ns()
    return (
        b'{"traceId":"%032x","spanId":"%016x","name":"work","kind":2,"startTimeUnixNano":"%d","endTimeUnixNano":"%d"}'
        % (identity, identity, identity - SECOND_NS, identity)
    )


@case(95)
async def test_95_no_time_to_retry(service: MillraceProcess, grpc: GrpcClient, http: HttpClient) -> None:
    await service.put_entries(quiet95={"ingestion": {**TIGHT, "retry_info_enabled": False}, "metrics_generator": SPANS})
    assert (await grpc.export(sized_request(2000), "quiet95")).is_accepted
    over_grpc: Answer = await grpc.export(sized_request(1900), "quiet95")
    over_http: Answer = await http.export(sized_request(1900), "quiet95")
    assert (over_grpc.status, over_grpc.retry_delay_s) == ("RESOURCE_EXHAUSTED", None)
    assert (over_http.status, over_http.retry_delay_s, over_http.retry_after) == ("429", None, None)


@case(96)
async def test_96_larger_than_the_burst(service: MillraceProcess, grpc: GrpcClient, http: HttpClient) -> None:
    await service.put_entries(burst96={"ingestion": TIGHT, "metrics_generator": SPANS})
    over_grpc = await grpc.export(sized_request(2001), "burst96")
    over_http = await http.export(sized_request(2001), "burst96")
    assert (over_grpc.status, over_grpc.retry_delay_s) == ("INVALID_ARGUMENT", None)
    assert (over_http.status, over_http.code, over_http.retry_after) == ("413", 3, None)
    assert (await grpc.export(sized_request(2000), "burst96")).is_accepted


@case(97)
async def test_97_four_gateways_share_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "set_up_logging", lambda *_: None)
    text = "listen: {otlp_grpc: '127.0.0.1:0', otlp_http: '127.0.0.1:0'}\nmultitenancy_enabled: true\noverrides: "
    text += "{defaults: {ingestion: {rate_strategy: global, rate_limit_bytes: 8000, burst_size_bytes: 6000}}}"
    config = parse_service_config(text.encode(), {})
    overrides = whole(OverridesInForce(1, runtime={"t": Overrides()}))
    gateways = [Gateway(f"gateway-{index}") for index in range(4)]
    try:
        for gateway in gateways:
            ports = await gateway.configure(config, Routes(1, (), ()), {}, overrides, len(gateways))
            async with GrpcClient(ports.otlp_grpc) as client:
                # The burst is undivided: each lets all of it in at once.
                assert (await client.export(sized_request(6000), "t")).is_accepted
                refused = await client.export(sized_request(6000), "t")
                assert refused.status == "RESOURCE_EXHAUSTED"
                assert "local: 2000 bytes/s, global: 8000 bytes/s" in refused.message
                # It takes three seconds at a quarter of the rate, give or take a fifth.
                assert refused.retry_delay_s is not None
                assert 3 * 0.75 <= refused.retry_delay_s <= 3 * 1.2
    finally:
        for gateway in gateways:
            await gateway.drain(1)


@case(98, 99)
async def test_98_one_bad_span(service: MillraceProcess, prometheus: Prometheus, grpc: GrpcClient) -> None:
    await service.put_entries(bad98={"metrics_generator": SPANS})
    request = spans("shop", count=3)
    request.resource_spans[0].scope_spans[0].spans[1].span_id = bytes(8)
    answer = await grpc.export(request.SerializeToString(), "bad98")
    assert (answer.status, answer.rejected_spans) == ("OK", 1)
    assert "invalid_span_id" in answer.message
    await until_counted(prometheus, 2, tenant="bad98")
    assert await received(service, "bad98") == 2
    assert await discarded(service, "bad98", "invalid_span_id") == 1


@case(100, difference="§4.5: the least limit is 64 bytes, so that it cuts no key that means something")
async def test_100_attributes_are_cut_between_characters(
    service: MillraceProcess, prometheus: Prometheus, grpc: GrpcClient
) -> None:
    generator = {**SPANS, "processor": {"span_metrics": {"dimensions": ["long"]}}}
    await service.put_entries(cut100={"ingestion": {"max_attribute_bytes": 64}, "metrics_generator": generator})
    assert (await grpc.export(spans("shop", long="a" * 63 + "ü").SerializeToString(), "cut100")).is_accepted
    await until_counted(prometheus, 1, tenant="cut100", long="a" * 63)
    assert await service.metric("millrace_attributes_truncated_total", tenant="cut100", scope="span") == 1


@case(101, 102)
async def test_101_series_limit(service: MillraceProcess, prometheus: Prometheus, grpc: GrpcClient) -> None:
    await service.put_entries(few101={"metrics_generator": {**SPANS, "max_active_series": 6}})
    names = [f"service-{index}" for index in range(6)]
    assert (await grpc.export(spans(*names).SerializeToString(), "few101")).is_accepted
    await until_counted(prometheus, 6, tenant="few101")
    assert await service.metric("millrace_registry_active_series", tenant="few101") == 6
    for metric in (CALLS, "traces_spanmetrics_size_total", "traces_spanmetrics_latency_count"):
        overflow = await prometheus.query(f'{metric}{{tenant="few101", metric_overflow="true"}}')
        assert len(overflow) == 1, metric
    # 19 series for each service with the built-in buckets.
    demand = await service.metric("millrace_registry_active_series_demand_estimate", tenant="few101")
    assert 114 * 0.96 <= demand <= 114 * 1.04


@case(103)
async def test_103_entity_limit(prometheus: Prometheus) -> None:
    config = {"metrics_generator": {"limiter_type": "entity"}, "remote_write": [{"url": prometheus.url}]}
    async with MillraceProcess(config, few103={**SPANS, "max_active_entities": 2}) as service:
        async with GrpcClient(service.grpc_port) as client:
            body = spans("a", "b", "c", "d").SerializeToString()
            assert (await client.export(body, "few103")).is_accepted
        await until_counted(prometheus, 4, tenant="few103")
        for metric in (CALLS, "traces_spanmetrics_size_total", "traces_spanmetrics_latency_count"):
            full = await prometheus.query(f'{metric}{{tenant="few103", service!=""}}')
            overflow = await prometheus.query(f'{metric}{{tenant="few103", metric_overflow="true"}}')
            assert (len(full), len(overflow)) == (2, 1), metric
        assert await service.metric("millrace_registry_active_entities", tenant="few103") == 2


@case(104)
async def test_104_values_of_a_label(service: MillraceProcess, prometheus: Prometheus, grpc: GrpcClient) -> None:
    await service.put_entries(many104={"metrics_generator": {**SPANS, "max_cardinality_per_label": 3}})
    first = [f"early-{index}" for index in range(8)]
    assert (await grpc.export(spans(*first).SerializeToString(), "many104")).is_accepted
    await until_counted(prometheus, 8, tenant="many104")
    overflow = f'sum({CALLS}{{tenant="many104", service="__cardinality_overflow__"}})'

    async def is_replaced() -> bool:
        assert (await grpc.export(spans("late").SerializeToString(), "many104")).is_accepted
        return bool(await prometheus.query(overflow))

    await eventually(is_replaced, LABELS_ARE_LOOKED_AT_EVERY_S + 15, lambda: "no value was replaced")
    assert await service.metric("millrace_registry_label_values_limited_total", tenant="many104") > 0


@case(105)
async def test_105_slack(service: MillraceProcess, prometheus: Prometheus, grpc: GrpcClient) -> None:
    await service.put_entries(late105={"metrics_generator": SPANS})
    for ends_ago_s in (60, -60, 0):
        assert (await grpc.export(spans("shop", ends_ago_s=ends_ago_s).SerializeToString(), "late105")).is_accepted
    await until_counted(prometheus, 1, tenant="late105")
    assert await discarded(service, "late105", "outside_metrics_ingestion_slack") == 2


@case(106)
async def test_106_no_metrics_wanted(service: MillraceProcess, prometheus: Prometheus, grpc: GrpcClient) -> None:
    await service.put_entries(skip106={"metrics_generator": SPANS})
    body = spans("shop").SerializeToString()
    assert (await grpc.export(body, "skip106", metadata=[("no-generate-metrics", "1")])).is_accepted
    assert (await grpc.export(spans("shop").SerializeToString(), "skip106")).is_accepted
    await until_counted(prometheus, 1, tenant="skip106")
    skipped = "millrace_metrics_generation_skipped_processor_pushes_total"
    assert await service.metric(skipped, tenant="skip106") == 1


@case(107, difference="design §2: OTLP alone is received; Zipkin's path is not there, and is answered finally")
async def test_107_zipkin(http: HttpClient) -> None:
    answer = await http.export(b"[]", "zipkin107", content_type=JSON, path="/api/v2/spans")
    assert answer.status == "404"
