"""Who gets into the console, as whom, and what the links of its pages answer: by the rules of the API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import Request

from tenants.console.doors import door_router
from tenants.console.same_origin import SameOrigin
from tenants.console.visitor import MAX_PAGES_OF_ONE, Door, Visitor
from tenants.identity.access import Scope
from tests.unit.control_plane_bench import ControlPlaneBench

_TOKEN_MODE = """
multitenancy_enabled: true
auth: {mode: token}
overrides: {user_configurable_overrides: {enabled: true}}
"""
_DOCUMENT = {"metrics_generator": {"processors": ["span-metrics"]}}


@asynccontextmanager
async def console(
    folder: Path, config: str = _TOKEN_MODE
) -> AsyncIterator[tuple[ControlPlaneBench, httpx.AsyncClient]]:
    """The doors of a console, and a browser that follows no link by itself."""
    async with ControlPlaneBench(folder, config) as bench:
        door = Door(bench.app, bench.control._identification, bench.control.sessions)
        bench.app.include_router(door_router(door))
        transport = httpx.ASGITransport(bench.app, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://millrace.test") as browser:
            yield bench, browser


async def sign_in(browser: httpx.AsyncClient, token: str, **headers: str) -> httpx.Response:
    return await browser.post("/console/sign-in", data={"token": token}, headers=headers)


@pytest.mark.parametrize(
    ("scope", "tenant", "home"),
    [
        (Scope.OPERATOR, None, "/console/"),
        (Scope.TENANT_ADMIN, "acme", "/console/tenant/acme"),
        (Scope.INGEST, "acme", None),
        # Of all tenants: it would have to name one.
        (Scope.TENANT_ADMIN, None, None),
    ],
)
async def test_a_token_leads_home_or_nowhere(
    tmp_path: Path, scope: Scope, tenant: str | None, home: str | None
) -> None:
    async with console(tmp_path) as (bench, browser):
        token = await bench.token(scope, tenant=tenant)
        answer = await sign_in(browser, f" {token}\n")
        assert token not in answer.text
        if home is None:
            assert (answer.status_code, answer.cookies) == (401, httpx.Cookies())
            return
        assert (answer.status_code, answer.headers["location"]) == (303, home)
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/console"))
        assert "secure" not in cookie
        secure = await browser.post("https://millrace.test/console/sign-in", data={"token": token})
        assert "secure" in secure.headers["set-cookie"].lower()


async def test_what_is_no_token_is_not_said_again(tmp_path: Path) -> None:
    async with console(tmp_path) as (_, browser):
        for form in ("<script>alert(1)</script>", "mrt_nonsense", "", "x" * 5000):
            answer = await sign_in(browser, form)
            assert answer.status_code == 401
            assert "script>" not in answer.text
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await browser.post("/console/sign-in", content=b"\xff\xfe")).status_code == 401


async def test_links_answer_the_visitor_alone(tmp_path: Path) -> None:
    async with console(tmp_path) as (bench, browser):
        for tenant in ("acme", "globex"):
            operator = await bench.token(Scope.OPERATOR)
            await bench.ask("POST", "/api/overrides", token=operator, tenant=tenant, body=_DOCUMENT, If_Match="0")
        assert (await browser.get("/console/data/overrides")).headers["location"] == "/console/sign-in"
        await sign_in(browser, await bench.token(Scope.TENANT_ADMIN, tenant="acme"))
        assert (await browser.get("/console/data/overrides")).json() == _DOCUMENT
        # Only an operator's word counts for whom one asks.
        assert (await browser.get("/console/data/service-graph?org=globex")).json()["tenant"] == "acme"
        assert (await browser.get("/console/data/admin/tenants")).status_code == 403
        assert (await browser.get("/console/data/../status")).status_code in {403, 404}
        await browser.post("/console/sign-out")
        assert (await browser.get("/console/data/overrides")).status_code == 303
        await sign_in(browser, operator)
        answer = await browser.get("/console/data/service-graph?org=globex&service=a%26b")
        assert (answer.json()["tenant"], answer.headers["cache-control"]) == ("globex", "no-store")
        assert (await browser.get("/console/data/admin/tenants?search=glob")).json()["total"] == 1
        assert (await browser.get("/console/data/overrides")).status_code == 400


async def test_a_session_is_worth_no_more_than_its_token(tmp_path: Path) -> None:
    async with console(tmp_path) as (bench, browser):
        token = await bench.token(Scope.TENANT_ADMIN, tenant="acme")
        await sign_in(browser, token)
        assert (await browser.get("/console/data/red")).status_code == 200
        operator = await bench.token(Scope.OPERATOR)
        await bench.ask("DELETE", f"/api/tokens/{token.split('_')[1]}", token=operator, tenant=None)
        assert (await browser.get("/console/data/red")).status_code == 303


async def test_other_sites_sign_nobody_in_or_out(tmp_path: Path) -> None:
    async with console(tmp_path) as (bench, browser):
        token = await bench.token(Scope.TENANT_ADMIN, tenant="acme")
        for origin in ("http://evil.test", "null", "http://millrace.test.evil.test"):
            assert (await sign_in(browser, token, Origin=origin)).status_code == 403
        assert (await sign_in(browser, token, Origin="http://millrace.test")).status_code == 303
        assert (await browser.post("/console/sign-out", headers={"Origin": "http://evil.test"})).status_code == 403
        assert (await browser.get("/console/data/red")).status_code == 200


async def test_while_headers_are_trusted_the_proxy_says_who_one_is(tmp_path: Path) -> None:
    async with console(tmp_path, "") as (bench, browser):
        acme = {"X-Scope-OrgID": "acme"}
        assert (await browser.get("/console/data/red", headers=acme)).json()["tenant"] == "acme"
        assert (await browser.get("/console/data/red?org=globex", headers=acme)).json()["tenant"] == "acme"
        assert (await browser.get("/console/data/admin/tenants", headers=acme)).status_code == 403
        assert (await browser.get("/console/data/red")).status_code == 303
        await sign_in(browser, await bench.token(Scope.OPERATOR))
        assert (await browser.get("/console/data/admin/tenants")).status_code == 200


async def test_the_root_leads_to_the_console(tmp_path: Path) -> None:
    async with console(tmp_path) as (_, browser):
        assert (await browser.get("/")).headers["location"] == "/console/"
        assert (await browser.get("/openapi.json")).json()["paths"].keys().isdisjoint({"/", "/console/sign-in"})


async def test_a_socket_is_opened_for_the_own_pages_alone() -> None:
    opened: list[str] = []

    async def app(scope: object, receive: object, send: object) -> None:
        opened.append("opened")

    async def nothing() -> dict[str, object]:
        return {}

    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        sent.append(dict(message))  # type: ignore[call-overload]

    guarded = SameOrigin(app)
    for origin, is_let_in in ((b"http://millrace.test", True), (b"http://evil.test", False), (None, True)):
        opened.clear()
        sent.clear()
        headers = [(b"host", b"millrace.test"), *([(b"origin", origin)] if origin else [])]
        await guarded({"type": "websocket", "path": "/_nicegui_ws/", "headers": headers}, nothing, send)
        assert (opened == ["opened"], sent == []) == (is_let_in, is_let_in)


async def test_one_tenant_opens_so_many_pages_and_others_theirs(tmp_path: Path) -> None:
    async with console(tmp_path, "") as (bench, _):
        door = Door(bench.app, bench.control._identification, bench.control.sessions)

        async def visitor(tenant: str) -> Visitor:
            headers = [(b"x-scope-orgid", tenant.encode())]
            found = await door.visitor(Request({"type": "http", "headers": headers, "client": None}))
            assert found is not None
            return found

        acme = await visitor("acme")
        leaves = [door.pages.enter(acme) for _ in range(MAX_PAGES_OF_ONE)]
        assert all(leaves)
        assert door.pages.enter(acme) is None
        assert door.pages.enter(await visitor("globex")) is not None
        assert leaves[0] is not None
        leaves[0]()
        assert len(door.pages) == MAX_PAGES_OF_ONE
        assert door.pages.enter(acme) is not None
