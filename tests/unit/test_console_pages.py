"""What NiceGUI keeps, and for whom: pages and sockets of visitors alone, and of each its own."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request
from nicegui import Client, core, ui
from nicegui import app as nicegui_app
from nicegui.page import page as ui_page

from tenants.console import visitor as module
from tenants.console.doors import SIGN_IN, SIGN_OUT
from tenants.console.frame import live
from tenants.console.sessions import IDLE_S, Sessions
from tenants.console.visitor import COOKIE, Credentials, Visitor
from tenants.identity.access import Principal, Scope
from tenants.identity.tenant_id import TenantId
from tests.unit.control_plane_bench import ControlPlaneBench

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CONFIG = """
multitenancy_enabled: true
auth: {mode: token}
"""
_SOCKET = "/console/_nicegui_ws/socket.io/"
_REFUSAL = '44{"message":"Implicit handshake failed"}'


@dataclass
class Console:
    """The console of this process, of which there can be one."""

    app: FastAPI
    bench: ControlPlaneBench

    def browser(self) -> httpx.AsyncClient:
        """A browser that follows no link by itself."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://millrace.test")

    async def signed_in(self, tenant: str) -> httpx.AsyncClient:
        """A browser of a tenant's administrator."""
        browser = self.browser()
        token = await self.bench.token(Scope.TENANT_ADMIN, tenant=tenant)
        answer = await browser.post(SIGN_IN, data={"token": token})
        assert answer.status_code == 303
        return browser

    async def frames(self, browser: httpx.AsyncClient, pages: str, handshake: str = "") -> list[str]:
        """Open a socket and return what it says, with its answer to the handshake for a page.

        Args:
            browser: whose cookie is sent.
            pages: query that names what the socket is for.
            handshake: id of the page; empty: the socket's address has said it all.
        """
        says = {"tab_id": "t", "document_id": "d", "next_message_id": "0"}
        query = {"EIO": "4", "transport": "websocket", "implicit_handshake": str(not handshake).lower(), **says}
        parameters = f"{pages}&{httpx.QueryParams(query)}"
        cookie = f"{COOKIE}={browser.cookies[COOKIE]}" if COOKIE in browser.cookies else ""
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": _SOCKET,
            "raw_path": _SOCKET.encode(),
            "root_path": "",
            "query_string": parameters.encode(),
            "headers": [
                (b"host", b"millrace.test"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"cookie", cookie.encode()),
            ],
            "client": ("192.0.2.7", 1),
            "server": ("millrace.test", 80),
            "subprotocols": [],
        }
        ins: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        outs: asyncio.Queue[Any] = asyncio.Queue()
        ins.put_nowait({"type": "websocket.connect"})
        ins.put_nowait({"type": "websocket.receive", "text": "40"})
        if handshake:
            event = f"420{json.dumps(['handshake', {'client_id': handshake, **says}])}"
            ins.put_nowait({"type": "websocket.receive", "text": event})
        last = "43" if handshake else "4"
        running = asyncio.create_task(self.app(scope, ins.get, outs.put))
        frames: list[str] = []
        async with asyncio.timeout(30):
            while (message := await outs.get())["type"] != "websocket.close":
                frames += [message["text"]] if "text" in message else []
                if frames and frames[-1].startswith(("44", last)):
                    break
            ins.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await running
        return frames


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Console]:
    # NiceGUI has one application per process: doors of other tests may be in front of it, and theirs have to fit later.
    nicegui_app.user_middleware.clear()
    async with ControlPlaneBench(tmp_path_factory.mktemp("console"), _CONFIG) as bench:
        app = bench.control.application_with_console("test")
        async with app.router.lifespan_context(app):
            yield Console(app, bench)
    nicegui_app.middleware_stack = None


def _page_of(answer: httpx.Response) -> str:
    found = re.search(r"client_id\W+([0-9a-f-]{36})", answer.text)
    assert found is not None, answer.text
    return found[1]


async def test_nothing_is_kept_for_who_sees_no_page(console: Console) -> None:
    stranger, acme = console.browser(), await console.signed_in("acme")
    before = set(Client.instances)
    for path in ("/console/", "/console/audit", "/console/tenant/acme", "/console/tenant/acme/edit"):
        answer = await stranger.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, SIGN_IN), path
    for browser in (stranger, acme):
        for path in ("nothing", "tenant/acme/nothing", "_nicegui/nothing", "_nicegui/0/static/nothing", "sign-in/x"):
            answer = await browser.get(f"/console/{path}")
            assert (answer.status_code, answer.text) == (404, "There is nothing here."), path
    assert (await acme.get("/console/tenant/globex")).status_code == 403
    assert (await acme.get("/console/audit")).status_code == 403
    assert (await acme.get("/console/tenant/..%5C")).status_code == 404
    assert (await acme.get("/console/")).headers["location"] == "/console/tenant/acme"
    assert (await stranger.get(SIGN_IN)).status_code == 200
    assert set(Client.instances) <= before
    page = _page_of(await acme.get("/console/tenant/acme"))
    assert set(Client.instances) - before == {page}


async def test_a_page_too_many_is_not_kept(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = await console.signed_in("many")
    before = set(Client.instances)
    monkeypatch.setattr(module, "MAX_PAGES_OF_ONE", 2)
    answers = [(await browser.get("/console/tenant/many")).status_code for _ in range(4)]
    assert answers == [200, 200, 503, 503]
    assert len(set(Client.instances) - before) == 2


async def test_assets_are_there_for_anybody(console: Console) -> None:
    page = await (await console.signed_in("acme")).get("/console/tenant/acme")
    found = set(re.findall(r'(?:src|href)="(/console/_nicegui/[^"]+)"', page.text))
    assert found
    for path in (*found, "/console/favicon.ico"):
        assert (await console.browser().get(path)).status_code == 200, path


async def test_a_socket_is_for_a_page_that_its_owner_has_open(console: Console) -> None:
    acme, colleague, stranger = await console.signed_in("acme"), await console.signed_in("acme"), console.browser()
    page = _page_of(await acme.get("/console/tenant/acme"))
    others = _page_of(await colleague.get("/console/tenant/acme"))
    before = set(core.sio.eio.sockets)
    for browser, pages in (
        (stranger, f"client_id={page}"),
        (stranger, ""),
        (acme, f"client_id={others}"),
        (acme, f"client_id={page}&client_id={others}"),
        (acme, "client_id=none"),
        (acme, ""),
    ):
        hello, *rest = await console.frames(browser, pages)
        # What leads NiceGUI's pages to the sign-in.
        assert (hello[0], rest) == ("0", [_REFUSAL]), pages
    assert set(core.sio.eio.sockets) <= before
    assert (await console.frames(acme, f"client_id={page}", handshake=others))[-1] == "430[false]"
    assert (await console.frames(acme, f"client_id={page}", handshake=page))[-1] == "430[true]"
    await acme.post(SIGN_OUT)
    assert (await console.frames(acme, f"client_id={page}"))[-1] == _REFUSAL


async def test_a_socket_of_requests_is_for_a_page_that_its_owner_has_open(console: Console) -> None:
    acme, stranger = await console.signed_in("acme"), console.browser()
    page = _page_of(await acme.get("/console/tenant/acme"))
    before = set(core.sio.eio.sockets)
    for browser, pages in ((stranger, f"client_id={page}"), (acme, "")):
        answer = await browser.get(f"{_SOCKET}?EIO=4&transport=polling&{pages}")
        assert answer.text.split("\x1e")[1:] == [_REFUSAL]
    assert set(core.sio.eio.sockets) <= before
    answer = await acme.get(f"{_SOCKET}?EIO=4&transport=polling&client_id={page}")
    assert (answer.status_code, _REFUSAL in answer.text) == (200, False)


async def test_a_page_that_refreshes_itself_keeps_no_session(console: Console) -> None:
    now_s = 0.0
    sessions = Sessions(lambda: now_s)
    token = await console.bench.token(Scope.TENANT_ADMIN, tenant="acme")
    session = sessions.key(sessions.open(token, "acme"))
    principal = Principal(TenantId("acme"), frozenset({Scope.TENANT_ADMIN}), "test")
    visitor = Visitor(console.app, sessions, Credentials(session, ()), principal, "")
    answers: list[Any] = []

    async def refresh() -> None:
        answers.append(await visitor.get("/api/red"))

    request = Request({"type": "http", "path": "/", "query_string": b"", "headers": []})
    with Client(ui_page(""), request=request) as client:
        live(refresh)
        (timer,) = [element for element in client.elements.values() if isinstance(element, ui.timer)]
        for _ in range(2):
            now_s += IDLE_S * 0.6
            await timer.callback()
            assert len(answers) == 1
    opened = [data["path"] for _, kind, data in client.outbox.messages if kind == "open"]
    client.delete()
    assert (opened, len(sessions)) == (["/sign-in"], 0)
