"""The reference model's counters and gauges, and the limit of series or entities (processors §4.2, §4.7)."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Generic, TypeVar

from tests.reference_labels import Entity

SeriesKey = frozenset[tuple[str, str]]
"""All labels of one series, ``__name__`` and ``le`` included."""

OVERFLOW: Entity = (("metric_overflow", "true"),)


def seconds(duration_ns: int) -> float:
    """Return nanoseconds as seconds: to float64 first, then one division (processors §0.9, §1.4)."""
    return float(duration_ns) / 1e9


def series_key(entity: Entity, metric: str, **extra: str) -> SeriesKey:
    """Return the series of an entity in a metric; the metric name and ``le`` win (processors §4.5)."""
    return frozenset((dict(entity) | {"__name__": metric} | extra).items())


class Limiter:
    """A tenant's one limit: ``max_active_series`` or ``max_active_entities``, 0 is unlimited (processors §4.7)."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._counts_entities = plan["limiter_type"] == "entity"
        self._limit: int = plan["max_active_entities" if self._counts_entities else "max_active_series"]
        self._entities: set[Entity] = set()
        self._series = 0
        self._limited = 0

    def admit(self, entity: Entity, series: int) -> bool:
        """Take an entity that is new in a metric, where it costs so many series, if it still fits."""
        if self._counts_entities:
            if entity not in self._entities and self._limit and len(self._entities) >= self._limit:
                self._limited += 1
                return False
        elif self._limit and self._series + series > self._limit:
            self._limited += series
            return False
        self._entities.add(entity)
        self._series += series
        return True

    def stats(self) -> dict[str, int]:
        """Return what is active, was added and was limited; nothing is ever removed here."""
        unit, active = ("entities", len(self._entities)) if self._counts_entities else ("series", self._series)
        return {f"active_{unit}": active, f"{unit}_added": active, f"{unit}_limited": self._limited}


Value = TypeVar("Value")


class Metric(Generic[Value]):
    """A metric: one value per entity."""

    cost = 1
    """How many series an entity has."""

    def __init__(self, name: str, limiter: Limiter) -> None:
        self.name = name
        self.offered: set[Entity] = set()
        self.values: dict[Entity, Value] = {}
        self._limiter = limiter

    @property
    def has_overflow(self) -> bool:
        """Whether an entity found no room."""
        return OVERFLOW in self.values

    def merge(self, entity: Entity, updates: Sequence[Any]) -> None:
        """Apply updates to the entity, or to the overflow entity if there is no room for a new one."""
        self.offered.add(entity)
        if entity not in self.values and not self._limiter.admit(entity, self.cost):
            entity = OVERFLOW
        for update in updates:
            self.values[entity] = self._updated(self.values.get(entity), update)

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        """Yield every series with its value."""
        raise NotImplementedError

    def _updated(self, value: Value | None, update: Any) -> Value:
        raise NotImplementedError


class Counter(Metric[Fraction]):
    """A counter: updates are amounts."""

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        for entity, value in self.values.items():
            yield series_key(entity, self.name), float(value)

    def _updated(self, value: Fraction | None, update: Fraction | int) -> Fraction:
        return (value or Fraction(0)) + update


class Gauge(Metric[float]):
    """A gauge that is 1 for every entity there is; updates are 1."""

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        for entity in self.values:
            yield series_key(entity, self.name), 1.0

    def _updated(self, value: float | None, update: float) -> float:
        return update
