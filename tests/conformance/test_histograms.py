"""Classic histograms: buckets, weights and exemplars (processors §4.3, cases 87 to 90 and 113)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Classic, Expected, conformance, row
from tests.conformance.driver import check
from tests.conformance.fixtures import LATENCY
from tests.conformance.registry_driver import (
    NEW_ZERO,
    RATIO,
    START_MS,
    Interval,
    bare_metrics,
    bucket,
    observation,
    play,
)
from tests.reference_labels import trace_id_text
from tests.traces import batch, plan, request

A, B, C = ({"label": label} for label in "ABC")
TRACES = {label: label.encode() * 16 for label in "ABC"}


def observed(label: str, seconds: float, weight: float = 1.0) -> Any:
    """Return an observation in the trace of its label."""
    return observation(label, seconds, weight=weight, trace_id=TRACES[label])


def exemplar(label: str, seconds: float) -> tuple[str, float]:
    """Return the exemplar that :func:`observed` leaves."""
    return trace_id_text(TRACES[label]), seconds


def histogram_plan(*bounds: float) -> dict[str, Any]:
    """Return the settings of a weighted classic histogram."""
    settings = {"latency": True, "histogram_buckets": [*bounds], "span_multiplier_key": RATIO}
    return plan(bare_metrics("label", **settings), trace_id_label_name="trace_id")


FIRST = Interval(
    counted=[observed("A", 1.0), observed("B", 1.5)],
    begin={
        LATENCY: [
            (A, Classic({"1": 1, "2": 1, "+Inf": 1}, sum=1)),
            (B, Classic({"1": 0, "2": 1, "+Inf": 1}, sum=1.5)),
        ]
    },
    exemplars={bucket(LATENCY, A, "1"): exemplar("A", 1.0), bucket(LATENCY, B, "2"): exemplar("B", 1.5)},
)
UNWEIGHTED = Interval(
    counted=[observed("B", 2.5), observed("C", 3.0)],
    report={
        LATENCY: [
            (A, Classic({"1": 1, "2": 1, "+Inf": 1}, sum=1)),
            (B, Classic({"1": 0, "2": 1, "+Inf": 2}, sum=4)),
        ]
    },
    begin={LATENCY: [(C, Classic({"1": 0, "2": 0, "+Inf": 1}, sum=3))]},
    exemplars={bucket(LATENCY, B, "+Inf"): exemplar("B", 2.5), bucket(LATENCY, C, "+Inf"): exemplar("C", 3.0)},
)
WEIGHTED = Interval(
    counted=[observed("B", 2.5, 20), observed("C", 3.0, 13.5), observed("C", 1.0, 7.5)],
    report={
        LATENCY: [
            (A, Classic({"1": 1, "2": 1, "+Inf": 1}, sum=1)),
            (B, Classic({"1": 0, "2": 1, "+Inf": 22}, sum=54)),
            (C, Classic({"1": 7.5, "2": 7.5, "+Inf": 22}, sum=51)),
        ]
    },
    exemplars={
        bucket(LATENCY, B, "+Inf"): exemplar("B", 2.5),
        bucket(LATENCY, C, "1"): exemplar("C", 1.0),
        bucket(LATENCY, C, "+Inf"): exemplar("C", 3.0),
    },
)


@pytest.mark.parametrize(
    "intervals",
    [
        row("87", "begins at zero, exemplars on buckets", [FIRST], differs=NEW_ZERO),
        row("88", "weights, exemplars once", [FIRST, UNWEIGHTED, WEIGHTED], differs=NEW_ZERO),
    ],
)
def test_intervals(intervals: list[Interval]) -> None:
    play(histogram_plan(1.0, 2.0), intervals)


@conformance("89")
def test_89_weights_that_are_fractions() -> None:
    value = Classic({"1": 1.5, "2": 6.5, "+Inf": 6.5}, sum=11.5)
    check_one(histogram_plan(1.0, 2.0), value, observation(None, 1.0, weight=1.5), observation(None, 2.0, weight=5))


@conformance("90")
def test_90_bounds_are_written_without_exponents() -> None:
    below = {"0.0000001": 0, "0.002": 0, "0.004": 1, "16.384": 1, "1000000000000000000000": 1, "+Inf": 1}
    bounds = (0.002, 0.004, 1e-7, 1e21, 16.384)
    check_one(histogram_plan(*bounds), Classic(below, sum=0.003), observation(None, 0.003))


@conformance("113")
def test_113_bounds_are_sorted() -> None:
    below = {"0.5": 0, "1": 1, "2": 1, "5": 1, "+Inf": 1}
    check_one(histogram_plan(5.0, 0.5, 2.0, 1.0), Classic(below, sum=0.75), observation(None, 0.75))


def check_one(settings: dict[str, Any], value: Classic, *spans: Any) -> None:
    """Compare the one histogram that there is after these spans."""
    pushes = [request(batch({}, *spans))]
    expected: Expected = {LATENCY: [({}, value)]}
    check(Case(plan=settings, pushes=pushes, expected=expected, nothing_else=True, now_ns=START_MS * 1_000_000))
