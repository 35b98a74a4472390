"""The seam between the protocols and the gateway behind them.

Receivers know headers, encodings and answers; whatever takes the spans knows none of it. Here is what they
say to each other. Neither protobuf's contents nor Ray are seen on this seam.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from cluster.gateway.refusal import RefusalReason, Refused
from tenants.identity.tenant_id import TenantId

TENANT_HEADER = "x-scope-orgid"
"""HTTP header and gRPC metadata key of the tenant, in lower case (tenancy §1.1)."""

SKIP_GENERATION_HEADER = "no-generate-metrics"
"""HTTP header and gRPC metadata key of a request that is to be received and counted, and to become no metrics. It is
there or it is not; its value says nothing (processors §5.2)."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Identify = Callable[[Sequence[str], Sequence[str]], Awaitable[TenantId | Refused]]
"""Find out who is sending, from all values of the headers ``Authorization`` and ``X-Scope-OrgID``, in order; none if
one was not sent. Must not block, and answers in bounded time."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request was taken, whole or but for some spans.

    Attributes:
        rejected_spans: spans that were refused for good; the client must not send them again.
        message: why; with no rejected span, a warning (OTLP, "Partial Success").
    """

    rejected_spans: int = 0
    message: str = ""

    def response(self) -> ExportTraceServiceResponse:
        """Build the answer. ``partial_success`` stays unset when there is nothing to say, as OTLP demands."""
        if not self.rejected_spans and not self.message:
            return ExportTraceServiceResponse()
        return ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(rejected_spans=self.rejected_spans, error_message=self.message)
        )


class Intake(Protocol):
    """Takes the spans of one tenant."""

    async def submit(self, tenant: TenantId, body: bytes, *, skip_generation: bool) -> Accepted | Refused:
        """Take one request; once accepted, the sender may forget it.

        Must answer in bounded time, and may be cancelled when the client goes away: what was taken by then
        may or may not be counted, and the client will send it again. Not called with an empty body.

        Args:
            tenant: who sent it.
            body: an ``ExportTraceServiceRequest`` in protobuf, decompressed, not yet validated.
            skip_generation: check and count it, and generate nothing.
        """


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """Bounds that both receivers keep, whoever is sending.

    Attributes:
        max_request_bytes: largest request, before and after decompression.
        max_json_bytes: largest OTLP/JSON request. Lower, because decoding takes up to 100 times that.
        max_connections: connections a receiver holds; further ones are closed at once.
        max_concurrent_streams: calls in flight on one gRPC connection; clients wait for their turn.
        request_timeout_s: time for an HTTP request to arrive in full; then its connection is closed.
        idle_timeout_s: a connection without requests is closed after this. Longer than the 5 s between two
            exports of an SDK, or every export would meet a connection that is just being closed.
    """

    max_request_bytes: int = 16 * 1024 * 1024
    max_json_bytes: int = 4 * 1024 * 1024
    max_connections: int = 1024
    max_concurrent_streams: int = 64
    request_timeout_s: float = 30.0
    idle_timeout_s: float = 120.0


class Reception:
    """What every receiver does with a request once its protocol is out of the way. Counts the answers.

    Attributes:
        answers: requests answered, by ``ok`` or the reason of the refusal.
    """

    def __init__(self, intake: Intake, identify: Identify) -> None:
        self._intake = intake
        self._identify = identify
        self.answers: Counter[str] = Counter()

    async def tenant(self, authorization: Sequence[str], tenants: Sequence[str]) -> TenantId | Refused:
        """Find out who is sending. A bug behind the seam is logged and becomes a refusal."""
        try:
            return await self._identify(authorization, tenants)
        except Exception:
            log.exception("the sender of a request could not be identified by a bug")
            return _failed_by_a_bug()

    async def submit(
        self, tenant: TenantId | Refused, body: bytes, *, skip_generation: bool = False
    ) -> Accepted | Refused:
        """Hand the request over. A bug behind the seam is logged and becomes a refusal.

        An empty request is accepted from anybody who sent no tenant: SDKs send it to try the connection
        (tenancy §1.4).
        """
        if isinstance(tenant, Refused):
            return Accepted() if not body and tenant.reason is RefusalReason.NO_ORG_ID else tenant
        if not body:
            return Accepted()
        try:
            return await self._intake.submit(tenant, body, skip_generation=skip_generation)
        except Exception:
            log.exception("a request failed by a bug", tenant=str(tenant), body_bytes=len(body))
            return _failed_by_a_bug()

    def count(self, outcome: Accepted | Refused) -> None:
        """Count the final answer to one request."""
        self.answers[outcome.reason if isinstance(outcome, Refused) else "ok"] += 1


def _failed_by_a_bug() -> Refused:
    return Refused(RefusalReason.INTERNAL, "internal error; the operator's log has the details")
