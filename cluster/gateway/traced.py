"""Export requests in traces of Millrace itself: around the receivers, which are as they were while tracing is off."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from cluster.gateway.http_listener import App, Receive, Scope, Send
from cluster.gateway.intake import Accepted, Identify, Intake, Reception
from cluster.gateway.refusal import Refused
from tenants.identity.tenant_id import TenantId
from tenants.tracing.spans import TENANT, Span, Tracer, current, within

Export = Callable[[bytes, Any], Awaitable[bytes]]
"""Answer a call of OTLP/gRPC."""

_NAME: Final = "export request"


class TracedReception(Reception):
    """Says of each request that is traced whose it is and how it was answered."""

    def __init__(self, intake: Intake, identify: Identify, tracer: Tracer) -> None:
        super().__init__(intake, identify)
        self._tracer = tracer

    async def submit(
        self, tenant: TenantId | Refused, body: bytes, *, skip_generation: bool = False
    ) -> Accepted | Refused:
        """Hand the request over, out of the trace if it carries Millrace's own traces."""
        span = current()
        if span is None or isinstance(tenant, Refused):
            return await super().submit(tenant, body, skip_generation=skip_generation)
        if self._tracer.is_own(tenant):
            span.discard()
            with within(None):
                return await super().submit(tenant, body, skip_generation=skip_generation)
        span.set({TENANT: str(tenant), "millrace.request.bytes": len(body)})
        return await super().submit(tenant, body, skip_generation=skip_generation)

    def count(self, outcome: Accepted | Refused) -> None:
        """Count the final answer to one request."""
        super().count(outcome)
        if (span := current()) is not None:
            _say(span, outcome)


def reception(intake: Intake, identify: Identify, tracer: Tracer | None) -> Reception:
    """Make what receivers hand requests to."""
    return Reception(intake, identify) if tracer is None else TracedReception(intake, identify, tracer)


def traced_export(export: Export, tracer: Tracer | None) -> Export:
    """Return the handler of OTLP/gRPC, traced unless tracing is off."""
    if tracer is None:
        return export

    async def traced(body: bytes, context: Any) -> bytes:
        with within(tracer.sampled(_NAME, {"rpc.system": "grpc"}, kind="server")):
            return await export(body, context)

    return traced


def traced_app(app: App, tracer: Tracer | None) -> App:
    """Return the application of OTLP/HTTP, traced unless tracing is off."""
    if tracer is None:
        return app

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        with within(tracer.sampled(_NAME, {"http.request.method": scope["method"]}, kind="server")):
            await app(scope, receive, send)

    return traced


def _say(span: Span, outcome: Accepted | Refused) -> None:
    if isinstance(outcome, Refused):
        span.set({"millrace.answer": str(outcome.reason)})
        span.fail(str(outcome.reason))
    else:
        span.set({"millrace.answer": "ok", "millrace.rejected_spans": outcome.rejected_spans})
