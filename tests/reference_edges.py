"""The reference model's edges: what the spans of a call say of it (processors §2.3, §2.6, §2.8).

An edge keeps the spans that were seen of it, and what it is follows from reading them again in order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.reference_labels import find, sanitize, sanitize_protected
from tests.reference_spans import duration_ns, is_error

EDGE_LABELS = frozenset({"client", "server", "connection_type", "virtual_node"})
CLIENT_KINDS = (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_PRODUCER)
SERVER_KINDS = (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER)
MESSAGING_KINDS = (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER)

EdgeKey = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Sighting:
    """One span of an edge."""

    span: Any
    resource: Any
    service: bytes
    weight: Fraction

    @property
    def side(self) -> str:
        """Which half of the edge it is."""
        return "client" if self.span.kind in CLIENT_KINDS else "server"

    def key(self, *, zero_parent_is_root: bool) -> EdgeKey:
        """Return the key that it shares with the other half; a root's second part is empty (Q15)."""
        half = self.span.span_id if self.side == "client" else self.span.parent_span_id
        is_root = zero_parent_is_root and self.side == "server" and half == bytes(8)
        return self.span.trace_id, b"" if is_root else half

    def attribute(self, key: str) -> bytes | None:
        """Look an attribute up, resource before span (processors §0.3)."""
        return find(key, self.resource.attributes, self.span.attributes)


@dataclass(slots=True, eq=False)
class Edge:
    """A call between two services, of which at least one half was seen."""

    key: EdgeKey
    created_ns: int
    sightings: list[Sighting]
    is_answered: bool = False
    """Completed before: only its client half is left, for further receivers (Q13)."""


@dataclass(slots=True)
class Call:
    """What the spans of an edge say, later ones over earlier ones."""

    client: bytes = b""
    server: bytes = b""
    peer: bytes = b""
    database: bytes = b""
    is_database: bool = False
    is_messaging: bool = False
    failed: bool = False
    client_ns: int = 0
    server_ns: int = 0
    client_end_ns: int = 0
    server_start_ns: int = 0
    weights: dict[str, Fraction] = field(default_factory=dict)
    dimensions: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether both services are known by name."""
        return bool(self.client and self.server)

    @property
    def weight(self) -> Fraction:
        """The greater weight of the halves that were seen (Q9)."""
        return max(self.weights.values())

    @property
    def connection_type(self) -> bytes:
        """The type of an edge completed by its spans: `messaging_system` if either half says so (Q9)."""
        if self.is_database:
            return b"database"
        return b"messaging_system" if self.is_messaging else b""


def call_of(sightings: Iterable[Sighting], settings: dict[str, Any]) -> Call:
    """Return what the sightings, in this order, say together."""
    call = Call()
    for sighting in sightings:
        span = sighting.span
        call.is_messaging |= span.kind in MESSAGING_KINDS
        call.failed |= is_error(span)
        call.weights[sighting.side] = sighting.weight
        if sighting.side == "client":
            call.client = sighting.service
            call.client_ns = duration_ns(span)
            call.client_end_ns = span.end_time_unix_nano
            _recognise_database(call, sighting, settings)
        else:
            call.server = sighting.service
            call.server_ns = duration_ns(span)
            call.server_start_ns = span.start_time_unix_nano
        for attribute in settings["peer_attributes"]:
            peer = find(attribute, span.attributes)
            if peer is not None:
                call.peer = peer
                break
        call.dimensions |= dict(_dimensions(sighting, settings))
    return call


def _dimensions(sighting: Sighting, settings: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the slots that a sighting fills: one per dimension, or one per side of it (processors §2.8)."""
    dimensions = list(settings["dimensions"])
    if settings["enable_virtual_node_label"]:
        dimensions.append("virtual_node")  # an attribute of that name fills the label
    for dimension in dimensions:
        value = sighting.attribute(dimension)
        if value is not None:
            prefix = f"{sighting.side}_" if settings["enable_client_server_prefix"] else ""
            yield prefix + dimension, value


def _recognise_database(call: Call, sighting: Sighting, settings: dict[str, Any]) -> None:
    """Find out whether a client calls a database, and its name (processors §2.6).

    The database stands in for the server, at once or, if it may send spans of its own, when none came (Q12).
    """
    names = map(sighting.attribute, settings["database_name_attributes"])
    fallback = next((name for name in names if name is not None), None)
    if fallback is None:
        return
    call.is_database = True
    keys = ("peer.service", "server.address", "network.peer.address", "network.peer.port")
    peer, address, network, port = map(sighting.attribute, keys)
    if network is not None and port is not None:
        network += b":" + port
    name = next((name for name in (peer, address, network) if name is not None), None)
    if name is None:
        name = fallback or None
    if settings["pair_database_spans"]:
        if name is not None:
            call.database = name
        if "server" not in call.weights:
            call.server_ns = call.client_ns
        return
    if name is not None:
        call.server = name
    call.server_ns = call.client_ns


def edge_labels(
    call: Call, connection_type: bytes, virtual_node: bytes, settings: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Yield the labels of an edge in the order of processors §2.7 and §2.8."""
    yield "client", call.client
    yield "server", call.server
    yield "connection_type", connection_type
    for dimension in settings["dimensions"]:
        if settings["enable_client_server_prefix"]:
            for name in (f"client_{dimension}", f"server_{dimension}"):
                yield sanitize(name), call.dimensions.get(name, b"")
        else:
            yield sanitize_protected(dimension, EDGE_LABELS), call.dimensions.get(dimension, b"")
    if settings["enable_virtual_node_label"]:
        yield "virtual_node", virtual_node or call.dimensions.get("virtual_node", b"")
