"""What a tenant used, what became of its spans, and what it may send."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from fastapi.responses import JSONResponse, Response

from tenants.api.access import Access, GuardedRouter, OwnTenant, WhoAsks
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.control.effective import EffectiveSettings
from tenants.control.limits_document import LIMIT_KEYS
from tenants.control.overview import TenantOverview
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.usage import UsageMeter
from tenants.store.usage import UsageDay

MAX_DAYS: Final = 400

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "JSON, or CSV (RFC 4180) with a line of names.", "content": {"text/csv": {}}}
}

_COLUMNS: Final = ("day", "tenant", "spans", "bytes", "samples_sent", "active_series_max", "active_series_average")


class UsageRoutes:
    """The endpoints."""

    def __init__(
        self,
        usage: UsageMeter,
        overview: TenantOverview,
        effective: EffectiveSettings,
        clock_ms: Callable[[], int],
    ) -> None:
        self._usage = usage
        self._overview = overview
        self._effective = effective
        self._clock_ms = clock_ms

    def router(self) -> GuardedRouter:
        """Return the routes."""
        router = GuardedRouter(tags=["usage"], responses=PROBLEM_RESPONSES)
        add = router.route_for
        add("GET", "/api/usage", Access.TENANT_OR_OPERATOR, summary="Usage by day", responses=_ANSWERS)(self.get_usage)
        add("GET", "/api/ledger", Access.TENANT, summary="What became of the spans")(self.get_ledger)
        add("GET", "/api/limits", Access.TENANT, summary="The limits in force")(self.get_limits)
        return router

    async def get_usage(
        self,
        *,
        asks: WhoAsks,
        first: Annotated[date | None, Query(alias="from", description="First day (UTC); 30 days ago.")] = None,
        last: Annotated[date | None, Query(alias="to", description="Last day (UTC); today.")] = None,
        kind: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    ) -> Response:
        """Return spans, bytes, active series and samples sent, by day; all tenants' for an operator who names none."""
        today = datetime.fromtimestamp(self._clock_ms() / 1000, UTC).date()
        last = last or today
        first = first or last - timedelta(days=min(30, (last - date.min).days))
        if first > last or (last - first).days >= MAX_DAYS:
            raise ProblemError(ProblemKind.INVALID_REQUEST, f"from should be before to, by less than {MAX_DAYS} days")
        tenant = None if asks.tenant is None else str(asks.tenant)
        rows = [_row(day) for day in await self._usage.days(tenant, first, last)]
        if kind == "csv":
            return Response(_csv(rows), media_type="text/csv")
        return JSONResponse({"from": first.isoformat(), "to": last.isoformat(), "usage": rows})

    async def get_ledger(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return what became of the spans since the tenant began: generated, waiting, or discarded for a reason.

        In all and by service. What a processor received is what it generated, what waits there, and what it discarded.
        """
        return JSONResponse(await self._overview.ledger(tenant))

    async def get_limits(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return the tenant's limits. 0 means: no limit; for rate and burst: everything is refused."""
        settings = self._effective.for_operator(tenant)
        return JSONResponse({"limits": {key: settings[key]["value"] for key in sorted(LIMIT_KEYS) if key in settings}})


def _row(day: UsageDay) -> dict[str, Any]:
    readings = day.active_series_readings
    return {
        "day": day.day.isoformat(),
        "tenant": day.tenant,
        "spans": day.spans,
        "bytes": day.bytes,
        "samples_sent": day.samples_sent,
        "active_series_max": day.active_series_max,
        "active_series_average": round(day.active_series_sum / readings, 1) if readings else 0,
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
