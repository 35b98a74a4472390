"""The reference model's metrics: counters, classic histograms and the series limit (processors §4.3, §4.7).

Values are exact: counts and nanoseconds are integers, and a sum is divided by 1e9 once, so neither the order
of observations nor the number of shards shows in it. Time plays no part: zero samples and staleness belong to
whoever collects.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.reference_labels import Entity, double_text, trace_id_text

SeriesKey = frozenset[tuple[str, str]]
"""All labels of one series, ``__name__`` and ``le`` included."""

OVERFLOW: Entity = (("metric_overflow", "true"),)


def seconds(duration_ns: int) -> float:
    """Return nanoseconds as seconds: to float64 first, then one division (processors §0.9, §1.4)."""
    return float(duration_ns) / 1e9


def series_key(entity: Entity, metric: str, **extra: str) -> SeriesKey:
    """Return the series of an entity in a metric; the metric name and ``le`` win (processors §4.5)."""
    return frozenset((dict(entity) | {"__name__": metric} | extra).items())


class SeriesLimiter:
    """A tenant's ``max_active_series`` (processors §4.7): 0 is unlimited."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.active = 0

    def admit(self, cost: int) -> bool:
        """Take ``cost`` series if they still fit."""
        if self._limit and self.active + cost > self._limit:
            return False
        self.active += cost
        return True


class Counter:
    """A counter per entity."""

    def __init__(self, name: str, limiter: SeriesLimiter) -> None:
        self._name = name
        self._limiter = limiter
        self._values: dict[Entity, int] = {}

    def add(self, entity: Entity, amount: int) -> None:
        """Add to the entity's counter, or to the overflow entity's if there is no room for a new one."""
        if entity not in self._values and not self._limiter.admit(1):
            entity = OVERFLOW
        self._values[entity] = self._values.get(entity, 0) + amount

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        """Yield every series with its cumulative value."""
        for entity, value in self._values.items():
            yield series_key(entity, self._name), float(value)


@dataclass(frozen=True, order=True, slots=True)
class Exemplar:
    """One observation that may represent its bucket; the greatest one does: failed, then slow, then by id."""

    failed: bool
    value_ns: int
    trace_id: int


@dataclass(slots=True)
class _Buckets:
    """Observations of one entity, by the smallest bucket that holds them."""

    counts: list[int]
    sum_ns: int = 0
    exemplars: dict[int, Exemplar] = field(default_factory=dict)


class ClassicHistogram:
    """A classic histogram per entity: ``_bucket``, ``_count`` and ``_sum`` (processors §4.3)."""

    def __init__(self, name: str, bounds: Sequence[float], limiter: SeriesLimiter) -> None:
        self._name = name
        self._bounds = [*sorted(bounds), float("inf")]
        self._limiter = limiter
        self._entities: dict[Entity, _Buckets] = {}

    def observe(self, entity: Entity, value_ns: int, trace_id: bytes, *, failed: bool) -> None:
        """Count one observation; an all-zero trace id leaves the bucket's exemplar as it is."""
        if entity not in self._entities and not self._limiter.admit(2 + len(self._bounds)):
            entity = OVERFLOW
        buckets = self._entities.setdefault(entity, _Buckets([0] * len(self._bounds)))
        index = bisect_left(self._bounds, seconds(value_ns))
        buckets.counts[index] += 1
        buckets.sum_ns += value_ns
        candidate = Exemplar(failed, value_ns, int.from_bytes(trace_id, "big"))
        if candidate.trace_id:
            buckets.exemplars[index] = max(candidate, buckets.exemplars.get(index, candidate))

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        """Yield every series with its cumulative value."""
        for entity, buckets in self._entities.items():
            for index, bound in enumerate(self._bounds):
                key = series_key(entity, f"{self._name}_bucket", le=double_text(bound))
                yield key, float(sum(buckets.counts[: index + 1]))
            yield series_key(entity, f"{self._name}_count"), float(sum(buckets.counts))
            yield series_key(entity, f"{self._name}_sum"), seconds(buckets.sum_ns)

    def exemplars(self) -> Iterator[tuple[SeriesKey, tuple[str, float]]]:
        """Yield trace id and value in seconds of each bucket's exemplar since the last :meth:`collected`."""
        for entity, buckets in self._entities.items():
            for index, exemplar in buckets.exemplars.items():
                key = series_key(entity, f"{self._name}_bucket", le=double_text(self._bounds[index]))
                trace_id = trace_id_text(exemplar.trace_id.to_bytes(16, "big"))
                yield key, (trace_id, seconds(exemplar.value_ns))

    def collected(self) -> None:
        """Forget the exemplars: each is sent once."""
        for buckets in self._entities.values():
            buckets.exemplars.clear()
