"""Small requests whose meaning is plain: what is sent, and how many spans of it Prometheus should come to count."""

import time
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from tests.integration.load import attributes
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus

CALLS: Final = "traces_spanmetrics_calls_total"
_COUNTED_TIMEOUT_S: Final = 30


def full_request(service_name: str = "shop") -> ExportTraceServiceRequest:
    """Return two spans, a call with both its halves, that use every part of OTLP."""
    now_ns = time.time_ns()
    trace_id = now_ns.to_bytes(16)
    common: dict[str, Any] = {
        "trace_id": trace_id,
        "start_time_unix_nano": now_ns - 250_000_000,
        "end_time_unix_nano": now_ns,
        "attributes": attributes({"http.route": "/käse", "size": 5}),
        "trace_state": "a=b",
        "flags": 256,
    }
    call = Span(span_id=b"call....", name="GET", kind=Span.SPAN_KIND_CLIENT, **common)
    call.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="broken"))
    call.events.add(name="retry", time_unix_nano=now_ns, attributes=attributes({"attempt": 2}))
    call.links.add(trace_id=trace_id, span_id=b"linked..")
    work = Span(span_id=b"work....", parent_span_id=b"call....", name="GET /käse", kind=Span.SPAN_KIND_SERVER, **common)
    request = ExportTraceServiceRequest()
    for span in (call, work):
        group = ResourceSpans(scope_spans=[ScopeSpans(spans=[span], schema_url="https://schema.example")])
        group.resource.attributes.extend(attributes({"service.name": service_name, "host.name": "h1"}))
        group.scope_spans[0].scope.name = "shop"
        request.resource_spans.append(group)
    return request


async def until_counted(prometheus: Prometheus, spans: float, **labels: str) -> None:
    """Wait until so many spans with these labels are counted."""
    selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
    seen: list[dict[str, Any]] = []

    async def is_counted() -> bool:
        seen[:] = await prometheus.query(f"sum({CALLS}{{{selector}}})")
        return [float(element["value"][1]) for element in seen] == [spans]

    await eventually(is_counted, _COUNTED_TIMEOUT_S, lambda: f"expected {spans} spans with {labels}, got {seen}")
