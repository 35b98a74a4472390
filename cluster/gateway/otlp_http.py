"""OTLP/HTTP: ``POST /v1/traces`` in protobuf or JSON, as an ASGI app on a listener of its own.

Checks what the headers say before it reads a body, and reads no more of it than the limit. Answers in the
request's encoding (OTLP, "OTLP/HTTP"). It does not look into protobuf bodies.
"""

import asyncio
import json
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtobufMessage

from cluster.gateway.body_budget import BodyBudget, BodyShare
from cluster.gateway.decompress import decompress, is_supported, unsupported_encoding
from cluster.gateway.http_listener import ConnectionBounds, HttpListener, Receive, Send
from cluster.gateway.intake import (
    SKIP_GENERATION_HEADER,
    TENANT_HEADER,
    Accepted,
    Identify,
    Intake,
    ReceiverLimits,
    Reception,
)
from cluster.gateway.otlp_json import json_to_protobuf
from cluster.gateway.refusal import RefusalReason, Refused
from cluster.gateway.traced import reception, traced_app
from cluster.tls import Certificates
from tenants.identity.credentials import AUTHORIZATION_HEADER
from tenants.tracing.spans import Tracer

TRACES_PATH: Final = "/v1/traces"

# Inflating takes up to 3 ms per MiB of output: short of this a thread costs more than it spares the loop.
_INFLATE_IN_THREAD_BYTES: Final = 64 * 1024


class MediaType(StrEnum):
    """The two encodings of OTLP/HTTP."""

    PROTOBUF = "application/x-protobuf"
    JSON = "application/json"


_MEDIA_TYPES: Final = {media_type.value: media_type for media_type in MediaType}


class OtlpHttpReceiver:
    """Listens for OTLP/HTTP in the event loop that starts it.

    Holds no state but the requests in flight; those are lost with the process, and clients send them again.

    Args:
        intake: takes the requests.
        identify: finds out who is sending, from the headers ``Authorization`` and ``X-Scope-OrgID``.
        listen: ``host:port``; port 0 takes a free one.
        limits: bounds for all clients together.
        budget: memory for bodies, shared with the other receivers.
        tls: the port's certificate; None: in the clear.
        tracer: of Millrace's own traces; None: none.
    """

    def __init__(
        self,
        intake: Intake,
        identify: Identify,
        listen: str,
        limits: ReceiverLimits,
        budget: BodyBudget,
        *,
        tls: Certificates | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.reception = reception(intake, identify, tracer)
        self._app = OtlpHttpApp(self.reception, limits, budget)
        self.listener = HttpListener(
            traced_app(self._app, tracer),
            listen,
            ConnectionBounds(limits.max_connections, limits.request_timeout_s, limits.idle_timeout_s),
            tls,
        )

    async def start(self) -> int:
        """Listen; requests are taken from now on.

        Returns:
            The port.

        Raises:
            CannotListenError: the address cannot be had; nothing was started.
        """
        return await self.listener.start()

    async def drain(self, deadline_s: float) -> None:
        """Take no new requests, let those in flight finish, and close.

        Requests beyond the deadline are cut off or cancelled.
        """
        await self.listener.drain(deadline_s)
        self._app.close()


class OtlpHttpApp:
    """The ASGI callable."""

    def __init__(self, reception: Reception, limits: ReceiverLimits, budget: BodyBudget) -> None:
        self._reception = reception
        self._limits = limits
        self._budget = budget
        # One thread: reading JSON holds the GIL, so that more would only multiply the memory it takes.
        self._json_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="otlp-json")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; says nothing if the client went away before it was complete."""
        request = _Request.of(scope)
        with self._budget.share() as share:
            outcome = await self._answer(request, receive, share)
        if outcome is None:
            return
        self._reception.count(outcome)
        await _send(send, outcome, request.answers_in)

    def close(self) -> None:
        """Let go of the thread."""
        self._json_thread.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: "_Request", receive: Receive, share: BodyShare) -> Accepted | Refused | None:
        if refused := request.fault():
            return refused
        tenant = await self._reception.tenant(request.authorization, request.tenants)
        if isinstance(tenant, Refused):
            if tenant.reason is not RefusalReason.NO_ORG_ID:
                return tenant
            # Only an empty body could still be accepted, so that nothing has to be read to refuse another.
            is_empty = await _read(request, receive, 0, share) == b""
            return await self._reception.submit(tenant, b"") if is_empty else tenant
        body = await _read(request, receive, self._max_bytes(request), share)
        if isinstance(body, bytes):
            body = await self._decode(request, body, share)
        if not isinstance(body, bytes):
            return body
        return await self._reception.submit(tenant, body, skip_generation=request.skips_generation)

    async def _decode(self, request: "_Request", body: bytes, share: BodyShare) -> bytes | Refused:
        """Undo the content encoding, then JSON."""
        if not body or request.is_plain:
            return body
        limit = self._max_bytes(request)
        decoded: bytes | Refused
        if len(body) < _INFLATE_IN_THREAD_BYTES:
            decoded = decompress(body, request.encoding, limit)
        else:
            decoded = await asyncio.to_thread(decompress, body, request.encoding, limit)
        if isinstance(decoded, Refused):
            return decoded
        if refused := share.take(len(decoded)):
            return refused
        if request.media_type is MediaType.JSON:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._json_thread, json_to_protobuf, decoded)
        return decoded

    def _max_bytes(self, request: "_Request") -> int:
        is_json = request.media_type is MediaType.JSON
        return self._limits.max_json_bytes if is_json else self._limits.max_request_bytes


@dataclass(frozen=True, slots=True)
class _Request:
    """What the head of a request says."""

    method: str
    path: str
    content_type: str
    encoding: str
    content_length: int
    authorization: list[str] = field(repr=False)
    tenants: list[str]
    skips_generation: bool

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> "_Request":
        values: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        encoding = ", ".join(values.get("content-encoding", [])).strip().lower()
        return cls(
            method=scope["method"],
            path=scope["path"],
            content_type=", ".join(values.get("content-type", [])).partition(";")[0].strip().lower(),
            encoding="" if encoding == "identity" else encoding,
            # The parser has checked it; a chunked body has none.
            content_length=int(values.get("content-length", ["0"])[0]),
            authorization=values.get(AUTHORIZATION_HEADER, []),
            tenants=values.get(TENANT_HEADER, []),
            skips_generation=SKIP_GENERATION_HEADER in values,
        )

    @property
    def media_type(self) -> MediaType | None:
        return _MEDIA_TYPES.get(self.content_type)

    @property
    def is_plain(self) -> bool:
        return not self.encoding and self.media_type is MediaType.PROTOBUF

    @property
    def answers_in(self) -> MediaType:
        """The request's encoding; for one that is neither, what a person can read."""
        return self.media_type or MediaType.JSON

    def fault(self) -> Refused | None:
        """Find what is wrong without reading further."""
        if self.path != TRACES_PATH:
            return Refused(RefusalReason.NOT_FOUND, f"nothing here; traces go to POST {TRACES_PATH}")
        if self.method != "POST":
            return Refused(RefusalReason.METHOD_NOT_ALLOWED, f"use POST for {TRACES_PATH}")
        if self.media_type is None:
            return Refused(
                RefusalReason.UNSUPPORTED_MEDIA_TYPE,
                f"content type {self.content_type[:60]!r} is not supported; use {' or '.join(_MEDIA_TYPES)}",
            )
        return None if is_supported(self.encoding) else unsupported_encoding(self.encoding)


async def _read(request: _Request, receive: Receive, limit: int, share: BodyShare) -> bytes | Refused | None:
    """Read the body, up to ``limit`` bytes; None if the client went away.

    What is left of a refused body is thrown away by the listener while it arrives: closing the connection
    at once would often take the answer with it.
    """
    too_large = Refused(RefusalReason.TOO_LARGE, f"the body has more than {limit} bytes; send smaller batches")
    if request.content_length > limit:
        return too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message["body"]
        size += len(chunk)
        if size > limit:
            return too_large
        if refused := share.take(len(chunk)):
            return refused
        chunks.append(chunk)
        if not message["more_body"]:
            return b"".join(chunks)


async def _send(send: Send, outcome: Accepted | Refused, media_type: MediaType) -> None:
    """Answer in the given encoding: an ``ExportTraceServiceResponse``, or a ``google.rpc.Status``."""
    message: ProtobufMessage
    headers: list[tuple[bytes, bytes]] = [(b"content-type", media_type.encode())]
    if isinstance(outcome, Accepted):
        status, message = 200, outcome.response()
    else:
        status, message = outcome.answer.http_status, outcome.status()
        if retry_after := outcome.retry_after_header():
            headers.append((b"retry-after", retry_after.encode()))
        if outcome.reason is RefusalReason.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"POST"))
        if outcome.reason is RefusalReason.UNAUTHENTICATED:
            headers.append((b"www-authenticate", b"Bearer"))
    if media_type is MediaType.JSON:
        body = json.dumps(MessageToDict(message), ensure_ascii=False).encode()
    else:
        body = message.SerializeToString()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
