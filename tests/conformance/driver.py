"""Plays a row to the engine: one tenant on one shard, ids of any length taken as they are."""

import json
from collections.abc import Mapping
from typing import Any

from tenants._engine import Plan
from tests.conformance.case import Case, Expected, series_of
from tests.engine_driver import EngineDriver
from tests.remote_write import SeriesKey

_HISTOGRAM_SUFFIXES = ("", "_bucket", "_count", "_sum")


class Tenant(EngineDriver):
    """One tenant, with the counters of shard and registry beside those of the gateway."""

    @property
    def counters(self) -> dict[str, int]:
        """All counters that have no reason or kind beside their name."""
        return {**self.registry.stats(), "ignored_multipliers": self.ignored_multipliers}


def compile_plan(plan: dict[str, Any]) -> None:
    """Read a plan as the engine does.

    Raises:
        InvalidPlan: it cannot be carried out.
    """
    Plan(json.dumps(plan))


def assert_series(series: Mapping[SeriesKey, float], expected: Expected, *, nothing_else: bool = False) -> None:
    """Compare all series of the metrics that are expected, or of all metrics."""
    names = {metric + suffix for metric in expected for suffix in _HISTOGRAM_SUFFIXES}
    concerned = {key: value for key, value in series.items() if nothing_else or dict(key)["__name__"] in names}
    assert concerned == series_of(expected)


def check(case: Case) -> Tenant:
    """Play a case and compare everything that it expects; return the tenant for what a row cannot say."""
    tenant = Tenant(case.plan)
    for request in case.pushes:
        tenant.push(request, case.now_ns)
    tenant.flush(case.now_ns + (wait_ns(case.plan) if case.sweep else 0))
    assert_series(tenant.collect().series, case.expected, nothing_else=case.nothing_else)
    assert tenant.discarded == case.discarded
    assert tenant.expired_edges == case.expired
    counters = tenant.counters
    assert {name: counters[name] for name in case.counters} == case.counters
    return tenant


def wait_ns(plan: dict[str, Any]) -> int:
    """Return how long half an edge waits under a plan."""
    wait_s: float = plan["service_graphs"]["wait_s"]
    return round(wait_s * 1e9)
