"""Load like telemetrygen's, and less tidy: many small traces of a made-up shop as export requests.

Seeded: the same arguments give the same spans. What they should become is said by the reference model, not here.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Kind: TypeAlias = Span.SpanKind.ValueType

SECOND_NS: Final = 1_000_000_000
SERVICES: Final = ("web", "cart", "pay", "stock", "mail", "Löwe GmbH")
OPERATIONS: Final = ("GET /", "GET /{id}", "")
_MAX_DEPTH: Final = 4
# Traces are sent interleaved, so that the halves of an edge come in any order and in different requests.
_INTERLEAVED_TRACES: Final = 30


@dataclass(frozen=True, slots=True)
class Sent:
    """One span, and the service whose resource it is sent with; None for a resource without a name."""

    service: str | None
    span: Span


def requests(rng: random.Random, now_ns: int, *, traces: int, spans_per_request: int) -> list[bytes]:
    """Return export requests with all spans of so many traces, which ended in the ten seconds before ``now_ns``."""
    spans: list[Sent] = []
    for start in range(0, traces, _INTERLEAVED_TRACES):
        some = range(start, min(traces, start + _INTERLEAVED_TRACES))
        group = [sent for _ in some for sent in _Trace(rng, now_ns).spans()]
        rng.shuffle(group)
        spans += group
    starts = range(0, len(spans), spans_per_request)
    return [export_request(spans[start : start + spans_per_request]) for start in starts]


def export_request(spans: Sequence[Sent]) -> bytes:
    """Return the request that carries the spans, those of one service under one resource."""
    request = ExportTraceServiceRequest()
    by_service: dict[str | None, list[Span]] = {}
    for sent in spans:
        by_service.setdefault(sent.service, []).append(sent.span)
    for service, members in by_service.items():
        group = request.resource_spans.add()
        if service is not None:
            group.resource.attributes.extend(attributes({"service.name": service, "region": f"r{len(service) % 3}"}))
        group.scope_spans.add().spans.extend(members)
    return request.SerializeToString()


def attributes(values: Mapping[str, str | int]) -> list[KeyValue]:
    """Return attributes with text or integers."""
    return [
        KeyValue(key=key, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value))
        for key, value in values.items()
    ]


class _Trace:
    """One request of a customer: a root, and calls to services, databases, queues and strangers below it."""

    def __init__(self, rng: random.Random, now_ns: int) -> None:
        self._rng = rng
        self._now_ns = now_ns
        self._trace_id = rng.randbytes(16)

    def spans(self) -> Iterator[Sent]:
        root = self._span(Span.SPAN_KIND_SERVER, parent=b"")
        yield Sent("web", root)
        yield from self._below("web", root, depth=1)

    def _below(self, caller: str, parent: Span, depth: int) -> Iterator[Sent]:
        if depth == _MAX_DEPTH:
            return
        for _ in range(self._rng.choice([0, 1, 1, 2])):
            match self._rng.choice(["rpc", "rpc", "rpc", "queue", "database", "stranger", "inside", "odd"]):
                case "rpc":
                    yield from self._call(caller, parent, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER, depth)
                case "queue":
                    yield from self._call(caller, parent, Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER, depth)
                case "database":
                    query = self._span(Span.SPAN_KIND_CLIENT, parent.span_id)
                    query.attributes.extend(attributes({"db.system": "postgresql", "db.namespace": "orders"}))
                    yield Sent(caller, query)
                case "stranger":
                    call = self._span(Span.SPAN_KIND_CLIENT, parent.span_id)
                    if self._rng.random() < 0.7:
                        call.attributes.extend(attributes({"peer.service": "bank"}))
                    yield Sent(caller, call)
                case "inside":
                    yield Sent(caller, self._span(Span.SPAN_KIND_INTERNAL, parent.span_id))
                case "odd":
                    yield self._odd(parent)

    def _call(self, caller: str, parent: Span, kind: Kind, kind_called: Kind, depth: int) -> Iterator[Sent]:
        called = self._rng.choice(SERVICES)
        ours = self._span(kind, parent.span_id)
        theirs = self._span(kind_called, ours.span_id)
        yield Sent(caller, ours)
        yield Sent(called, theirs)
        yield from self._below(called, theirs, depth + 1)

    def _odd(self, parent: Span) -> Sent:
        """Return a span that is set aside, or that only some metrics know what to do with."""
        span = self._span(Span.SPAN_KIND_UNSPECIFIED, parent.span_id)
        match self._rng.randrange(6):
            case 0:
                span.trace_id = b"short"
            case 1:
                span.span_id = bytes(8)
            case 2:
                span.end_time_unix_nano -= 3600 * SECOND_NS
            case 3:
                span.start_time_unix_nano = span.end_time_unix_nano + SECOND_NS
            case 4:
                return Sent(None, span)
        return Sent("cart", span)

    def _span(self, kind: Kind, parent: bytes) -> Span:
        rng = self._rng
        end_ns = self._now_ns - rng.randrange(10 * SECOND_NS)
        duration_ns = round(math.exp(rng.uniform(math.log(100_000), math.log(20 * SECOND_NS))))
        status = rng.choice([Status.STATUS_CODE_UNSET, Status.STATUS_CODE_OK, Status.STATUS_CODE_ERROR])
        is_error = status == Status.STATUS_CODE_ERROR
        return Span(
            trace_id=self._trace_id,
            span_id=rng.randbytes(8),
            parent_span_id=parent,
            name=rng.choice(OPERATIONS),
            kind=kind,
            start_time_unix_nano=end_ns - duration_ns,
            end_time_unix_nano=end_ns,
            status=Status(code=status, message="broken" if is_error else ""),
            attributes=attributes({"http.response.status_code": 500 if is_error else 200}),
        )
