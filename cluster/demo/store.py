"""The last minutes of a remote-write stream, in memory, and the aggregate reads that the view needs of it.

Bounded by :data:`MAX_SERIES`, :data:`MAX_SAMPLES` a series and :data:`RETENTION_S`. At the bound a new series
is not stored and the writer is told so; known ones go on. This is no database: no query language, nothing on
disk.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from cluster.demo.readings import EXEMPLAR_LABEL, TENANT_LABEL, Exemplar, Rates
from cluster.demo.write_request import TimeSeries

MAX_SERIES = 50_000
MAX_SAMPLES = 64
MAX_EXEMPLARS = 500
RETENTION_S = 180

_SWEEP_MS = 10_000


@dataclass(slots=True)
class _Series:
    labels: dict[str, str]
    points: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))

    def increase_since(self, begin_ms: int) -> tuple[float, int, int] | None:
        """Return growth with counter resets healed, first and last time; None with fewer than two points."""
        points = [point for point in self.points if point[0] >= begin_ms]
        if len(points) < 2:
            return None
        growth = sum(after - before if after >= before else after for (_, before), (_, after) in pairwise(points))
        return growth, points[0][0], points[-1][0]


class SeriesStore:
    """Keeps what is written to it, for :data:`RETENTION_S`. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[bytes, _Series] = {}
        self._metrics: dict[tuple[str, str], dict[bytes, _Series]] = {}
        self._exemplars: dict[tuple[str, str], deque[Exemplar]] = {}
        self._swept_at_ms = 0

    def write(self, batch: list[TimeSeries], now_ms: int) -> int:
        """Store one message. Returns how many series were left out for the bound.

        A sample that is not newer than the last of its series changes nothing, so a repeated message is
        harmless. A stale marker ends its series.

        Raises:
            MalformedWriteError: a label cannot be read; the series before it have been stored.
        """
        with self._lock:
            if now_ms - self._swept_at_ms >= _SWEEP_MS:
                self._sweep(now_ms)
            return sum(not self._write_one(written) for written in batch)

    def rates(self, tenant: str, metric: str, by: tuple[str, ...], window_s: float, now_ms: int) -> Rates:
        """Return increase per second by label values, see :class:`~cluster.demo.readings.Receiver`.

        The divisor is the time that the samples of the whole metric cover, so the first seconds are not read
        as a slow start, and a series with one late increment not as a fast one.
        """
        begin_ms = now_ms - int(window_s * 1000)
        sums: dict[tuple[str, ...], float] = {}
        first_ms, last_ms = now_ms, begin_ms
        with self._lock:
            for series in self._metrics.get((tenant, metric), {}).values():
                increase = series.increase_since(begin_ms)
                if increase is None:
                    continue
                growth, series_first_ms, series_last_ms = increase
                first_ms, last_ms = min(first_ms, series_first_ms), max(last_ms, series_last_ms)
                key = tuple(series.labels.get(name, "") for name in by)
                sums[key] = sums.get(key, 0.0) + growth
        covered_s = (last_ms - first_ms) / 1000
        return {key: growth / covered_s for key, growth in sums.items()} if covered_s > 0 else {}

    def total(self, tenant: str, metric: str) -> float:
        """Return the newest values of the metric's series, added up."""
        with self._lock:
            group = self._metrics.get((tenant, metric), {})
            return sum(series.points[-1][1] for series in group.values() if series.points)

    def exemplars(self, tenant: str, metric: str, since_ms: int) -> list[Exemplar]:
        """Return the exemplars at or after ``since_ms``; the newest :data:`MAX_EXEMPLARS` are kept."""
        with self._lock:
            kept = self._exemplars.get((tenant, metric), ())
            return [exemplar for exemplar in kept if exemplar.timestamp_ms >= since_ms]

    def newest(self) -> list[tuple[dict[str, str], float]]:
        """Return labels and newest value of every series."""
        with self._lock:
            return [(series.labels, series.points[-1][1]) for series in self._series.values() if series.points]

    def _write_one(self, written: TimeSeries) -> bool:
        series = self._series.get(written.identity)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                return False
            series = _Series(written.labels())
            self._series[written.identity] = series
            self._metrics.setdefault(_group(series), {})[written.identity] = series
        for sample in written.samples:
            if sample.is_stale:
                self._forget(written.identity)
                return True
            if not series.points or sample.timestamp_ms > series.points[-1][0]:
                series.points.append((sample.timestamp_ms, sample.value))
        for exemplar in written.exemplars:
            trace_id = exemplar.labels.get(EXEMPLAR_LABEL)
            if trace_id:
                kept = self._exemplars.setdefault(_group(series), deque(maxlen=MAX_EXEMPLARS))
                kept.append(Exemplar(series.labels, trace_id, exemplar.value, exemplar.timestamp_ms))
        return True

    def _sweep(self, now_ms: int) -> None:
        self._swept_at_ms = now_ms
        begin_ms = now_ms - RETENTION_S * 1000
        for identity, series in list(self._series.items()):
            if not series.points or series.points[-1][0] < begin_ms:
                self._forget(identity)

    def _forget(self, identity: bytes) -> None:
        series = self._series.pop(identity)
        group = self._metrics[_group(series)]
        del group[identity]
        if not group:
            del self._metrics[_group(series)]
            self._exemplars.pop(_group(series), None)


def _group(series: _Series) -> tuple[str, str]:
    return series.labels.get(TENANT_LABEL, ""), series.labels.get("__name__", "")
