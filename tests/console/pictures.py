"""Takes the pictures in the documentation anew, of the demo while it runs: ``make pictures``."""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.async_api import async_playwright

from tests.console.chromium import launch
from tests.console.console_service import sign_in
from tests.integration.readme.demo_output import shown_console
from tests.integration.readme.terminal import Terminal
from tests.integration.waiting import eventually

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
TENANT: Final = "acme"
PLAYED_S: Final = 90
"""Rates are those of the last minute."""


async def main() -> None:
    """Play the demo, and take them."""
    with tempfile.TemporaryDirectory() as folder:
        await _take(Path(folder))


async def _take(folder: Path) -> None:
    async with Terminal.open(folder) as terminal, async_playwright() as playwright:
        demo = await terminal.start(f"{Path(sys.executable).with_name('millrace')} demo")
        await eventually(lambda: shown_console(demo.output), 120, lambda: demo.output)
        shown = shown_console(demo.output)
        assert shown is not None
        address, token = shown
        running = await launch(playwright)
        page = await running.new_page(base_url=address, viewport={"width": 1280, "height": 860})
        await sign_in(page, token)
        await page.goto(f"/console/tenant/{TENANT}/graph")
        await asyncio.sleep(PLAYED_S)
        await page.locator("section.card", has=page.locator("svg.graph")).screenshot(path=IMAGES / "service-graph.png")
        await page.goto(f"/console/tenant/{TENANT}")
        await page.locator("canvas").first.wait_for()
        await page.locator("section.card", has_text="By span name").locator("tbody tr").nth(5).wait_for()
        await page.screenshot(path=IMAGES / "tenant.png")
        await running.close()
        await demo.end()


if __name__ == "__main__":
    asyncio.run(main())
