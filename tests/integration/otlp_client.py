"""OTLP clients that send exactly the bytes they are given, and show the answer as it came."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import httpx
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got back.

    Attributes:
        status: name of the gRPC code, or the HTTP status as text.
        message: what the service said to explain a refusal.
        rejected_spans: of a request that was accepted.
        code: of a refusal, in the Status that explains it.
        retry_delay_s: when to try again, in the same place; None: it does not say.
        retry_after: the same as header of HTTP.
        content_type: of an answer over HTTP.
    """

    status: str
    message: str = ""
    rejected_spans: int = 0
    code: int = 0
    retry_delay_s: float | None = None
    retry_after: str | None = None
    content_type: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether the request was taken."""
        return self.status in {"OK", "200"}


class GrpcClient:
    """OTLP/gRPC without compression, one connection."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        options = [("grpc.max_send_message_length", 256 << 20), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(f"{host}:{port}", options=options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def export(
        self,
        body: bytes,
        tenant: str | None,
        *,
        method: str = EXPORT,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """Send one request, as ``tenant`` unless that is None."""
        call: Any = self._channel.unary_unary(method)
        own = () if tenant is None else (("x-scope-orgid", tenant),)
        try:
            answer = await call(body, metadata=(*own, *metadata), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            delay_s = _retry_delay_s(Status.FromString(details))
            return Answer(error.code().name, error.details() or "", code=error.code().value[0], retry_delay_s=delay_s)
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
        return Answer("OK", partial.error_message, partial.rejected_spans)


class HttpClient:
    """OTLP/HTTP, one pool of connections."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._client = httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, timeout=_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def export(
        self,
        body: bytes | Iterable[bytes],
        tenant: str | None,
        *,
        content_type: str = PROTOBUF,
        headers: Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]] = (),
        method: str = "POST",
        path: str = "/v1/traces",
    ) -> Answer:
        """Send one request, as ``tenant`` unless that is None; a body in parts is sent in chunks."""
        own: list[tuple[str, str | bytes]] = [("content-type", content_type)] if content_type else []
        if tenant is not None:
            own.append(("x-scope-orgid", tenant))
        more = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        content = body if isinstance(body, bytes) else _parts(body)
        response = await self._client.request(method, path, content=content, headers=[*own, *more])
        return _http_answer(response)


async def _parts(body: Iterable[bytes]) -> Any:
    for part in body:
        yield part


def _http_answer(response: httpx.Response) -> Answer:
    """Read the answer in the encoding that it says it has."""
    content_type = response.headers["content-type"]
    is_json = content_type == JSON
    if response.status_code == 200:
        if is_json:
            partial_json = response.json().get("partialSuccess", {})
            message, rejected = partial_json.get("errorMessage", ""), int(partial_json.get("rejectedSpans", 0))
        else:
            partial = ExportTraceServiceResponse.FromString(response.content).partial_success
            message, rejected = partial.error_message, partial.rejected_spans
        return Answer("200", message, rejected, content_type=content_type)
    status = json_format.Parse(response.content, Status()) if is_json else Status.FromString(response.content)
    return Answer(
        str(response.status_code),
        status.message,
        code=status.code,
        retry_delay_s=_retry_delay_s(status),
        retry_after=response.headers.get("retry-after"),
        content_type=content_type,
    )


def _retry_delay_s(status: Status) -> float | None:
    for detail in status.details:
        info = RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None
