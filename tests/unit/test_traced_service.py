"""What is traced of a service, from its actors to a receiver of traces: the real classes, without Ray."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc.aio
import httpx
import pytest
import structlog

from cluster.demo.ports import free_port
from tenants.api.traced import TracedApi
from tenants.control.caller import Caller
from tenants.identity import TenantId
from tenants.tracing import otlp_tracer
from tenants.tracing.span_queue import SpanQueue
from tests.unit.disk import Disk
from tests.unit.own_spans import OwnSpan, own_spans
from tests.unit.receiver import Answer, Hang, Receiver, Reset
from tests.unit.service_without_ray import ServiceWithoutRay, service_without_ray
from tests.unit.tenant_work import ACME, request

OWN = TenantId("own")
SECRET = "s3cr3t-value"
DISK = Disk(json.dumps({"overrides": {"*": {"metrics_generator": {"processors": ["span-metrics"]}}}}))
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
ASKER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """A service whose traces go to a receiver, which takes its samples too."""

    def __init__(self, service: ServiceWithoutRay, receiver: Receiver) -> None:
        self.service = service
        self.receiver = receiver

    @property
    def spans(self) -> list[OwnSpan]:
        return own_spans(each for each in self.receiver.requests if each.target == "/v1/traces")

    def named(self, name: str, **attributes: Any) -> list[OwnSpan]:
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def merged_and_sent(self, tenant: TenantId) -> None:
        await self.service.until_merged(tenant, 1)
        await self.service.collect()
        await self.service.until_sent()


def tracing(receiver: Receiver, ratio: float = 1.0) -> str:
    return f"""
overrides: {{user_configurable_overrides: {{enabled: true}}}}
remote_write: [{{name: main, url: '{receiver.url}'}}]
tracing:
  endpoint: http://127.0.0.1:{receiver.port}
  headers: {{X-Key: {SECRET}}}
  tenant: own
  sample_ratio: {ratio}
"""


@pytest.fixture(autouse=True)
def _spans_do_not_wait_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_tracer, "SpanQueue", partial(SpanQueue, company_s=0.01, pause_s=0.01))


@pytest.fixture
async def traced(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    async with Receiver() as receiver, service_without_ray(monkeypatch, DISK, tracing(receiver)) as service:
        yield Traced(service, receiver)


def tree(spans: list[OwnSpan], root: OwnSpan) -> dict[str, str]:
    """Actor and name of each span below one, with the name of its parent."""
    names = {span.span: span.name for span in spans}
    return {
        f"{span.actor} {span.name}": names[span.parent] for span in spans if span.trace == root.trace and span != root
    }


async def test_an_export_request_is_traced_from_the_receiver_to_the_shard_host(traced: Traced) -> None:
    await traced.service.export(request("a"), ACME, traceparent=ASKER)
    await traced.until(lambda: traced.named("count frames"))
    await traced.until(lambda: traced.named("export request"))
    (root,) = traced.named("export request")
    assert root.attributes.items() >= {"millrace.tenant": "acme", "millrace.answer": "ok"}.items()
    assert root.resource.items() >= {"service.name": "millrace", "service.instance.id": "gateway-0"}.items()
    assert root.parent == b""
    # A client decides nothing, and need not be known.
    assert root.trace.hex() not in ASKER
    (counted,) = traced.named("count frames")
    assert tree(traced.spans, root) == {
        "gateway-0 split": "export request",
        "gateway-0 send frames": "export request",
        f"{counted.actor} count frames": "send frames",
    }
    assert counted.actor.startswith("shard-host-")


async def test_a_call_of_grpc_is_traced_with_the_reason_of_its_refusal(traced: Traced) -> None:
    port = traced.service.service._ports["gateway-0"].otlp_grpc
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(EXPORT)(b"\xff", metadata=(("x-scope-orgid", "acme"),))
        await channel.unary_unary(EXPORT)(request("a"), metadata=(("x-scope-orgid", "globex"),))
    await traced.until(lambda: len(traced.named("export request")) == 2)
    answers = {(span.attributes["millrace.answer"], span.problem) for span in traced.named("export request")}
    assert answers == {("malformed", "malformed"), ("ok", "")}


async def test_what_carries_our_own_traces_makes_no_traces(traced: Traced) -> None:
    await traced.service.export(request("a"), OWN)
    await traced.merged_and_sent(OWN)
    await traced.service.export(request("b"), ACME)
    await traced.service.until_merged(ACME, 1)
    await traced.service.collect()
    expected = ("remote write", "count frames", "export request")
    await traced.until(lambda: all(traced.named(name) for name in expected))
    by_tenant = Counter(span.attributes.get("millrace.tenant") for span in traced.spans)
    assert by_tenant["own"] == 0
    assert by_tenant["acme"] > 0
    assert len(traced.named("count frames")) == len(traced.named("export request")) == 1


async def test_a_collection_is_traced_to_every_attempt_to_send_it(traced: Traced) -> None:
    refused_once = iter([503])
    # Traces go there too.
    traced.receiver.otherwise = lambda each: next(refused_once, 204) if each.target.endswith("write") else 204
    await traced.service.export(request("a"), ACME)
    await traced.merged_and_sent(ACME)
    await traced.until(lambda: len(traced.named("remote write")) >= 2 and traced.named("collect"))
    (root,) = traced.named("collect", millrace_tenant="acme")
    assert tree(traced.spans, root).keys() >= {"collector-0 journal", "collector-0 encode", "collector-0 remote write"}
    first, second, *_ = traced.named("remote write")
    assert {span.trace for span in (first, second)} == {root.trace}
    assert (first.attributes["millrace.attempt"], second.attributes["millrace.attempt"]) == (0, 1)
    assert (first.attributes["http.response.status_code"], first.problem) == (503, "http_503")
    assert (first.attributes["millrace.pause"], second.attributes["millrace.pause"]) == ("", "backing_off")
    assert first.attributes["peer.service"] == "main"
    assert first.attributes["millrace.bytes"] > 0


async def test_rounds_claims_and_commits_are_traced(traced: Traced) -> None:
    await traced.service.export(request("a"), ACME)
    await traced.service.until_merged(ACME, 1)
    await traced.until(lambda: traced.named("commit journal") and traced.named("recover journal"))
    await traced.until(lambda: any(span.attributes["millrace.records"] for span in traced.named("flush")))
    assert traced.named("claim", millrace_tenant="acme", millrace_claimed=1)
    flush = next(span for span in traced.named("flush") if span.attributes["millrace.records"])
    assert tree(traced.spans, flush) == {
        "collector-0 pull": "flush",
        "collector-0 journal and merge": "flush",
    }
    assert traced.named("write")[0].actor == "collector-0"


async def test_a_sample_ratio_of_zero_leaves_what_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as receiver, service_without_ray(monkeypatch, DISK, tracing(receiver, 0)) as service:
        traced = Traced(service, receiver)
        await service.export(request("a"), ACME, traceparent=ASKER)
        await traced.merged_and_sent(ACME)
        await service.service.rescale(3, Caller("token:1", "127.0.0.1"))
        rare = {"recover journal", "tell all settings", "rescale"}
        await traced.until(lambda: rare <= {span.name for span in traced.spans})
    assert {span.name for span in traced.spans} == rare


async def test_a_change_by_the_api_is_traced_to_its_push(traced: Traced) -> None:
    service = traced.service.service
    assert service._tracer is not None
    app = TracedApi(service._control.application("1"), service._tracer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        headers = {"X-Scope-OrgID": "acme", "traceparent": ASKER}
        assert (await client.get("/api/usage", headers=headers)).status_code == 200
        assert (await client.get(f"/nowhere/{SECRET}", headers=headers)).status_code == 404
        document = {"metrics_generator": {"collection_interval": "30s"}}
        answer = await client.post("/api/overrides", headers={**headers, "If-Match": "0"}, json=document)
        assert answer.status_code == 200
    await traced.until(lambda: traced.named("push settings") and traced.named("POST /api/overrides"))
    (change,), (push,) = traced.named("POST /api/overrides"), traced.named("push settings")
    assert (push.trace, push.parent) == (change.trace, change.span)
    (usage,) = traced.named("GET /api/usage")
    said = {"http.route": "/api/usage", "http.response.status_code": 200, "millrace.tenant": "acme"}
    assert usage.attributes.items() >= said.items()
    assert [link.hex() for link in usage.links] == [ASKER.split("-")[1]]
    (nowhere,) = traced.named("GET")
    assert nowhere.attributes["http.response.status_code"] == 404
    assert SECRET not in repr(traced.spans)


@pytest.mark.parametrize("step", [Answer(503), Answer(400), Reset(), Hang(), None])
async def test_a_receiver_that_takes_nothing_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, step: Answer | Reset | Hang | None
) -> None:
    async with Receiver() as receiver:
        text = tracing(receiver)
        if step is None:
            text = text.replace(
                f"endpoint: http://127.0.0.1:{receiver.port}", f"endpoint: http://127.0.0.1:{free_port()}"
            )
        else:
            answer = step
            receiver.otherwise = lambda each: answer if each.target == "/v1/traces" else 204
        with structlog.testing.capture_logs() as lines:
            async with service_without_ray(monkeypatch, DISK, text) as service:
                await service.export(request("a"), ACME)
                await Traced(service, receiver).merged_and_sent(ACME)
    events = Counter(line["event"] for line in lines)
    # Once for each process that has spans to send; of one that hangs nobody knows yet.
    assert (not isinstance(step, Hang)) <= events["own traces cannot be sent"] <= 5
    assert SECRET not in repr(lines)
