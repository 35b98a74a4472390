"""The reference model's service-graphs processor (processors §2).

Not modelled, as the plan has no words for them yet: filters and their markers, multipliers, connection_info.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.reference_labels import find, label_set, sanitize, sanitize_protected
from tests.reference_registry import ClassicHistogram, Counter, SeriesLimiter
from tests.reference_spans import Batch, duration_ns, enum_text, is_error, nanoseconds

EDGE_LABELS = frozenset({"client", "server", "connection_type", "virtual_node"})
CLIENT_KINDS = (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_PRODUCER)
SERVER_KINDS = (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER)
MESSAGING_KINDS = (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER)


@dataclass(slots=True)
class Edge:
    """A call between two services, of which at least one half was seen (processors §2.3)."""

    trace_id: bytes
    is_root: bool
    created_ns: int
    last_kind: int = Span.SPAN_KIND_UNSPECIFIED
    is_messaging: bool = False
    is_database: bool = False
    client: bytes = b""
    server: bytes = b""
    peer: bytes = b""
    client_latency_ns: int = 0
    server_latency_ns: int = 0
    client_end_ns: int = 0
    server_start_ns: int = 0
    failed: bool = False
    dimensions: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether both services are known by name."""
        return bool(self.client and self.server)

    @property
    def connection_type(self) -> bytes:
        """The type of an edge completed by its spans: `messaging_system` if either half says so (Q9)."""
        if self.is_database:
            return b"database"
        return b"messaging_system" if self.is_messaging else b""


class ServiceGraphs:
    """The service-graphs processor (processors §2)."""

    def __init__(self, plan: dict[str, Any], limiter: SeriesLimiter) -> None:
        self._plan = plan
        self._settings = settings = plan["service_graphs"]
        bounds = settings["histogram_buckets"]
        name = "traces_service_graph_request"
        self._total = Counter(f"{name}_total", limiter)
        self._failed = Counter(f"{name}_failed_total", limiter)
        self._server = ClassicHistogram(f"{name}_server_seconds", bounds, limiter)
        self._client = ClassicHistogram(f"{name}_client_seconds", bounds, limiter)
        self._messaging = ClassicHistogram(f"{name}_messaging_system_seconds", bounds, limiter)
        self.metrics = (self._total, self._failed, self._server, self._client, self._messaging)
        self._open: dict[tuple[bytes, bytes], Edge] = {}
        self.edges = 0
        self.expired_edges: Tally[str] = Tally()
        self.dropped_spans = 0
        self.invalid_utf8 = 0

    def push(self, batches: list[Batch], now_ns: int) -> None:
        """Pair the spans of both sides, in the order in which they arrive (processors §2.2)."""
        for batch in batches:
            service = find("service.name", batch.resource.attributes)
            if service is None:
                continue
            for span in batch.spans:
                if span.kind in CLIENT_KINDS + SERVER_KINDS:
                    self._upsert(service, batch.resource, span, now_ns)

    def flush(self, now_ns: int, *, close_edges: bool) -> None:
        """Expire the edges that have waited long enough, or all of them (processors §2.4, exact: Q16)."""
        wait_ns = nanoseconds(self._settings["wait_s"])
        for key, edge in list(self._open.items()):
            if close_edges or now_ns - edge.created_ns >= wait_ns:
                del self._open[key]
                self._expire(edge)

    def _upsert(self, service: bytes, resource: Any, span: Any, now_ns: int) -> None:
        half = span.span_id if span.kind in CLIENT_KINDS else span.parent_span_id
        key = (span.trace_id, half)
        buffered = self._open.get(key)
        edge = buffered or Edge(span.trace_id, is_root=not half, created_ns=now_ns)
        self._update(edge, service, resource, span)
        if edge.is_complete:
            self._open.pop(key, None)
            self._emit(edge, edge.connection_type, virtual_node=b"")
        elif buffered is None:
            if len(self._open) >= self._settings["max_items"]:
                self.dropped_spans += 1
                return
            self._open[key] = edge
        if buffered is None:
            self.edges += 1

    def _update(self, edge: Edge, service: bytes, resource: Any, span: Any) -> None:
        edge.last_kind = span.kind
        edge.is_messaging |= span.kind in MESSAGING_KINDS
        edge.failed |= is_error(span)
        side = "client" if span.kind in CLIENT_KINDS else "server"
        if side == "client":
            edge.client = service
            edge.client_latency_ns = duration_ns(span)
            edge.client_end_ns = span.end_time_unix_nano
        else:
            edge.server = service
            edge.server_latency_ns = duration_ns(span)
            edge.server_start_ns = span.start_time_unix_nano
        self._remember_dimensions(edge, side, resource, span)
        for attribute in self._settings["peer_attributes"]:
            peer = find(attribute, span.attributes)
            if peer is not None:
                edge.peer = peer
                break
        if side == "client":
            self._recognise_database(edge, resource, span)

    def _remember_dimensions(self, edge: Edge, side: str, resource: Any, span: Any) -> None:
        prefixed = self._settings["enable_client_server_prefix"]
        dimensions = list(self._settings["dimensions"])
        if self._settings["enable_virtual_node_label"]:
            dimensions.append("virtual_node")  # an attribute of that name fills the label (§2.8)
        for dimension in dimensions:
            value = find(dimension, resource.attributes, span.attributes)
            if value is not None:
                edge.dimensions[f"{side}_{dimension}" if prefixed else dimension] = value

    def _recognise_database(self, edge: Edge, resource: Any, span: Any) -> None:
        """Complete the edge of a call to a database, which sends no spans of its own (processors §2.6)."""

        def attribute(key: str) -> bytes | None:
            return find(key, resource.attributes, span.attributes)

        names = (attribute(key) for key in self._settings["database_name_attributes"])
        fallback = next((name for name in names if name is not None), None)
        if fallback is None:
            return
        edge.is_database = True
        edge.server_latency_ns = duration_ns(span)
        peer, address, network = map(attribute, ("peer.service", "server.address", "network.peer.address"))
        if peer is not None:
            edge.server = peer
        elif address is not None:
            edge.server = address
        elif network is not None:
            port = attribute("network.peer.port")
            edge.server = network if port is None else network + b":" + port
        elif fallback:
            edge.server = fallback

    def _expire(self, edge: Edge) -> None:
        if not edge.client and edge.is_root:
            edge.client = edge.peer or b"user"
            self._emit(edge, b"virtual_node", virtual_node=b"client")
        elif edge.client and edge.peer:
            edge.server = edge.peer
            self._emit(edge, b"virtual_node", virtual_node=b"server")
        else:
            self.expired_edges[enum_text(Span.SpanKind, edge.last_kind).decode()] += 1

    def _labels(self, edge: Edge, connection_type: bytes, virtual_node: bytes) -> Iterator[tuple[str, bytes]]:
        yield "client", edge.client
        yield "server", edge.server
        yield "connection_type", connection_type
        for dimension in self._settings["dimensions"]:
            if self._settings["enable_client_server_prefix"]:
                for name in (f"client_{dimension}", f"server_{dimension}"):
                    yield sanitize(name), edge.dimensions.get(name, b"")
            else:
                yield sanitize_protected(dimension, EDGE_LABELS), edge.dimensions.get(dimension, b"")
        if self._settings["enable_virtual_node_label"]:
            yield "virtual_node", virtual_node or edge.dimensions.get("virtual_node", b"")

    def _emit(self, edge: Edge, connection_type: bytes, *, virtual_node: bytes) -> None:
        """Count an edge in every metric (processors §2.7); all of them share one label set."""
        labels = self._labels(edge, connection_type, virtual_node)
        entity = label_set(labels, self._plan["max_label_name_length"], self._plan["max_label_value_length"])
        if entity is None:
            self.invalid_utf8 += 1
            return
        if self._settings["request"]:
            self._total.add(entity, 1)
            if edge.failed:
                self._failed.add(entity, 1)
        if not self._settings["latency"]:
            return
        self._server.observe(entity, edge.server_latency_ns, edge.trace_id, failed=edge.failed)
        self._client.observe(entity, edge.client_latency_ns, edge.trace_id, failed=edge.failed)
        gap_ns = edge.server_start_ns - edge.client_end_ns
        measured = connection_type == b"messaging_system" and gap_ns > 0
        if measured and self._settings["enable_messaging_system_latency_histogram"]:
            self._messaging.observe(entity, gap_ns, edge.trace_id, failed=edge.failed)
