"""OTLP/gRPC: ``TraceService/Export`` on its own port, bytes in and bytes out.

The handler sees a request as bytes and never decodes it. Framing, gzip and deflate are the transport's, which
stops inflating at the size limit (grpcio before 1.83.2 did not). zstd is unknown to it, and refused by it.
"""

from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from cluster.gateway.body_budget import BodyBudget
from cluster.gateway.intake import (
    SKIP_GENERATION_HEADER,
    TENANT_HEADER,
    Accepted,
    Identify,
    Intake,
    ReceiverLimits,
)
from cluster.gateway.listen import CannotListenError, split_address
from cluster.gateway.refusal import Refused
from cluster.gateway.traced import reception, traced_export
from cluster.tls import HANDSHAKE_TIMEOUT_S, Certificates
from tenants.identity.credentials import AUTHORIZATION_HEADER
from tenants.tracing.spans import Tracer

_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
_STATUS_DETAILS: Final = "grpc-status-details-bin"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class OtlpGrpcReceiver:
    """Listens for OTLP/gRPC in the event loop that starts it.

    Holds no state but the calls in flight; those are lost with the process, and clients send them again.

    Args:
        intake: takes the requests.
        identify: finds out who is sending, from the metadata ``authorization`` and ``x-scope-orgid``.
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
        self._listen = listen
        self._limits = limits
        self._budget = budget
        self._tls = tls
        self._tracer = tracer
        self._server: Any = None

    async def start(self) -> int:
        """Listen; calls are taken from now on.

        Returns:
            The port.

        Raises:
            CannotListenError: the address cannot be had; nothing was started.
        """
        split_address(self._listen)
        server = grpc.aio.server(options=_options(self._limits))
        # Without a deserializer the bytes pass through as they are.
        handler = grpc.unary_unary_rpc_method_handler(traced_export(self._export, self._tracer))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
        try:
            port: int = (
                server.add_secure_port(self._listen, self._tls.grpc_credentials())
                if self._tls
                else server.add_insecure_port(self._listen)
            )
        except RuntimeError as error:
            raise CannotListenError(self._listen, "the port is taken, or the address is not ours") from error
        await server.start()
        self._server = server
        return port

    async def drain(self, deadline_s: float) -> None:
        """Take no new calls, let those in flight finish, and close; at the deadline the rest is cancelled."""
        if self._server is not None:
            await self._server.stop(grace=deadline_s)

    async def _export(self, body: bytes, context: Any) -> bytes:
        metadata = context.invocation_metadata()
        authorization = [value for key, value in metadata if key == AUTHORIZATION_HEADER]
        tenants = [value for key, value in metadata if key == TENANT_HEADER]
        skip = any(key == SKIP_GENERATION_HEADER for key, _ in metadata)
        with self._budget.share() as share:
            # The body is here already: it counts while its sender is being identified.
            outcome: Accepted | Refused | None = share.take(len(body))
            if outcome is None:
                tenant = await self.reception.tenant(authorization, tenants)
                outcome = await self.reception.submit(tenant, body, skip_generation=skip)
        self.reception.count(outcome)
        if isinstance(outcome, Refused):
            await _abort(context, outcome)
        return outcome.response().SerializeToString()


async def _abort(context: Any, refused: Refused) -> NoReturn:
    # Without a time to retry the code says everything there is to say.
    details = () if refused.retry_after_s is None else ((_STATUS_DETAILS, refused.status().SerializeToString()),)
    await context.abort(_CODES[refused.answer.code], refused.text, details)
    raise AssertionError("context.abort raises")


def _options(limits: ReceiverLimits) -> list[tuple[str, int]]:
    return [
        # A second server on the same port would take a part of the clients, silently.
        ("grpc.so_reuseport", 0),
        # Bounds what is received and what it inflates to; beyond it the transport answers RESOURCE_EXHAUSTED.
        ("grpc.max_receive_message_length", limits.max_request_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_TIMEOUT_S * 1000)),
        ("grpc.max_connection_idle_ms", int(limits.idle_timeout_s * 1000)),
        # Clients connect anew now and then, so that they spread over gateways that were added. The grace also
        # bounds a call whose message never arrives in full.
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", int(limits.request_timeout_s * 1000)),
        # Finds peers that went away without a word. Clients may ping every 10 s, even between calls: more
        # than 2 pings too many and the connection is closed.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
