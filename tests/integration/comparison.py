"""Whether what a Prometheus has of a tenant is what the reference model says: every series, value and exemplar."""

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests import otlp_raw
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel
from tests.reference_labels import trace_id_text
from tests.reference_metrics import SeriesKey, seconds
from tests.reference_spans import duration_ns

TENANT_LABEL: Final = "tenant"
_ARRIVAL_TIMEOUT_S = 45
_LISTED = 12
_TIME_IN_QUEUE: Final = "traces_service_graph_request_messaging_system_seconds_bucket"


async def series_of(prometheus: Prometheus, tenant: str) -> dict[SeriesKey, float]:
    """Return the newest value of each of the tenant's series, without the label that names the tenant."""
    vector = await prometheus.query(f'{{{TENANT_LABEL}="{tenant}"}}')
    return {_key(element["metric"]): float(element["value"][1]) for element in vector}


async def assert_has(prometheus: Prometheus, tenant: str, expected: Mapping[SeriesKey, float]) -> None:
    """Wait until the tenant's series are exactly these, and see that they still are after another collection."""
    total, all_expected = f'sum({{{TENANT_LABEL}="{tenant}"}})', math.fsum(expected.values())

    async def may_be_there() -> bool:
        # Cheap to ask for, where reading thousands of series again and again is not.
        answer = await prometheus.query(total)
        return bool(answer) and math.isclose(float(answer[0]["value"][1]), all_expected)

    with contextlib.suppress(AssertionError):
        await eventually(may_be_there, _ARRIVAL_TIMEOUT_S, lambda: "the comparison says it better")
    assert (seen := await series_of(prometheus, tenant)) == expected, differences(expected, seen)
    first = await _newest_sample_s(prometheus, tenant)

    async def has_collected_again() -> bool:
        return await _newest_sample_s(prometheus, tenant) > first

    await eventually(has_collected_again, _ARRIVAL_TIMEOUT_S, lambda: f"no further collection of {tenant}")
    assert (again := await series_of(prometheus, tenant)) == expected, differences(expected, again)


def differences(expected: Mapping[SeriesKey, float], seen: Mapping[SeriesKey, float]) -> str:
    """Say which series differ, the first few of them."""
    keys = [key for key in expected.keys() | seen.keys() if expected.get(key) != seen.get(key)]
    lines = sorted(f"{dict(sorted(key))}: expected {expected.get(key)}, got {seen.get(key)}" for key in keys)
    total = f"{len(keys)} of {len(expected)} expected and {len(seen)} present series differ"
    return "\n".join([total, *lines[:_LISTED]])


async def assert_has_exemplars(
    prometheus: Prometheus, tenant: str, model: ReferenceModel, requests: Iterable[Any]
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
            assert list(exemplar["labels"]) == ["traceID"]
            value = float(exemplar["value"])
            assert value <= float(labels["le"]), (labels, exemplar)
            took_s = None if labels["__name__"] == _TIME_IN_QUEUE else value
            observation = (trace_id, took_s, labels.get("span_name", ""), labels.get("service", ""))
            assert observation in sent, (labels, exemplar)
            found.setdefault(_key(labels), set()).add((trace_id, value))
    best = model.exemplars()
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
            names = [pair.value.string_value for pair in group.resource.attributes if pair.key == b"service.name"]
            service = names[0].decode() if names else ""
            for span in (span for scope in group.scope_spans for span in scope.spans):
                trace_id, took_s = trace_id_text(span.trace_id), seconds(duration_ns(span))
                observed |= {
                    (trace_id, took_s, span.name.decode(), service),
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
