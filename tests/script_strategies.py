"""Hypothesis strategies for a tenant's life under a plan: the script of a comparison.

A drawn :class:`Script` says when requests arrive, when shards are flushed and when the registry is collected.
The same script is played to the model and to the engine, on however many shards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests import otlp_raw
from tests.reference import Collection
from tests.trace_strategies import requests
from tests.traces import SECOND_NS

NOW_NS = 1_700_000_000 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Push:
    """A request arrives, perhaps one that asks for no metrics."""

    now_ns: int
    request: Any
    skip_generation: bool = False

    def __repr__(self) -> str:
        body = otlp_raw.parse(self.request).SerializeToString()
        return f"Push({self.now_ns}, {body!r}, {self.skip_generation})"


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
            case Push(now_ns, request, skip_generation):
                tenant.push(request, now_ns, skip_generation=skip_generation)
            case Flush(now_ns, close_edges):
                tenant.flush(now_ns, close_edges=close_edges)
            case Collect():
                yield tenant.collect()


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
        steps.append(Push(now_ns, arrive(now_ns), skip_generation=draw(st.sampled_from([False] * 9 + [True]))))
        match draw(st.integers(0, 3)):
            case 1:
                steps.append(Flush(now_ns))
            case 2:
                now_ns += draw(pauses)
                steps += [Flush(now_ns), Collect()]
    now_ns += draw(pauses)
    return Script(drawn_plan, [*steps, Flush(now_ns, close_edges=draw(st.booleans())), Collect()])
