"""Tenants as operators see them: which layers they have, how they do, what does not work (tenancy §6.4)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from tenants.control.documents import DocumentService
from tenants.control.effective import EffectiveSettings
from tenants.control.figures import Readers, TenantFigures, summed
from tenants.control.in_force import SettingsInForce
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.tenants import TenantService
from tenants.control.timeline import Timeline
from tenants.identity.tenant_id import TenantId
from tenants.processing.ledger import Ledger, ledgers_by_service
from tenants.settings.overrides import WILDCARD
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import resolve
from tenants.settings.tenant_state import TenantState

P = ParamSpec("P")
R = TypeVar("R")

Json = dict[str, Any]

REFUSALS = frozenset({"invalid_trace_id", "invalid_span_id", "rate_limited", "too_large", "blocked"})
"""Reasons that a client was told; spans discarded for all others were received first."""


Order = Literal["tenant", "rate", "series", "discarded"]
"""By id, or those first that have most of something."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Some of the tenants.

    Attributes:
        total: how many there are like those that were asked for.
        rows: of those that are shown.
    """

    total: int
    rows: list[Json]


class TenantOverview:
    """Puts together what is known about tenants. Changes nothing."""

    def __init__(
        self,
        config: ServiceConfig,
        in_force: SettingsInForce,
        effective: EffectiveSettings,
        documents: DocumentService,
        tenants: TenantService,
        *,
        readers: Readers,
        timeline: Timeline,
    ) -> None:
        self._config = config
        self._timeline = timeline
        self._in_force = in_force
        self._effective = effective
        self._documents = documents
        self._tenants = tenants
        self._readers = readers

    async def list(self, search: str, after: str, limit: int, *, order: Order = "tenant", skip: int = 0) -> Listed:
        """Return a row for each tenant that has a layer, a state or spans, those after ``after`` and the first ones."""
        figures = summed(await self._readers.figures())
        overrides = self._in_force.overrides
        names = set().union(overrides.runtime, overrides.documents, overrides.states, figures) - {WILDCARD}
        # Not tenants: what stands for all those beyond a bound.
        chosen = sorted(name for name in names if search in name and name > after and not name.startswith("__"))
        if order != "tenant":
            # Stable: those that are alike stay in the order of their names.
            chosen.sort(key=lambda name: -self._rank(order, name, figures))
        shown = chosen[skip : skip + limit]
        return Listed(len(chosen), [self._row(name, figures.get(name, TenantFigures())) for name in shown])

    def _rank(self, order: Order, name: str, figures: Mapping[str, TenantFigures]) -> float:
        if order == "series":
            return figures[name].active_series if name in figures else 0
        rate = self._timeline.rate(name)
        if rate is None:
            return 0.0
        return rate.discarded if order == "discarded" else rate.spans

    async def one(self, tenant: TenantId) -> Json:
        """Return a row, the settings in force with their sources, and what cannot be applied."""
        figures = summed(await self._readers.figures())
        row = self._row(str(tenant), figures.get(str(tenant), TenantFigures()))
        if problem := self._effective.problem(tenant):
            row["problems"].append(problem)
        return {**row, "settings": self._effective.for_operator(tenant)}

    async def ledger(self, tenant: TenantId) -> Json:
        """Return what became of a tenant's spans since it began, in all and by service.

        Raises:
            ProblemError: it cannot be told now.
        """
        rows = await self._readers.ledger(tenant)
        if rows is None:
            raise ProblemError(ProblemKind.UNAVAILABLE, "the ledger cannot be read now; ask again")
        ledger, services = ledgers_by_service(rows)
        return {
            "tenant": str(tenant),
            **ledger.as_json(),
            "closes": ledger.closes,
            "services": {name: service.as_json() for name, service in services.items()},
        }

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
            "accepted": _accepted(figures),
            "ledger": Ledger.of(figures.ledger).as_json(),
            "problems": problems,
            "rate": self._rate(name),
            "limits": self._limits(name),
            "endpoints": {"states": dict(sorted(figures.endpoints.items())), "lag_s": figures.lag_s},
        }

    def _rate(self, name: str) -> Json | None:
        """Tell what came a second in the last minute; None: nothing is remembered of the tenant."""
        rate = self._timeline.rate(name)
        if rate is None:
            return None
        return {
            "spans_per_second": rate.spans,
            "bytes_per_second": rate.bytes,
            "discarded_per_second": rate.discarded,
            "samples_per_second": rate.samples,
        }

    def _limits(self, name: str) -> Json | None:
        """Tell the limits that figures are to be seen against, 0 for none; None: it is no name of a tenant."""
        try:
            settings = resolve(self._config, self._in_force.overrides, TenantId(name))
        except ValueError:
            return None
        is_by_entity = settings.limiter_type == "entity"
        return {
            "max_active_series": None if is_by_entity else settings.max_active_series,
            "max_active_entities": settings.max_active_entities if is_by_entity else None,
            "rate_limit_bytes": settings.ingestion.rate_limit_bytes,
            "processors": list(settings.active_processors),
        }


def _accepted(figures: TenantFigures) -> Json:
    """Tell what gateways took in since they started, also of tenants that generate nothing and have no ledger."""
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
