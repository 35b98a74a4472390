"""A brute-force model of both processors, to compare the engine with.

Plain and slow: it says what the right series are and nothing about how to get them fast. It knows one tenant,
one shard and no clock; times are passed in. The rules are in ``tests.reference_span_metrics`` and
``tests.reference_service_graphs``; this module puts spans in and takes series out.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from tests import otlp_raw
from tests.reference_registry import ClassicHistogram, SeriesKey, SeriesLimiter
from tests.reference_service_graphs import ServiceGraphs
from tests.reference_span_metrics import SpanMetrics
from tests.reference_spans import Batch, nanoseconds


@dataclass(frozen=True, slots=True)
class Collection:
    """What one collection reports: cumulative values, and (trace id, seconds) per bucket series."""

    series: dict[SeriesKey, float]
    exemplars: dict[SeriesKey, tuple[str, float]]


class ReferenceModel:
    """Both processors of one tenant: spans go in by :meth:`push`, series come out by :meth:`series`.

    The argument is the plan as ``tenants.processing.plan.plan_json`` writes it, read back into a dictionary.
    With ``strict_ids`` spans whose ids are not OTLP's are rejected before anything else looks at them.
    """

    def __init__(self, plan: dict[str, Any], *, strict_ids: bool = False) -> None:
        limiter = SeriesLimiter(plan["max_active_series"])
        self._slack_ns = nanoseconds(plan["ingestion_time_range_slack_s"])
        self._strict_ids = strict_ids
        self._span_metrics = SpanMetrics(plan, limiter) if plan["span_metrics"] else None
        self._service_graphs = ServiceGraphs(plan, limiter) if plan["service_graphs"] else None
        processors = (self._span_metrics, self._service_graphs)
        self._metrics = [metric for processor in processors if processor for metric in processor.metrics]
        self.received_spans = 0
        self.rejected: Tally[str] = Tally()
        self._outside_slack = 0

    @property
    def discarded(self) -> dict[str, int]:
        """Spans that no span metric counts, by reason (processors §5.5)."""
        invalid = self._span_metrics.invalid_utf8 if self._span_metrics else 0
        counts = {"outside_metrics_ingestion_slack": self._outside_slack, "invalid_utf8": invalid}
        return {reason: count for reason, count in counts.items() if count}

    @property
    def invalid_edges(self) -> int:
        """Edges lost because a label is not UTF-8 (processors §2.7)."""
        return self._service_graphs.invalid_utf8 if self._service_graphs else 0

    @property
    def edges(self) -> int:
        """Edges that were opened, those completed by their first span included."""
        return self._service_graphs.edges if self._service_graphs else 0

    @property
    def expired_edges(self) -> dict[str, int]:
        """Edges that expired and produced nothing, by the kind of the last span (processors §2.4)."""
        return dict(self._service_graphs.expired_edges) if self._service_graphs else {}

    @property
    def dropped_spans(self) -> int:
        """Spans that found the edge buffer full."""
        return self._service_graphs.dropped_spans if self._service_graphs else 0

    def push(self, request: Message | bytes, now_ns: int) -> None:
        """Take one ExportTraceServiceRequest that arrives at ``now_ns``."""
        batches = [
            Batch(group.resource, [span for span in self._spans(group) if self._is_accepted(span, now_ns)])
            for group in otlp_raw.parse(request).resource_spans
        ]
        if self._span_metrics:
            self._span_metrics.push(batches)
        if self._service_graphs:
            self._service_graphs.push(batches, now_ns)

    def flush(self, now_ns: int, *, close_edges: bool = False) -> None:
        """Expire the half edges that have waited their time at ``now_ns``, or all with ``close_edges``."""
        if self._service_graphs:
            self._service_graphs.flush(now_ns, close_edges=close_edges)

    def series(self) -> dict[SeriesKey, float]:
        """Return every series with its cumulative value.

        Raises:
            ValueError: two entities became one series, as with a dimension called ``le``.
        """
        pairs = [pair for metric in self._metrics for pair in metric.series()]
        if len(dict(pairs)) != len(pairs):
            raise ValueError("two entities share a series")
        return dict(pairs)

    def exemplars(self) -> dict[SeriesKey, tuple[str, float]]:
        """Return trace id and value in seconds per bucket series, since the last :meth:`collect`."""
        histograms = [metric for metric in self._metrics if isinstance(metric, ClassicHistogram)]
        return dict(pair for histogram in histograms for pair in histogram.exemplars())

    def collect(self) -> Collection:
        """Return the series and the exemplars, and start a new collection interval."""
        collection = Collection(self.series(), self.exemplars())
        for metric in self._metrics:
            if isinstance(metric, ClassicHistogram):
                metric.collected()
        return collection

    @staticmethod
    def _spans(group: Any) -> Iterator[Any]:
        for scope in group.scope_spans:
            yield from scope.spans

    def _is_accepted(self, span: Any, now_ns: int) -> bool:
        """Count a span as received, and as set aside if it is: bad ids first, then the slack (§5.3)."""
        self.received_spans += 1
        if self._strict_ids and (len(span.trace_id) != 16 or not any(span.trace_id)):
            self.rejected["invalid_trace_id"] += 1
            return False
        if self._strict_ids and (len(span.span_id) != 8 or not any(span.span_id)):
            self.rejected["invalid_span_id"] += 1
            return False
        if abs(int(span.end_time_unix_nano) - now_ns) > self._slack_ns:
            self._outside_slack += 1
            return False
        return True
