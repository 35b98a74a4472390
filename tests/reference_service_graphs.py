"""The reference model's service-graphs processor: pairing, expiry, markers and emission (processors §2)."""

from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.reference_edges import (
    CLIENT_KINDS,
    SERVER_KINDS,
    Call,
    Edge,
    EdgeKey,
    Sighting,
    call_of,
    edge_labels,
)
from tests.reference_filters import Filters
from tests.reference_histograms import Histogram, Observation
from tests.reference_labels import LabelLimits, find
from tests.reference_metrics import Counter, Gauge
from tests.reference_multiplier import Multiplier
from tests.reference_plan import check_service_graphs
from tests.reference_registry import Group, Registry
from tests.reference_spans import Batch, enum_text, nanoseconds

OTHER_SIDE = {"client": "server", "server": "client"}


class ServiceGraphs:
    """The service-graphs processor."""

    def __init__(self, plan: dict[str, Any], registry: Registry) -> None:
        self._settings = settings = plan["service_graphs"]
        check_service_graphs(settings)
        self._limits = LabelLimits.of(plan)
        self._filters = Filters(settings["filter_policies"], strict_types=settings["enable_strict_filter_types"])
        self._multiplier = Multiplier(settings)
        self._wait_ns = nanoseconds(settings["wait_s"])
        self._max_items: int = settings["max_items"]
        name, limiter = "traces_service_graph_request", registry.limiter

        def histogram(suffix: str) -> Histogram:
            bounds, form = settings["histogram_buckets"], plan["histograms"]
            return Histogram(f"{name}_{suffix}", bounds, form, limiter, is_weighted=self._multiplier.is_active)

        self._total = Counter(f"{name}_total", limiter)
        self._failed = Counter(f"{name}_failed_total", limiter)
        self._server, self._client = histogram("server_seconds"), histogram("client_seconds")
        self._messaging = histogram("messaging_system_seconds")
        self._info = Gauge("traces_service_graph_connection_info", limiter)
        self.group = Group(self._total, self._failed, self._server, self._client, self._messaging, self._info)
        self.exemplified = [(self._total, self._server, False), (self._failed, self._server, True)]
        self._open: list[Edge] = []
        self._markers: dict[tuple[EdgeKey, str], int] = {}
        self.edges = 0
        self.expired_edges: Tally[str] = Tally()
        self.dropped_spans = 0
        self.dropped_edges = 0
        self.dropped_span_side_cache_overflow = 0
        self.filtered = 0
        self.invalid_utf8 = 0

    def push(self, batches: list[Batch], now_ns: int, ignored: set[int]) -> None:
        """Pair the spans of both sides, in the order in which they arrive (processors §2.2).

        ``ignored`` takes the identity of spans whose multiplier cannot be used.
        """
        for batch in batches:
            service = find("service.name", batch.resource.attributes)
            for span in batch.spans:
                if service is None or span.kind not in CLIENT_KINDS + SERVER_KINDS:
                    continue
                sighting = Sighting(span, batch.resource, service, Fraction(1))
                key = sighting.key(zero_parent_is_root=self._settings["zero_parent_id_is_root"])
                if not self._filters.accepts(span, batch.resource):
                    self.filtered += 1
                    self._mark(key, sighting.side, now_ns)
                    continue
                weight = self._multiplier.weight(span, batch.resource)
                if weight is None:
                    ignored.add(id(span))
                self._upsert(key, replace(sighting, weight=Fraction(1) if weight is None else weight), now_ns)

    def flush(self, now_ns: int, *, close_edges: bool) -> None:
        """Expire the edges that have waited long enough, or all of them (processors §2.4, exact: Q16)."""
        for edge in list(self._open):
            if close_edges or now_ns - edge.created_ns >= self._wait_ns:
                self._open.remove(edge)
                if not edge.is_answered:
                    self._expire(edge)

    def _upsert(self, key: EdgeKey, sighting: Sighting, now_ns: int) -> None:
        """Add a span to its edge, in the five steps of processors §2.3."""
        waiting = [edge for edge in self._open if edge.key == key]
        if waiting and self._settings["count_every_receiver"] and key[1]:
            self._answer(waiting, sighting, now_ns)
            return
        if waiting:
            self._add(waiting[0], sighting)
            return
        if self._is_marked(key, OTHER_SIDE[sighting.side], now_ns):
            self.dropped_edges += 1
            return
        edge = Edge(key, now_ns, [sighting])
        call = call_of(edge.sightings, self._settings)
        if call.is_complete:
            self.edges += 1
            self._complete(edge, call)
            return
        self._insert(edge)

    def _insert(self, edge: Edge) -> None:
        """Let an edge wait, if there is room when those that are due have gone (Q17)."""
        if len(self._open) >= self._max_items:
            self.flush(edge.created_ns, close_edges=False)
        if len(self._open) >= self._max_items:
            self.dropped_spans += 1
            return
        self.edges += 1
        self._open.append(edge)

    def _answer(self, waiting: list[Edge], sighting: Sighting, now_ns: int) -> None:
        """Add a span to every edge with its key (Q13): spans of receivers wait for their client one by one."""
        is_client = sighting.side == "client"
        has_client = any(each.side == "client" for edge in waiting for each in edge.sightings)
        fresh = Edge(waiting[0].key, now_ns, [sighting])
        if not is_client and not has_client:
            self._insert(fresh)
            return
        answered = False
        for edge in waiting:
            if is_client and edge.is_answered:
                self._open.remove(edge)
                continue
            sightings = [*edge.sightings, sighting]
            call = call_of(sightings, self._settings)
            if not call.is_complete:
                if not edge.is_answered:
                    edge.sightings = sightings
                continue
            answered = True
            self.edges += edge.is_answered
            self._emit(replace(edge, sightings=sightings), call, call.connection_type, virtual_node=b"")
            if is_client or not self._is_answer_of_service(call):
                self._open.remove(edge)
            else:
                self._keep_client_half(edge)
        if is_client and (answered or not any(edge.key == fresh.key for edge in self._open)):
            fresh.is_answered = True
            if self._is_answer_of_service(call_of(fresh.sightings, self._settings)):
                self._open.append(fresh)

    def _is_answer_of_service(self, call: Call) -> bool:
        """Whether a span of the server's own makes or made the edge."""
        return self._settings["pair_database_spans"] or not call.is_database

    def _add(self, edge: Edge, sighting: Sighting) -> None:
        edge.sightings.append(sighting)
        call = call_of(edge.sightings, self._settings)
        if call.is_complete:
            self._open.remove(edge)
            self._complete(edge, call)

    def _complete(self, edge: Edge, call: Call) -> None:
        """Report an edge whose spans name both services."""
        self._emit(edge, call, call.connection_type, virtual_node=b"")

    @staticmethod
    def _keep_client_half(edge: Edge) -> None:
        """Leave the latest client-side span for further receivers."""
        edge.is_answered = True
        edge.sightings = [sighting for sighting in edge.sightings if sighting.side == "client"][-1:]

    def _expire(self, edge: Edge) -> None:
        """End an edge that misses a half (processors §2.4)."""
        call = call_of(edge.sightings, self._settings)
        if call.is_database and call.client and call.database and not call.server:
            call.server, call.server_ns = call.database, call.client_ns  # no span of the database came (Q12)
            self._emit(edge, call, call.connection_type, virtual_node=b"")
        elif not call.client and not edge.key[1]:
            call.client = call.peer or b"user"
            self._emit(edge, call, b"virtual_node", virtual_node=b"client")
        elif call.client and call.peer:
            call.server = call.peer
            self._emit(edge, call, b"virtual_node", virtual_node=b"server")
        else:
            kind = edge.sightings[-1].span.kind
            self.expired_edges[enum_text(Span.SpanKind, kind).decode()] += 1

    def _mark(self, key: EdgeKey, side: str, now_ns: int) -> None:
        """Remember that one side of an edge is filtered: the edge is not to be counted (processors §2.5)."""
        if side == "server" and not key[1]:
            return
        for edge in [each for each in self._open if each.key == key and not each.is_answered]:
            is_server_side = bool(call_of(edge.sightings, self._settings).server)
            if ("server" if is_server_side else "client") != side:
                self._open.remove(edge)
                self.dropped_edges += 1
        live = {marker for marker in self._markers if self._is_marked(*marker, now_ns)}
        if (key, side) in live or len(live) < self._max_items:
            self._markers[key, side] = now_ns
        else:
            self.dropped_span_side_cache_overflow += 1

    def _is_marked(self, key: EdgeKey, side: str, now_ns: int) -> bool:
        marked_ns = self._markers.get((key, side))
        return marked_ns is not None and now_ns - marked_ns < self._wait_ns

    def _emit(self, edge: Edge, call: Call, connection_type: bytes, *, virtual_node: bytes) -> None:
        """Count an edge in every metric, in the order of processors §2.7; all of them share one label set."""
        keep_colliding = self._settings["keep_colliding_dimensions"]
        labels = edge_labels(call, connection_type, virtual_node, self._settings)
        entity = self._limits.label_set(labels, keep_colliding=keep_colliding)
        if entity is None:
            self.invalid_utf8 += 1
            return

        def observe(histogram: Histogram, duration_ns: int) -> None:
            observation = Observation(duration_ns, edge.key[0], call.failed, call.weight)
            self.group.add(entity, histogram, observation)

        if self._settings["request"]:
            self.group.add(entity, self._total, call.weight)
            if call.failed:
                self.group.add(entity, self._failed, call.weight)
        if self._settings["latency"]:
            sides = self._observed_sides(edge.sightings, is_virtual=bool(virtual_node))
            if "server" in sides:
                observe(self._server, call.server_ns)
            if "client" in sides:
                observe(self._client, call.client_ns)
            gap_ns = call.server_start_ns - call.client_end_ns
            measured = connection_type == b"messaging_system" and gap_ns > 0
            if measured and self._settings["enable_messaging_system_latency_histogram"]:
                observe(self._messaging, gap_ns)
        if self._settings["connection_info"]:
            self.group.add(entity, self._info, 1)

    def _observed_sides(self, sightings: Iterable[Sighting], *, is_virtual: bool) -> set[str]:
        """Return the sides whose latency counts: both, unless one is virtual and its zero is not wanted (Q14)."""
        if is_virtual and not self._settings["enable_virtual_node_latency"]:
            return {sighting.side for sighting in sightings}
        return set(OTHER_SIDE)
