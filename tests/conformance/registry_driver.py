"""A tenant whose clock and settings a case moves, and whose samples are read with their timestamps (processors §4).

The contract's registry cases speak of free-standing counters, gauges and histograms. Here a counter is
``traces_spanmetrics_calls_total``, a histogram ``traces_spanmetrics_latency`` and a gauge ``traces_target_info`` or
``traces_host_info``; a label is a dimension, an observation a span of that duration, a weight a sampling ratio.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.conformance.case import Difference, Expected, Labels, key_of, series_of
from tests.conformance.driver import Tenant
from tests.remote_write import SeriesKey, TimeSeries, is_stale_marker
from tests.traces import SECOND_NS, Attributes, batch, request, span, span_metrics_plan

COLLECTED_MS: Final = 1_700_000_059_999
"""The first collection of the contract's registry cases."""
INTERVAL_MS: Final = 15_000
START_MS: Final = COLLECTED_MS - INTERVAL_MS

OVERFLOW: Final = {"metric_overflow": "true"}
RATIO: Final = "ratio"
"""Attribute that holds the sampling ratio of a weighted observation."""

BARE_SPANS: Final = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)
"""Intrinsic dimensions of an entity that has dimensions only."""

NEW_ZERO: Final = Difference(
    "design §3", "zeros lie 1 ms after the previous collection, not at :59 of the minute before; _sum has one, too"
)
"""The difference of every row in which a series begins."""

Samples = Sequence[tuple[int, float | None]]
"""(milliseconds, value) of one series; None stands for a staleness marker."""


def bare_metrics(*dimensions: str, **settings: Any) -> dict[str, Any]:
    """Return the ``span_metrics`` part of a plan without any metric or label but those that are asked for."""
    off = dict.fromkeys(["count", "latency", "size"], False)
    return span_metrics_plan(**(off | {"intrinsic_dimensions": BARE_SPANS, "dimensions": [*dimensions]} | settings))


def observation(
    label: str | None = None,
    seconds: float = 1.0,
    *,
    weight: float = 1.0,
    trace_id: bytes = bytes(16),
    at_ms: int = START_MS,
    attributes: Attributes = (),
    **changes: Any,
) -> Any:
    """Return a span of this duration that has the dimension ``label`` and counts ``weight`` times."""
    own = dict(attributes) | ({} if label is None else {"label": label})
    ends_ns = at_ms * 1_000_000
    return span(
        trace_id=trace_id,
        start_ns=ends_ns - round(seconds * SECOND_NS),
        end_ns=ends_ns,
        attributes=own if weight == 1.0 else own | {RATIO: 1 / weight},
        **changes,
    )


class Registered(Tenant):
    """One tenant; every request is flushed at once, so that label sets are merged in the order of requests."""

    def __init__(self, plan: dict[str, Any], *, started_at_ms: int = START_MS) -> None:
        super().__init__(plan, started_at_ms=started_at_ms)

    def count(self, *spans: Any, at_ms: int = START_MS, resource: Attributes = ()) -> None:
        """Push spans of one resource and merge what they became."""
        self.push_and_merge(request(batch(resource, *spans)), at_ms)

    def push_and_merge(self, message: Any, at_ms: int) -> None:
        """Push a request and merge what it became."""
        self.push(message, at_ms * 1_000_000)
        self.flush(at_ms * 1_000_000)

    def use(self, plan: dict[str, Any], at_ms: int) -> None:
        """Go on with other settings."""
        self.set_plan(plan, at_ms * 1_000_000)

    def samples_at(self, now_ms: int, external_labels: Iterable[tuple[str, str]] = ()) -> dict[SeriesKey, Samples]:
        """Collect and return the float samples of every series that has any."""
        collected = self.collect_at(now_ms, [*external_labels])
        return {key: readable(series) for key, series in collected.items() if series.samples}

    def sent_exemplars(self) -> dict[SeriesKey, tuple[str, float]]:
        """Return (trace id, value) of every series that has an exemplar in the newest collection, dated at it."""
        found: dict[SeriesKey, tuple[str, float]] = {}
        for key, series in self.sent[-1].items():
            for exemplar in series.exemplars:
                assert key not in found
                assert exemplar.timestamp_ms == self._now_ms
                assert exemplar.labels.keys() == {self._trace_id_label}
                found[key] = (exemplar.labels[self._trace_id_label], exemplar.value)
        return found

    def stats(self, *names: str) -> tuple[int, ...]:
        """Return some of the registry's counters."""
        counters = self.registry.stats()
        return tuple(counters[name] for name in names)


def readable(series: TimeSeries) -> Samples:
    """Return samples in a form that can be compared; a staleness marker is a NaN, which equals nothing."""
    return [(at_ms, None if is_stale_marker(value) else value) for at_ms, value in series.samples]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What happens between two collections, and all that the second one reports.

    Attributes:
        counted: the spans, which arrive at the interval's beginning.
        begin: series with a zero sample just after the previous collection, then their value.
        report: series with their value only.
        end: series with a staleness marker only.
        exemplars: (trace id, value) by series; there are no others.
    """

    counted: Sequence[Any] = ()
    begin: Expected = field(default_factory=dict)
    report: Expected = field(default_factory=dict)
    end: Iterable[SeriesKey] = ()
    exemplars: Mapping[SeriesKey, tuple[str, float]] = field(default_factory=dict)

    def samples(self, begins_ms: int, now_ms: int) -> dict[SeriesKey, Samples]:
        """Return the samples of every series."""
        begun = {key: [(begins_ms + 1, 0.0), (now_ms, value)] for key, value in series_of(self.begin).items()}
        reported = {key: [(now_ms, value)] for key, value in series_of(self.report).items()}
        return begun | reported | {key: [(now_ms, None)] for key in self.end}


def play(plan: dict[str, Any], intervals: Sequence[Interval]) -> Registered:
    """Play intervals of 15 seconds and compare all samples and exemplars; return the tenant."""
    tenant = Registered(plan)
    for number, interval in enumerate(intervals):
        begins_ms = START_MS + number * INTERVAL_MS
        now_ms = begins_ms + INTERVAL_MS
        if interval.counted:
            tenant.count(*interval.counted, at_ms=begins_ms)
        assert tenant.samples_at(now_ms) == interval.samples(begins_ms, now_ms)
        assert tenant.sent_exemplars() == interval.exemplars
    return tenant


def bucket(metric: str, labels: Labels, le: str) -> SeriesKey:
    """Return the series of one bucket."""
    return key_of(f"{metric}_bucket", labels, le=le)
