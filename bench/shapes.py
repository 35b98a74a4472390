"""The two request shapes that the benchmarks send, 1 000 spans each, and what must come out of them.

* ``batched``: 2 resources with many spans each, about 300 B a span: what an SDK's batch processor sends.
* ``scattered``: one resource for every span, about 1 040 B a span: what a collector that regroups by attribute sends.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SPANS_PER_REQUEST = 1000
SPANS_PER_TRACE = 4
#: Span-metrics dimensions of the ``scattered`` benchmarks: with the four intrinsic ones they make seven.
SCATTERED_DIMENSIONS = ("http.route", "deployment.environment.name", "http.response.status_code")
#: Seven attributes, on top of the four intrinsic dimensions.
MANY_DIMENSIONS = (
    *SCATTERED_DIMENSIONS,
    "http.request.method",
    "service.version",
    "cloud.region",
    "k8s.namespace.name",
)


@dataclass(frozen=True)
class Shape:
    """How requests look and what one of them adds to a tenant's counters."""

    name: str
    dimensions: tuple[str, ...]
    #: Distinct span names (times routes): what the number of active series follows from.
    operations: int
    build: Callable[[random.Random, int, int], ExportTraceServiceRequest]

    #: Edges that one request completes: a call and a database request in every trace.
    edges_per_request: int = 2 * SPANS_PER_REQUEST // SPANS_PER_TRACE

    def requests(self, count: int, now_ns: int, seed: int = 7) -> list[bytes]:
        """Return ``count`` encoded requests whose spans end within a second before ``now_ns``."""
        rng = random.Random(seed)
        return [self.build(rng, self.operations, now_ns).SerializeToString() for _ in range(count)]


def _attribute(key: str, value: str | int) -> KeyValue:
    attribute = KeyValue(key=key)
    if isinstance(value, int):
        attribute.value.int_value = value
    else:
        attribute.value.string_value = value
    return attribute


def _trace(rng: random.Random, operations: int, now_ns: int) -> list[Span]:
    """A call from ``web`` to ``orders``, with a step inside and a database request: four spans, two edges."""
    trace_id = rng.randbytes(16)
    ids = [rng.randbytes(8) for _ in range(SPANS_PER_TRACE)]
    operation = rng.randrange(operations)
    start = now_ns - rng.randrange(500_000_000, 1_000_000_000)
    kinds = (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_CLIENT)
    spans = []
    for depth, kind in enumerate(kinds):
        failed = rng.random() < 0.02
        spans.append(
            Span(
                trace_id=trace_id,
                span_id=ids[depth],
                parent_span_id=ids[depth - 1] if depth else b"",
                name=f"{('GET', 'GET', 'price', 'SELECT')[depth]} /orders/{operation}",
                kind=kind,
                start_time_unix_nano=start + depth * 1_000_000,
                end_time_unix_nano=start + depth * 1_000_000 + int(rng.lognormvariate(16, 1.5)) % 400_000_000,
                status=Status(code=Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET),
                attributes=[
                    _attribute("http.request.method", "GET"),
                    _attribute("http.route", f"/orders/{operation}"),
                    _attribute("http.response.status_code", 500 if failed else 200),
                    _attribute("url.path", f"/orders/{operation}/{rng.randrange(10**9)}"),
                    _attribute("network.protocol.version", "1.1"),
                    _attribute("thread.name", "http-nio-8080-exec-12"),
                ],
            )
        )
    spans[3].attributes.append(_attribute("db.system.name", "postgresql"))
    spans[3].attributes.append(_attribute("db.namespace", "orders"))
    return spans


def _resource_attributes(service: str, pod: int) -> list[KeyValue]:
    return [
        _attribute("service.name", service),
        _attribute("service.namespace", "shop"),
        _attribute("service.instance.id", f"{service}-{pod:04d}-6f7d9c5b4d-x2v9k"),
        _attribute("service.version", "2026.11.3"),
        _attribute("telemetry.sdk.language", "java"),
        _attribute("telemetry.sdk.name", "opentelemetry"),
        _attribute("telemetry.sdk.version", "1.56.0"),
        _attribute("deployment.environment.name", "production"),
        _attribute("k8s.namespace.name", "shop"),
        _attribute("k8s.pod.name", f"{service}-{pod:04d}-6f7d9c5b4d-x2v9k"),
        _attribute("k8s.node.name", f"node-{pod % 50:03d}.eu-west-1.compute.internal"),
        _attribute("k8s.deployment.name", service),
        _attribute("k8s.pod.uid", f"{pod:08x}-3c1d-4b7e-9f00-5a1e2d3c4b5f"),
        _attribute("host.id", f"i-0a1b2c3d4e5f{pod:05d}"),
        _attribute("cloud.provider", "aws"),
        _attribute("cloud.region", "eu-west-1"),
        _attribute("host.name", f"ip-10-0-{pod % 250}-17"),
        _attribute("container.id", f"{pod:064x}"),
    ]


def _batched(rng: random.Random, operations: int, now_ns: int) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    client, server = (request.resource_spans.add() for _ in range(2))
    client.resource.attributes.extend(_resource_attributes("web", 1))
    server.resource.attributes.extend(_resource_attributes("orders", 2))
    client_spans, server_spans = client.scope_spans.add().spans, server.scope_spans.add().spans
    for _ in range(SPANS_PER_REQUEST // SPANS_PER_TRACE):
        first, *rest = _trace(rng, operations, now_ns)
        client_spans.append(first)
        server_spans.extend(rest)
    return request


def _scattered(rng: random.Random, operations: int, now_ns: int) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for _ in range(SPANS_PER_REQUEST // SPANS_PER_TRACE):
        for depth, span in enumerate(_trace(rng, operations, now_ns)):
            group = request.resource_spans.add()
            group.resource.attributes.extend(_resource_attributes("orders" if depth else "web", rng.randrange(200)))
            group.scope_spans.add().spans.append(span)
    return request


def operation_requests(operations: int, now_ns: int) -> Iterator[bytes]:
    """Yield requests with one span for each of so many operations: as many label sets of span metrics."""
    for first in range(0, operations, SPANS_PER_REQUEST):
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        group.resource.attributes.extend(_resource_attributes("orders", 1))
        for operation in range(first, min(first + SPANS_PER_REQUEST, operations)):
            group.scope_spans.add().spans.append(
                Span(
                    trace_id=operation.to_bytes(8, "big") + b"\x01" * 8,
                    span_id=(operation + 1).to_bytes(8, "big"),
                    name=f"GET /orders/{operation}",
                    kind=Span.SPAN_KIND_INTERNAL,
                    start_time_unix_nano=now_ns - 5_000_000 * (1 + operation % 400),
                    end_time_unix_nano=now_ns,
                )
            )
        yield request.SerializeToString()


#: 50 operations of 4 span names each: two services of a hundred span names, about 7 000 active series.
BATCHED = Shape("batched", (), 50, _batched)
#: 1 300 operations of 4 span names each, 19 series a label set: about 100 k active series.
SCATTERED = Shape("scattered", SCATTERED_DIMENSIONS, 1300, _scattered)
SHAPES = (BATCHED, SCATTERED)
