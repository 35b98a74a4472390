"""Hypothesis strategies for traces as services send them, and as nobody should.

Spans of a call are drawn together, then shuffled, given to requests of their own, left out or sent twice.
What no rule speaks of is not drawn: attributes with ``key_strindex``, durations above 292 years, stray
continuation bytes where a text is cut, dimensions called ``le`` or ``__name__``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests import otlp_raw
from tests.traces import (
    CLIENT,
    CONSUMER,
    ERROR,
    MISSING,
    OK,
    PRODUCER,
    SECOND_NS,
    SERVER,
    UNSET,
    any_value,
    key_values,
    span,
)

TEXTS = [
    *("", "a", "b", "shop", "größe", "a\x00b", "🚀 deploy", "x" * 40, "é" * 20),
    *("\udcff", "ok\udced\udca0\udc80", "half \udce2\udc82", "ok\n", "٣"),
]
DOUBLES = [0.0, -0.0, 3.0, 0.1, 1e21, 1e-9, 1e300, 5e-324, float("inf"), float("-inf"), float("nan")]
PLAIN_VALUES: list[Any] = [
    *TEXTS,
    *(True, False, 0, -1, 5432, 2**63 - 1, -(2**63)),
    *DOUBLES,
    *(b"", b"bytes", None, MISSING, otlp_raw.AnyValue(string_value_strindex=7)),
    *([], {}, ["a", 5, 0.1], {"k1": "v1", "k2": ["a", None]}, [[["deep"]]], ["\udcff"]),
]
ATTRIBUTES = [
    *("service.name", "peer.service", "server.address", "network.peer.address", "network.peer.port"),
    *("db.system", "db.system.name", "db.name", "db.namespace"),
    *("http.method", "http-method", "http_method", "région", "1x", "span.kind", "span_name", "service"),
    *(
        "client",
        "server",
        "connection.type",
        "virtual_node",
        "__client",
        "a",
        "client_a",
        "server_a",
        "job",
        "instance",
    ),
]
RESOURCE_ATTRIBUTES = [
    *ATTRIBUTES,
    *(
        "service.namespace",
        "service.instance.id",
        "host.id",
        "k8s.node.name",
        "cluster",
        "le",
        "__name__",
        "",
        "k\udcff",
    ),
]
TELLING = [("host.id", "h-1"), ("k8s.node.name", "k-2"), ("service.namespace", "n"), ("service.instance.id", "i")]
SERVICES = ["cart", "checkout", "payment"]
MULTIPLIER_KEY = "sample.ratio"
RATIOS: list[Any] = [
    *(0.5, 0.25, 0.3, 1.0, 4.0, 1e-5, 1e300, 5e-324, 2.0**-56, 2.0**-57, 2.0**60),
    *(0.0, -0.0, -0.5, float("nan"), float("inf"), float("-inf")),
    *(0, 1, "0.5", True, None, MISSING, [0.5]),
]
TRACE_STATES = [
    *("ot=th:0", "ot=th:8", "ot=th:c", "ot=th:4", "ot=th:fd70a4", "ot=th:F", "ot=p:3;th:8", "ot=th:8;th:c"),
    *(
        "ot=th:xyz",
        "ot=th:",
        "ot=th:123456789abcdef",
        "not=th:8,ot=th:c",
        "ot=rv:00112233445566",
        "ot=th:ffffffffffffff",
    ),
    *(
        "ot=th:4;rv:00000000000000",
        "ot=th:4;rv:ffffffffffffff",
        "ot=th:4;rv:55555555555555",
        "ot=th:7;rv:2aaaaaaaaaaaaa",
    ),
    *(
        "ot=th:8;",
        "ot=TH:8",
        "ot=th:8;rv:zz",
        "a=b , ot=th:8",
        "ot=th:8 ,x=y",
        "ot=th:8 \t",
        "ot=,ot=th:8",
        "x=y",
        "\udcff",
    ),
]

any_values = st.recursive(
    st.sampled_from([value for value in PLAIN_VALUES if value is not MISSING])
    | st.floats()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3),
    max_leaves=8,
).map(any_value)
values = st.sampled_from(PLAIN_VALUES) | st.floats()
ratios = st.tuples(st.just(MULTIPLIER_KEY), st.sampled_from(RATIOS))
attributes = st.lists(st.tuples(st.sampled_from(ATTRIBUTES), values) | ratios, max_size=4)


@st.composite
def resources(draw: st.DrawFn) -> Any:
    """Draw the attributes of a resource, or None for a batch without one."""
    service = draw(st.sampled_from([*SERVICES, *SERVICES, "", None, MISSING, True, "\udcff"]))
    of_any_kind = st.tuples(st.sampled_from(RESOURCE_ATTRIBUTES), values)
    more = draw(st.lists(st.one_of(of_any_kind, ratios, st.sampled_from(TELLING)), max_size=4))
    if service is MISSING:
        return draw(st.sampled_from([None, more]))
    return draw(st.sampled_from([[("service.name", service), *more], [*more, ("service.name", service)]]))


TRACE_IDS = [bytes([n]) * 16 for n in range(1, 7)] + [bytes(15) + b"\x01", b"\xff" * 16]
ODD_TRACE_IDS = [*TRACE_IDS, b"", b"\x01", b"\x00\x01", bytes(16)]
DURATIONS_NS = [0, 1, 2_000_000, 2_000_001, 1_953_125, 100_000_000, 1_600_000_000, SECOND_NS, 30 * SECOND_NS, -5]
END_OFFSETS_NS = [0, 0, 0, -1, 1, -SECOND_NS, 30 * SECOND_NS, -30 * SECOND_NS]
FAR_OFFSETS_NS = [30 * SECOND_NS + 1, -30 * SECOND_NS - 1]
KIND_PAIRS = [(CLIENT, SERVER)] * 3 + [(PRODUCER, CONSUMER)] * 2 + [(CLIENT, CONSUMER), (PRODUCER, SERVER)]
LONE_KINDS = [0, 1, SERVER, CLIENT, PRODUCER, CONSUMER, 42, -1]


@dataclass(frozen=True, slots=True)
class PlacedSpan:
    """A span, its resource, and when it ends relative to the arrival of its request."""

    resource: int
    span: Any
    end_offset_ns: int
    duration_ns: int | None  # None: the start is not set

    def arriving_at(self, now_ns: int) -> Any:
        """Return the span with its times."""
        placed = otlp_raw.Span()
        placed.CopyFrom(self.span)
        placed.end_time_unix_nano = now_ns + self.end_offset_ns
        if self.duration_ns is not None:
            placed.start_time_unix_nano = placed.end_time_unix_nano - self.duration_ns
        return placed


@st.composite
def placed_spans(
    draw: st.DrawFn, resource: int, kind: int, trace_id: bytes, span_id: bytes, parent: bytes
) -> PlacedSpan:
    """Draw one span of which ids, kind and resource are given."""
    status = draw(st.sampled_from([None, None, UNSET, OK, ERROR, ERROR, 7, -1]))
    built = span(
        draw(st.sampled_from(TEXTS)),
        kind=kind,
        trace_id=trace_id,
        span_id=span_id,
        parent=parent,
        status=status,
        message="" if status is None else draw(st.sampled_from(["", "boom"])),
        attributes=draw(attributes),
        trace_state=draw(st.sampled_from(["", *TRACE_STATES])),
    )
    if draw(st.integers(0, 7)) == 0:
        draw(st.sampled_from(BALLAST))(built)
    return PlacedSpan(
        resource,
        built,
        draw(st.sampled_from(END_OFFSETS_NS * 3 + FAR_OFFSETS_NS)),
        draw(st.sampled_from([*DURATIONS_NS, None]) | st.integers(0, 20 * SECOND_NS)),
    )


def _with_ballast(built: Any) -> None:
    """Fill what only the span's size knows of."""
    built.flags = 0x101
    built.dropped_attributes_count, built.dropped_events_count, built.dropped_links_count = 1, 300, 2**32 - 1
    built.events.add(time_unix_nano=1, name=b"\xff", attributes=key_values({"k": ["v", 2.5], "é" * 40: "é" * 40}))
    built.events.add(dropped_attributes_count=128)
    built.links.add(trace_id=b"1" * 16, span_id=b"2" * 8, trace_state=b"x", flags=1)
    built.links.add(attributes=key_values([("k", MISSING), ("", None), ("", "x" * 70)]), dropped_attributes_count=1)


def _with_long_text(built: Any) -> None:
    """Make lengths that take two bytes."""
    built.attributes.extend(key_values({"long": "x" * 200}))


BALLAST: list[Callable[[Any], None]] = [_with_ballast, _with_long_text]


@st.composite
def calls(draw: st.DrawFn, number: int, resource_count: int, *, odd_ids: bool) -> list[PlacedSpan]:
    """Draw the spans of one call: a client and a server half, one of them, or more; or a span by itself."""
    resource = st.integers(0, resource_count - 1)
    trace_id = draw(st.sampled_from(ODD_TRACE_IDS if odd_ids else TRACE_IDS))
    own, child = number.to_bytes(8, "big"), (1000 + number).to_bytes(8, "big")
    if odd_ids:
        own = draw(st.sampled_from([own, own, b"", bytes(8), b"\x07"]))
    shape = draw(st.sampled_from(["pair"] * 4 + ["client", "server", "fan-out", "repeated", "lone", "root"]))
    if shape in ("lone", "root"):
        kind = draw(st.sampled_from(LONE_KINDS if shape == "lone" else [SERVER, CONSUMER]))
        parent = b"" if shape == "root" else draw(st.sampled_from([own, b"", bytes(8)]))
        return [draw(placed_spans(draw(resource), kind, trace_id, child, parent))]
    client_kind, server_kind = draw(st.sampled_from(KIND_PAIRS))
    client = placed_spans(draw(resource), client_kind, trace_id, own, b"")
    server = placed_spans(draw(resource), server_kind, trace_id, child, own)
    halves = {
        "pair": [client, server],
        "client": [client],
        "server": [server],
        "fan-out": [client, server, server],
        "repeated": [client, client, server],
    }[shape]
    return [draw(drawn) for drawn in halves]


def request_of(spans: list[PlacedSpan], resources: list[Any], now_ns: int) -> Any:
    """Return a request with these spans in this order; neighbours of one resource share its batch."""
    built = otlp_raw.ExportTraceServiceRequest()
    last = None
    for placed in spans:
        if placed.resource != last:
            last = placed.resource
            group = built.resource_spans.add()
            if resources[last] is not None:
                group.resource.SetInParent()
                group.resource.attributes.extend(key_values(resources[last]))
        if not group.scope_spans or len(group.scope_spans[-1].spans) >= 3:
            group.scope_spans.add(scope={"name": b"scope \xff", "attributes": key_values({"long": "x" * 70})})
        group.scope_spans[-1].spans.append(placed.arriving_at(now_ns))
    return built


@st.composite
def requests(draw: st.DrawFn, *, odd_ids: bool = True, max_calls: int = 8) -> list[Callable[[int], Any]]:
    """Draw a few requests whose spans belong together, each as a function of its time of arrival."""
    drawn_resources = draw(st.lists(resources(), min_size=1, max_size=4))
    count = draw(st.integers(1, max_calls))
    spans = [
        placed
        for number in range(1, count + 1)
        for placed in draw(calls(number, len(drawn_resources), odd_ids=odd_ids))
    ]
    shuffled = draw(st.permutations(spans))
    cuts = sorted(draw(st.lists(st.integers(0, len(shuffled)), max_size=3)))
    parts = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    return [partial(request_of, part, drawn_resources) for part in parts]
