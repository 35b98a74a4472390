"""A tenant's Prometheus as Grafana asks it, beside what the tenant's traffic must have become.

Everything was counted within every window that is asked for, from the zero sample on, and the moment that is asked
about is that of a collection: nothing is extrapolated, so a rate times its window is a count, to the last digit.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.demo.model import Flavour
from cluster.demo.red import quantile
from tests.prometheus import Prometheus
from tests.reference_metrics import SeriesKey

Where = Mapping[str, str | re.Pattern[str]]
Table = dict[tuple[str, ...], float]

# $__range; and $__rate_interval, which is $__interval (here the step) and a scrape interval, here of a minute.
RANGE_S: Final = 300
STEP_S: Final = 240
RANGE: Final = "5m"


def selector(where: Where) -> str:
    """Return a PromQL selector, braces included; nothing if all is selected."""
    matchers = [
        f'{label}=~"{_escaped(value.pattern)}"' if isinstance(value, re.Pattern) else f'{label}="{_escaped(value)}"'
        for label, value in where.items()
    ]
    return f"{{{','.join(matchers)}}}" if matchers else ""


def any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern that Grafana makes of several names."""
    return re.compile("|".join(map(re.escape, names)))


def table(answer: list[dict[str, Any]], by: tuple[str, ...]) -> Table:
    """Return an answer by these labels; it must have no others."""
    for element in answer:
        assert element["metric"].keys() <= set(by), element
    return {tuple(element["metric"].get(label, "") for label in by): _value(element) for element in answer}


def assert_alike(seen: Table, expected: Table) -> None:
    """See that both have the same rows and, but for the last digits of a double, the same numbers; and any at all."""
    assert expected, "nothing is expected: the test shows nothing"
    assert seen.keys() == expected.keys(), (seen.keys() - expected.keys(), expected.keys() - seen.keys())
    differing = {
        row: (seen[row], value) for row, value in expected.items() if not math.isclose(seen[row], value, rel_tol=1e-9)
    }
    assert differing == {}, "seen and expected"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One data source.

    Attributes:
        flavour: the shop that the tenant plays.
        series: what must have become of its spans, by the reference model.
        trace_ids: of all spans that were sent, as exemplars say them.
        trace_id_label: in exemplars.
        at_s: when everything had been collected.
    """

    prometheus: Prometheus
    flavour: Flavour
    series: Mapping[SeriesKey, float]
    trace_ids: frozenset[str]
    trace_id_label: str
    at_s: float

    async def instant(self, expr: str, by: tuple[str, ...] = ()) -> Table:
        """Return what a table shows."""
        return table(await self.prometheus.query(expr, self.at_s), by)

    async def panel(self, expr: str, by: tuple[str, ...] = ()) -> Table:
        """Return the newest points of what a graph shows."""
        found = await self.prometheus.query_range(expr, self.at_s - STEP_S, self.at_s, STEP_S)
        newest = [element | {"value": element["values"][-1]} for element in found]
        assert all(abs(element["value"][0] - self.at_s) < 0.001 for element in newest), newest
        return table(newest, by)

    async def exemplars(self, expr: str) -> int:
        """See that the panel's exemplars are of its own series and of traces that were sent; return how many."""
        found = await self.prometheus.query_exemplars(expr, self.at_s - RANGE_S, self.at_s + 1)
        exemplars = [exemplar for element in found for exemplar in element["exemplars"]]
        assert {label for exemplar in exemplars for label in exemplar["labels"]} <= {self.trace_id_label}
        assert {exemplar["labels"][self.trace_id_label] for exemplar in exemplars} <= self.trace_ids
        return len(exemplars)

    def rates(self, metric: str, by: tuple[str, ...] = (), where: Where | None = None) -> Table:
        """Return what ``sum by (by) (rate(metric{where}[5m]))`` must be."""
        terms: dict[tuple[str, ...], list[float]] = {}
        for labels, value in self.selected(metric, where):
            terms.setdefault(tuple(labels.get(label, "") for label in by), []).append(value)
        return {row: math.fsum(values) / RANGE_S for row, values in terms.items()}

    def groups(self, metric: str, by: tuple[str, ...], where: Where | None = None) -> Table:
        """Return what ``group by (by) (metric{where})`` must be."""
        return dict.fromkeys(self.rates(metric, by, where), 1.0)

    def quantiles(self, q: float, bucket: str, by: tuple[str, ...] = (), where: Where | None = None) -> Table:
        """Return what ``histogram_quantile(q, sum by (le, by) (rate(bucket{where}[…])))`` must be."""
        histograms: dict[tuple[str, ...], dict[float, float]] = {}
        for (le, *row), rate in self.rates(bucket, ("le", *by), where).items():
            histograms.setdefault(tuple(row), {})[float(le)] = rate
        found = {row: quantile(q, buckets) for row, buckets in histograms.items()}
        return {row: math.nan if value is None else value for row, value in found.items()}

    def values(self, metric: str, label: str, where: Where | None = None) -> set[str]:
        """Return the values of a label."""
        return {labels[label] for labels, _ in self.selected(metric, where) if label in labels}

    def selected(self, metric: str, where: Where | None = None) -> list[tuple[dict[str, str], float]]:
        """Return the series of a metric that match."""
        return [
            (labels, value)
            for labels, value in ((dict(key), value) for key, value in self.series.items())
            if labels["__name__"] == metric
            and all(_matches(labels.get(label, ""), wanted) for label, wanted in (where or {}).items())
        ]


def _matches(value: str, wanted: str | re.Pattern[str]) -> bool:
    return wanted.fullmatch(value) is not None if isinstance(wanted, re.Pattern) else value == wanted


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _value(element: Mapping[str, Any]) -> float:
    # Of a native histogram, its count.
    return float(element["histogram"][1]["count"] if "histogram" in element else element["value"][1])
