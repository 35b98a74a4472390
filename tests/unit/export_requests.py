"""Export requests for the receivers' tests, and the same as OTLP/JSON."""

from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

TRACE_ID = bytes.fromhex("5b8efff798038103d269b633813fc60c")
SPAN_ID = bytes.fromhex("eee19b7ec3c1b174")


def export_request(spans: int = 1) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="shop"))]),
                scope_spans=[
                    ScopeSpans(
                        spans=[
                            Span(
                                trace_id=TRACE_ID,
                                span_id=(index + 1).to_bytes(8, "big"),
                                parent_span_id=SPAN_ID,
                                name=f"GET /{index}",
                                kind=Span.SPAN_KIND_SERVER,
                                start_time_unix_nano=1_700_000_000_000_000_000,
                                end_time_unix_nano=1_700_000_000_250_000_000,
                                links=[Span.Link(trace_id=TRACE_ID, span_id=SPAN_ID)],
                            )
                            for index in range(spans)
                        ]
                    )
                ],
            )
        ]
    )


def otlp_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """Print a request by the rules of OTLP/JSON: ids in hexadecimal, enums as numbers."""
    document = MessageToDict(request, use_integers_for_enums=True)
    for resource_spans, printed_resource in zip(request.resource_spans, document.get("resourceSpans", []), strict=True):
        for scope_spans, printed_scope in zip(
            resource_spans.scope_spans, printed_resource.get("scopeSpans", []), strict=True
        ):
            for span, printed in zip(scope_spans.spans, printed_scope.get("spans", []), strict=True):
                _print_ids(span, printed, "parent_span_id")
                for link, printed_link in zip(span.links, printed.get("links", []), strict=True):
                    _print_ids(link, printed_link)
    return document


def _print_ids(message: Span | Span.Link, printed: dict[str, Any], *more: str) -> None:
    for name in ("trace_id", "span_id", *more):
        if value := getattr(message, name):
            head, *rest = name.split("_")
            printed[head + "".join(word.title() for word in rest)] = value.hex()
