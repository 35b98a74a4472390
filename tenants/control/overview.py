"""Tenants as operators see them: which layers they have, how they do, what does not work (tenancy §6.4)."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tenants.control.documents import DocumentService
from tenants.control.effective import EffectiveSettings
from tenants.control.figures import ReadFigures, TenantFigures, summed
from tenants.control.in_force import SettingsInForce
from tenants.control.tenants import TenantService
from tenants.identity.tenant_id import TenantId
from tenants.settings.overrides import WILDCARD
from tenants.settings.tenant_state import TenantState

P = ParamSpec("P")
R = TypeVar("R")

Json = dict[str, Any]

REFUSALS = frozenset({"invalid_trace_id", "invalid_span_id", "rate_limited", "too_large", "blocked"})
"""Reasons that a client was told; spans discarded for all others were received first."""


class TenantOverview:
    """Puts together what is known about tenants. Changes nothing."""

    def __init__(
        self,
        in_force: SettingsInForce,
        effective: EffectiveSettings,
        documents: DocumentService,
        tenants: TenantService,
        read_figures: ReadFigures,
    ) -> None:
        self._in_force = in_force
        self._effective = effective
        self._documents = documents
        self._tenants = tenants
        self._read_figures = read_figures

    async def list(self, search: str, after: str, limit: int) -> list[Json]:
        """Return a row for each tenant that has a layer, a state or spans, by id, those after ``after``."""
        figures = summed(await self._read_figures())
        overrides = self._in_force.overrides
        names = set().union(overrides.runtime, overrides.documents, overrides.states, figures) - {WILDCARD}
        # Not tenants: what stands for all those beyond a bound.
        chosen = sorted(name for name in names if search in name and name > after and not name.startswith("__"))
        return [self._row(name, figures.get(name, TenantFigures())) for name in chosen[:limit]]

    async def one(self, tenant: TenantId) -> Json:
        """Return a row, the settings in force with their sources, and what cannot be applied."""
        figures = summed(await self._read_figures())
        row = self._row(str(tenant), figures.get(str(tenant), TenantFigures()))
        if problem := self._effective.problem(tenant):
            row["problems"].append(problem)
        return {**row, "settings": self._effective.for_operator(tenant)}

    async def ledger(self, tenant: TenantId) -> Json:
        """Return what became of a tenant's spans since the processes started."""
        figures = summed(await self._read_figures()).get(str(tenant), TenantFigures())
        return _ledger(figures)

    async def in_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask the store without holding up others."""
        return await asyncio.to_thread(call, *args, **kwargs)

    def _row(self, name: str, figures: TenantFigures) -> Json:
        overrides = self._in_force.overrides
        layers = {
            "api": name in overrides.documents,
            "operator": name in overrides.limits,
            "tenant": name in overrides.runtime,
            "wildcard": WILDCARD in overrides.runtime,
        }
        problems = [
            problem for known in (self._documents.problems, self._tenants.problems) if (problem := known.get(name))
        ]
        return {
            "tenant": name,
            "state": overrides.states.get(name, TenantState.ACTIVE).value,
            "layers": [layer for layer, is_there in layers.items() if is_there],
            "active_series": figures.active_series,
            "series_demand_estimate": figures.series_demand,
            "samples_sent": figures.samples_sent,
            "ledger": _ledger(figures),
            "problems": problems,
        }


def _ledger(figures: TenantFigures) -> Json:
    rows = [
        {"stage": stage, "reason": reason, "spans": spans}
        for (stage, reason), spans in sorted(figures.discarded.items())
        if spans
    ]
    return {
        "spans_received": figures.spans,
        "bytes_received": figures.bytes,
        # Told to the client, and never received in this sense (tenancy D-18).
        "refused": [row for row in rows if row["reason"] in REFUSALS],
        "discarded": [row for row in rows if row["reason"] not in REFUSALS],
    }
