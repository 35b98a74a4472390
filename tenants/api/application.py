"""The API as one application: all routes, one guard before them, one form of answer when something is wrong."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from fastapi import Depends, FastAPI, Response
from fastapi.responses import JSONResponse

from tenants.api.access import ACCESS_KEY, Access, Guard, GuardedRouter, guarded
from tenants.api.admin_routes import AdminRoutes, TenantRequest
from tenants.api.body import schemas_of
from tenants.api.insight_routes import InsightRoutes
from tenants.api.overrides_routes import OverridesRoutes, RollbackRequest
from tenants.api.problem_response import add_problem_handlers
from tenants.api.status_routes import StatusRoutes
from tenants.api.token_routes import NewTokenRequest, TokenRoutes
from tenants.api.usage_routes import UsageRoutes
from tenants.identity.tenant_id import HEADER
from tenants.settings.api_document import TenantDocument

OPENAPI_PATH: Final = "/openapi.json"


@dataclass(frozen=True, slots=True)
class Routes:
    """Everything that the API serves."""

    overrides: OverridesRoutes
    admin: AdminRoutes
    tokens: TokenRoutes
    usage: UsageRoutes
    status: StatusRoutes
    insight: InsightRoutes


def build_application(version: str, guard: Guard, routes: Routes, *others: GuardedRouter) -> FastAPI:
    """Build it.

    Args:
        version: of the service.
        guard: lets requests through, or not.
        routes: of the API.
        others: routers of whoever owns the port.
    """
    app = FastAPI(
        title="Millrace",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(guarded)],
        redirect_slashes=False,
    )
    app.state.guard = guard
    add_problem_handlers(app)
    for router in (
        routes.overrides.router(),
        routes.admin.router(),
        routes.tokens.router(),
        routes.usage.router(),
        routes.status.router(),
        routes.insight.router(),
        *others,
    ):
        app.include_router(router)
    document = GuardedRouter(tags=["service"])

    @cache
    def content() -> bytes:
        # Once: it takes 15 ms, anybody may ask, and probes do.
        return bytes(JSONResponse(api_document(app)).body)

    @document.route_for("GET", OPENAPI_PATH, Access.OPEN)
    async def openapi() -> Response:
        """This document."""
        return Response(content(), media_type="application/json")

    app.include_router(document)
    return app


def api_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the bodies that endpoints read themselves and how to say who asks."""
    document = app.openapi()
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        schemas_of(TenantDocument, RollbackRequest, NewTokenRequest, TenantRequest)
    )
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
        "tenant": {"type": "apiKey", "in": "header", "name": HEADER, "description": "The tenant to act for."},
    }
    for path in document["paths"].values():
        for operation in path.values():
            if operation.get(ACCESS_KEY) != Access.OPEN.value:
                operation["security"] = [{"token": [], "tenant": []}, {"tenant": []}, {"token": []}]
    return document
