"""What actors measure, and the one page that all of it is exported on.

An actor answers :data:`Measurements`, plain tuples that any process can carry; :func:`families` turns those of all
actors into Prometheus families. What each metric means is said in :mod:`cluster.declarations`, and nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from cluster.declarations import DECLARED, Declaration

MAX_MEASURED_TENANTS: Final = 20_000
"""Tenants that one actor measures one by one: no client may make the page grow without end."""

OTHER_TENANTS: Final = "__other__"
"""What label ``tenant`` says on the sum of those beyond the bound. No tenant id begins like that."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram.

    Attributes:
        buckets: upper bound and the number of observations at or below it, ascending, the last bound infinite.
        total: the sum of what was observed.
    """

    buckets: tuple[tuple[float, float], ...]
    total: float


Measurements = list[tuple[str, tuple[str, ...], float | Distribution]]
"""Name, label values in the order of the declaration, value."""


def families(measured: Mapping[str, Measurements]) -> Iterator[Metric]:
    """Merge what the actors measured, by their names, into one family for each declared metric.

    Raises:
        KeyError: an actor measured what is not declared.
        ValueError: an actor measured it with other labels.
        TypeError: an actor measured a number as a distribution, or the other way round.
    """
    merged: dict[str, Metric] = {}
    for actor, measurements in measured.items():
        for name, values, value in measurements:
            declared = DECLARED[name]
            if len(values) != len(declared.labels):
                raise ValueError(f"{name} has the labels {declared.labels}, not {values}")
            family = merged.get(name)
            if family is None:
                family = merged[name] = _family(name, declared)
            _add(family, (*values, actor), value)
    yield from merged.values()


def _family(name: str, declared: Declaration) -> Metric:
    makers = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family: Metric = makers[declared.kind](name, declared.text, labels=(*declared.labels, "actor"))
    return family


def _add(family: Metric, labels: tuple[str, ...], value: float | Distribution) -> None:
    if isinstance(family, HistogramMetricFamily) and isinstance(value, Distribution):
        buckets = [(_text(bound), count) for bound, count in value.buckets]
        family.add_metric(labels, buckets, value.total)
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily) and not isinstance(value, Distribution):
        family.add_metric(labels, value)
    else:
        raise TypeError(f"{family.name} is a {family.type}, and was not measured as one")


def _text(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


def per_tenant(name: str, values: Iterable[tuple[object, float]]) -> Measurements:
    """Measure one metric for each tenant."""
    return [(name, (str(tenant),), value) for tenant, value in values]
