"""The reference model's histograms: classic, native or both, and their exemplars (processors §4.3, §4.4).

Sums are whole multiples of 2^-20 ns, so that neither order nor number of shards shows in them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.reference_labels import Entity, double_text, trace_id_text
from tests.reference_metrics import Limiter, Metric, SeriesKey, seconds, series_key
from tests.reference_native import NativeHistogram, native_histogram

SUM_UNITS_PER_NS = 2**20
MAX_OBSERVED = 2**120
MAX_NATIVE_EXEMPLARS = 10


@dataclass(frozen=True, slots=True)
class Observation:
    """One duration, how much it counts, and the trace that it belongs to."""

    value_ns: int
    trace_id: bytes
    failed: bool
    weight: Fraction = Fraction(1)

    @property
    def seconds(self) -> float:
        """The observed value."""
        return seconds(self.value_ns)

    @property
    def sum_units(self) -> int:
        """What it adds to the sum: the product, rounded half up, in units of 2^-20 ns, and bounded."""
        product = self.value_ns * self.weight * SUM_UNITS_PER_NS
        return min(int(product + Fraction(1, 2)), MAX_OBSERVED)


@dataclass(frozen=True, order=True, slots=True)
class Exemplar:
    """One observation that may stand for others; the greatest one does: failed, then slow, then by trace id."""

    failed: bool
    value_ns: int
    trace_id: int

    @property
    def sent(self) -> tuple[str, float]:
        """The trace id as text, and the value in seconds."""
        return trace_id_text(self.trace_id.to_bytes(16, "big")), seconds(self.value_ns)


@dataclass(slots=True)
class Observed:
    """All observations of one entity: how much weight per duration, and the exemplars of the interval."""

    weights: dict[int, Fraction] = field(default_factory=dict)
    sum_units: int = 0
    interval: list[Exemplar] = field(default_factory=list)

    @property
    def sum(self) -> float:
        """The sum in seconds."""
        return float(self.sum_units) / SUM_UNITS_PER_NS / 1e9


class Histogram(Metric[Observed]):
    """A histogram of durations: updates are observations."""

    def __init__(
        self,
        name: str,
        bounds: Sequence[float],
        form: dict[str, Any],
        limiter: Limiter,
        *,
        is_weighted: bool,
    ) -> None:
        super().__init__(name, limiter)
        self._bounds = [*sorted(bounds), float("inf")]
        self._form = form
        self._is_weighted = is_weighted
        self._is_classic = form["mode"] in ("classic", "both")
        self._is_native = form["mode"] in ("native", "both")
        self.cost = self._is_classic * (2 + len(self._bounds)) + self._is_native  # with Q24

    def series(self) -> Iterator[tuple[SeriesKey, float]]:
        """Yield the series of the classic form."""
        for entity, observed in self.values.items() if self._is_classic else ():
            for bound in self._bounds:
                within = (weight for value, weight in observed.weights.items() if seconds(value) <= bound)
                yield series_key(entity, f"{self.name}_bucket", le=double_text(bound)), float(sum(within))
            yield series_key(entity, f"{self.name}_count"), float(sum(observed.weights.values()))
            yield series_key(entity, f"{self.name}_sum"), observed.sum

    def histograms(self) -> Iterator[tuple[SeriesKey, NativeHistogram]]:
        """Yield the series of the native form."""
        for entity, observed in self.values.items() if self._is_native else ():
            weights = ((seconds(value), weight) for value, weight in observed.weights.items())
            sample = native_histogram(weights, observed.sum, self._form, is_weighted=self._is_weighted)
            yield series_key(entity, self.name), sample

    def exemplars(self) -> Iterator[tuple[SeriesKey, list[tuple[str, float]]]]:
        """Yield (trace id, seconds) of each series that has exemplars since the last :meth:`collected`."""
        for entity, observed in self.values.items():
            best: dict[Any, Exemplar] = {}
            for exemplar in observed.interval:
                place = self._place(exemplar)
                best[place] = max(exemplar, best.get(place, exemplar))
            if self._is_classic:
                for place, exemplar in best.items():
                    yield series_key(entity, f"{self.name}_bucket", le=place), [exemplar.sent]
            elif best:
                kept = sorted(best.values())[-MAX_NATIVE_EXEMPLARS:]
                ascending = sorted(kept, key=lambda exemplar: exemplar.value_ns)
                yield series_key(entity, self.name), [exemplar.sent for exemplar in ascending]

    def best_exemplar(self, entity: Entity) -> Exemplar | None:
        """Return the best exemplar of an entity since the last :meth:`collected`."""
        observed = self.values.get(entity)
        return max(observed.interval, default=None) if observed else None

    def collected(self) -> None:
        """Forget the exemplars: each is sent once."""
        for observed in self.values.values():
            observed.interval.clear()

    def _place(self, exemplar: Exemplar) -> object:
        """Return what one exemplar is kept for: a classic bucket, else a power of two of the nanoseconds."""
        if not self._is_classic:
            return exemplar.value_ns.bit_length()
        return double_text(next(bound for bound in self._bounds if seconds(exemplar.value_ns) <= bound))

    def _updated(self, value: Observed | None, update: Observation) -> Observed:
        observed = value or Observed()
        observed.weights[update.value_ns] = observed.weights.get(update.value_ns, Fraction(0)) + update.weight
        observed.sum_units += update.sum_units
        if any(update.trace_id):  # an observation without trace id leaves the exemplars as they are
            trace_id = int.from_bytes(update.trace_id, "big")
            observed.interval.append(Exemplar(update.failed, update.value_ns, trace_id))
        return observed
