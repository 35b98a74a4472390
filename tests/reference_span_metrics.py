"""The reference model's span-metrics processor (processors §1).

Not modelled, as the plan has no words for them yet: target_info, filters, multipliers, dimension mappings.
"""

from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.reference_labels import Entity, find, label_set, sanitize_protected
from tests.reference_registry import ClassicHistogram, Counter, SeriesLimiter
from tests.reference_spans import Batch, duration_ns, enum_text, is_error

INTRINSIC_LABELS = frozenset({"service", "span_name", "span_kind", "status_code", "status_message"})


class SpanMetrics:
    """The span-metrics processor (processors §1)."""

    def __init__(self, plan: dict[str, Any], limiter: SeriesLimiter) -> None:
        self._plan = plan
        self._settings = settings = plan["span_metrics"]
        bounds = settings["histogram_buckets"]
        self._calls = Counter("traces_spanmetrics_calls_total", limiter)
        self._latency = ClassicHistogram("traces_spanmetrics_latency", bounds, limiter)
        self._size = Counter("traces_spanmetrics_size_total", limiter)
        self.metrics = (self._calls, self._latency, self._size)
        self.invalid_utf8 = 0

    def push(self, batches: list[Batch]) -> None:
        """Count every span once per metric, or as invalid UTF-8 (processors §1.2)."""
        for batch in batches:
            for span in batch.spans:
                labels = self._labels(batch.resource, span)
                entity = label_set(labels, self._plan["max_label_name_length"], self._plan["max_label_value_length"])
                if entity is None:
                    self.invalid_utf8 += 1
                else:
                    self._count(entity, span)

    def _labels(self, resource: Any, span: Any) -> Iterator[tuple[str, bytes]]:
        intrinsic = {
            "service": find("service.name", resource.attributes) or b"",
            "span_name": span.name,
            "span_kind": enum_text(Span.SpanKind, span.kind),
            "status_code": enum_text(Status.StatusCode, span.status.code),
            "status_message": span.status.message,
        }
        for label, value in intrinsic.items():
            if self._settings["intrinsic_dimensions"][label]:
                yield label, value
        for dimension in self._settings["dimensions"]:
            value = find(dimension, resource.attributes, span.attributes) or b""
            yield sanitize_protected(dimension, INTRINSIC_LABELS), value

    def _count(self, entity: Entity, span: Any) -> None:
        if self._settings["count"]:
            self._calls.add(entity, 1)
        if self._settings["latency"]:
            self._latency.observe(entity, duration_ns(span), span.trace_id, failed=is_error(span))
        if self._settings["size"]:
            self._size.add(entity, span.ByteSize())
