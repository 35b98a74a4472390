"""Clients that ask the environment for a proxy must not look for 127.0.0.1 there; tests with their own network."""

import pytest

from tests.chaos import private_network
from tests.no_proxy import no_proxy

__all__ = ["no_proxy"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test in its own network if it is marked so."""
    if not private_network.runs_elsewhere(pyfuncitem):
        return None
    private_network.run(pyfuncitem)
    return True
