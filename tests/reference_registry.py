"""The reference model's registry: merges what was counted, limits series, and reports values (processors §4).

What processors count waits in groups until a merge, as in a shard's record: span metrics, service graphs,
target_info, host-info, in this order. A merge takes every label set through DRAIN, the limit of values per label and
the limit of series, in the order of first sight. Values are exact: integers and fractions, converted once. Time plays
no other part: zero samples, staleness and changing plans are not modelled.
"""

from collections.abc import Iterator
from typing import Any

from tests.reference_drain import Drain
from tests.reference_label_limiter import LabelLimiter
from tests.reference_labels import Entity
from tests.reference_metrics import Limiter, Metric, SeriesKey


class Group:
    """Metrics that share their label sets, and what was counted in them since the last merge."""

    def __init__(self, *metrics: Metric, is_info: bool = False) -> None:
        self.metrics = metrics
        self.is_info = is_info
        self._pending: dict[Entity, list[list[Any]]] = {}

    def add(self, entity: Entity, metric: Metric, update: Any) -> None:
        """Count one update of an entity."""
        updates = self._pending.setdefault(entity, [[] for _ in self.metrics])
        updates[self.metrics.index(metric)].append(update)

    def take(self) -> list[tuple[Entity, list[list[Any]]]]:
        """Return every entity with its updates, metric by metric, and begin anew."""
        taken = list(self._pending.items())
        self._pending.clear()
        return taken


class Registry:
    """All series of one tenant."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.limiter = Limiter(plan)
        self._drain = Drain(plan["span_name_sanitization"], plan["max_label_value_length"])
        self._labels = LabelLimiter(plan["max_cardinality_per_label"], plan["stale_duration_s"])
        self._groups: list[Group] = []

    def register(self, *groups: Group) -> None:
        """Know groups, in the order in which they are merged."""
        self._groups += groups

    @property
    def metrics(self) -> list[Metric]:
        """Every metric of every group."""
        return [metric for group in self._groups for metric in group.metrics]

    def merge(self, now_ns: int) -> None:
        """Add what was counted since the last merge; an entity that meets a limit meets it once per metric."""
        for group in self._groups:
            for entity, updates in group.take():
                shown = entity if group.is_info else self._labels.apply(self._drain.apply(entity), now_ns)
                for metric, of_metric in zip(group.metrics, updates, strict=True):
                    if of_metric:
                        metric.merge(shown, of_metric)

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        """Yield every series with its cumulative value."""
        for metric in self.metrics:
            yield from metric.series()

    def stats(self) -> dict[str, int]:
        """Return the totals that follow from label sets alone, named as the engine's."""
        offered = {entity for metric in self.metrics for entity in metric.offered}
        overflowed = any(metric.has_overflow for metric in self.metrics)
        return {
            **self.limiter.stats(),
            **self._drain.stats(),
            "active_series_demand_estimate": sum(len(metric.offered) * metric.cost for metric in self.metrics),
            "entity_demand_estimate": len(offered) + overflowed,
        }

    def label_stats(self) -> dict[str, tuple[int, int]]:
        """Return (values limited, values seen in the window at the last check) per label that was ever tracked."""
        return self._labels.stats()

    def drain_tokens(self) -> tuple[int, int]:
        """Return how many names DRAIN accepted, and their tokens."""
        return self._drain.lines, self._drain.tokens
