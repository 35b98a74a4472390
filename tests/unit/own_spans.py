"""Millrace's own spans as a receiver of traces gets them."""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.unit.receiver import Received


@dataclass(frozen=True)
class OwnSpan:
    """One span, with what its resource says."""

    name: str
    trace: bytes
    span: bytes
    parent: bytes
    links: tuple[bytes, ...]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    problem: str

    @property
    def actor(self) -> str:
        return str(self.resource["service.instance.id"])


def own_spans(requests: Iterable[Received]) -> list[OwnSpan]:
    """All spans of these requests, in order."""
    return [
        OwnSpan(
            span.name,
            span.trace_id,
            span.span_id,
            span.parent_span_id,
            tuple(link.trace_id for link in span.links),
            _plain(span.attributes),
            _plain(of_process.resource.attributes),
            span.status.message,
        )
        for request in requests
        for of_process in ExportTraceServiceRequest.FromString(gzip.decompress(request.body)).resource_spans
        for scope in of_process.scope_spans
        for span in scope.spans
    ]


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
