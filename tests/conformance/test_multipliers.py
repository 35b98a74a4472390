"""Span multipliers of span metrics (processors §0.7, cases 29 to 32)."""

from typing import Any

import pytest

from tests.conformance.case import Case, row
from tests.conformance.driver import check
from tests.conformance.fixtures import BASE_RESOURCE, CALLS, L0, LATENCY, NOW_NS, SIZE, base_span
from tests.traces import CLIENT, SECOND_NS, batch, plan, request, span, span_metrics_plan

RATIO_KEY = {"span_multiplier_key": "r"}
TRACESTATE = {"enable_tracestate_span_multiplier": True}
OP = {"span_name": "op", "span_kind": "SPAN_KIND_CLIENT", "status_code": "STATUS_CODE_UNSET"}


def weight_case(
    settings: dict[str, Any],
    weight: float,
    attributes: dict[str, Any],
    *,
    resource: dict[str, Any] | None = None,
    trace_state: str = "",
    ignored: int = 0,
) -> Case:
    """Expect that F-BASE, of one second, counts ``weight`` times."""
    one = base_span(attributes, trace_state=trace_state)
    return Case(
        plan=plan(span_metrics_plan(**settings)),
        pushes=[request(batch(BASE_RESOURCE | (resource or {}), one))],
        expected={
            CALLS: [(L0, weight)],
            f"{LATENCY}_count": [(L0, weight)],
            f"{LATENCY}_sum": [(L0, weight)],
            SIZE: [(L0, one.ByteSize())],
        },
        counters={"ignored_multipliers": ignored},
    )


SMALL = span(
    "op",
    trace_id=b"\x01",
    span_id=b"\x02",
    kind=CLIENT,
    start_ns=NOW_NS - SECOND_NS // 2,
    end_ns=NOW_NS,
    attributes={"r": 0.25},
)

ROWS = [
    row("29", "tracestate", weight_case(TRACESTATE, 2, {}, trace_state="ot=th:8")),
    row(
        "30",
        "ratio, and a size that is not multiplied",
        Case(
            plan=plan(span_metrics_plan(**RATIO_KEY)),
            pushes=[request(batch({}, SMALL))],
            expected={CALLS: [(OP, 4)], f"{LATENCY}_count": [(OP, 4)], f"{LATENCY}_sum": [(OP, 2)], SIZE: [(OP, 46)]},
            counters={"ignored_multipliers": 0},
        ),
    ),
    row("31a", "integer is no ratio", weight_case(RATIO_KEY, 1, {"r": 1}, ignored=1)),
    row("31b", "zero on the span, ratio on the resource", weight_case(RATIO_KEY, 2, {"r": 0.0}, resource={"r": 0.5})),
    row("31c", "ratio above one", weight_case(RATIO_KEY, 0.25, {"r": 4.0})),
    row("32a", "tracestate before ratio", weight_case(RATIO_KEY | TRACESTATE, 4, {"r": 0.5}, trace_state="ot=th:c")),
    row("32b", "ratio without tracestate", weight_case(RATIO_KEY | TRACESTATE, 2, {"r": 0.5})),
    row(
        "32c",
        "ratio with a tracestate that is invalid",
        weight_case(RATIO_KEY | TRACESTATE, 4, {"r": 0.25}, trace_state="ot=th:xyz"),
    ),
]


@pytest.mark.parametrize("case", ROWS)
def test_span_counts_with_its_weight(case: Case) -> None:
    check(case)
