"""Export requests of an exact size, for limits that count bytes."""

import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.integration.load import SECOND_NS, attributes


def sized_request(size: int) -> bytes:
    """Return one valid span, padded to ``size`` bytes, 200 at least."""
    padding = size
    # The length of a text has a length itself, at each of the levels around it.
    while len(body := _request(padding)) != size:
        padding -= len(body) - size
    return body


def _request(padding: int) -> bytes:
    now_ns = time.time_ns()
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(attributes({"service.name": "sized"}))
    span = Span(
        trace_id=now_ns.to_bytes(16),
        span_id=b"sized...",
        name="padded",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now_ns - SECOND_NS,
        end_time_unix_nano=now_ns,
        attributes=attributes({"padding": "x" * padding}),
    )
    group.scope_spans.add().spans.append(span)
    return request.SerializeToString()
