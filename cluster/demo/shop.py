"""Play a shop: one call gives one trace, the spans that all its instrumented services would send.

Deterministic: the same flavour, seed and start times give the same spans, bit for bit. No clock is read,
nothing is sent, and nobody is asked to keep a trace together: each span stands alone and carries its own
instance.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from cluster.demo import semconv
from cluster.demo.model import Call, Entry, External, Flavour, Latency, Operation, Protocol, Publish, Query
from cluster.demo.semconv import Attributes

_NS_PER_S = 1_000_000_000
_NETWORK = Latency(0.35, spread=0.3)
_TIDE_S = 240.0
_TIDE_SHARE = 0.25


class SpanKind(IntEnum):
    """The kinds of a span, numbered as OTLP numbers them."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One process of a service: the resource that its spans share. Compared by identity."""

    service: str
    resource: Attributes


@dataclass(frozen=True, slots=True)
class DemoSpan:
    """One finished span. Ids are raw bytes as on the wire; an empty ``parent_id`` is a root."""

    instance: Instance
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    has_failed: bool
    attributes: Attributes


@dataclass(slots=True)
class _Trace:
    """What the parts of one trace under construction share."""

    trace_id: bytes
    region: str
    incident_target: str
    spans: list[DemoSpan] = field(default_factory=list)


class Shop:
    """A shop that is open: owns the randomness and the instances of one flavour.

    Args:
        flavour: the shop's description.
        seed: what makes this run repeatable; two tenants with one seed still differ.
        opened_at_ns: when the shop opened; incidents and the tide of requests are timed from here.
    """

    def __init__(self, flavour: Flavour, seed: int, opened_at_ns: int) -> None:
        self.flavour = flavour
        self._opened_at_ns = opened_at_ns
        self._rng = random.Random(f"{flavour.tenant}/{seed}")
        self._databases = {database.host: database for database in flavour.databases}
        self._weights = [entry.weight for entry in flavour.entries]
        self._instances: Mapping[tuple[str, str], list[Instance]] = {
            (service.name, region): [
                Instance(service.name, semconv.resource(flavour, service, region, replica))
                for replica in range(service.replicas)
            ]
            for service in flavour.services
            for region in flavour.regions
        }

    def gap_ns(self, at_ns: int, traces_per_s: float) -> int:
        """Draw the time until the next request: Poisson arrivals on a slow tide of a quarter up and down."""
        age_s = (at_ns - self._opened_at_ns) / _NS_PER_S
        tide = 1 + _TIDE_SHARE * math.sin(2 * math.pi * age_s / _TIDE_S)
        return int(self._rng.expovariate(traces_per_s * tide) * _NS_PER_S)

    def trace(self, start_ns: int) -> list[DemoSpan]:
        """Play one request that arrives at ``start_ns``; the root is the first span of the list."""
        age_s = (start_ns - self._opened_at_ns) / _NS_PER_S
        incident = self.flavour.incident
        trace = _Trace(
            trace_id=self._new_id(16),
            region=self._rng.choice(self.flavour.regions),
            incident_target=incident.target if incident.is_active(age_s) else "",
        )
        entry = self._rng.choices(self.flavour.entries, self._weights)[0]
        self._enter(trace, entry, start_ns)
        trace.spans.sort(key=lambda span: span.start_ns)
        return trace.spans

    def _enter(self, trace: _Trace, entry: Entry, start_ns: int) -> None:
        operation = self.flavour.operations[entry.operation]
        peer: Attributes = {"peer.service": entry.peer} if entry.peer else {}
        self._handle(trace, operation, b"", start_ns, peer)

    def _handle(
        self, trace: _Trace, operation: Operation, parent_id: bytes, start_ns: int, more: Attributes
    ) -> tuple[int, bool]:
        """Play the called side. Returns when it answered and whether it failed."""
        instance = self._instance(trace, operation.service)
        span_id = self._new_id(8)
        work_ns = self._time(trace, operation.service, operation.work) // (len(operation.steps) + 1)
        cursor_ns, has_failed = start_ns + work_ns, False
        for step in operation.steps:
            if self._rng.random() >= step.chance:
                continue
            cursor_ns, has_failed = self._step(trace, instance, span_id, step, cursor_ns)
            cursor_ns += work_ns
            if has_failed:
                break
        has_failed = has_failed or self._fails(trace, operation.service, operation.failure_rate)
        is_consumer = operation.protocol is Protocol.QUEUE
        attributes = semconv.handler(operation, self.flavour, has_failed=has_failed)
        self._record(
            trace,
            instance,
            ids=(span_id, parent_id),
            name=semconv.handler_span_name(operation),
            kind=SpanKind.CONSUMER if is_consumer else SpanKind.SERVER,
            times=(start_ns, cursor_ns),
            has_failed=has_failed,
            attributes={**attributes, **more},
        )
        return cursor_ns, has_failed

    def _step(
        self,
        trace: _Trace,
        instance: Instance,
        parent_id: bytes,
        step: Call | Query | External | Publish,
        start_ns: int,
    ) -> tuple[int, bool]:
        """Play one step of the caller. Returns when the caller goes on and whether it fails for it."""
        if isinstance(step, Publish):
            return self._publish(trace, instance, parent_id, step, start_ns), False
        span_id = self._new_id(8)
        attributes: Attributes
        if isinstance(step, Call):
            operation = self.flavour.operations[step.operation]
            network_ns = _NETWORK.draw_ns(self._rng)
            end_ns, has_failed = self._handle(trace, operation, span_id, start_ns + network_ns, {})
            end_ns += network_ns
            name = semconv.caller_span_name(operation)
            attributes = semconv.caller(operation, self.flavour, has_failed=has_failed)
        elif isinstance(step, Query):
            end_ns = start_ns + self._time(trace, step.database, step.work)
            has_failed = self._fails(trace, step.database, step.failure_rate)
            name = step.statement
            attributes = semconv.query(step, self._databases[step.database], has_failed=has_failed)
        else:
            end_ns = start_ns + self._time(trace, step.peer, step.work)
            has_failed = self._fails(trace, step.peer, step.failure_rate)
            name = step.request.split(" ", 1)[0]
            attributes = semconv.external(step, has_failed=has_failed)
        self._record(
            trace,
            instance,
            ids=(span_id, parent_id),
            name=name,
            kind=SpanKind.CLIENT,
            times=(start_ns, end_ns),
            has_failed=has_failed,
            attributes=attributes,
        )
        return end_ns, has_failed and not step.is_optional

    def _publish(self, trace: _Trace, instance: Instance, parent_id: bytes, step: Publish, start_ns: int) -> int:
        operation = self.flavour.operations[step.operation]
        span_id = self._new_id(8)
        sent_ns = start_ns + _NETWORK.draw_ns(self._rng)
        self._record(
            trace,
            instance,
            ids=(span_id, parent_id),
            name=semconv.caller_span_name(operation),
            kind=SpanKind.PRODUCER,
            times=(start_ns, sent_ns),
            has_failed=False,
            attributes=semconv.caller(operation, self.flavour, has_failed=False),
        )
        self._handle(trace, operation, span_id, sent_ns + step.delay.draw_ns(self._rng), {})
        return sent_ns

    def _record(
        self,
        trace: _Trace,
        instance: Instance,
        *,
        ids: tuple[bytes, bytes],
        name: str,
        kind: SpanKind,
        times: tuple[int, int],
        has_failed: bool,
        attributes: Attributes,
    ) -> None:
        span_id, parent_id = ids
        start_ns, end_ns = times
        trace.spans.append(
            DemoSpan(
                instance,
                trace.trace_id,
                span_id,
                parent_id,
                name,
                kind,
                start_ns,
                end_ns,
                has_failed,
                attributes,
            )
        )

    def _instance(self, trace: _Trace, service: str) -> Instance:
        return self._rng.choice(self._instances[service, trace.region])

    def _time(self, trace: _Trace, target: str, latency: Latency) -> int:
        slowdown = self.flavour.incident.slowdown if target == trace.incident_target else 1.0
        return int(latency.draw_ns(self._rng) * slowdown)

    def _fails(self, trace: _Trace, target: str, failure_rate: float) -> bool:
        extra = self.flavour.incident.failure_rate if target == trace.incident_target else 0.0
        return self._rng.random() < failure_rate + extra

    def _new_id(self, length: int) -> bytes:
        """Draw an id; one is added so that it is never the all-zero id that OTLP forbids."""
        return (self._rng.getrandbits(length * 8 - 1) + 1).to_bytes(length, "big")
