"""What the integration tests share: one running service and one Prometheus that it writes to.

Starting the service takes seconds, so tests share it and keep apart by tenants of their own: each adds its tenants to
the runtime file while the service runs. Tests that stop or break a service start one for themselves.
"""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.integration.planted import DEFAULTS_SECRET, STATIC_SECRET
from tests.integration.service import MillraceProcess
from tests.no_proxy import no_proxy
from tests.prometheus import Prometheus

__all__ = ["no_proxy"]


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
