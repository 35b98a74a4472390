"""A running service with tokens, a Prometheus behind it, and a real Chromium in front.

Screenshots are kept in ``.artefacts/console``, of tests that fail too: what a page looks like, only a look tells.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.console.chromium import launch
from tests.console.console_service import ConsoleService
from tests.lasting_ports import lasting_port
from tests.no_proxy import no_proxy
from tests.prometheus import Prometheus

__all__ = ["no_proxy"]

ARTEFACTS: Final = Path(__file__).parents[2] / ".artefacts" / "console"
# Beside a whole service a browser may be slow.
expect.set_options(timeout=20_000)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service() -> AsyncIterator[ConsoleService]:
    async with Prometheus() as prometheus:
        config = {
            "auth": {"mode": "token"},
            "listen": {"otlp_http": f"127.0.0.1:{lasting_port()}"},
            "remote_write": [{"url": prometheus.url}],
            "overrides": {"user_configurable_overrides": {"enabled": True, "poll_interval": "100ms"}},
            "metrics_generator": {"processor": {"service_graphs": {"enable_virtual_node_label": True}}},
            "cluster": {"shard_hosts": 1},
        }
        async with ConsoleService(config) as running:
            yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await launch(playwright)
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, service: ConsoleService) -> AsyncIterator[BrowserContext]:
    """A browser that nobody is signed in with."""
    made = await browser.new_context(base_url=service.url, viewport={"width": 1440, "height": 900})
    made.set_default_timeout(20_000)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """A page that may say nothing wrong on the console of the browser."""
    made = await context.new_page()
    said: list[str] = []
    made.on("pageerror", lambda error: said.append(str(error)))
    yield made
    await shot(made, request.node.name)
    assert said == []


async def shot(page: Page, name: str) -> None:
    """Keep a picture of the whole page."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)
