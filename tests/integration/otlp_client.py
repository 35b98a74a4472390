"""OTLP clients that send exactly the bytes they are given, and show the answer as it came."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import httpx
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
    """

    status: str
    message: str = ""
    rejected_spans: int = 0

    @property
    def is_accepted(self) -> bool:
        """Whether the request was taken."""
        return self.status in {"OK", "200"}


class GrpcClient:
    """OTLP/gRPC without compression, one connection."""

    def __init__(self, port: int) -> None:
        options = [("grpc.max_send_message_length", 256 << 20), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)

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
            return Answer(error.code().name, error.details() or "")
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
        return Answer("OK", partial.error_message, partial.rejected_spans)


class HttpClient:
    """OTLP/HTTP, one pool of connections."""

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=_TIMEOUT_S)

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
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        method: str = "POST",
        path: str = "/v1/traces",
    ) -> Answer:
        """Send one request, as ``tenant`` unless that is None; a body in parts is sent in chunks."""
        own = [("content-type", content_type)] if content_type else []
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
    is_json = response.headers["content-type"] == JSON
    if response.status_code == 200:
        if is_json:
            partial_json = response.json().get("partialSuccess", {})
            return Answer("200", partial_json.get("errorMessage", ""), int(partial_json.get("rejectedSpans", 0)))
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
        return Answer("200", partial.error_message, partial.rejected_spans)
    message = response.json()["message"] if is_json else Status.FromString(response.content).message
    return Answer(str(response.status_code), message)
