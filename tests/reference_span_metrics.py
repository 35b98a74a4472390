"""The reference model's span-metrics processor (processors §1)."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.reference_filters import Filters
from tests.reference_histograms import Histogram, Observation
from tests.reference_labels import INTRINSIC_LABELS, Entity, LabelLimits, find, sanitize_protected
from tests.reference_metrics import Counter, Gauge
from tests.reference_multiplier import Multiplier
from tests.reference_plan import check_span_metrics
from tests.reference_registry import Group, Registry
from tests.reference_spans import Batch, duration_ns, enum_text, is_error
from tests.reference_target_info import target_info, target_labels


class SpanMetrics:
    """The span-metrics processor."""

    def __init__(self, plan: dict[str, Any], registry: Registry) -> None:
        self._settings = settings = plan["span_metrics"]
        check_span_metrics(settings)
        self._limits = LabelLimits.of(plan)
        self._filters = Filters(settings["filter_policies"], strict_types=settings["enable_strict_filter_types"])
        self._multiplier = Multiplier(settings)
        self._calls = Counter("traces_spanmetrics_calls_total", registry.limiter)
        self._latency = Histogram(
            "traces_spanmetrics_latency",
            settings["histogram_buckets"],
            plan["histograms"],
            registry.limiter,
            is_weighted=self._multiplier.is_active,
        )
        self._size = Counter("traces_spanmetrics_size_total", registry.limiter)
        self._target_info = Gauge("traces_target_info", registry.limiter)
        self.group = Group(self._calls, self._latency, self._size)
        self.target_info_group = Group(self._target_info, is_info=True)
        self.exemplified = [(self._calls, self._latency, False)]
        self.filtered = 0
        self.invalid_utf8 = 0
        self.generated = 0

    def push(self, batches: list[Batch], ignored: set[int]) -> None:
        """Count every span once per metric, as filtered, or as invalid UTF-8 (processors §1.2).

        ``ignored`` takes the identity of spans whose multiplier cannot be used.
        """
        for batch in batches:
            accepted = 0
            for span in batch.spans:
                if not self._filters.accepts(span, batch.resource):
                    self.filtered += 1
                    continue
                weight = self._multiplier.weight(span, batch.resource)
                if weight is None:
                    ignored.add(id(span))
                entity = self._label_set(self._labels(batch.resource, span))
                if entity is None:
                    self.invalid_utf8 += 1
                else:
                    self._count(entity, span, Fraction(1) if weight is None else weight)
                    accepted += 1
            self.generated += accepted
            if accepted:
                self._describe(batch.resource, accepted)

    def _label_set(self, labels: Iterator[tuple[str, bytes]]) -> Entity | None:
        return self._limits.label_set(labels, keep_colliding=self._settings["keep_colliding_dimensions"])

    def _labels(self, resource: Any, span: Any) -> Iterator[tuple[str, bytes]]:
        """Yield the labels in the order of processors §1.3."""
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

        def attribute(key: str) -> bytes:
            return find(key, resource.attributes, span.attributes) or b""

        for dimension in self._settings["dimensions"]:
            yield sanitize_protected(dimension, INTRINSIC_LABELS), attribute(dimension)
        for mapping in self._settings["dimension_mappings"]:
            joined = mapping["join"].encode().join(filter(None, map(attribute, mapping["source_labels"])))
            yield sanitize_protected(mapping["name"], INTRINSIC_LABELS), joined
        yield from target_labels(resource, self._settings)

    def _count(self, entity: Entity, span: Any, weight: Fraction) -> None:
        if self._settings["count"]:
            self.group.add(entity, self._calls, weight)
        if self._settings["latency"]:
            observation = Observation(duration_ns(span), span.trace_id, is_error(span), weight)
            self.group.add(entity, self._latency, observation)
        if self._settings["size"]:
            self.group.add(entity, self._size, span.ByteSize())  # not multiplied (Q7)

    def _describe(self, resource: Any, accepted: int) -> None:
        """Report the resource of ``accepted`` spans once, or each of them as invalid UTF-8 (processors §1.6)."""
        labels = target_info(resource, self._settings, self._limits)
        if labels is None:
            return
        entity = self._limits.label_set(labels)
        if entity is None:
            self.invalid_utf8 += accepted
        else:
            self.target_info_group.add(entity, self._target_info, 1)
