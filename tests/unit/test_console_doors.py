"""Who gets into the console, as whom, and what the links of its pages answer: by the rules of the API."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import Request

from tenants.console.doors import door_router
from tenants.console.same_origin import SameOrigin
from tenants.console.sessions import IDLE_S, Sessions
from tenants.console.visitor import COOKIE, MAX_PAGES_OF_ONE, ApiProblemError, Door, Visitor, unattended
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


@pytest.mark.parametrize(
    ("url", "headers", "is_secure"),
    [
        ("https://millrace.test", {}, True),
        ("http://millrace.test", {"Origin": "http://millrace.test"}, False),
        # A proxy ends TLS, and says so; or the browser alone does.
        ("http://millrace.test", {"X-Forwarded-Proto": "https"}, True),
        ("http://millrace.test", {"X-Forwarded-Proto": "HTTPS, http"}, True),
        ("http://millrace.test", {"X-Forwarded-Proto": "http"}, False),
        ("http://millrace.test", {"Origin": "https://millrace.test"}, True),
    ],
)
async def test_a_browser_that_has_tls_sends_the_cookie_over_nothing_else(
    tmp_path: Path, url: str, headers: dict[str, str], is_secure: bool
) -> None:
    async with console(tmp_path) as (bench, browser):
        token = await bench.token(Scope.TENANT_ADMIN, tenant="acme")
        answer = await browser.post(f"{url}/console/sign-in", data={"token": token}, headers=headers)
        assert ("secure" in answer.headers["set-cookie"].lower().split("; ")) is is_secure


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
        leaves = [door.pages.enter(f"page {number}", acme) for number in range(MAX_PAGES_OF_ONE)]
        assert all(leaves)
        assert door.pages.enter("one too many", acme) is None
        assert door.pages.enter("another's", await visitor("globex")) is not None
        assert leaves[0] is not None
        leaves[0]()
        assert len(door.pages) == MAX_PAGES_OF_ONE
        assert door.pages.enter("page 0", acme) is not None


async def test_with_the_session_ends_what_an_open_page_may_ask(tmp_path: Path) -> None:
    now_s = 0.0
    async with ControlPlaneBench(tmp_path, _TOKEN_MODE) as bench:
        door = Door(bench.app, bench.control._identification, Sessions(lambda: now_s))
        token = await bench.token(Scope.TENANT_ADMIN, tenant="acme")

        async def open_page() -> tuple[str, Visitor]:
            signed_in = await door.sign_in(token, Request({"type": "http", "headers": []}))
            assert signed_in is not None
            headers = [(b"cookie", f"{COOKIE}={signed_in[0]}".encode())]
            found = await door.visitor(Request({"type": "http", "headers": headers, "client": None}))
            assert found is not None
            return signed_in[0], found

        async def is_let_in(visitor: Visitor) -> bool:
            with contextlib.suppress(ApiProblemError):
                return (await visitor.ask("GET", "/api/red")).status_code == 200
            return False

        cookie, signed_out = await open_page()
        (_, used), (_, left) = await open_page(), await open_page()
        assert await is_let_in(signed_out)
        door.sessions.close(cookie)
        with pytest.raises(ApiProblemError, match="sign in again") as refused:
            await signed_out.get("/api/red")
        assert refused.value.status == 401
        for _ in range(2):
            now_s += IDLE_S * 0.6
            assert await is_let_in(used)
            with unattended():
                is_left_in = await is_let_in(left)
        # One that only refreshes itself has been left by its visitor.
        assert not is_left_in
