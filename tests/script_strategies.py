"""Hypothesis strategies for plans, and for a tenant's life under one: the script of a comparison.

A drawn :class:`Script` says when requests arrive, when shards are flushed and when the registry is collected.
The same script is played to the model and to the engine, on however many shards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests import otlp_raw
from tests.reference import Collection
from tests.trace_strategies import ATTRIBUTES, requests
from tests.traces import SECOND_NS, plan, service_graphs_plan, span_metrics_plan

NOW_NS = 1_700_000_000 * SECOND_NS
MANY = 10_000


@dataclass(frozen=True, slots=True)
class Push:
    """A request arrives."""

    now_ns: int
    request: Any

    def __repr__(self) -> str:
        return f"Push({self.now_ns}, {otlp_raw.parse(self.request).SerializeToString()!r})"


@dataclass(frozen=True, slots=True)
class Flush:
    """Every shard is flushed and its record merged; half edges expire."""

    now_ns: int
    close_edges: bool = False


@dataclass(frozen=True, slots=True)
class Collect:
    """The registry is collected; all that was pushed has been flushed before."""


Step = Push | Flush | Collect


@dataclass(frozen=True, slots=True)
class Script:
    """One tenant's life."""

    plan: dict[str, Any]
    steps: Sequence[Step]


def play(script: Script, tenant: Any) -> Iterator[Collection]:
    """Play a script to a tenant, model or engine, and yield what each collection reports."""
    for step in script.steps:
        match step:
            case Push(now_ns, request):
                tenant.push(request, now_ns)
            case Flush(now_ns, close_edges):
                tenant.flush(now_ns, close_edges=close_edges)
            case Collect():
                yield tenant.collect()


bounds = st.sampled_from(
    [[], [0.002, 0.1, 1.0], [1.0, 0.5, 2.0], [1e-9, 1.5e-9, 1e21], [0.1 * 2**n for n in range(8)]]
) | st.lists(st.floats(1e-9, 1e9), max_size=4, unique=True)
dimensions = st.lists(st.sampled_from(ATTRIBUTES), max_size=4)
on = st.sampled_from([True, True, True, False])
off = st.sampled_from([False, False, True])


@st.composite
def span_metrics_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the span-metrics part of a plan."""
    names = ["service", "span_name", "span_kind", "status_code", "status_message"]
    return span_metrics_plan(
        count=draw(on),
        latency=draw(on),
        size=draw(on),
        histogram_buckets=draw(bounds),
        intrinsic_dimensions={name: draw(on) for name in names},
        dimensions=draw(dimensions),
    )


@st.composite
def service_graphs_plans(draw: st.DrawFn, *, max_items: st.SearchStrategy[int]) -> dict[str, Any]:
    """Draw the service-graphs part of a plan."""
    defaults = service_graphs_plan()
    return service_graphs_plan(
        request=draw(on),
        latency=draw(on),
        histogram_buckets=draw(bounds),
        dimensions=draw(dimensions),
        peer_attributes=draw(st.just(defaults["peer_attributes"]) | dimensions),
        database_name_attributes=draw(st.just(defaults["database_name_attributes"]) | dimensions),
        wait_s=draw(st.sampled_from([10.0, 2.5, 0.001, 1e-9, 400.0])),
        max_items=draw(max_items),
        enable_client_server_prefix=draw(off),
        enable_messaging_system_latency_histogram=draw(off),
        enable_virtual_node_label=draw(off),
    )


@st.composite
def plans(draw: st.DrawFn, *, max_items: st.SearchStrategy[int]) -> dict[str, Any]:
    """Draw a whole plan without a limit of series, under which nothing ends during a script."""
    span_metrics = draw(st.none() | span_metrics_plans() | span_metrics_plans())
    graphs = service_graphs_plans(max_items=max_items)
    service_graphs = draw(graphs if span_metrics is None else st.none() | graphs | graphs)
    return plan(
        span_metrics,
        service_graphs,
        trace_id_label_name=draw(st.sampled_from(["traceID", "trace_id"])),
        max_label_name_length=draw(st.sampled_from([1024, 1024, 1024, 0, 8, 6])),
        max_label_value_length=draw(st.sampled_from([2048, 2048, 2048, 0, 8, 5])),
        stale_duration_s=1e6,
    )


@st.composite
def scripts(draw: st.DrawFn, plans: st.SearchStrategy[dict[str, Any]], *, odd_ids: bool = True) -> Script:
    """Draw a tenant's life: at least one request, and at the end a flush and a collection."""
    drawn_plan = draw(plans)
    wait_s = (drawn_plan["service_graphs"] or {"wait_s": 1.0})["wait_s"]
    pauses = st.sampled_from([0, 0, 0, 1_000_000, round(wait_s * 1e9), round(wait_s * 1e9) - 1, 400 * SECOND_NS])
    now_ns = NOW_NS
    steps: list[Step] = []
    for arrive in draw(requests(odd_ids=odd_ids)):
        now_ns += draw(pauses)
        steps.append(Push(now_ns, arrive(now_ns)))
        match draw(st.integers(0, 3)):
            case 1:
                steps.append(Flush(now_ns))
            case 2:
                now_ns += draw(pauses)
                steps += [Flush(now_ns), Collect()]
    now_ns += draw(pauses)
    return Script(drawn_plan, [*steps, Flush(now_ns, close_edges=draw(st.booleans())), Collect()])
