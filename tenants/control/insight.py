"""What a tenant's metrics say, for somebody who looks and has no other tool at hand: RED, edges, cardinality, charts.

Looked at on demand. Of tenants that somebody looks at a few looks are kept, so that there are rates; nothing is kept of
others. It is no substitute for the tenant's own endpoint, which has all of it, for long.
"""

import math
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tenants.control.figures import LookAt
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.timeline import Timeline
from tenants.endpoint.collector_set import TenantLook
from tenants.identity.tenant_id import TenantId
from tenants.processing.registry_view import NOTHING, RegistryView, Row

Json = dict[str, Any]

MAX_WATCHED_BYTES: Final = 50 << 20
"""Of the looks that are kept, about: 32 tenants with the most rows and buckets, or two thousand small ones. Beyond
it a tenant that nobody has looked at before is shown without rates, so that the others keep theirs."""

# Of numbers, labels and their dictionary, about.
_ROW_BYTES: Final = 400
_BUCKET_BYTES: Final = 8

_LOOKS: Final = 4
_SPACING_MS: Final = 20_000
"""So the looks that are kept span about a minute, which rates are of."""

_FRESH_MS: Final = 2_000
"""Nobody makes a collector add up more often than this."""

_WINDOW_MS: Final = 90_000
_CHART_POINTS: Final = 360

_ERROR: Final = "STATUS_CODE_ERROR"
_QUANTILES: Final = (0.5, 0.95, 0.99)
_CHART_FIELDS: Final = (
    *("at_ms", "per_second", "error_share", "mean_s"),
    *(f"p{quantile * 100:.0f}_s" for quantile in _QUANTILES),
)


@dataclass(slots=True)
class _Numbers:
    """Cumulative numbers of one row.

    Attributes:
        calls: in all.
        errors: of them.
        seconds: sum of latencies.
        buckets: observations by bucket.
        bounds: of the buckets, in seconds.
    """

    calls: float = 0.0
    errors: float = 0.0
    seconds: float = 0.0
    buckets: "array[float]" = field(default_factory=lambda: array("d"))
    bounds: Sequence[float] = ()

    def add(
        self, calls: float, errors: float, histogram: tuple[float, Sequence[float]], bounds: Sequence[float]
    ) -> None:
        seconds, buckets = histogram
        self.calls += calls
        self.errors += errors
        self.seconds += seconds
        self.bounds = bounds
        if len(self.buckets) < len(buckets):
            self.buckets.extend([0.0] * (len(buckets) - len(self.buckets)))
        for index, count in enumerate(buckets):
            self.buckets[index] += count

    def since(self, former: "_Numbers | None") -> "_Numbers":
        """Return what came after; all of it where counting began anew, or in other buckets."""
        if former is None or former.calls > self.calls or len(former.buckets) != len(self.buckets):
            return self
        buckets = array("d", (new - old for old, new in zip(former.buckets, self.buckets, strict=True)))
        return _Numbers(
            self.calls - former.calls,
            self.errors - former.errors,
            self.seconds - former.seconds,
            buckets,
            self.bounds,
        )


@dataclass(frozen=True, slots=True)
class _Look:
    at_ms: int
    spans: dict[tuple[str, ...], _Numbers]
    edges: dict[tuple[str, ...], _Numbers]

    @property
    def size_bytes(self) -> int:
        buckets = sum(len(row.buckets) for rows in (self.spans, self.edges) for row in rows.values())
        return (len(self.spans) + len(self.edges)) * _ROW_BYTES + buckets * _BUCKET_BYTES


@dataclass(slots=True)
class _Watched:
    looks: deque[_Look] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    latest: _Look | None = None
    seen: TenantLook = field(default_factory=lambda: TenantLook(NOTHING, None))
    # Flat, and not a number where there is none.
    chart: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def size_bytes(self) -> int:
        """With all looks and points that there will be, so that who is here is not driven out by growing."""
        look_bytes = self.latest.size_bytes if self.latest is not None else 0
        # What was seen takes about as much as what was made of it.
        return (_LOOKS + 2) * look_bytes + _CHART_POINTS * len(_CHART_FIELDS) * self.chart.itemsize


class TenantInsight:
    """Answers about one tenant at a time. One event loop owns it."""

    def __init__(self, look: LookAt, timeline: Timeline, clock_ms: Callable[[], int]) -> None:
        self._look = look
        self._timeline = timeline
        self._clock_ms = clock_ms
        # The one that was looked at last is the last.
        self._watched: dict[str, _Watched] = {}

    def __len__(self) -> int:
        """How many tenants' looks are kept."""
        return len(self._watched)

    async def red(self, tenant: TenantId) -> Json:
        """Return rate, errors and duration by service and span name, those that count most.

        Raises:
            ProblemError: it cannot be told now.
        """
        seen, latest, former = await self._looks(tenant)
        rows: list[Json] = [
            {"service": key[0], "span_name": key[1], "span_kind": key[2].removeprefix("SPAN_KIND_").lower()}
            | _figures(numbers, former.spans.get(key) if former else None, latest, former)
            for key, numbers in latest.spans.items()
        ]
        rows.sort(key=lambda row: (-(row["per_second"] or 0.0), -row["calls"], row["service"], row["span_name"]))
        return {
            "tenant": str(tenant),
            "window_s": _window_s(latest, former),
            "rows": rows,
            "left_out": seen.registry.spans_left_out,
        }

    async def graph(self, tenant: TenantId, service: str = "") -> Json:
        """Return the edges that count most, and the nodes that they connect; with a service, its own edges alone.

        Raises:
            ProblemError: it cannot be told now.
        """
        seen, latest, former = await self._looks(tenant)
        services = {key[0] for key in latest.spans}
        edges, kinds = [], dict.fromkeys(services, "service")
        for key, numbers in latest.edges.items():
            client, server, connection, virtual = key
            for name, kind in _kinds(client, server, connection, virtual, services).items():
                kinds.setdefault(name, kind)
            if service and service not in (client, server):
                continue
            figures = _figures(numbers, former.edges.get(key) if former else None, latest, former)
            edges.append({"client": client, "server": server, "connection_type": connection} | figures)
        shown = {name for edge in edges for name in (edge["client"], edge["server"])}
        return {
            "tenant": str(tenant),
            "window_s": _window_s(latest, former),
            "services": sorted({name for key in latest.edges for name in key[:2]}),
            "nodes": [{"name": name, "kind": kinds.get(name, "service")} for name in sorted(shown)],
            "edges": edges,
            "left_out": seen.registry.edges_left_out,
        }

    async def cardinality(self, tenant: TenantId) -> Json:
        """Return series by metric, and distinct values by label.

        Raises:
            ProblemError: it cannot be told now.
        """
        seen, _, _ = await self._looks(tenant)
        registry = seen.registry
        return {
            "tenant": str(tenant),
            "metrics": [{"metric": name, "series": series} for name, series in registry.metrics],
            "labels": [{"label": name, "values": values, "label_sets": sets} for name, values, sets in registry.labels],
        }

    async def endpoints(self, tenant: TenantId) -> Json:
        """Return how the tenant's endpoints do; URLs without their secrets.

        Raises:
            ProblemError: it cannot be told now.
        """
        seen, _, _ = await self._looks(tenant)
        endpoint = seen.endpoint
        return {
            "tenant": str(tenant),
            "endpoints": [asdict(each) for each in endpoint.endpoints] if endpoint else [],
            "retiring": [asdict(each) for each in endpoint.retiring] if endpoint else [],
            "samples_discarded": endpoint.samples_discarded if endpoint else {},
        }

    async def timeline(self, tenant: TenantId) -> Json:
        """Return the last hour of what was received and sent, and RED for as long as somebody has looked.

        Raises:
            ProblemError: it cannot be told now.
        """
        await self._looks(tenant)
        watched = self._watched.get(str(tenant))
        return {
            "tenant": str(tenant),
            "points": [asdict(point) for point in self._timeline.points(str(tenant))],
            "red": _points(watched.chart) if watched is not None else [],
        }

    async def _looks(self, tenant: TenantId) -> tuple[TenantLook, _Look, _Look | None]:
        """Look, unless somebody just did; return the look and one from about a minute before, if there is one."""
        name, now_ms = str(tenant), self._clock_ms()
        watched = self._watched.get(name)
        if watched is None or watched.latest is None or now_ms - watched.latest.at_ms >= _FRESH_MS:
            seen = await self._look(tenant)
            if seen is None:
                raise ProblemError(ProblemKind.UNAVAILABLE, "the tenant's metrics cannot be read now; ask again")
            watched = self._watched.get(name, _Watched())
            look = _Look(now_ms, _spans(seen.registry), _edges(seen.registry))
            if watched.latest is None or look.at_ms - watched.latest.at_ms >= _FRESH_MS:
                watched.seen = seen
                _note(watched, look)
        self._make_room(name, watched, now_ms)
        if watched.latest is None:
            raise AssertionError("who was looked at has a look")
        recent = [look for look in watched.looks if look.at_ms < watched.latest.at_ms]
        former = next((look for look in recent if watched.latest.at_ms - look.at_ms <= _WINDOW_MS), None)
        return watched.seen, watched.latest, former

    def _make_room(self, name: str, watched: _Watched, now_ms: int) -> None:
        """Keep this tenant's looks, if there is room beside those of tenants that others look at now."""
        self._watched.pop(name, None)
        used_bytes = sum(other.size_bytes for other in self._watched.values())
        for other, known in list(self._watched.items()):
            if used_bytes + watched.size_bytes <= MAX_WATCHED_BYTES:
                break
            # Of who was not looked at for so long there would be no rate either.
            if known.latest is None or now_ms - known.latest.at_ms > _WINDOW_MS:
                used_bytes -= self._watched.pop(other).size_bytes
        if used_bytes + watched.size_bytes <= MAX_WATCHED_BYTES:
            self._watched[name] = watched


def _note(watched: _Watched, look: _Look) -> None:
    former, watched.latest = watched.latest, look
    if not watched.looks or look.at_ms - watched.looks[-1].at_ms >= _SPACING_MS:
        watched.looks.append(look)
    if former is None:
        return
    grown = _total(look.spans.values()).since(_total(former.spans.values()))
    seconds = (look.at_ms - former.at_ms) / 1000
    share = grown.errors / grown.calls if grown.calls else 0.0
    shown = (_mean(grown), *(_quantile(grown, quantile) for quantile in _QUANTILES))
    point = (look.at_ms, grown.calls / seconds, share, *(math.nan if value is None else value for value in shown))
    watched.chart.extend(point)
    del watched.chart[: max(0, len(watched.chart) - _CHART_POINTS * len(_CHART_FIELDS))]


def _points(chart: "array[float]") -> list[Json]:
    width = len(_CHART_FIELDS)
    points = []
    for at in range(0, len(chart), width):
        values = (None if math.isnan(value) else value for value in chart[at : at + width])
        point: Json = dict(zip(_CHART_FIELDS, values, strict=True))
        points.append(point | {"at_ms": int(point["at_ms"])})
    return points


def _spans(registry: RegistryView) -> dict[tuple[str, ...], _Numbers]:
    found: defaultdict[tuple[str, ...], _Numbers] = defaultdict(_Numbers)
    bounds = registry.span_bounds[0] if registry.span_bounds else []
    for (service, name, kind, status), counters, histograms in registry.spans:
        histogram = histograms[0] if histograms else (0.0, [])
        # Where calls are off, latencies are counted all the same.
        calls = counters[0] if counters and counters[0] else sum(histogram[1])
        found[service, name, kind].add(calls, calls if status == _ERROR else 0.0, histogram, bounds)
    return dict(found)


def _edges(registry: RegistryView) -> dict[tuple[str, ...], _Numbers]:
    found: defaultdict[tuple[str, ...], _Numbers] = defaultdict(_Numbers)
    for row in registry.edges:
        labels, counters, _ = row
        failed = counters[1] if len(counters) > 1 else 0.0
        histogram, bounds = _latency(row, registry.edge_bounds)
        found[tuple(labels)].add(counters[0] if counters else 0.0, failed, histogram, bounds)
    return dict(found)


def _latency(row: Row, bounds: Sequence[Sequence[float]]) -> tuple[tuple[float, list[float]], Sequence[float]]:
    """Return the histogram that says most: the server's, or the client's where the server sends no spans."""
    for histogram, own in zip(row[2], bounds, strict=False):
        # A side that sends no spans is counted with no time at all.
        if histogram[0] > 0:
            return histogram, own
    return (0.0, []), ()


def _kinds(client: str, server: str, connection: str, virtual: str, services: set[str]) -> dict[str, str]:
    """Tell what both ends are: a service, or somebody who sends no spans."""
    match connection:
        case "database":
            return {client: "service", server: "database"}
        case "virtual_node":
            is_server = virtual == "server" or (not virtual and server not in services)
            return {client: "service", server: "virtual"} if is_server else {client: "virtual", server: "service"}
        case _:
            return {client: "service", server: "service"}


def _figures(numbers: _Numbers, before: _Numbers | None, latest: _Look, former: _Look | None) -> Json:
    """Return the row as JSON: shares and latencies of the window, or of all time where nothing came in it."""
    seconds = _window_s(latest, former)
    grown = numbers.since(before) if seconds else numbers
    shown = grown if grown.calls else numbers
    return {
        "calls": numbers.calls,
        "errors": numbers.errors,
        "per_second": grown.calls / seconds if seconds else None,
        "error_share": shown.errors / shown.calls if shown.calls else 0.0,
        "mean_s": _mean(shown),
        **{f"p{quantile * 100:.0f}_s": _quantile(shown, quantile) for quantile in _QUANTILES},
        # Below it a quantile says no more than that.
        "resolution_s": shown.bounds[0] if shown.bounds else None,
    }


def _window_s(latest: _Look, former: _Look | None) -> float | None:
    return (latest.at_ms - former.at_ms) / 1000 if former else None


def _total(rows: Iterable[_Numbers]) -> _Numbers:
    total = _Numbers()
    for row in rows:
        total.add(row.calls, row.errors, (row.seconds, row.buckets), row.bounds)
    return total


def _mean(numbers: _Numbers) -> float | None:
    observed = sum(numbers.buckets)
    return numbers.seconds / observed if observed else None


def _quantile(numbers: _Numbers, quantile: float) -> float | None:
    """Estimate a quantile as PromQL does: linear within a bucket; the last bound for what lies beyond it."""
    observed = sum(numbers.buckets)
    if not observed or not numbers.bounds:
        return None
    rank, passed, lower = quantile * observed, 0.0, 0.0
    for count, upper in zip(numbers.buckets, numbers.bounds, strict=False):
        if count and passed + count >= rank:
            return lower + (upper - lower) * (rank - passed) / count
        passed, lower = passed + count, upper
    return numbers.bounds[-1]
