import asyncio
import gzip
import io
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
import zstandard
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cluster.gateway.body_budget import BodyBudget
from cluster.gateway.intake import Accepted, Identify, ReceiverLimits
from cluster.gateway.listen import CannotListenError
from cluster.gateway.otlp_grpc import OtlpGrpcReceiver
from cluster.gateway.refusal import ANSWERS, RefusalReason, Refused
from tenants.identity import Authenticator, Scope, TenantId, new_token
from tests.unit.conditions import is_open, until, until_closed
from tests.unit.export_requests import export_request
from tests.unit.peak_memory import peak_memory
from tests.unit.raw_grpc import EXPORT, PREFACE, SETTINGS, frame, headers_frame, raw_call
from tests.unit.recording_intake import RecordingIntake, by_token, identify
from tests.unit.standing_clock import StandingClock
from tests.unit.tokens import CountingCheck, known, table

MIB = 1024 * 1024
LIMITS = ReceiverLimits(max_request_bytes=4 * MIB)
BODY = export_request().SerializeToString()
ACME = (("x-scope-orgid", "acme"),)
Metadata = Sequence[tuple[str, str]]


class Listening:
    """A started receiver, its intake, and a channel to it."""

    def __init__(self, limits: ReceiverLimits, budget_bytes: int, identify: Identify) -> None:
        self.intake = RecordingIntake()
        self.budget = BodyBudget(budget_bytes)
        self.receiver = OtlpGrpcReceiver(self.intake, identify, "127.0.0.1:0", limits, self.budget)
        self.port = 0
        self.channel: Any = None

    async def export(self, body: bytes = BODY, metadata: Metadata = ACME, **options: Any) -> bytes:
        answer: bytes = await self.channel.unary_unary(EXPORT)(body, metadata=metadata, timeout=20, **options)
        return answer

    async def refusal(self, body: bytes = BODY, metadata: Metadata = ACME, **options: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.export(body, metadata, **options)
        return caught.value

    async def assert_works(self) -> None:
        before = len(self.intake.requests)
        assert await self.export() == b""
        assert self.intake.requests[before:] == [("acme", BODY)]


@asynccontextmanager
async def listening(
    limits: ReceiverLimits = LIMITS, budget_bytes: int = 64 * MIB, identify: Identify = identify
) -> AsyncIterator[Listening]:
    service = Listening(limits, budget_bytes, identify)
    service.port = await service.receiver.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as service.channel:
            yield service
    finally:
        service.intake.release()
        await service.receiver.drain(deadline_s=0)


@pytest.fixture
async def service() -> AsyncIterator[Listening]:
    async with listening() as service:
        yield service


def retry_info(error: grpc.aio.AioRpcError) -> RetryInfo | None:
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            info = RetryInfo()
            status = Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.details[0].Unpack(info)
            return info
    return None


async def test_request_arrives_byte_for_byte_with_its_tenant(service: Listening) -> None:
    assert await service.export() == b""

    assert service.intake.requests == [("acme", BODY)]
    assert service.receiver.reception.answers == {"ok": 1}


@pytest.mark.parametrize("value", ["true", "false", ""])
async def test_metadata_alone_says_that_nothing_is_to_be_generated(service: Listening, value: str) -> None:
    assert await service.export(metadata=(*ACME, ("no-generate-metrics", value))) == b""
    assert await service.export() == b""

    assert service.intake.skipped == [True, False]
    assert service.intake.requests == [("acme", BODY)] * 2


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate]
)
async def test_sdk_exports_with_every_compression_it_has(service: Listening, compression: grpc.Compression) -> None:
    exporter = OTLPSpanExporter(
        endpoint=f"http://127.0.0.1:{service.port}",
        insecure=True,
        headers={"x-scope-orgid": "acme"},
        compression=compression,
        timeout=20,
    )
    collected = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(collected))
    for index in range(50):
        with provider.get_tracer("shop").start_as_current_span(f"GET /{index}", attributes={"a": "b" * 100}):
            pass

    assert await asyncio.to_thread(exporter.export, collected.get_finished_spans()) is SpanExportResult.SUCCESS

    await asyncio.to_thread(exporter.shutdown)
    [(tenant, body)] = service.intake.requests
    spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert (tenant, [span.name for span in spans]) == ("acme", [f"GET /{index}" for index in range(50)])


@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED, "no_org_id"),
        ((("x-scope-orgid", ""),), grpc.StatusCode.UNAUTHENTICATED, "no_org_id"),
        (
            (("x-scope-orgid", "a"), ("x-scope-orgid", "b")),
            grpc.StatusCode.INVALID_ARGUMENT,
            "invalid_org_id",
        ),
        ((("x-scope-orgid", "a/b"),), grpc.StatusCode.INVALID_ARGUMENT, "invalid_org_id"),
    ],
)
async def test_request_without_a_usable_tenant_is_refused_for_good(
    service: Listening, metadata: Metadata, code: grpc.StatusCode, reason: str
) -> None:
    error = await service.refusal(metadata=metadata)

    assert error.code() is code
    assert error.details().endswith(f"({reason})")
    assert retry_info(error) is None
    assert service.intake.requests == []
    assert service.receiver.reception.answers == {reason: 1}


SENDER, ADMIN, UNKNOWN = (new_token() for _ in range(3))


@pytest.fixture
async def authenticator() -> AsyncIterator[Authenticator]:
    made = Authenticator(StandingClock().now_ms, CountingCheck())
    yield made
    made.close()


def bearer(text: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {text}")


async def test_token_in_the_metadata_says_who_is_sending(authenticator: Authenticator) -> None:
    async with listening(identify=by_token(authenticator)) as service:
        error = await service.refusal(metadata=(bearer(SENDER.text),))
        assert (error.code(), retry_info(error) is None) == (grpc.StatusCode.UNAVAILABLE, False)

        authenticator.put_tokens(1, table(known(SENDER)))
        for _ in range(2):
            assert await service.export(metadata=(bearer(SENDER.text),)) == b""
            assert await service.export(metadata=(bearer(SENDER.text), *ACME)) == b""
        assert service.intake.requests == [("acme", BODY)] * 4
        assert service.budget.used_bytes == 0


@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        (ACME, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        ((bearer(UNKNOWN.text), *ACME), grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        ((bearer(SENDER.text), bearer(SENDER.text)), grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        ((bearer(SENDER.text), ("x-scope-orgid", "globex")), grpc.StatusCode.PERMISSION_DENIED, "forbidden"),
        ((bearer(ADMIN.text), *ACME), grpc.StatusCode.PERMISSION_DENIED, "forbidden"),
        ((bearer(SENDER.text), ("x-scope-orgid", "a/b")), grpc.StatusCode.INVALID_ARGUMENT, "invalid_org_id"),
    ],
)
@pytest.mark.parametrize("body", [BODY, b""])
async def test_sender_without_a_token_of_their_own_is_refused_for_good(
    authenticator: Authenticator, metadata: Metadata, code: grpc.StatusCode, reason: str, body: bytes
) -> None:
    authenticator.put_tokens(1, table(known(SENDER), known(ADMIN, "acme", Scope.TENANT_ADMIN)))
    async with listening(identify=by_token(authenticator)) as service:
        error = await service.refusal(body, metadata)

        assert error.code() is code
        assert error.details().endswith(f"({reason})")
        assert "mrt_" not in error.details()
        assert retry_info(error) is None
        assert service.intake.requests == []
        assert service.receiver.reception.answers == {reason: 1}


async def test_bug_while_the_sender_is_identified_fails_one_call() -> None:
    async def broken(_authorization: Sequence[str], _tenants: Sequence[str]) -> TenantId | Refused:
        raise KeyError("secret")

    async with listening(identify=broken) as service:
        with structlog.testing.capture_logs() as logs:
            error = await service.refusal()

        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in error.details()
        assert [line["log_level"] for line in logs] == ["error"]


async def test_empty_request_is_accepted_with_and_without_tenant_but_not_with_a_bad_one(
    service: Listening,
) -> None:
    assert await service.export(b"", metadata=()) == b""
    assert await service.export(b"", metadata=ACME) == b""
    assert (await service.refusal(b"", metadata=(("x-scope-orgid", "a b"),))).code() is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    assert service.intake.requests == []


@pytest.mark.parametrize("reason", RefusalReason)
async def test_refusal_of_the_intake_reaches_the_client(service: Listening, reason: RefusalReason) -> None:
    retry_after_s = 1.5 if ANSWERS[reason].is_retryable else None
    service.intake.outcome = Refused(reason, "no, and why (é)", retry_after_s)

    error = await service.refusal()

    assert error.code().value[0] == ANSWERS[reason].code
    assert error.details() == f"no, and why (é) ({reason})"
    info = retry_info(error)
    assert (info.retry_delay.ToMilliseconds() if info else None) == (1500 if retry_after_s else None)
    assert service.receiver.reception.answers == {reason: 1}


async def test_partly_accepted_request_names_the_rejected_spans(service: Listening) -> None:
    service.intake.outcome = Accepted(rejected_spans=3, message="3 spans without a trace id")

    response = ExportTraceServiceResponse.FromString(await service.export())

    assert response.partial_success.rejected_spans == 3
    assert response.partial_success.error_message == "3 spans without a trace id"


async def test_bug_behind_the_seam_fails_one_call_and_tells_nothing_of_itself(service: Listening) -> None:
    service.intake.outcome = KeyError("secret")

    with structlog.testing.capture_logs() as logs:
        error = await service.refusal()

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert [(line["log_level"], line["tenant"]) for line in logs] == [("error", "acme")]
    service.intake.outcome = Accepted()
    await service.assert_works()


async def test_unknown_method_is_unimplemented(service: Listening) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.channel.unary_unary(EXPORT.replace("Export", "Import"))(BODY, timeout=20)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_request_of_exactly_the_limit_passes_and_one_byte_more_does_not(service: Listening) -> None:
    assert await service.export(bytes(LIMITS.max_request_bytes)) == b""

    error = await service.refusal(bytes(LIMITS.max_request_bytes + 1))

    # Final for OTLP clients, because no RetryInfo comes with it.
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_info(error) is None
    await service.assert_works()


async def test_gzip_bomb_stops_at_the_limit(service: Listening) -> None:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as stream:
        for _ in range(512):
            stream.write(bytes(MIB))
    bomb = file.getvalue()
    assert len(bomb) < LIMITS.max_request_bytes

    with peak_memory() as peak:
        answer = await raw_call(service.port, bomb, *ACME, ("grpc-encoding", "gzip"), is_compressed=True)

    assert answer.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert peak() < 8 * LIMITS.max_request_bytes
    assert service.intake.requests == []
    await service.assert_works()


@pytest.mark.parametrize(
    ("message", "encoding", "is_compressed"),
    [
        (b"garbage", "gzip", True),
        (gzip.compress(BODY)[:-9], "gzip", True),
        (gzip.compress(BODY), "identity", True),
        (zstandard.compress(BODY), "zstd", True),
        (BODY, "br", False),
    ],
    ids=["garbage", "truncated", "flag without encoding", "zstd", "unknown encoding"],
)
async def test_damaged_or_unknown_compression_is_refused_by_the_transport(
    service: Listening, message: bytes, encoding: str, is_compressed: bool
) -> None:
    answer = await raw_call(service.port, message, *ACME, ("grpc-encoding", encoding), is_compressed=is_compressed)

    assert answer.status in {grpc.StatusCode.INTERNAL.value[0], grpc.StatusCode.UNIMPLEMENTED.value[0], None}
    assert service.intake.requests == []
    await service.assert_works()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE,
        PREFACE + bytes(100),
        PREFACE + frame(SETTINGS, 0, 0) + headers_frame(*ACME),
        PREFACE + frame(SETTINGS, 0, 0) + headers_frame(*ACME) + frame(0, 0, 1, b"\0\0\0\1\0" + bytes(100)),
        PREFACE + frame(SETTINGS, 0, 0) + headers_frame(*ACME) + frame(0, 1, 1, b"\0\0\0\1\0" + bytes(100)),
    ],
    ids=["nothing", "http/1", "preface", "zeros", "headers", "half a message", "end inside a message"],
)
async def test_client_that_goes_away_at_any_point_leaves_the_others_alone(service: Listening, sent: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(sent)
    await writer.drain()
    writer.close()

    await service.assert_works()
    assert service.budget.used_bytes == 0


async def test_client_that_gives_up_frees_its_share_of_the_budget(service: Listening) -> None:
    service.intake.hold()
    call = service.channel.unary_unary(EXPORT)(BODY, metadata=ACME)
    await asyncio.wait_for(service.intake.arrived.wait(), 10)
    assert service.budget.used_bytes == len(BODY)

    call.cancel()

    await until(lambda: service.budget.used_bytes == 0)
    service.intake.release()
    await service.assert_works()


async def test_bodies_beyond_the_budget_are_refused_until_there_is_room() -> None:
    async with listening(budget_bytes=len(BODY) + 10) as service:
        service.intake.hold()
        first = asyncio.create_task(service.export())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)

        error = await service.refusal()

        assert error.code() is grpc.StatusCode.UNAVAILABLE
        info = retry_info(error)
        assert info is not None
        assert info.retry_delay.ToSeconds() == 1
        service.intake.release()
        assert await first == b""
        await service.assert_works()


async def test_connections_beyond_the_bound_are_closed() -> None:
    async with listening(ReceiverLimits(max_connections=2)) as service:
        connections = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(2)]
        for reader, _ in connections:
            assert await asyncio.wait_for(reader.read(9), 10)

        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)

        assert await until_closed(reader) == b""
        for open_writer in (writer, *(open_writer for _, open_writer in connections)):
            open_writer.close()


async def test_streams_of_one_connection_are_bounded() -> None:
    async with listening(ReceiverLimits(max_concurrent_streams=7)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)

        head = await asyncio.wait_for(reader.readexactly(9), 10)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))

        max_concurrent_streams = 3
        assert head[3] == SETTINGS
        assert dict(struct.iter_unpack(">HI", payload))[max_concurrent_streams] == 7
        writer.close()


async def test_draining_finishes_calls_in_flight_and_takes_no_new_ones() -> None:
    async with listening() as service:
        service.intake.hold()
        call = asyncio.create_task(service.export())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)

        drain = asyncio.create_task(service.receiver.drain(deadline_s=20))
        await until(lambda: not is_open(service.port))
        error = await service.refusal()

        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert not drain.done()
        service.intake.release()
        assert await call == b""
        await asyncio.wait_for(drain, 10)
        assert service.intake.finished == 1


async def test_draining_cancels_calls_at_the_deadline() -> None:
    async with listening() as service:
        service.intake.hold()
        call = asyncio.create_task(service.refusal())
        await asyncio.wait_for(service.intake.arrived.wait(), 10)

        await asyncio.wait_for(service.receiver.drain(deadline_s=0.1), 10)

        assert (await call).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert service.intake.finished == 0


async def test_taken_port_fails_loudly(service: Listening) -> None:
    listen = f"127.0.0.1:{service.port}"
    second = OtlpGrpcReceiver(service.intake, identify, listen, LIMITS, service.budget)

    try:
        with pytest.raises(CannotListenError, match=f"cannot listen on {listen}: the port is taken"):
            await second.start()
    finally:
        await second.drain(deadline_s=0)


@pytest.mark.parametrize("listen", ["", "4317", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "::1:4317", ":4317"])
async def test_what_is_not_an_address_fails_loudly(listen: str) -> None:
    receiver = OtlpGrpcReceiver(RecordingIntake(), identify, listen, LIMITS, BodyBudget(MIB))

    with pytest.raises(CannotListenError, match="write host:port"):
        await receiver.start()
