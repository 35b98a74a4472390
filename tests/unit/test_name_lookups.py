"""Looking hosts up, for endpoints in overrides: who waits for whom."""

import asyncio
import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tenants.endpoint import name_lookups
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.name_lookups import NameLookups
from tenants.endpoint.surroundings import Surroundings, SystemClock
from tests.unit.conditions import until
from tests.unit.receiver import LOOPBACK, Receiver
from tests.unit.sending import batch, sending


class NameServer:
    """Answers for every name with this machine; for names that begin with ``hang`` not before :meth:`release`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def getaddrinfo(self, host: str, *_: object, **__: object) -> Sequence[tuple[Any, ...]]:
        self.asked.append(host)
        if host.startswith("hang"):
            self._released.wait()
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.release()


@pytest.fixture
def lookups() -> Iterator[NameLookups]:
    lookups = NameLookups()
    yield lookups
    lookups.close()


async def test_names_that_are_never_answered_hold_up_no_other_and_are_asked_for_once(server: NameServer) -> None:
    hanging = [f"hang{number}.example" for number in range(40)]
    async with HttpClients(LOOPBACK) as clients, Receiver() as receiver, AsyncExitStack() as senders:
        around = Surroundings(clients, SystemClock(), random.Random(7), "1.2.3")

        async def send(host: str) -> Any:
            config = EndpointConfig(
                f"http://{host}:{receiver.port}/", is_confined=True, timeout_s=0.1, max_sample_age_s=1e9
            )
            sender = await senders.enter_async_context(sending(config, around))
            sender.submit([batch()])
            return sender

        stalled = [await send(host) for host in hanging]
        # They have given up waiting, and tried again.
        await until(lambda: all(each.snapshot().attempts_failed.get("timeout", 0) > 1 for each in stalled))
        await send("good.example")
        await receiver.wait_for_requests(1)
        assert sorted(server.asked) == sorted([*hanging, "good.example"])


async def test_who_asks_while_a_host_is_looked_up_is_told_the_same(server: NameServer, lookups: NameLookups) -> None:
    first, second = (asyncio.create_task(lookups.addresses("hang.example", port)) for port in (80, 443))
    await until(lambda: server.asked)
    first.cancel()
    await asyncio.wait([first])
    server.release()
    assert await second == ["127.0.0.1"]
    assert server.asked == ["hang.example"]
    # What was found is not kept.
    assert await lookups.addresses("hang.example", 80) == ["127.0.0.1"]
    assert len(server.asked) == 2


async def test_unknown_host_is_unknown_to_all_who_asked(server: NameServer, lookups: NameLookups) -> None:
    answers = await asyncio.gather(
        *(lookups.addresses("unknown.example", 80) for _ in range(2)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [socket.gaierror] * 2
    assert server.asked == ["unknown.example"]


async def test_there_is_a_bound_of_names_that_are_looked_up_at_once(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookups, "MAX_LOOKUPS", 2)
    lookups = NameLookups()
    waiting = [asyncio.create_task(lookups.addresses(f"hang{number}.example", 80)) for number in (0, 1, 1)]
    await until(lambda: len(server.asked) == 2)
    with pytest.raises(OSError, match=r"too many names are being looked up \(2\)"):
        await lookups.addresses("good.example", 80)
    server.release()
    await asyncio.gather(*waiting)
    assert await lookups.addresses("good.example", 80) == ["127.0.0.1"]
    lookups.close()
