"""The last hour of every tenant that sends, in a few numbers: for rates and charts. In memory, and bounded.

Counters of a process begin at zero when it restarts, and a process is heard of twice before it counts, so a rate is
never more than was really sent.
"""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Final

from tenants.control.figures import TenantFigures
from tenants.control.growth import Counts, grown

MAX_TENANTS: Final = 2000
"""Tenants that are remembered; of those beyond it nothing is, until others have been silent for an hour: 40 MiB."""

MAX_POINTS: Final = 360
_SPACING_MS: Final = 9_000
"""Readings closer than this to the one before are passed over: the hour is one of a reading every ten seconds, and who
reads more often must not shorten it."""

_RATE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of a tenant; rates are those since the moment before.

    Attributes:
        at_ms: when.
        spans: received, a second.
        bytes: of them, a second.
        discarded: spans that gateways discarded or refused, a second.
        samples: that endpoints took, a second.
        active_series: now.
        series_demand: estimate of the series there would be without limits.
    """

    at_ms: int
    spans: float
    bytes: float
    discarded: float
    samples: float
    active_series: int
    series_demand: int


class Timeline:
    """Remembers readings. One event loop owns it.

    Attributes:
        left_out: tenants of the last reading that there was no room for.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.left_out = 0
        self._clock_ms = clock_ms
        self._read_at_ms: int | None = None
        self._last: dict[str, dict[str, Counts]] = {}
        # Flat: as objects they would take ten times as much.
        self._points: dict[str, array[float]] = {}

    def __len__(self) -> int:
        """How many tenants are remembered."""
        return len(self._points)

    def add(self, by_process: Mapping[str, Mapping[str, TenantFigures]]) -> None:
        """Remember what all processes counted by now."""
        now_ms = self._clock_ms()
        if self._read_at_ms is not None and now_ms - self._read_at_ms < _SPACING_MS:
            return
        latter = {process: {name: _counted(own) for name, own in of.items()} for process, of in by_process.items()}
        seconds = (now_ms - (self._read_at_ms or now_ms)) / 1000
        former, self._last, self._read_at_ms = self._last, latter, now_ms
        growth = grown(former, latter)
        series: dict[str, tuple[int, int]] = {}
        for figures in by_process.values():
            for tenant, own in figures.items():
                if own.active_series or own.series_demand:
                    active, demand = series.get(tenant, (0, 0))
                    series[tenant] = (active + own.active_series, demand + own.series_demand)
        if seconds <= 0:
            return
        self.left_out = 0
        for tenant in sorted(self._points.keys() | growth.keys() | series.keys()):
            if tenant.startswith("__"):
                continue
            points = self._points.get(tenant)
            if points is None:
                if len(self._points) >= MAX_TENANTS:
                    self.left_out += 1
                    continue
                points = self._points[tenant] = array("d")
            spans, size, discarded, samples = (count / seconds for count in growth.get(tenant, (0, 0, 0, 0)))
            points.extend(astuple(Point(now_ms, spans, size, discarded, samples, *series.get(tenant, (0, 0)))))
            del points[: max(0, len(points) - MAX_POINTS * _FIELDS)]
        for tenant in [name for name, points in self._points.items() if _is_silent(points)]:
            del self._points[tenant]

    def points(self, tenant: str) -> tuple[Point, ...]:
        """Return what is remembered of a tenant, oldest first."""
        points = self._points.get(tenant, array("d"))
        return tuple(_point(points, at) for at in range(0, len(points), _FIELDS))

    def rate(self, tenant: str) -> Point | None:
        """Return the mean of the last minute, and the series of its end; None: nothing is remembered."""
        points = self._points.get(tenant)
        if not points:
            return None
        last = _point(points, len(points) - _FIELDS)
        recent = [last]
        for at in range(len(points) - 2 * _FIELDS, -1, -_FIELDS):
            point = _point(points, at)
            if last.at_ms - point.at_ms >= _RATE_MS:
                break
            recent.append(point)
        count = len(recent)
        return Point(
            last.at_ms,
            sum(point.spans for point in recent) / count,
            sum(point.bytes for point in recent) / count,
            sum(point.discarded for point in recent) / count,
            sum(point.samples for point in recent) / count,
            last.active_series,
            last.series_demand,
        )


_FIELDS: Final = len(fields(Point))


def _point(points: "array[float]", at: int) -> Point:
    moment, spans, size, discarded, samples, series, demand = points[at : at + _FIELDS]
    return Point(int(moment), spans, size, discarded, samples, int(series), int(demand))


def _counted(figures: TenantFigures) -> Counts:
    return figures.spans, figures.bytes, sum(figures.discarded.values()), figures.samples_sent


def _is_silent(points: "array[float]") -> bool:
    if len(points) < MAX_POINTS * _FIELDS:
        return False
    # All but when it was.
    return not any(value for place, value in enumerate(points) if place % _FIELDS)
