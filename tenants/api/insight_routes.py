"""What a tenant's metrics say, and how they reach its endpoints: for a look without another tool."""

from typing import Annotated

from fastapi import Query
from fastapi.responses import JSONResponse

from tenants.api.access import Access, GuardedRouter, OwnTenant
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.control.insight import TenantInsight


class InsightRoutes:
    """The endpoints."""

    def __init__(self, insight: TenantInsight) -> None:
        self._insight = insight

    def router(self) -> GuardedRouter:
        """Return the routes."""
        router = GuardedRouter(tags=["insight"], responses=PROBLEM_RESPONSES)
        add = router.route_for
        add("GET", "/api/red", Access.TENANT, summary="Rate, errors and duration by span name")(self.red)
        add("GET", "/api/service-graph", Access.TENANT, summary="Who calls whom")(self.graph)
        add("GET", "/api/cardinality", Access.TENANT, summary="Series by metric, values by label")(self.cardinality)
        add("GET", "/api/endpoints", Access.TENANT, summary="How the tenant's endpoints do")(self.endpoints)
        add("GET", "/api/timeline", Access.TENANT, summary="The last hour")(self.timeline)
        return router

    async def red(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return the 500 rows that count most. Rates are of the last minute, and null at the first look."""
        return JSONResponse(await self._insight.red(tenant))

    async def graph(
        self,
        *,
        tenant: OwnTenant,
        service: Annotated[str, Query(max_length=1024, description="Only the edges of this service.")] = "",
    ) -> JSONResponse:
        """Return the 500 edges that count most, and their nodes. Rates are as those of `/api/red`."""
        return JSONResponse(await self._insight.graph(tenant, service))

    async def cardinality(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return series by metric, and distinct values and label sets by label, the greatest first."""
        return JSONResponse(await self._insight.cardinality(tenant))

    async def endpoints(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return what each endpoint took, what waits for it, and its last error. Secrets are masked."""
        return JSONResponse(await self._insight.endpoints(tenant))

    async def timeline(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return rates and series of the last hour, and RED for as long as somebody has looked at the tenant."""
        return JSONResponse(await self._insight.timeline(tenant))
