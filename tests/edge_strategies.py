"""Hypothesis strategies for the life of edges: few keys, many spans of each, and time that passes.

Spans of general traces seldom meet in one edge in an unusual order. These do little else.
"""

from typing import Any

from hypothesis import strategies as st

from tests.plan_strategies import off, on
from tests.script_strategies import NOW_NS, Collect, Flush, Push, Script, Step
from tests.trace_strategies import MULTIPLIER_KEY
from tests.traces import (
    CLIENT,
    CONSUMER,
    ERROR,
    PRODUCER,
    SECOND_NS,
    SERVER,
    batch,
    filter_block,
    plan,
    request,
    service_graphs_plan,
    span,
)

WAIT_S = 10.0
MAX_SPANS = 12
_PAUSES_NS = [0, 0, 0, 1, 4 * SECOND_NS, 5 * SECOND_NS, 10 * SECOND_NS - 1, 10 * SECOND_NS]
_FILTERS = [
    {"exclude": filter_block("strict", {"resource.service.name": "b"})},
    {"exclude": filter_block("strict", {"kind": "SPAN_KIND_CLIENT"})},
    {"include": filter_block("regex", {"resource.service.name": "^[ac]?$"})},
    {"include_any": filter_block("strict", {"span.tier": "front"})},
]
_ATTRIBUTES: list[Any] = [
    *({"db.system": "pg", "server.address": "db"}, {"db.system": "pg", "server.address": ""}, {"db.system": ""}),
    *({"peer.service": "p"}, {"peer.service": ""}, {"tier": "front"}, {"tier": ""}, {MULTIPLIER_KEY: 0.5}),
    {MULTIPLIER_KEY: 4.0, "tier": "back"},
]


@st.composite
def _edge_plans(draw: st.DrawFn, max_items: st.SearchStrategy[int]) -> dict[str, Any]:
    graphs = service_graphs_plan(
        histogram_buckets=[1.0],
        dimensions=["tier"],
        filter_policies=draw(st.lists(st.sampled_from(_FILTERS), max_size=1)),
        wait_s=WAIT_S,
        max_items=draw(max_items),
        connection_info=draw(off),
        enable_client_server_prefix=draw(off),
        enable_messaging_system_latency_histogram=True,
        enable_virtual_node_label=draw(on),
        span_multiplier_key=draw(st.sampled_from(["", MULTIPLIER_KEY])),
        keep_colliding_dimensions=draw(off),
        pair_database_spans=draw(st.booleans()),
        count_every_receiver=draw(st.booleans()),
        enable_virtual_node_latency=draw(st.booleans()),
        zero_parent_id_is_root=draw(st.booleans()),
    )
    return plan(service_graphs=graphs, stale_duration_s=1e6)


@st.composite
def _spans(draw: st.DrawFn, now_ns: int) -> Any:
    """Draw a span with its resource: of two traces, with one of four ids where its other half would have one."""
    kind = draw(st.sampled_from([CLIENT, SERVER, CLIENT, SERVER, PRODUCER, CONSUMER]))
    half = draw(st.sampled_from([b"\x01" * 8, b"\x01" * 8, b"\x01" * 8, b"\x02" * 8, b"", bytes(8)]))
    ids = {"span_id": half} if kind in (CLIENT, PRODUCER) else {"span_id": b"\x09" * 8, "parent": half}
    end_ns = now_ns + draw(st.integers(0, 3))
    one = span(
        kind=kind,
        trace_id=draw(st.sampled_from([b"\x01" * 16, b"\x01" * 16, b"\x02" * 16])),
        start_ns=end_ns - draw(st.integers(0, 3)),
        end_ns=end_ns,
        status=draw(st.sampled_from([None, None, ERROR])),
        attributes=draw(st.sampled_from([{}, {}, *_ATTRIBUTES])),
        **ids,
    )
    service = draw(st.sampled_from(["a", "c", "a", "c", "b", ""]))
    return batch({"service.name": service}, one)


@st.composite
def edge_scripts(draw: st.DrawFn, max_items: st.SearchStrategy[int]) -> Script:
    """Draw a plan and a sequence of single spans, of pauses and of flushes."""
    now_ns = NOW_NS
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, MAX_SPANS))):
        steps.append(Push(now_ns, request(draw(_spans(now_ns)))))
        now_ns += draw(st.sampled_from(_PAUSES_NS))
        if draw(off):
            steps.append(Flush(now_ns))
    steps += [Flush(now_ns), Collect(), Flush(now_ns, close_edges=True), Collect()]
    return Script(draw(_edge_plans(max_items)), steps)
