import asyncio
import base64
import gzip
import io
import json
import logging
import signal
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
import zstandard
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cluster.gateway import otlp_http
from cluster.gateway.body_budget import BodyBudget
from cluster.gateway.intake import Accepted, Identify, ReceiverLimits
from cluster.gateway.listen import CannotListenError
from cluster.gateway.otlp_http import OtlpHttpReceiver
from cluster.gateway.otlp_json import json_to_protobuf
from cluster.gateway.refusal import ANSWERS, RefusalReason, Refused
from tenants.identity import Authenticator, Scope, TenantId, new_token
from tests.unit.conditions import is_open, until, until_closed
from tests.unit.export_requests import export_request, otlp_json
from tests.unit.peak_memory import peak_allocated
from tests.unit.recording_intake import RecordingIntake, by_token, identify
from tests.unit.standing_clock import StandingClock
from tests.unit.tokens import CountingCheck, known, table

MIB = 1024 * 1024
LIMITS = ReceiverLimits(max_request_bytes=4 * MIB, max_json_bytes=MIB)
PROTOBUF, JSON = "application/x-protobuf", "application/json"
BODY = export_request().SerializeToString()
JSON_BODY = json.dumps(otlp_json(export_request())).encode()
HEAD = (
    b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-scope-orgid: acme\r\n"
    b"content-type: application/x-protobuf\r\ncontent-length: 1000\r\n\r\n"
)


class Listening:
    """A started receiver, its intake, and a client of it."""

    def __init__(self, limits: ReceiverLimits, budget_bytes: int, identify: Identify) -> None:
        self.intake = RecordingIntake()
        self.budget = BodyBudget(budget_bytes)
        self.receiver = OtlpHttpReceiver(self.intake, identify, "127.0.0.1:0", limits, self.budget)
        self.port = 0
        self.client: httpx.AsyncClient

    async def post(
        self,
        content: bytes | AsyncIterator[bytes] = BODY,
        content_type: str = PROTOBUF,
        *,
        tenant: str | None = "acme",
        **headers: str,
    ) -> httpx.Response:
        sent = {"content-type": content_type} | {key.replace("_", "-"): value for key, value in headers.items()}
        if tenant is not None:
            sent["x-scope-orgid"] = tenant
        return await self.client.post("/v1/traces", content=content, headers=sent)

    async def assert_works(self) -> None:
        before = len(self.intake.requests)
        assert (await self.post()).status_code == 200
        assert self.intake.requests[before:] == [("acme", BODY)]

    async def open(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def listening(
    limits: ReceiverLimits = LIMITS, budget_bytes: int = 64 * MIB, identify: Identify = identify
) -> AsyncIterator[Listening]:
    service = Listening(limits, budget_bytes, identify)
    service.port = await service.receiver.start()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{service.port}", timeout=20, trust_env=False, verify=False
        ) as service.client:
            yield service
    finally:
        service.intake.release()
        await service.receiver.drain(deadline_s=0)


@pytest.fixture
async def service() -> AsyncIterator[Listening]:
    async with listening() as service:
        yield service


def status_of(response: httpx.Response) -> Status:
    """The Status in the body, which must be in the encoding that the answer names."""
    if response.headers["content-type"] == PROTOBUF:
        return Status.FromString(response.content)
    assert response.headers["content-type"] == JSON
    document = response.json()
    assert document.keys() <= {"code", "message", "details"}
    return Status(code=document["code"], message=document["message"])


def assert_refused(response: httpx.Response, reason: RefusalReason, content_type: str = PROTOBUF) -> None:
    status = status_of(response)
    assert (response.status_code, status.code) == (ANSWERS[reason].http_status, ANSWERS[reason].code), status
    assert status.message.endswith(f"({reason})")
    assert response.headers["content-type"] == content_type


@pytest.mark.parametrize("content_type", [PROTOBUF, "Application/X-Protobuf; charset=utf-8"])
async def test_protobuf_arrives_byte_for_byte_with_its_tenant(service: Listening, content_type: str) -> None:
    response = await service.post(content_type=content_type)

    assert (response.status_code, response.content, response.headers["content-type"]) == (200, b"", PROTOBUF)
    assert service.intake.requests == [("acme", BODY)]
    assert service.receiver.reception.answers == {"ok": 1}


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8"])
async def test_json_arrives_as_protobuf(service: Listening, content_type: str) -> None:
    response = await service.post(JSON_BODY, content_type)

    assert (response.status_code, response.json(), response.headers["content-type"]) == (200, {}, JSON)
    [(tenant, body)] = service.intake.requests
    assert (tenant, ExportTraceServiceRequest.FromString(body)) == ("acme", export_request())


@pytest.mark.parametrize("value", ["true", "false", ""])
@pytest.mark.parametrize(("content", "content_type"), [(BODY, PROTOBUF), (JSON_BODY, JSON)], ids=["protobuf", "json"])
async def test_header_alone_says_that_nothing_is_to_be_generated(
    service: Listening, content: bytes, content_type: str, value: str
) -> None:
    assert (await service.post(content, content_type, no_generate_metrics=value)).status_code == 200
    assert (await service.post(content, content_type)).status_code == 200

    assert service.intake.skipped == [True, False]
    assert service.intake.requests[0] == service.intake.requests[1]


@pytest.mark.parametrize("spans", [1, 2000], ids=["small", "large"])
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("zstd", zstandard.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
async def test_every_content_encoding_is_undone(
    encoding: str, encode: Callable[[bytes], bytes], content_type: str, spans: int
) -> None:
    request = export_request(spans)
    is_json = content_type == JSON
    body = json.dumps(otlp_json(request)).encode() if is_json else request.SerializeToString()
    async with listening(ReceiverLimits()) as service:
        response = await service.post(encode(body), content_type, content_encoding=encoding)

        assert response.status_code == 200
        assert [ExportTraceServiceRequest.FromString(body) for body in service.intake.bodies] == [request]
        assert service.budget.used_bytes == 0


@pytest.mark.parametrize("compression", Compression)
async def test_sdk_exports_with_every_compression_it_has(service: Listening, compression: Compression) -> None:
    exporter = OTLPSpanExporter(
        endpoint=f"http://127.0.0.1:{service.port}/v1/traces",
        headers={"X-Scope-OrgID": "acme"},
        compression=compression,
        timeout=20,
    )
    collected = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(collected))
    for index in range(50):
        with provider.get_tracer("shop").start_as_current_span(f"GET /{index}", attributes={"a": "b" * 100}):
            pass

    for _ in range(2):
        result = await asyncio.to_thread(exporter.export, collected.get_finished_spans())
        assert result is SpanExportResult.SUCCESS

    await asyncio.to_thread(exporter.shutdown)
    for tenant, body in service.intake.requests:
        spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
        assert (tenant, [span.name for span in spans]) == ("acme", [f"GET /{index}" for index in range(50)])
    assert len(service.intake.requests) == 2


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("tenants", "reason"),
    [
        ([], RefusalReason.NO_ORG_ID),
        ([""], RefusalReason.NO_ORG_ID),
        (["a", "b"], RefusalReason.INVALID_ORG_ID),
        (["a/b"], RefusalReason.INVALID_ORG_ID),
        (["é"], RefusalReason.INVALID_ORG_ID),
    ],
)
async def test_request_without_a_usable_tenant_is_refused_for_good(
    service: Listening, tenants: list[str], reason: RefusalReason, content_type: str
) -> None:
    headers = [(b"content-type", content_type.encode())]
    headers += [(b"X-Scope-OrgID", tenant.encode("latin-1")) for tenant in tenants]
    response = await service.client.post("/v1/traces", content=BODY, headers=headers)

    assert_refused(response, reason, content_type)
    assert "retry-after" not in response.headers
    assert service.intake.requests == []
    assert service.receiver.reception.answers == {reason: 1}


SENDER, ADMIN, UNKNOWN = (new_token() for _ in range(3))


@pytest.fixture
async def authenticator() -> AsyncIterator[Authenticator]:
    made = Authenticator(StandingClock().now_ms, CountingCheck())
    yield made
    made.close()


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "tenant"),
    [(f"Bearer {SENDER.text}", None), (f"Bearer {SENDER.text}", "acme"), (basic("acme", SENDER.text), None)],
    ids=["token", "token and tenant", "basic"],
)
async def test_token_says_who_is_sending(authenticator: Authenticator, authorization: str, tenant: str | None) -> None:
    async with listening(identify=by_token(authenticator)) as service:
        refused = await service.post(tenant=tenant, authorization=authorization)
        assert_refused(refused, RefusalReason.UNAVAILABLE)
        assert refused.headers["retry-after"] == "1"

        authenticator.put_tokens(1, table(known(SENDER)))
        for _ in range(2):
            assert (await service.post(tenant=tenant, authorization=authorization)).status_code == 200
        assert service.intake.requests == [("acme", BODY)] * 2


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("authorization", "tenant", "reason"),
    [
        (None, None, RefusalReason.UNAUTHENTICATED),
        (None, "acme", RefusalReason.UNAUTHENTICATED),
        (f"Bearer {UNKNOWN.text}", "acme", RefusalReason.UNAUTHENTICATED),
        (f"Digest {SENDER.text}", "acme", RefusalReason.UNAUTHENTICATED),
        (f"Bearer {SENDER.text}", "globex", RefusalReason.FORBIDDEN),
        (basic("globex", SENDER.text), None, RefusalReason.FORBIDDEN),
        (f"Bearer {ADMIN.text}", "acme", RefusalReason.FORBIDDEN),
        (f"Bearer {SENDER.text}", "a b", RefusalReason.INVALID_ORG_ID),
    ],
    ids=["nothing", "tenant", "unknown", "scheme", "other tenant", "other user", "other scope", "bad tenant"],
)
@pytest.mark.parametrize("content", [BODY, b""], ids=["spans", "empty"])
async def test_sender_without_a_token_of_their_own_is_refused_for_good(
    authenticator: Authenticator,
    authorization: str | None,
    tenant: str | None,
    reason: RefusalReason,
    content_type: str,
    content: bytes,
) -> None:
    authenticator.put_tokens(1, table(known(SENDER), known(ADMIN, "acme", Scope.TENANT_ADMIN)))
    async with listening(identify=by_token(authenticator)) as service:
        headers = {"authorization": authorization} if authorization else {}
        response = await service.post(content, content_type, tenant=tenant, **headers)

        assert_refused(response, reason, content_type)
        assert response.headers.get("www-authenticate") == (
            "Bearer" if reason is RefusalReason.UNAUTHENTICATED else None
        )
        assert "retry-after" not in response.headers
        assert b"mrt_" not in response.content
        assert service.intake.requests == []
        assert service.receiver.reception.answers == {reason: 1}


async def test_bug_while_the_sender_is_identified_fails_one_request() -> None:
    async def broken(_authorization: Sequence[str], _tenants: Sequence[str]) -> TenantId | Refused:
        raise KeyError("secret")

    async with listening(identify=broken) as service:
        with structlog.testing.capture_logs() as logs:
            response = await service.post()

        assert_refused(response, RefusalReason.INTERNAL)
        assert b"secret" not in response.content
        assert [line["log_level"] for line in logs] == ["error"]


async def test_sender_without_a_token_is_refused_before_its_body_is_read(authenticator: Authenticator) -> None:
    authenticator.put_tokens(1, table())
    async with listening(identify=by_token(authenticator)) as service:
        for head in (HEAD, HEAD.replace(b"content-length: 1000", b"transfer-encoding: chunked")):
            reader, writer = await service.open(head)
            assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 401 ")
            writer.close()


async def test_unknown_sender_is_refused_before_its_body_is_read(service: Listening) -> None:
    reader, writer = await service.open(HEAD.replace(b"x-scope-orgid: acme\r\n", b""))

    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 401 ")
    writer.close()


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_empty_request_is_accepted_with_and_without_tenant_but_not_with_a_bad_one(
    service: Listening, content_type: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b""

    for tenant in (None, "acme"):
        assert (await service.post(b"", content_type, tenant=tenant)).status_code == 200
        assert (await service.post(chunks(), content_type, tenant=tenant)).status_code == 200
    assert_refused(await service.post(b"", content_type, tenant="a b"), RefusalReason.INVALID_ORG_ID, content_type)
    assert (await service.post(b"{}", JSON)).status_code == 200
    assert service.intake.requests == []


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize("reason", RefusalReason)
async def test_refusal_of_the_intake_reaches_the_client(
    service: Listening, reason: RefusalReason, content_type: str
) -> None:
    retry_after_s = 1.5 if ANSWERS[reason].is_retryable else None
    service.intake.outcome = Refused(reason, "no, and why (é)", retry_after_s)

    response = await service.post(BODY if content_type == PROTOBUF else JSON_BODY, content_type)

    assert_refused(response, reason, content_type)
    assert response.headers.get("retry-after") == ("2" if retry_after_s else None)
    if retry_after_s and content_type == PROTOBUF:
        info = RetryInfo()
        assert status_of(response).details[0].Unpack(info)
        assert info.retry_delay.ToMilliseconds() == 1500
    elif retry_after_s:
        assert response.json()["details"] == [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.500s"}
        ]
    assert service.receiver.reception.answers == {reason: 1}


async def test_partly_accepted_request_names_the_rejected_spans(service: Listening) -> None:
    service.intake.outcome = Accepted(rejected_spans=3, message="3 spans without a trace id")

    protobuf, in_json = await service.post(), await service.post(JSON_BODY, JSON)

    response = ExportTraceServiceResponse.FromString(protobuf.content)
    assert response.partial_success.rejected_spans == 3
    assert response.partial_success.error_message == "3 spans without a trace id"
    assert in_json.json() == {"partialSuccess": {"rejectedSpans": "3", "errorMessage": "3 spans without a trace id"}}


async def test_bug_behind_the_seam_fails_one_request_and_tells_nothing_of_itself(service: Listening) -> None:
    service.intake.outcome = KeyError("secret")

    with structlog.testing.capture_logs() as logs:
        response = await service.post()

    assert_refused(response, RefusalReason.INTERNAL)
    assert b"secret" not in response.content
    assert [(line["log_level"], line["tenant"]) for line in logs] == [("error", "acme")]
    service.intake.outcome = Accepted()
    await service.assert_works()


@pytest.mark.parametrize("path", ["/", "/v1/metrics", "/v1/traces/", "/v1/traces/x", "/V1/traces", "/v1%2Ftracesx"])
async def test_other_paths_are_not_found(service: Listening, path: str) -> None:
    response = await service.client.post(path, content=BODY, headers={"content-type": PROTOBUF})

    assert_refused(response, RefusalReason.NOT_FOUND)
    assert "/v1/traces" in status_of(response).message


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_told_what_is_allowed(service: Listening, method: str) -> None:
    response = await service.client.request(method, "/v1/traces")

    assert_refused(response, RefusalReason.METHOD_NOT_ALLOWED, JSON)
    assert response.headers["allow"] == "POST"


async def test_head_is_answered_without_a_body(service: Listening) -> None:
    response = await service.client.head("/v1/traces")

    assert (response.status_code, response.content) == (405, b"")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/protobuf", "application/jsonx", "a" * 5000])
async def test_other_media_types_are_refused_and_the_known_ones_are_named(
    service: Listening, content_type: str
) -> None:
    response = await service.post(content_type=content_type)

    assert_refused(response, RefusalReason.UNSUPPORTED_MEDIA_TYPE, JSON)
    assert f"{PROTOBUF} or {JSON}" in status_of(response).message


@pytest.mark.parametrize("encoding", ["br", "snappy", "gzip, gzip"])
async def test_other_content_encodings_are_refused(service: Listening, encoding: str) -> None:
    assert_refused(await service.post(content_encoding=encoding), RefusalReason.UNSUPPORTED_ENCODING)


@pytest.mark.parametrize(
    ("body", "content_type", "encoding"),
    [
        (gzip.compress(BODY)[:-1], PROTOBUF, "gzip"),
        (zstandard.compress(BODY)[:-1], PROTOBUF, "zstd"),
        (BODY, PROTOBUF, "gzip"),
        (b"{", JSON, "identity"),
        (gzip.compress(b'{"resourceSpans": 5}'), JSON, "gzip"),
        (BODY, JSON, "identity"),
    ],
    ids=["gzip", "zstd", "not gzip", "JSON", "JSON in gzip", "not JSON"],
)
async def test_damaged_body_is_refused_in_its_own_encoding(
    service: Listening, body: bytes, content_type: str, encoding: str
) -> None:
    assert_refused(
        await service.post(body, content_type, content_encoding=encoding),
        RefusalReason.MALFORMED,
        content_type,
    )
    await service.assert_works()


@pytest.mark.parametrize(
    ("content_type", "limit"), [(PROTOBUF, LIMITS.max_request_bytes), (JSON, LIMITS.max_json_bytes)]
)
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    service: Listening, content_type: str, limit: int, is_chunked: bool
) -> None:
    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    whole = BODY.ljust(limit, b"\0") if content_type == PROTOBUF else JSON_BODY.ljust(limit, b" ")

    def content(body: bytes) -> bytes | AsyncIterator[bytes]:
        return chunks(body) if is_chunked else body

    assert (await service.post(content(whole), content_type)).status_code == 200
    response = await service.post(content(whole + b" "), content_type)

    assert_refused(response, RefusalReason.TOO_LARGE, content_type)
    assert str(limit) in status_of(response).message
    assert service.budget.used_bytes == 0
    await service.assert_works()


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_bomb_stops_at_the_limit(service: Listening, content_type: str) -> None:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as stream:
        for _ in range(100):
            stream.write(bytes(MIB))
    bomb = file.getvalue()

    with peak_allocated() as peak:
        response = await service.post(bomb, content_type, content_encoding="gzip")

    assert_refused(response, RefusalReason.TOO_LARGE, content_type)
    assert peak() < 3 * LIMITS.max_request_bytes
    await service.assert_works()


async def test_refused_body_is_thrown_away_while_it_arrives(service: Listening) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(MIB)

    with peak_allocated() as peak:
        response = await service.post(chunks())

    assert_refused(response, RefusalReason.TOO_LARGE)
    assert peak() < 3 * LIMITS.max_request_bytes
    await service.assert_works()


async def test_json_that_takes_its_time_does_not_stop_the_others(
    service: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = threading.Event()

    def slow_json_to_protobuf(data: bytes) -> bytes | Refused:
        assert served.wait(10)
        return json_to_protobuf(data)

    monkeypatch.setattr(otlp_http, "json_to_protobuf", slow_json_to_protobuf)
    slow = asyncio.create_task(service.post(JSON_BODY, JSON))
    await until(lambda: service.budget.used_bytes >= len(JSON_BODY))

    await service.assert_works()

    assert not slow.done()
    served.set()
    assert (await slow).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\n",
        b"POST \xff HTTP/1.1\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_client_that_goes_away_at_any_point_leaves_the_others_alone(service: Listening, sent: bytes) -> None:
    _, writer = await service.open(sent)
    writer.close()

    await service.assert_works()


async def test_client_that_goes_away_inside_its_body_is_forgotten(service: Listening) -> None:
    _, writer = await service.open(HEAD + bytes(500))
    await until(lambda: service.budget.used_bytes == 500)

    writer.close()

    await until(lambda: service.budget.used_bytes == 0)
    assert service.intake.requests == []
    assert not service.receiver.reception.answers
    await service.assert_works()


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/tr", HEAD, HEAD + bytes(500)], ids=["nothing", "line", "head", "half a body"]
)
async def test_request_that_does_not_arrive_in_time_loses_its_connection(sent: bytes) -> None:
    async with listening(ReceiverLimits(request_timeout_s=0.2)) as service:
        reader, writer = await service.open(sent)

        await until_closed(reader)

        assert service.receiver.listener.bounds.timed_out_requests == 1
        assert service.budget.used_bytes == 0
        await service.assert_works()
        writer.close()


@pytest.mark.parametrize(
    ("head", "trickled"),
    [(HEAD, b"\0"), (HEAD[:-2], b"x: y\r\n"), (HEAD.replace(b"1000", b"0"), b"\r\n")],
    ids=["body", "header", "blank lines after a request"],
)
async def test_trickling_does_not_prolong_the_time(head: bytes, trickled: bytes) -> None:
    async with listening(ReceiverLimits(request_timeout_s=0.3)) as service:
        reader, writer = await service.open(head)
        closed = asyncio.create_task(until_closed(reader))

        async with asyncio.timeout(10):
            while not closed.done():
                writer.write(trickled)
                await asyncio.sleep(0.02)

        assert service.receiver.listener.bounds.timed_out_requests == 1
        writer.close()


async def test_time_to_arrive_does_not_count_while_a_request_is_worked_on() -> None:
    async with listening(ReceiverLimits(request_timeout_s=0.1)) as service:
        service.intake.hold()
        response = asyncio.create_task(service.post())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)
        await asyncio.sleep(0.3)

        service.intake.release()

        assert (await response).status_code == 200
        assert service.receiver.listener.bounds.timed_out_requests == 0


async def test_too_large_a_head_is_told_so(service: Listening) -> None:
    reader, writer = await service.open(b"POST /v1/traces HTTP/1.1\r\nx: " + b"x" * 40_000)

    assert (await until_closed(reader)).startswith(b"HTTP/1.1 431 ")
    writer.close()


@pytest.mark.parametrize("part", ["target", "header", "headers", "trailers"])
async def test_endless_head_is_cut_off(service: Listening, part: str) -> None:
    start, repeated = {
        "target": (b"POST /", b"x"),
        "header": (b"POST /v1/traces HTTP/1.1\r\nx: ", b"x"),
        "headers": (b"POST /v1/traces HTTP/1.1\r\n", b"x: y\r\n"),
        "trailers": (
            HEAD.replace(b"content-length: 1000", b"transfer-encoding: chunked") + b"0\r\n",
            b"x: y\r\n",
        ),
    }[part]
    reader, writer = await service.open(start)
    closed = asyncio.create_task(until_closed(reader))

    async with asyncio.timeout(10):
        while not closed.done():
            writer.write(repeated * 1000)
            await asyncio.sleep(0)

    assert service.receiver.listener.bounds.oversized_heads == 1
    await service.assert_works()
    writer.close()


async def test_connections_beyond_the_bound_are_closed() -> None:
    async with listening(ReceiverLimits(max_connections=2)) as service:
        connections = [await service.open() for _ in range(2)]
        await until(lambda: service.receiver.listener.connections == 2)

        reader, writer = await service.open()

        await until_closed(reader)
        assert service.receiver.listener.bounds.refused_connections == 1
        for _, open_writer in [*connections, (reader, writer)]:
            open_writer.close()
        await until(lambda: service.receiver.listener.connections == 0)
        await service.assert_works()


async def test_idle_connection_is_closed_after_its_time() -> None:
    async with listening(ReceiverLimits(idle_timeout_s=1)) as service:
        reader, writer = await service.open(HEAD.replace(b"1000", b"0"))
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")

        await until_closed(reader)

        assert service.receiver.listener.bounds.timed_out_requests == 0
        writer.close()


async def test_bodies_beyond_the_budget_are_refused_until_there_is_room() -> None:
    async with listening(budget_bytes=len(BODY) + 10) as service:
        service.intake.hold()
        first = asyncio.create_task(service.post())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)

        response = await service.post()

        assert_refused(response, RefusalReason.OVERLOADED)
        assert response.headers["retry-after"] == "1"
        service.intake.release()
        assert (await first).status_code == 200
        await service.assert_works()


async def test_what_a_body_inflates_to_counts_against_the_budget() -> None:
    async with listening(budget_bytes=100_000) as service:
        body = gzip.compress(bytes(99_990))

        assert_refused(await service.post(body, content_encoding="gzip"), RefusalReason.OVERLOADED)
        assert service.budget.used_bytes == 0


async def test_draining_finishes_requests_in_flight_and_takes_no_new_ones() -> None:
    async with listening() as service:
        await service.assert_works()
        service.intake.arrived.clear()
        service.intake.hold()
        request = asyncio.create_task(service.post())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)
        idle_reader, idle_writer = await service.open(b"POST /v1/tra")

        drain = asyncio.create_task(service.receiver.drain(deadline_s=20))
        await until(lambda: not is_open(service.port))

        await until_closed(idle_reader)
        assert not drain.done()
        service.intake.release()
        response = await request
        assert (response.status_code, response.headers["connection"]) == (200, "close")
        await asyncio.wait_for(drain, 10)
        idle_writer.close()


async def test_draining_cuts_off_what_is_not_done_by_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as service:
        reader, writer = await service.open(HEAD + bytes(500))
        await until(lambda: service.budget.used_bytes == 500)

        await asyncio.wait_for(service.receiver.drain(deadline_s=0.2), 10)

        await until_closed(reader)
        assert service.budget.used_bytes == 0
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
        writer.close()


async def test_draining_ends_although_the_intake_never_answers() -> None:
    async with listening() as service:
        service.intake.hold()
        request = asyncio.create_task(service.post())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)

        await asyncio.wait_for(service.receiver.drain(deadline_s=0.1), 10)

        with pytest.raises(httpx.RemoteProtocolError):
            await request
        await until(lambda: service.budget.used_bytes == 0)


async def test_signal_handlers_of_the_process_are_left_alone() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async with listening() as service:
        await service.assert_works()
        assert {number: signal.getsignal(number) for number in before} == before
    assert {number: signal.getsignal(number) for number in before} == before


async def test_taken_port_fails_loudly(service: Listening) -> None:
    listen = f"127.0.0.1:{service.port}"
    second = OtlpHttpReceiver(service.intake, identify, listen, LIMITS, service.budget)

    with pytest.raises(CannotListenError, match=f"cannot listen on {listen}: Address already in use"):
        await second.start()
    await second.drain(deadline_s=0)


@pytest.mark.parametrize("listen", ["", "4318", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "::1:4318", ":4318"])
async def test_what_is_not_an_address_fails_loudly(listen: str) -> None:
    receiver = OtlpHttpReceiver(RecordingIntake(), identify, listen, LIMITS, BodyBudget(MIB))

    with pytest.raises(CannotListenError, match="write host:port"):
        await receiver.start()
