"""What a tenant sends that means harm or knows no better: legal OTLP, each request with an honest span in its midst.

What must become of each request is said here too, under settings that look at everything (:func:`curious_plan`).
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.traces import (
    CLIENT,
    MISSING,
    SECOND_NS,
    SERVER,
    Attributes,
    batch,
    host_info_plan,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)

MANY: Final = 10_000
MIB: Final = 1 << 20
FIFTY_YEARS_NS: Final = 50 * 365 * 86_400 * SECOND_NS
HONEST: Final = "honest"
HOSTILE: Final = "hostile"
BROKEN: Final = "\udcff\udcfe"
"""Two bytes that are no UTF-8."""

DIMENSION: Final = "dim"
RATIO: Final = "ratio"
GREATEST_WEIGHT: Final = 2.0**56

UNUSABLE_RATIOS: Final = (float("inf"), float("-inf"), float("nan"), 0.0, -0.0, -0.5, 1, True, "0.5", None, [0.5])
TINY_RATIOS: Final = (1e-300, 5e-324)

Discarded = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Attack:
    """One request.

    Attributes:
        batches: makes the resources with their hostile spans, for a time.
        spans: how many spans those are.
        discarded: what is left out of the metrics, by stage and reason.
        uncounted: spans that are in no calls counter.
        ignored_multipliers: spans whose sampling ratio is not used.
    """

    batches: Callable[[int], list[Any]]
    spans: int
    discarded: Discarded = field(default_factory=dict)
    uncounted: int = 0
    ignored_multipliers: int = 0

    def request(self, now_ns: int) -> Any:
        """Return the export request: an honest span before, between and after the hostile ones."""
        honest = [batch({"service.name": HONEST}, spans_of(now_ns, number)) for number in range(MANY, MANY + 3)]
        hostile = self.batches(now_ns)
        middle = len(hostile) // 2
        return request(honest[0], *hostile[:middle], honest[1], *hostile[middle:], honest[2])


def curious_plan(
    span_metrics: Mapping[str, Any] | None = None, service_graphs: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Return a plan under which every part of a span is looked at; latency and size are off, for they look at less."""
    shared: dict[str, Any] = {
        "dimensions": [DIMENSION, "k0", f"k{MANY - 1}"],
        "span_multiplier_key": RATIO,
        "enable_tracestate_span_multiplier": True,
    }
    own = {"latency": False, "size": False, "enable_target_info": True}
    return plan(
        span_metrics_plan(**shared | own | dict(span_metrics or {})),
        service_graphs_plan(**shared | {"latency": False} | dict(service_graphs or {})),
        host_info_plan(),
        **settings,
    )


def spans_of(now_ns: int, number: int, name: str = "op", **changes: Any) -> Any:
    """Return a span of a trace of its own, which took a second and ended now unless ``changes`` say otherwise."""
    times = {"start_ns": now_ns - SECOND_NS, "end_ns": now_ns}
    return span(name, trace_id=(number + 1).to_bytes(16), span_id=(number + 1).to_bytes(8), **times | changes)


def of_hostile(*spans: Any, **resource: Any) -> list[Any]:
    """Return the hostile service's resource with these spans; ``resource`` adds attributes."""
    return [batch({"service.name": HOSTILE, **resource}, *spans)]


def _ratios(now_ns: int) -> list[Any]:
    ratios: list[Any] = [*UNUSABLE_RATIOS, *TINY_RATIOS]
    return of_hostile(*(spans_of(now_ns, n, attributes={RATIO: ratio}) for n, ratio in enumerate(ratios)))


def _tracestates(now_ns: int) -> list[Any]:
    states = (
        "ot=th:ffffffffffffff",
        "ot=th:8," + "a=b," * (MIB // 4),
        "," * MIB,
        " " * MIB,
        "ot=" + "th:8;" * (MIB // 5),
        BROKEN * (MIB // 2),
        "ot=th:" + "f" * MIB,
    )
    return of_hostile(*(spans_of(now_ns, n, trace_state=state) for n, state in enumerate(states)))


def _many_attributes(now_ns: int) -> list[Any]:
    many = {f"k{number}": f"v{number}" for number in range(MANY)}
    on_span = of_hostile(spans_of(now_ns, 0, attributes=many))
    on_resource = of_hostile(spans_of(now_ns, 1), spans_of(now_ns, 2, attributes=many), **many)
    repeated: Attributes = [(DIMENSION, f"v{number}") for number in range(MANY)]
    return [*on_span, *on_resource, *of_hostile(spans_of(now_ns, 3, attributes=repeated))]


def _long_values(now_ns: int) -> list[Any]:
    long = "x" * MIB
    return [
        *of_hostile(
            spans_of(now_ns, 0, attributes={DIMENSION: long}),
            spans_of(now_ns, 1, attributes={DIMENSION: "é" * (MIB // 2)}),
            spans_of(now_ns, 2, name=long),
            spans_of(now_ns, 3, attributes={long: "v"}),
            spans_of(now_ns, 4, attributes={DIMENSION: [long, {"a": long}]}),
        ),
        batch({"service.name": long, "service.namespace": long, "host.id": long}, spans_of(now_ns, 5)),
        *of_hostile(spans_of(now_ns, 6), **{"x": long, long: "x"}),
    ]


def _without_values(now_ns: int) -> list[Any]:
    keys = (DIMENSION, RATIO, "peer.service", "db.name", "", "host.id")
    nothing: Attributes = [(key, MISSING) for key in keys]
    return [
        *of_hostile(spans_of(now_ns, 0, kind=CLIENT, attributes=nothing)),
        *of_hostile(spans_of(now_ns, 1, attributes=[(key, None) for key in keys])),
        batch([("service.name", MISSING), *nothing], spans_of(now_ns, 2, kind=SERVER)),
        batch(None, spans_of(now_ns, 3)),
    ]


def _broken_text(now_ns: int) -> list[Any]:
    return [
        *of_hostile(
            spans_of(now_ns, 0, name=BROKEN),
            spans_of(now_ns, 1, attributes={DIMENSION: BROKEN}),
            # What no label is made of is nobody's business.
            spans_of(now_ns, 2, attributes={BROKEN: "v"}, message=BROKEN, status=2),
        ),
        batch({"service.name": BROKEN}, spans_of(now_ns, 3)),
        # The span is counted; the target info of its resource is not.
        *of_hostile(spans_of(now_ns, 4), x=BROKEN),
        *of_hostile(spans_of(now_ns, 5), **{"host.id": BROKEN}),
    ]


def _far_times(now_ns: int) -> list[Any]:
    past, future = now_ns - FIFTY_YEARS_NS, now_ns + FIFTY_YEARS_NS
    return of_hostile(
        spans_of(now_ns, 0, start_ns=past - SECOND_NS, end_ns=past),
        spans_of(now_ns, 1, start_ns=future - SECOND_NS, end_ns=future),
        spans_of(now_ns, 2, start_ns=0, end_ns=0),
        spans_of(now_ns, 3, start_ns=0, end_ns=2**64 - 1),
        spans_of(now_ns, 4, start_ns=future),  # ends before it starts
        spans_of(now_ns, 5, start_ns=past),  # takes fifty years
        spans_of(now_ns, 6, start_ns=2**64 - 1),
    )


def _many_names(now_ns: int) -> list[Any]:
    rng = random.Random(1)
    names = (f"GET /api/users/{number}/orders/{rng.getrandbits(64):x}" for number in range(MANY))
    return of_hostile(*(spans_of(now_ns, number, name) for number, name in enumerate(names)))


def _many_values(now_ns: int) -> list[Any]:
    return of_hostile(*(spans_of(now_ns, number, attributes={DIMENSION: f"v{number}"}) for number in range(MANY)))


ATTACKS: Final[Mapping[str, Attack]] = {
    "ratios": Attack(_ratios, len(UNUSABLE_RATIOS) + len(TINY_RATIOS), ignored_multipliers=len(UNUSABLE_RATIOS)),
    "tracestates": Attack(_tracestates, 7),
    # Both spans of the resource that no target info is made of are counted, and it is said once for each.
    "many attributes": Attack(_many_attributes, 4, {("span_metrics", "label_set_too_large"): 2}),
    "long values": Attack(_long_values, 7),
    "no values": Attack(_without_values, 4, ignored_multipliers=3),
    "broken text": Attack(
        _broken_text, 6, {("span_metrics", "invalid_utf8"): 5, ("host_info", "invalid_utf8"): 1}, uncounted=3
    ),
    "far times": Attack(_far_times, 7, {("gateway", "outside_metrics_ingestion_slack"): 4}, uncounted=4),
    "many names": Attack(_many_names, MANY),
    "many values": Attack(_many_values, MANY),
}


def all_discarded(attacks: Mapping[str, Attack] = ATTACKS) -> Discarded:
    """Return what is left out when every attack is made once."""
    total: Counter[tuple[str, str]] = Counter()
    for attack in attacks.values():
        total.update(attack.discarded)
    return dict(total)
