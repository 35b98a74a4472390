"""Whether what a Prometheus has of a tenant is what the reference model says: every series, value and exemplar."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from tests import otlp_raw
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel
from tests.reference_labels import find, trace_id_text
from tests.reference_metrics import SeriesKey, seconds
from tests.reference_native import ZERO_THRESHOLD, NativeHistogram
from tests.reference_spans import duration_ns
from tests.unit.comparing import RELATIVE_TOLERANCE

TENANT_LABEL: Final = "tenant"
# No name of a label: a native histogram is compared part by part, each as a series with this label.
PART: Final = "part of a native histogram"
_ARRIVAL_TIMEOUT_S = 45
_LISTED = 12
_TIME_IN_QUEUE: Final = "traces_service_graph_request_messaging_system_seconds_bucket"

Value = TypeVar("Value")


async def series_of(prometheus: Prometheus, tenant: str) -> dict[SeriesKey, float]:
    """Return the newest value of each of the tenant's series, without the label that names the tenant.

    A native histogram is a series for each of its parts, as :func:`flat` makes them.
    """
    series: dict[SeriesKey, float] = {}
    for element in await prometheus.query(f'{{{TENANT_LABEL}="{tenant}"}}'):
        key = _key(element["metric"])
        if "histogram" in element:
            series |= _parts(key, _seen_parts(element["histogram"][1]))
        else:
            series[key] = float(element["value"][1])
    return series


def flat(histograms: Mapping[SeriesKey, NativeHistogram]) -> dict[SeriesKey, float]:
    """Return native histograms as series: one for each of count, sum and those buckets that are not empty."""
    series: dict[SeriesKey, float] = {}
    for key, histogram in histograms.items():
        buckets = {_bucket(histogram.schema, index): count for index, count in histogram.buckets.items()}
        zero = {"zero": histogram.zero_count} if histogram.zero_count else {}
        series |= _parts(key, {"count": histogram.count, "sum": histogram.sum, **zero, **buckets}.items())
    return series


def with_labels(series: Mapping[SeriesKey, Value], labels: Mapping[str, str]) -> dict[SeriesKey, Value]:
    """Return series as they look under external labels, which win (processors §4.5)."""
    return {frozenset((dict(key) | labels).items()): value for key, value in series.items()}


async def assert_has(
    prometheus: Prometheus, tenant: str, expected: Mapping[SeriesKey, float], *, is_weighted: bool = False
) -> None:
    """Wait until the tenant's series are exactly these, and see that they still are after another collection.

    With ``is_weighted`` the last digits of counts may differ, as the engine adds weights as doubles; never of sums.
    """
    natives = sorted({_name(key) for key in expected if _part(key)})
    # A sum of numbers and histograms would be nothing.
    totals = {f'sum({{{TENANT_LABEL}="{tenant}",__name__!~"{"|".join(natives)}"}})': _total(expected)}
    for name in natives:
        totals[f'sum(histogram_count({name}{{{TENANT_LABEL}="{tenant}"}}))'] = _total(expected, native=name)

    async def may_be_there() -> bool:
        # Cheap to ask for, where reading thousands of series again and again is not.
        answers = {query: await prometheus.query(query) for query in totals}
        return all(
            bool(answer) and math.isclose(float(answer[0]["value"][1]), totals[query])
            for query, answer in answers.items()
        )

    with contextlib.suppress(AssertionError):
        await eventually(may_be_there, _ARRIVAL_TIMEOUT_S, lambda: "the comparison says it better")
    seen = await series_of(prometheus, tenant)
    assert not differing(expected, seen, is_weighted=is_weighted), differences(expected, seen, is_weighted=is_weighted)
    first = await _newest_sample_s(prometheus, tenant)

    async def has_collected_again() -> bool:
        return await _newest_sample_s(prometheus, tenant) > first

    await eventually(has_collected_again, _ARRIVAL_TIMEOUT_S, lambda: f"no further collection of {tenant}")
    again = await series_of(prometheus, tenant)
    assert not differing(expected, again, is_weighted=is_weighted), differences(
        expected, again, is_weighted=is_weighted
    )


async def assert_never_went_back(prometheus: Prometheus, tenant: str, seconds: float) -> None:
    """See that none of the tenant's counters and classic histograms was reset within so many seconds."""
    names = sorted({_name(key) for key in await series_of(prometheus, tenant) if not _part(key)})
    counters = [name for name in names if name.endswith(("_total", "_bucket", "_count", "_sum"))]
    assert counters
    for name in counters:
        # One by one: resets() drops the name, and two metrics may have the same labels.
        query = f'resets({name}{{{TENANT_LABEL}="{tenant}"}}[{round(seconds)}s]) > 0'
        assert await prometheus.query(query) == [], name


def differing(
    expected: Mapping[SeriesKey, float], seen: Mapping[SeriesKey, float], *, is_weighted: bool = False
) -> list[SeriesKey]:
    """Return the series that one of both does not have, or with another value."""

    def is_same(key: SeriesKey) -> bool:
        one, other = expected.get(key), seen.get(key)
        if one is None or other is None or not is_weighted or _part(key) == "sum" or _name(key).endswith("_sum"):
            return one == other
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE)

    return [key for key in expected.keys() | seen.keys() if not is_same(key)]


def differences(
    expected: Mapping[SeriesKey, float], seen: Mapping[SeriesKey, float], *, is_weighted: bool = False
) -> str:
    """Say which series differ, the first few of them."""
    keys = differing(expected, seen, is_weighted=is_weighted)
    lines = sorted(f"{dict(sorted(key))}: expected {expected.get(key)}, got {seen.get(key)}" for key in keys)
    total = f"{len(keys)} of {len(expected)} expected and {len(seen)} present series differ"
    return "\n".join([total, *lines[:_LISTED]])


async def assert_has_exemplars(
    prometheus: Prometheus,
    tenant: str,
    model: ReferenceModel,
    requests: Iterable[Any],
    *,
    trace_id_label: str = "traceID",
    external: Mapping[str, str] | None = None,
) -> None:
    """See that the buckets with observations have exemplars, each of a span that was sent, and the best is there.

    The model, never collected, knows the best exemplar of each bucket over all collections; Prometheus has that one
    and those that were the best of their own collection.
    """
    sent = _observations(requests)
    found: dict[SeriesKey, set[tuple[str, float]]] = {}
    for answer in await prometheus.query_exemplars(
        f'{{{TENANT_LABEL}="{tenant}", __name__=~".*_bucket"}}', start=time.time() - 600, end=time.time() + 60
    ):
        labels = answer["seriesLabels"]
        for exemplar in answer["exemplars"]:
            (trace_id,) = exemplar["labels"].values()
            assert list(exemplar["labels"]) == [trace_id_label]
            value = float(exemplar["value"])
            assert value <= float(labels["le"]), (labels, exemplar)
            took_s = None if labels["__name__"] == _TIME_IN_QUEUE else value
            observation = (trace_id, took_s, labels.get("span_name", ""), labels.get("service", ""))
            assert observation in sent, (labels, exemplar)
            found.setdefault(_key(labels), set()).add((trace_id, value))
    best = with_labels(model.exemplars(), external or {})
    assert found.keys() == best.keys()
    assert {key: exemplars for key, exemplars in best.items() if not set(exemplars) <= found[key]} == {}


def _observations(requests: Iterable[Any]) -> set[tuple[str, float | None, str, str]]:
    """Return (trace id, seconds, span name, service) of what may be an exemplar.

    Name and service are empty for service graphs, where the half that a virtual node stands for took no time. The time
    between two spans is of no span: None.
    """
    observed: set[tuple[str, float | None, str, str]] = set()
    for request in requests:
        for group in otlp_raw.parse(request).resource_spans:
            service = _text(find("service.name", group.resource.attributes) or b"")
            for span in (span for scope in group.scope_spans for span in scope.spans):
                trace_id, took_s = trace_id_text(span.trace_id), seconds(duration_ns(span))
                observed |= {
                    (trace_id, took_s, _text(span.name), service),
                    (trace_id, took_s, "", ""),
                    (trace_id, 0.0, "", ""),
                    (trace_id, None, "", ""),
                }
    return observed


async def _newest_sample_s(prometheus: Prometheus, tenant: str) -> float:
    (newest,) = await prometheus.query(f'max(timestamp(traces_spanmetrics_calls_total{{{TENANT_LABEL}="{tenant}"}}))')
    return float(newest["value"][1])


def _key(labels: Mapping[str, str]) -> SeriesKey:
    return frozenset((name, value) for name, value in labels.items() if name != TENANT_LABEL)


def _text(text: bytes) -> str:
    # Of a text that is not UTF-8 there is no label: it only has to be unlike all others.
    return text.decode("utf-8", "surrogateescape")


def _name(key: SeriesKey) -> str:
    return dict(key)["__name__"]


def _part(key: SeriesKey) -> str:
    return dict(key).get(PART, "")


def _total(series: Mapping[SeriesKey, float], *, native: str = "") -> float:
    """Return the sum of everything but native histograms, or of the counts of those with this name."""
    kind = (native, "count") if native else ("", "")
    return math.fsum(value for key, value in series.items() if (_part(key) and _name(key), _part(key)) == kind)


def _parts(key: SeriesKey, parts: Iterable[tuple[str, float]]) -> dict[SeriesKey, float]:
    return {key | {(PART, part)}: value for part, value in parts}


def _bucket(schema: int, index: int) -> str:
    return f"bucket {index} of schema {schema}"


def _seen_parts(histogram: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Read a native histogram of the query API, which gives bounds where the wire has a schema and indexes."""
    yield from ((part, float(histogram[part])) for part in ("count", "sum"))
    for rule, *numbers in histogram.get("buckets", []):
        lower, upper, count = map(float, numbers)
        if lower < 0:
            assert (rule, -lower, upper) == (3, ZERO_THRESHOLD, ZERO_THRESHOLD), histogram
            yield "zero", count
            continue
        schema = -round(math.log2(math.log2(upper / lower)))
        index = round(math.log2(upper) * 2**schema)
        bounds = [2.0 ** (bound * 2.0**-schema) for bound in (index - 1, index)]
        assert rule == 0, histogram
        assert all(map(math.isclose, (lower, upper), bounds)), histogram
        yield _bucket(schema, index), count
