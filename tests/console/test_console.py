"""The console as people use it: signed in, with a mouse and with keys, in a real browser, on a real service."""

import json
import re

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.console.conftest import shot
from tests.console.console_service import ConsoleService, sign_in
from tests.console.shop_traffic import ShopTraffic
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

DOCUMENT = {"metrics_generator": {"processors": ["service-graphs", "span-metrics"], "collection_interval": "15s"}}


async def test_nobody_gets_in_without_a_token(page: Page, service: ConsoleService) -> None:
    await page.goto("/console/tenant/acme/graph")
    await expect(page).to_have_url(re.compile("/console/sign-in$"))
    await page.get_by_label("Token").fill("mrt_0000000000000000_" + "A" * 43)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("does not open the console")
    ingest = await service.tenant_token("acme", "ingest")
    await page.get_by_label("Token").fill(ingest)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("lacks the scope")


async def test_signing_out_ends_the_session(page: Page, context: BrowserContext, service: ConsoleService) -> None:
    await sign_in(page, service.operator)
    (cookie,) = [each for each in await context.cookies() if each["name"] == "millrace_session"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
    assert service.operator not in cookie["value"]
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(re.compile("/console/sign-in$"))
    await context.add_cookies([cookie])
    await page.goto("/console/")
    await expect(page).to_have_url(re.compile("/console/sign-in$"))


async def test_a_tenant_turns_metrics_on_and_watches_its_graph_appear(page: Page, service: ConsoleService) -> None:
    admin = await service.tenant_token("watcher")
    ingest = await service.tenant_token("watcher", "ingest")
    await sign_in(page, admin)
    await expect(page).to_have_url(re.compile("/console/tenant/watcher$"))
    async with ShopTraffic(service.otlp_port, ingest):
        await page.get_by_role("button", name="Turn on metrics").click()
        await page.keyboard.press("2")
        await expect(page).to_have_url(re.compile("/tenant/watcher/graph$"))
        graph = page.locator("svg.graph")
        await expect(graph.locator(".node", has_text="checkout")).to_be_visible(timeout=40_000)
        await expect(graph.locator(".node.database").first).to_be_visible()
        await expect(graph.locator(".node.virtual").first).to_be_visible()
        # Rates come with the second look, without anybody doing anything.
        await expect(graph.locator(".said").first).to_contain_text("/s", timeout=30_000)
        await shot(page, "service_graph")
        await graph.locator(".node", has_text="checkout").click()
        await expect(page).to_have_url(re.compile("service=checkout"))
        await expect(page.locator("svg.graph .node").first).to_be_visible()
        for edge in await page.locator("svg.graph .edge title").all_text_contents():
            assert "checkout" in edge.partition(":")[0]
        await shot(page, "service_graph_of_one_service")
        await page.keyboard.press("1")
        red = page.locator("section.card", has_text="By span name")
        await expect(red.locator("tbody tr").first).to_contain_text("/s", timeout=30_000)
        await expect(page.locator("canvas").first).to_be_visible()
        await expect(page.locator(".tile", has_text="Received")).to_contain_text("/s of", timeout=40_000)
        await expect(page.locator(".tile", has_text="Received").locator(".value")).to_contain_text("/s", timeout=40_000)
        await expect(page.locator(".tile", has_text="Endpoints")).to_contain_text("ok")
        await shot(page, "tenant_overview")
        await page.keyboard.press("d")
        await expect(page.locator("body.body--dark")).to_be_visible()
        await expect(red.locator("tbody tr").first).to_be_visible()
        await shot(page, "tenant_overview_dark")
        await page.keyboard.press("2")
        await expect(page.locator("svg.graph .said").first).to_contain_text("/s", timeout=30_000)
        await shot(page, "service_graph_dark")
        await page.keyboard.press("3")
        await expect(page.locator("td", has_text="traces_spanmetrics_latency")).to_be_visible()
        await expect(page.locator("td", has_text="span_name").first).to_be_visible()
        await shot(page, "cardinality_dark")
        await page.keyboard.press("4")
        await expect(page.locator(".tag", has_text="closes: every span is accounted for")).to_be_visible()
        await shot(page, "ledger_dark")


async def test_a_mistake_is_shown_at_its_line_and_nothing_is_stored(page: Page, service: ConsoleService) -> None:
    await service.put_document("careful", DOCUMENT, 0)
    await sign_in(page, await service.tenant_token("careful"))
    await page.goto("/console/tenant/careful/edit")
    await expect(page.locator(".cm-content")).to_contain_text("15s")
    wrong = json.dumps(DOCUMENT, indent=2).replace('"15s"', '"1 parsec"')
    await _write(page, wrong)
    line = wrong[: wrong.index("parsec")].count("\n") + 1
    fault = page.get_by_role("button", name=re.compile(f"Line {line}: metrics_generator.collection_interval"))
    await expect(fault).to_be_visible()
    await expect(page.locator(".cm-line.cm-fault")).to_contain_text("parsec")
    await shot(page, "mistake_at_its_line")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".tag", has_text="not valid")).to_be_visible()
    await _write(page, '{\n  "metrics_generator": {\n')
    await expect(page.get_by_role("button", name=re.compile("^Line [0-9]+: is not JSON"))).to_be_visible()
    answer = await service.ask("GET", "/api/overrides", tenant="careful", token=service.operator)
    assert (answer.json(), answer.headers["x-overrides-revision"]) == (DOCUMENT, "1")


async def test_dry_run_save_conflict_and_rollback(page: Page, service: ConsoleService) -> None:
    await service.put_document("editor", DOCUMENT, 0)
    await sign_in(page, await service.tenant_token("editor"))
    await page.goto("/console/tenant/editor/edit")
    await expect(page.locator(".cm-content")).to_contain_text("15s")
    await _write(page, json.dumps(DOCUMENT, indent=2).replace("15s", "30s"))
    await page.get_by_role("button", name="Dry run").click()
    await expect(page.locator(".tag", has_text="valid: nothing is stored yet")).to_be_visible()
    change = page.locator("table.diff tr", has_text="metrics_generator.collection_interval").first
    await expect(change).to_contain_text("30s")
    assert await _revision(service) == 1
    await shot(page, "dry_run")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".tag", has_text="saved as revision 2; in force everywhere")).to_be_visible()
    assert await _revision(service) == 2

    others = json.loads(json.dumps(DOCUMENT).replace("15s", "45s"))
    await service.put_document("editor", others, 2)
    await _write(page, json.dumps(DOCUMENT, indent=2).replace("15s", "60s"))
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Somebody else was faster: revision 3 is there")).to_be_visible()
    await expect(page.locator("table.diff", has_text="45s").first).to_be_visible()
    assert await _revision(service) == 3
    await shot(page, "conflict")
    await page.get_by_role("button", name="Keep my text, on top of theirs").click()
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".tag", has_text="saved as revision 4")).to_be_visible()

    first = page.locator(".q-expansion-item", has_text="Revision 1")
    await first.get_by_role("button", name="Roll back to this").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Back to revision 1?")
    await expect(dialog.locator("table.diff")).to_contain_text("15s")
    await shot(page, "rollback")
    await dialog.get_by_role("button", name="Roll back").click()
    await expect(page.locator(".cm-content")).to_contain_text("15s")
    await expect(page.locator(".q-expansion-item", has_text="Revision 5")).to_be_visible()
    answer = await service.ask("GET", "/api/overrides", tenant="editor", token=service.operator)
    assert (answer.json(), answer.headers["x-overrides-revision"]) == (DOCUMENT, "5")


async def test_a_tenant_cannot_see_another(page: Page, service: ConsoleService) -> None:
    await service.put_document("secretive", DOCUMENT, 0)
    await sign_in(page, await service.tenant_token("curious"))
    await expect(page).to_have_url(re.compile("/console/tenant/curious$"))
    for view in ("", "/graph", "/cardinality", "/ledger", "/settings", "/edit"):
        answer = await page.goto(f"/console/tenant/secretive{view}")
        assert answer is not None
        assert answer.status == 403
        assert "secretive" not in await page.content()
    for path in ("/console/cluster", "/console/audit"):
        answer = await page.goto(path)
        assert answer is not None
        assert answer.status == 403
    for path in ("overrides?org=secretive", "admin/tenants", "admin/audit", "admin/tenants/secretive"):
        answer = await page.goto(f"/console/data/{path}")
        assert answer is not None
        assert answer.status in {403, 404}
        assert "15s" not in await page.content()
    await page.goto("/console/")
    await expect(page).to_have_url(re.compile("/console/tenant/curious$"))
    await expect(page.get_by_role("link", name="Tenants")).to_have_count(0)


async def test_an_operator_sees_all_tenants_and_pauses_one(page: Page, service: ConsoleService) -> None:
    for name in ("shop-a", "shop-b"):
        await service.put_document(name, DOCUMENT, 0)
    ingest = await service.tenant_token("shop-a", "ingest")
    await sign_in(page, service.operator)
    async with ShopTraffic(service.otlp_port, ingest):
        await page.keyboard.press("/")
        await page.keyboard.type("shop-")
        rows = page.locator("table.plain tbody tr")
        await expect(rows).to_have_count(2)
        # First who sends most.
        await expect(rows.first).to_contain_text("shop-a", timeout=40_000)
        await expect(rows.first.locator("td").nth(2)).to_contain_text("/s", timeout=40_000)
        await expect(rows.first).to_contain_text("ok", timeout=40_000)
        await shot(page, "tenants")
        await rows.first.get_by_role("link", name="shop-a").click()
        await expect(page).to_have_url(re.compile("/console/tenant/shop-a$"))
        await page.get_by_role("button", name="Change state").click()
        await page.get_by_role("menuitem", name=re.compile("paused")).click()
        await expect(page.get_by_role("dialog")).to_contain_text("nothing is generated")
        await page.get_by_role("button", name="Do it").click()
        await expect(page.locator(".tag", has_text="paused")).to_be_visible()
    row = await service.ask("GET", "/api/admin/tenants/shop-a", token=service.operator)
    assert row.json()["state"] == "paused"
    await page.keyboard.press("5")
    await expect(page.locator("tr", has_text="collection_interval")).to_contain_text("api")
    await shot(page, "in_force")
    await page.keyboard.press("c")
    await expect(page.locator("tr", has_text="collector")).to_contain_text("up")
    await expect(page.locator("tr", has_text="alive")).to_be_visible()
    await shot(page, "cluster")
    await page.keyboard.press("a")
    await expect(page.locator("tr", has_text="tenant.change").first).to_contain_text("paused")
    await expect(page.locator("tr", has_text="tenant.change").first).to_contain_text("127.0.0.1")
    await shot(page, "audit")


async def test_every_page_links_to_its_json(page: Page, service: ConsoleService) -> None:
    await service.put_document("linked", DOCUMENT, 0)
    await sign_in(page, service.operator)
    views = ("", "/graph", "/cardinality", "/ledger", "/settings", "/edit")
    for path in ("/", "/cluster", "/audit", *(f"/tenant/linked{view}" for view in views)):
        await page.goto(f"/console{path}")
        links = page.locator("a.json")
        await expect(links.first).to_be_visible()
        for href in {await link.get_attribute("href") for link in await links.all()}:
            answer = await page.request.get(str(href))
            assert answer.status == 200, (path, href, await answer.text())
            await answer.json()


async def test_a_revoked_token_opens_nothing_any_more(page: Page, service: ConsoleService) -> None:
    token = await service.tenant_token("leaver")
    await sign_in(page, token)
    await expect(page.locator(".tile").first).to_be_visible()
    await service.ask("DELETE", f"/api/tokens/{token.split('_')[1]}", token=service.operator)
    # The page that is open asks again by itself, and is sent away.
    await expect(page).to_have_url(re.compile("/console/sign-in$"), timeout=20_000)


async def test_signing_out_ends_the_pages_that_are_open(
    page: Page, context: BrowserContext, service: ConsoleService
) -> None:
    await service.put_document("goer", DOCUMENT, 0)
    await sign_in(page, await service.tenant_token("goer"))
    left = await context.new_page()
    await left.goto("/console/tenant/goer/edit")
    await expect(left.locator(".cm-content")).to_contain_text("15s")
    await _write(left, json.dumps(DOCUMENT, indent=2).replace("15s", "30s"))
    await expect(left.locator(".tag", has_text="valid: nothing is stored yet")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(re.compile("/console/sign-in$"))
    # Without waiting for it: the page may be at the sign-in already.
    await left.get_by_role("button", name="Save").evaluate_all("buttons => buttons.forEach(button => button.click())")
    await expect(left).to_have_url(re.compile("/console/sign-in$"))
    assert await _revision(service, "goer") == 1


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_page_whose_socket_is_refused_leads_to_the_sign_in(
    page: Page, context: BrowserContext, service: ConsoleService, transport: str
) -> None:
    await sign_in(page, service.operator)
    await expect(page.locator("table.plain")).to_be_visible()
    await context.clear_cookies()
    # The server can tell it nothing any more.
    await page.evaluate(f"window.socket.io.opts.transports = ['{transport}']; window.socket.io.engine.close()")
    await expect(page).to_have_url(re.compile("/console/sign-in$"))


async def test_another_site_can_neither_sign_in_nor_listen(
    browser: Browser, page: Page, service: ConsoleService
) -> None:
    await sign_in(page, service.operator)
    foreign = {"Origin": "http://evil.example"}
    answer = await page.request.post("/console/sign-in", form={"token": service.operator}, headers=foreign)
    assert answer.status == 403
    answer = await page.request.post("/console/sign-out", headers=foreign)
    assert answer.status == 403
    answer = await page.request.get("/console/_nicegui_ws/socket.io/?EIO=4&transport=polling", headers=foreign)
    assert answer.status == 403
    answer = await page.request.get("/console/")
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    # Who is not signed in reaches nothing but the sign-in: no page, and no data.
    stranger = await browser.new_context(base_url=service.url)
    for path in ("/console/", "/console/cluster", "/console/tenant/acme", "/console/data/admin/tenants"):
        answer = await stranger.request.get(path)
        assert answer.url.endswith("/console/sign-in"), path
    for path in ("/console/docs", "/console/openapi.json", "/console/redoc"):
        assert (await stranger.request.get(path)).status == 404, path
    await stranger.close()


async def test_a_page_that_is_closed_is_forgotten(context: BrowserContext, service: ConsoleService) -> None:
    page = await context.new_page()
    await sign_in(page, service.operator)
    await expect(page.locator("table.plain")).to_be_visible()
    assert await _open_pages(service) >= 1
    await page.close()

    async def are_forgotten() -> bool:
        return await _open_pages(service) == 0

    await eventually(are_forgotten, 90, lambda: "pages are still counted as open")


async def _open_pages(service: ConsoleService) -> float:
    text = (await service.ask("GET", "/metrics", token=service.operator)).text
    (line,) = [line for line in text.splitlines() if line.startswith("millrace_console_pages{")]
    return float(line.split()[-1])


async def _write(page: Page, text: str) -> None:
    """Replace the text of the editor, as by pasting."""
    editor = page.locator(".cm-content")
    await editor.click()
    await page.keyboard.press("ControlOrMeta+a")
    await page.keyboard.insert_text(text)


async def _revision(service: ConsoleService, tenant: str = "editor") -> int:
    answer = await service.ask("GET", "/api/overrides", tenant=tenant, token=service.operator)
    return int(answer.headers["x-overrides-revision"])
