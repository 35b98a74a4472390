"""Keeps what is asked on loopback from being looked for at a proxy."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """Keep the clients that ask the environment from looking for 127.0.0.1 elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setitem(os.environ, name, "127.0.0.1")
        yield
