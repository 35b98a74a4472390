"""Demo spans as OTLP: one ExportTraceServiceRequest for many spans, grouped by resource."""

from collections.abc import Iterable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from cluster.demo.semconv import Attributes
from cluster.demo.shop import DemoSpan, Instance

_SCOPE = "millrace.demo"


def export_request(spans: Iterable[DemoSpan]) -> ExportTraceServiceRequest:
    """Build the request that carries ``spans``: one ResourceSpans for each instance, order within it kept."""
    request = ExportTraceServiceRequest()
    scopes: dict[Instance, ScopeSpans] = {}
    for span in spans:
        scope = scopes.get(span.instance)
        if scope is None:
            resource_spans = request.resource_spans.add()
            resource_spans.resource.attributes.extend(_key_values(span.instance.resource))
            scope = scopes[span.instance] = resource_spans.scope_spans.add()
            scope.scope.name = _SCOPE
        scope.spans.append(_span(span))
    return request


def _span(span: DemoSpan) -> Span:
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        name=span.name,
        kind=Span.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_key_values(span.attributes),
        status=Status(code=Status.STATUS_CODE_ERROR) if span.has_failed else None,
    )


def _key_values(attributes: Attributes) -> list[KeyValue]:
    return [
        KeyValue(
            key=key,
            value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value),
        )
        for key, value in attributes.items()
    ]
