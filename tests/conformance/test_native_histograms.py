"""Native histograms, alone and beside classic ones (processors §4.4, appendix C, cases 106 to 111)."""

from typing import Any, Final

import pytest

from tests.conformance.case import Classic, Difference, Expected, conformance, key_of, row
from tests.conformance.fixtures import LATENCY
from tests.conformance.registry_driver import (
    INTERVAL_MS,
    NEW_ZERO,
    RATIO,
    START_MS,
    Interval,
    Registered,
    bare_metrics,
    bucket,
    observation,
)
from tests.reference_labels import trace_id_text
from tests.remote_write import NativeSample
from tests.traces import histograms_plan, plan

NATIVE: Final = key_of(LATENCY, {})
ZERO_THRESHOLD: Final = 2.938735877055719e-39
SCHEMA = 3
"""The schema of the default factor 1.1, in which 1.5 is in bucket 5 and 2.5 in bucket 11."""
FIRST_MS, SECOND_MS = START_MS + INTERVAL_MS, START_MS + 2 * INTERVAL_MS
TRACE = b"\xaa" * 16


def native_plan(mode: str = "native", *bounds: float, **settings: Any) -> dict[str, Any]:
    """Return the settings of one histogram of this form, without labels."""
    histogram = bare_metrics(latency=True, histogram_buckets=[*bounds], **settings)
    return plan(histogram, histograms=histograms_plan(mode))


def empty(at_ms: int, *, is_float: bool = False) -> NativeSample:
    """Return the sample that precedes the first value."""
    return NativeSample(at_ms, 0, 0.0, SCHEMA, 0.0, 0, {}, is_float)


def sample(at_ms: int, buckets: dict[int, float], total: float, *, is_float: bool = False) -> NativeSample:
    """Return a sample with these counts by bucket and this sum."""
    return NativeSample(at_ms, sum(buckets.values()), total, SCHEMA, ZERO_THRESHOLD, 0, buckets, is_float)


def histograms(tenant: Registered, now_ms: int) -> list[NativeSample]:
    """Collect and return the samples of the native histogram."""
    return tenant.collect_at(now_ms)[NATIVE].histograms


@conformance("106", NEW_ZERO)
def test_106_a_native_histogram_begins_with_an_empty_one() -> None:
    tenant = Registered(native_plan())
    tenant.count(observation(seconds=1.5))
    assert histograms(tenant, FIRST_MS) == [empty(START_MS + 1), sample(FIRST_MS, {5: 1}, 1.5)]
    tenant.count(observation(seconds=2.5))
    assert histograms(tenant, SECOND_MS) == [sample(SECOND_MS, {5: 1, 11: 1}, 4.0)]


@conformance("107")
def test_107_one_observation() -> None:
    tenant = Registered(native_plan())
    tenant.count(observation(seconds=1.5))
    newest = histograms(tenant, FIRST_MS)[-1]
    assert newest == NativeSample(
        timestamp_ms=FIRST_MS,
        count=1,
        sum=1.5,
        schema=3,
        zero_threshold=ZERO_THRESHOLD,
        zero_count=0,
        buckets={5: 1},
        is_float=False,
    )


WEIGHT_ADDED = Difference("Q6", "the weight itself is added, where the reference repeats the observation ceil(w) times")


@pytest.mark.parametrize(
    "weight",
    [
        row(number, f"weight {title}", weight, differs=WEIGHT_ADDED)
        for number, title, weight in [
            ("108a", "1/2", 0.5),
            ("108b", "4/3", 4 / 3),
            ("108c", "2.5", 2.5),
            ("108d", "13.5", 13.5),
        ]
    ],
)
def test_weights(weight: float) -> None:
    tenant = Registered(native_plan(span_multiplier_key=RATIO))
    tenant.count(observation(seconds=1.5, weight=weight))
    assert histograms(tenant, FIRST_MS) == [
        empty(START_MS + 1, is_float=True),
        sample(FIRST_MS, {5: weight}, weight * 1.5, is_float=True),
    ]


@conformance("109", NEW_ZERO)
def test_109_both_forms_with_exemplars_on_buckets_once() -> None:
    tenant = Registered(native_plan("both", 1.0, 2.0))
    tenant.count(observation(seconds=1.5, trace_id=TRACE))
    classic: Expected = {LATENCY: [({}, Classic({"1": 0, "2": 1, "+Inf": 1}, sum=1.5))]}
    assert tenant.samples_at(FIRST_MS) == Interval(begin=classic).samples(START_MS, FIRST_MS)
    assert tenant.sent[-1][NATIVE].histograms == [empty(START_MS + 1), sample(FIRST_MS, {5: 1}, 1.5)]
    assert tenant.sent_exemplars() == {bucket(LATENCY, {}, "2"): (trace_id_text(TRACE), 1.5)}
    assert tenant.samples_at(SECOND_MS) == Interval(report=classic).samples(FIRST_MS, SECOND_MS)
    assert tenant.sent[-1][NATIVE].histograms == [sample(SECOND_MS, {5: 1}, 1.5)]
    assert tenant.sent_exemplars() == {}


@conformance("110", Difference("Q22", "an exemplar is sent once, where the reference sends it again until displaced"))
def test_110_a_native_exemplar_is_sent_once() -> None:
    tenant = Registered(native_plan())
    tenant.count(observation(seconds=1.5, trace_id=TRACE))
    assert len(histograms(tenant, FIRST_MS)) == 2
    assert tenant.sent_exemplars() == {NATIVE: (trace_id_text(TRACE), 1.5)}
    assert len(histograms(tenant, SECOND_MS)) == 1
    assert tenant.sent_exemplars() == {}


@pytest.mark.parametrize(
    ("mode", "trace_id"),
    [
        row("111a", "native, empty", "native", b""),
        row("111b", "native, all zero", "native", bytes(16)),
        row("111c", "both, empty", "both", b""),
        row("111d", "both, all zero", "both", bytes(16)),
    ],
)
def test_without_a_trace_id_there_is_no_exemplar(mode: str, trace_id: bytes) -> None:
    tenant = Registered(native_plan(mode, 1.0))
    tenant.count(observation(seconds=1.5, trace_id=trace_id))
    assert histograms(tenant, FIRST_MS)[-1] == sample(FIRST_MS, {5: 1}, 1.5)
    assert tenant.sent_exemplars() == {}
