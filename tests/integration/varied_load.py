"""Load on which every setting shows: a shop with all that clients send, and with what they should not.

Seeded: the same arguments give the same spans. What they should become is said by the reference model, not here.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests import traces
from tests.traces import CLIENT, CONSUMER, ERROR, INTERNAL, OK, PRODUCER, SECOND_NS, SERVER, UNSET, Attributes

SPAN_RATIO: Final = "sample.ratio"
_MAX_DEPTH: Final = 3
# As many traces are open at once: their spans come in any order and in different requests.
_INTERLEAVED_TRACES: Final = 20
_UNKNOWN_KIND: Final = 42
_UNKNOWN_STATUS: Final = 7

_LONG: Final = "köstlich und " * 12
_SERVICES: Final = ("web", "cart", "pay", "mail", "Löwe GmbH")
_OPERATIONS: Final = (
    ("GET /cart", "GET", "/cart"),
    ("POST /cart", "POST", "/cart"),
    ("GET /health", "GET", "/health"),
    ("internal sweep 7", "", ""),
    ("internal sweep 8", "", ""),
)
_TRACE_STATES: Final = ("ot=th:8", "a=b, ot=th:c", "ot=th:4;rv:55555555555555", "ot=th:fd70a4", "ot=th:zz", "x=y", "")
_RATIOS: Final[tuple[Any, ...]] = (0.25, 0.3, 4.0, 0.0, "0.5", 1)


@dataclass(frozen=True, slots=True)
class _Sent:
    """One span, and the resource it is sent with; None is no resource at all."""

    resource: tuple[tuple[str, Any], ...] | None
    span: Any


def streams(rng: random.Random, now_ns: int, *, count: int, traces_each: int, spans_per_request: int) -> list[Any]:
    """Return so many lists of requests. A trace is in one of them: sent in order, they may be sent side by side."""
    return [list(_requests(rng, now_ns, traces_each, spans_per_request)) for _ in range(count)]


def _requests(rng: random.Random, now_ns: int, count: int, spans_per_request: int) -> Iterator[Any]:
    spans: list[_Sent] = []
    for start in range(0, count, _INTERLEAVED_TRACES):
        some = range(start, min(count, start + _INTERLEAVED_TRACES))
        group = [sent for _ in some for sent in _Trace(rng, now_ns).spans()]
        group += [sent for sent in group if rng.random() < 0.02]  # sent twice, as after a lost answer
        rng.shuffle(group)
        spans += group
    for start in range(0, len(spans), spans_per_request):
        yield _request(spans[start : start + spans_per_request])


def _request(spans: Sequence[_Sent]) -> Any:
    by_resource: dict[Any, list[Any]] = {}
    for sent in spans:
        by_resource.setdefault(repr(sent.resource), [sent.resource]).append(sent.span)
    return traces.request(*(traces.batch(resource, *members) for resource, *members in by_resource.values()))


def _resource(service: str, instance: int) -> tuple[tuple[str, Any], ...]:
    """Return the attributes of one of two instances of a service, which differ in what they say of themselves."""
    is_first = instance == 0
    attributes: dict[str, Any] = {
        "service.name": service,
        "service.instance.id": f"{service}-{instance}",
        "environment": "test",
        "region": "north" if is_first else "süd",
        "deployment.tier": "prod" if is_first or service == "web" else "canary",
        "process.command_args": ["run", service],
        "job": "nightly",
        "1st": "no label of target info",
        "build": {"number": 7, "clean": True},
        "process.description": _LONG,
        "telemetry.distro.of.an.unusually.long.name": "x",
    }
    if is_first:
        attributes |= {"service.namespace": "shop", "k8s.node.name": f"node-{len(service)}", "host.name": "h1"}
    else:
        attributes |= {"host.id": f"id-{len(service)}", SPAN_RATIO: 0.5}
    return tuple(attributes.items())


_NAMELESS: Final = (("service.instance.id", "nameless"), ("host.name", "h2"), ("region", "north"))
_UNNAMED: Final = (("service.name", ""), ("environment", "test"))
_NUMBERED: Final = (("service.name", 7), ("environment", "test"), ("deployment.tier", "prod"))
_GARBLED: Final = (("service.name", "garbled"), ("environment", "test"), ("note", "\udcff"), ("host.name", "\udcff"))


class _Trace:
    """One request of a customer: a root, and calls to services, databases, queues and strangers below it."""

    def __init__(self, rng: random.Random, now_ns: int) -> None:
        self._rng = rng
        self._now_ns = now_ns
        leading_zeros = rng.randrange(3)
        self._trace_id = bytes(leading_zeros) + rng.randbytes(16 - leading_zeros)

    def spans(self) -> Iterator[_Sent]:
        parent = self._rng.choice([b"", b"", b"", bytes(8), self._rng.randbytes(8)])
        attributes = {"peer.service": "partner"} if self._rng.random() < 0.2 else {}
        root = self._span(self._rng.choice([SERVER, SERVER, CONSUMER]), parent, attributes=attributes)
        yield _Sent(_resource("web", 0), root)
        yield from self._below("web", root, depth=1)

    def _below(self, caller: str, parent: Any, depth: int) -> Iterator[_Sent]:
        if depth > _MAX_DEPTH:
            return
        below = [self._rpc, self._rpc, self._queue, self._database, self._stranger, self._odd]
        for _ in range(self._rng.choice([1, 1, 2, 3])):
            yield from self._rng.choice(below)(caller, parent, depth)

    def _rpc(self, caller: str, parent: Any, depth: int) -> Iterator[_Sent]:
        called = self._rng.choice(_SERVICES)
        ours = self._span(CLIENT, parent.span_id)
        yield self._of(caller, ours)
        for _ in range(self._rng.choice([0, 1, 1, 1, 1, 2])):
            theirs = self._span(SERVER, ours.span_id)
            yield self._of(called, theirs)
            yield from self._below(called, theirs, depth + 1)

    def _queue(self, caller: str, parent: Any, depth: int) -> Iterator[_Sent]:
        ours = self._span(PRODUCER, parent.span_id, attributes={"messaging.destination.name": "orders"})
        yield self._of(caller, ours)
        for _ in range(self._rng.choice([0, 1, 1, 2, 3])):
            gap_ns = self._rng.choice([-SECOND_NS, self._duration_ns(), self._duration_ns()])
            theirs = self._span(CONSUMER, ours.span_id, start_ns=ours.end_time_unix_nano + gap_ns)
            yield self._of(self._rng.choice(_SERVICES), theirs)

    def _database(self, caller: str, parent: Any, depth: int) -> Iterator[_Sent]:
        rng = self._rng
        attributes: dict[str, Any] = {"db.system": "postgresql"}
        if rng.random() < 0.5:
            attributes["db.namespace"] = "orders"
        if rng.random() < 0.3:
            attributes["server.address"] = "db.example"
        if rng.random() < 0.3:
            attributes |= {"network.peer.address": "10.0.0.7", "network.peer.port": 5432}
        query = self._span(CLIENT, parent.span_id, attributes=attributes)
        yield self._of(caller, query)
        if rng.random() < 0.3:
            yield self._of("pay", self._span(SERVER, query.span_id))

    def _stranger(self, caller: str, parent: Any, depth: int) -> Iterator[_Sent]:
        attributes = self._rng.choice(
            [{}, {"peer.service": "bank"}, {"net.peer.name": "1.2.3.4"}, {"peer.service": ""}]
        )
        kind = self._rng.choice([CLIENT, CLIENT, PRODUCER])
        yield self._of(caller, self._span(kind, parent.span_id, attributes=attributes))

    def _odd(self, caller: str, parent: Any, depth: int) -> Iterator[_Sent]:
        """Yield a span that is set aside, or that only some metrics know what to do with."""
        rng = self._rng
        span = self._span(INTERNAL, parent.span_id)
        match rng.randrange(14):
            case 0:
                span.trace_id = b"short"
            case 1:
                span.span_id = bytes(8)
            case 2:
                span.end_time_unix_nano -= 3600 * SECOND_NS
            case 3:
                span.end_time_unix_nano += 600 * SECOND_NS
            case 4:
                span.start_time_unix_nano = span.end_time_unix_nano + SECOND_NS
            case 5:
                span.kind = _UNKNOWN_KIND
            case 6:
                span.status.code = _UNKNOWN_STATUS
            case 7:
                span.ClearField("status")
            case 8:
                span.name = b"\xff"
            case 9:
                garbled = {"http.response.status_code": "\udcff", "connection.type": "\udcff", "peer.service": "bank"}
                span.kind = CLIENT
                span.attributes.extend(traces.key_values(garbled))
            case 10:
                span.events.add(name=b"retry", time_unix_nano=1)
                span.links.add(trace_id=bytes(16), span_id=bytes(8))
            case 11:
                span.attributes.extend(traces.key_values({"virtual_node": "own", "connection.type": "tunnel"}))
                span.kind = SERVER
                span.parent_span_id = b""
            case 12:
                resource = rng.choice([None, _NAMELESS, _UNNAMED, _NUMBERED, _GARBLED])
                span.kind = rng.choice([SERVER, CLIENT, INTERNAL])
                span.parent_span_id = b""
                span.attributes.extend(traces.key_values({"peer.service": "bank", "priority": 0}))
                yield _Sent(resource, span)
                return
        yield self._of(caller, span)

    def _of(self, service: str, span: Any) -> _Sent:
        return _Sent(_resource(service, self._rng.randrange(2)), span)

    def _span(self, kind: int, parent: bytes, *, start_ns: int = 0, attributes: Attributes = ()) -> Any:
        rng = self._rng
        duration_ns = self._duration_ns()
        start_ns = start_ns or self._now_ns - rng.randrange(90 * SECOND_NS) - duration_ns
        status = rng.choice([UNSET, OK, ERROR])
        name, method, route = rng.choice(_OPERATIONS)
        return traces.span(
            name,
            kind=kind,
            trace_id=self._trace_id,
            span_id=rng.randbytes(8),
            parent=parent,
            start_ns=start_ns,
            end_ns=start_ns + duration_ns,
            status=status,
            message=rng.choice(["broken", _LONG]) if status == ERROR else "",
            attributes=[*self._attributes(method, route), *dict(attributes).items()],
            trace_state=rng.choice(_TRACE_STATES) if rng.random() < 0.3 else "",
        )

    def _attributes(self, method: str, route: str) -> Iterator[tuple[str, Any]]:
        rng = self._rng
        if method:
            yield rng.choice(["http.method", "http.method", "http_method"]), method
            yield "http.route", route
            yield "http.response.status_code", rng.choice([200, 500])
        if rng.random() < 0.95:
            yield "visible", rng.choice([True] * 12 + ["yes"])
        if rng.random() < 0.3:
            yield "priority", rng.choice([0, 0.0, 1, "low"])
        if rng.random() < 0.2:
            yield SPAN_RATIO, rng.choice(_RATIOS)

    def _duration_ns(self) -> int:
        rng = self._rng
        return 0 if rng.random() < 0.05 else round(math.exp(rng.uniform(math.log(1_000), math.log(20 * SECOND_NS))))
