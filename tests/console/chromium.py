"""A real Chromium, as every machine has it that runs what needs one."""

import shutil
from typing import Final

from playwright.async_api import Browser, Playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


async def launch(playwright: Playwright) -> Browser:
    """Start it, without a window."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    assert found, "a Chromium is needed (Debian: apt-get install chromium)"
    # Root may not use the sandbox, and a test machine's /dev/shm is small.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"]
    return await playwright.chromium.launch(executable_path=found, args=arguments)
