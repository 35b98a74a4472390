"""What the integration tests share: one running service and one Prometheus that it writes to.

Starting the service takes seconds, so tests share it and keep apart by tenants of their own: each adds its tenants to
the runtime file while the service runs. Tests that stop or break a service start one for themselves.
"""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.integration.planted import DEFAULTS_SECRET, STATIC_SECRET
from tests.integration.service import MillraceProcess
from tests.prometheus import Prometheus


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """Keep the clients that ask the environment from looking for 127.0.0.1 elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setitem(os.environ, name, "127.0.0.1")
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prometheus() -> AsyncIterator[Prometheus]:
    """A Prometheus for every tenant that has no endpoint of its own."""
    async with Prometheus() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(prometheus: Prometheus) -> AsyncIterator[MillraceProcess]:
    """A running service without tenants; what it is told of secrets must never come to light."""
    config = {
        "remote_write": [{"url": prometheus.url, "headers": {"X-Static": STATIC_SECRET}}],
        "overrides": {"defaults": {"metrics_generator": {"remote_write_headers": {"X-Defaults": DEFAULTS_SECRET}}}},
    }
    async with MillraceProcess(config) as running:
        yield running
