"""Every route of the API with every kind of credential. Routes are read from the application, so none is forgotten."""

import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from tenants.api.access import Access, GuardedRouter, access_of
from tenants.control.caller import Caller
from tenants.identity.access import Scope
from tests.unit.control_plane_bench import ControlPlaneBench

_TOKEN_MODE = """
multitenancy_enabled: true
auth: {mode: token}
overrides: {user_configurable_overrides: {enabled: true}}
"""

CREDENTIALS = (
    "none",
    "broken",
    "unknown",
    "wrong_secret",
    "expired",
    "revoked",
    "ingest",
    "other_tenant",
    "tenant_admin",
    "tenant_admin_of_other_named",
    "operator",
    "operator_naming_tenant",
)

_LET_IN: dict[Access, frozenset[str]] = {
    Access.OPEN: frozenset(CREDENTIALS),
    Access.INSPECT: frozenset({"operator", "operator_naming_tenant"}),
    Access.OPERATOR: frozenset({"operator", "operator_naming_tenant"}),
    Access.TENANT: frozenset({"tenant_admin", "operator_naming_tenant", "other_tenant"}),
    Access.TENANT_OR_OPERATOR: frozenset({"tenant_admin", "operator", "operator_naming_tenant", "other_tenant"}),
}
"""Who passes the guard. ``other_tenant``: another tenant's administrator, who reaches what is that tenant's own."""


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    access: Access

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def api_routes(app: FastAPI) -> list[Route]:
    """Every route that answers, however deep it was included."""
    found: list[Route] = []

    def walk(routes: list[BaseRoute]) -> None:
        for route in routes:
            if isinstance(route, APIRoute):
                found.extend(Route(method, route.path, access_of(route)) for method in sorted(route.methods))
            else:
                walk(list(getattr(route, "routes", []) or []))
                inner = getattr(route, "original_router", None)
                walk(list(getattr(inner, "routes", []) or []))

    walk(app.routes)
    return found


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ControlPlaneBench]:
    async with ControlPlaneBench(tmp_path, _TOKEN_MODE) as made:
        yield made


async def _credentials(bench: ControlPlaneBench) -> dict[str, tuple[str | None, str | None]]:
    """By kind: the token and the tenant that the header names."""
    admin = await bench.token(Scope.TENANT_ADMIN, tenant="acme")
    operator = await bench.token(Scope.OPERATOR)
    revoked = await bench.token(Scope.OPERATOR)
    await bench.control.tokens.revoke(None, revoked.split("_")[1], Caller("test", ""))
    expired = await bench.expired_token(Scope.OPERATOR)
    mixed = "_".join([*operator.split("_", 2)[:2], admin.split("_", 2)[2]])
    return {
        "none": (None, None),
        "broken": ("mrt_nonsense", "acme"),
        "unknown": (f"mrt_{'0' * 16}_{'A' * 43}", "acme"),
        "wrong_secret": (mixed, "acme"),
        "expired": (expired, "acme"),
        "revoked": (revoked, "acme"),
        "ingest": (await bench.token(Scope.INGEST, tenant="acme"), None),
        "other_tenant": (await bench.token(Scope.TENANT_ADMIN, tenant="globex"), None),
        "tenant_admin": (admin, None),
        "tenant_admin_of_other_named": (admin, "globex"),
        "operator": (operator, None),
        "operator_naming_tenant": (operator, "acme"),
    }


async def test_every_route_lets_in_whom_its_rule_names(bench: ControlPlaneBench) -> None:
    routes = api_routes(bench.app)
    assert len(routes) > 15
    credentials = await _credentials(bench)
    assert set(credentials) == set(CREDENTIALS)
    for route, (kind, (token, tenant)) in itertools.product(routes, credentials.items()):
        path = re.sub(r"\{[^}]*\}", "acme", route.path)
        answer = await bench.ask(route.method, path, token=token, tenant=tenant)
        if kind in _LET_IN[route.access]:
            assert answer.status_code not in {401, 403, 500, 503}, (str(route), kind, answer.text)
        else:
            expected = (
                {403} if kind in {"ingest", "other_tenant", "tenant_admin", "tenant_admin_of_other_named"} else {401}
            )
            if kind == "operator":
                expected = {400}
            assert answer.status_code in expected, (str(route), kind, answer.status_code, answer.text)
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_route_cannot_be_added_without_a_rule(bench: ControlPlaneBench) -> None:
    assert bench.app.router.routes
    for router in (bench.app, GuardedRouter()):
        router.add_api_route("/forgotten", lambda: "secret")
        if isinstance(router, GuardedRouter):
            bench.app.include_router(router, prefix="/deeper")
    assert (await bench.ask("GET", "/forgotten")).status_code == 500
    assert (await bench.ask("GET", "/deeper/forgotten")).status_code == 500
    with pytest.raises(KeyError):
        api_routes(bench.app)


async def test_the_other_tenant_reaches_only_its_own(bench: ControlPlaneBench) -> None:
    acme = await bench.token(Scope.TENANT_ADMIN, tenant="acme")
    globex = await bench.token(Scope.TENANT_ADMIN, tenant="globex")
    document = {"metrics_generator": {"processors": ["span-metrics"]}}
    assert (
        await bench.ask("POST", "/api/overrides", token=acme, tenant=None, body=document, If_Match="0")
    ).status_code == 200
    assert (await bench.ask("GET", "/api/overrides", token=globex, tenant=None)).status_code == 404
    assert (await bench.ask("GET", "/api/overrides", token=globex, tenant="acme")).status_code == 403
    listed = (await bench.ask("GET", "/api/tokens", token=globex, tenant=None)).json()["tokens"]
    assert [token["tenant"] for token in listed] == ["globex"]
    (own,) = (await bench.ask("GET", "/api/tokens", token=acme, tenant=None)).json()["tokens"]
    assert (await bench.ask("DELETE", f"/api/tokens/{own['id']}", token=globex, tenant=None)).status_code == 404
    assert (await bench.ask("DELETE", f"/api/tokens/{own['id']}", token=acme, tenant=None)).status_code == 204
    assert (await bench.ask("GET", "/api/overrides", token=acme, tenant=None)).status_code == 401


async def test_while_headers_are_trusted_operators_still_need_a_token(tmp_path: Path) -> None:
    async with ControlPlaneBench(tmp_path) as bench:
        for route in api_routes(bench.app):
            path = re.sub(r"\{[^}]*\}", "acme", route.path)
            answer = await bench.ask(route.method, path, tenant="acme")
            assert (answer.status_code == 403) == (route.access is Access.OPERATOR), (str(route), answer.status_code)
        operator = await bench.token(Scope.OPERATOR)
        assert (await bench.ask("GET", "/api/admin/tenants", token=operator, tenant=None)).status_code == 200


async def test_no_page_of_another_site_changes_anything(tmp_path: Path) -> None:
    # Where a proxy knows people by a cookie, a browser sends it along with what any page makes it send.
    async with ControlPlaneBench(tmp_path) as bench:
        changes = [route for route in api_routes(bench.app) if route.method not in {"GET", "HEAD", "OPTIONS"}]
        assert len(changes) > 5
        for route, origin in itertools.product(changes, ("https://evil.example", "null", "http://millrace.test:81")):
            path = re.sub(r"\{[^}]*\}", "acme", route.path)
            answer = await bench.ask(route.method, path, Origin=origin)
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:millrace:problem:forbidden"), str(route)
            assert answer.headers["content-type"] == "application/problem+json"
            assert "another site" in answer.json()["detail"]
        body = {"scopes": ["ingest"], "expires_in_days": 1}
        assert (await bench.ask("GET", "/api/tokens", Origin="https://evil.example")).json()["tokens"] == []
        # Pages of its own, be it behind a proxy that ends TLS, and what is no page.
        for headers in ({"Origin": "http://millrace.test"}, {"Origin": "https://millrace.test"}, {}):
            assert (await bench.ask("POST", "/api/tokens", body=body, **headers)).status_code == 201, headers
