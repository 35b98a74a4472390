"""A brute-force model of the processors, to compare the engine with.

Plain and slow: it says what the right series are and nothing about how to get them fast. It knows one tenant,
one shard and no clock; times are passed in. The rules are in the modules ``tests.reference_*``, one per part of the
contract; this module puts spans in and takes series out.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from tests import otlp_raw
from tests.reference_attributes import cut_attributes
from tests.reference_histograms import Histogram
from tests.reference_host_info import HostInfo
from tests.reference_metrics import SeriesKey, series_key
from tests.reference_native import NativeHistogram
from tests.reference_registry import Registry
from tests.reference_service_graphs import ServiceGraphs
from tests.reference_span_metrics import SpanMetrics
from tests.reference_spans import Batch, nanoseconds


@dataclass(frozen=True, slots=True)
class Collection:
    """What one collection reports, by series: cumulative values, (trace id, seconds) of its exemplars, histograms.

    Exemplars of a series are in the order of their values, those of a classic bucket a list of one.
    """

    series: dict[SeriesKey, float]
    exemplars: dict[SeriesKey, list[tuple[str, float]]]
    histograms: dict[SeriesKey, NativeHistogram]


class ReferenceModel:
    """All processors of one tenant: spans go in by :meth:`push` and count at :meth:`flush`.

    The argument is the plan as ``tenants.processing.plan.plan_json`` writes it, read back into a dictionary.
    With ``strict_ids`` spans whose ids are not OTLP's are rejected before anything else looks at them.

    Raises:
        RefusedPlanError: the plan cannot be carried out.
    """

    def __init__(self, plan: dict[str, Any], *, strict_ids: bool = False) -> None:
        self.registry = Registry(plan)
        self._slack_ns = nanoseconds(plan["ingestion_time_range_slack_s"])
        self._max_attribute_bytes: int = plan["max_attribute_bytes"]
        self._strict_ids = strict_ids
        self._span_metrics = SpanMetrics(plan, self.registry) if plan["span_metrics"] else None
        self._service_graphs = ServiceGraphs(plan, self.registry) if plan["service_graphs"] else None
        self._host_info = HostInfo(plan, self.registry) if plan["host_info"] else None
        if self._span_metrics:
            self.registry.register(self._span_metrics.group)
        if self._service_graphs:
            self.registry.register(self._service_graphs.group)
        if self._span_metrics:
            self.registry.register(self._span_metrics.target_info_group)
        if self._host_info:
            self.registry.register(self._host_info.group)
        self.received_spans = 0
        self.rejected: Tally[str] = Tally()
        self.attributes_truncated: Tally[str] = Tally()
        self.ignored_multipliers = 0
        self.skipped_processor_pushes = 0
        self._outside_slack = 0

    @property
    def discarded(self) -> dict[tuple[str, str], int]:
        """What was set aside at the door, by stage and reason (processors §5.5)."""
        counts = {("gateway", "outside_metrics_ingestion_slack"): self._outside_slack}
        if self._span_metrics:
            counts["span_metrics", "span_metrics_filtered"] = self._span_metrics.filtered
            counts["span_metrics", "invalid_utf8"] = self._span_metrics.invalid_utf8
        if self._service_graphs:
            counts["service_graphs", "service_graphs_filtered"] = self._service_graphs.filtered
        if self._host_info:
            counts["host_info", "invalid_utf8"] = self._host_info.invalid_utf8
        return {reason: count for reason, count in counts.items() if count}

    @property
    def generated(self) -> int:
        """Spans that are in the series of span metrics."""
        return self._span_metrics.generated if self._span_metrics else 0

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

    @property
    def dropped_edges(self) -> int:
        """Edges given up because one of their sides is filtered (processors §2.5)."""
        return self._service_graphs.dropped_edges if self._service_graphs else 0

    @property
    def dropped_span_side_cache_overflow(self) -> int:
        """Filtered spans for which there was no room to remember them (processors §2.5)."""
        return self._service_graphs.dropped_span_side_cache_overflow if self._service_graphs else 0

    def push(self, request: Message | bytes, now_ns: int, *, skip_generation: bool = False) -> None:
        """Take one ExportTraceServiceRequest that arrives at ``now_ns``.

        Its attributes are cut first, whatever becomes of them (tenancy §4.5). With ``skip_generation`` its spans are
        received, rejected and set aside as ever, and no processor sees them
        (processors §5.2).
        """
        parsed = otlp_raw.parse(request)
        self.attributes_truncated += cut_attributes(parsed, self._max_attribute_bytes)
        batches = [
            Batch(group.resource, [span for span in self._spans(group) if self._is_accepted(span, now_ns)])
            for group in parsed.resource_spans
        ]
        if skip_generation:
            self.skipped_processor_pushes += sum(
                processor is not None for processor in (self._span_metrics, self._service_graphs, self._host_info)
            )
            return
        ignored: set[int] = set()
        if self._span_metrics:
            self._span_metrics.push(batches, ignored)
        if self._service_graphs:
            self._service_graphs.push(batches, now_ns, ignored)
        if self._host_info:
            self._host_info.push(batches)
        self.ignored_multipliers += len(ignored)

    def flush(self, now_ns: int, *, close_edges: bool = False) -> None:
        """Expire the half edges that have waited their time at ``now_ns``, or all; then count what was pushed."""
        if self._service_graphs:
            self._service_graphs.flush(now_ns, close_edges=close_edges)
        self.registry.merge(now_ns)

    def series(self) -> dict[SeriesKey, float]:
        """Return every series with its cumulative value.

        Raises:
            ValueError: two entities became one series.
        """
        pairs = list(self.registry.series())
        if len(dict(pairs)) != len(pairs):
            raise ValueError("two entities share a series")
        return dict(pairs)

    def exemplars(self) -> dict[SeriesKey, list[tuple[str, float]]]:
        """Return trace id and value in seconds per series, since the last :meth:`collect`."""
        return dict(pair for histogram in self._histograms() for pair in histogram.exemplars())

    def counter_exemplars(self) -> dict[SeriesKey, list[tuple[str, float]]]:
        """Return the best exemplar of the first latency beside each counter, for failures only a failed one."""
        found: dict[SeriesKey, list[tuple[str, float]]] = {}
        for processor in filter(None, (self._span_metrics, self._service_graphs)):
            for counter, histogram, failures_only in processor.exemplified:
                for entity in counter.values:
                    best = histogram.best_exemplar(entity)
                    if best and (best.failed or not failures_only):
                        found[series_key(entity, counter.name)] = [best.sent]
        return found

    def collect(self, *, counter_exemplars: bool = False) -> Collection:
        """Return the series and the exemplars, and start a new collection interval."""
        native = dict(pair for histogram in self._histograms() for pair in histogram.histograms())
        exemplars = self.exemplars() | (self.counter_exemplars() if counter_exemplars else {})
        collection = Collection(self.series(), exemplars, native)
        for histogram in self._histograms():
            histogram.collected()
        return collection

    def _histograms(self) -> Iterator[Histogram]:
        for metric in self.registry.metrics:
            if isinstance(metric, Histogram):
                yield metric

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
