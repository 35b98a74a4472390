"""Fixtures of tests that send: a clock that a test moves, and what senders need from outside. For ``conftest.py``."""

import random
from collections.abc import AsyncIterator

import pytest

from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.surroundings import Surroundings
from tests.unit.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def around(clock: FakeClock) -> AsyncIterator[Surroundings]:
    async with HttpClients() as clients:
        yield Surroundings(clients, clock, random.Random(7), "1.2.3")
