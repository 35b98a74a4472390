"""Whatever ails an endpoint for a while: afterwards every sample is there once, and each series was sent in order."""

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
import trustme

from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.remote_write_auth import TlsConfig
from tests.unit.conditions import until
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import LOOPBACK, Answer, Flood, Hang, Received, Receiver, Reset, Trickle, WireStep
from tests.unit.sending import ACME, assert_closes, batch, disk, divide, seconds
from tests.unit.test_endpoint_tls import Authority

LANES = 3
COLLECTIONS = 12
AILS_FOR = 5
"""Pauses."""


@dataclass
class Place:
    """Where samples are sent to, in trouble until :meth:`mend`."""

    config: EndpointConfig
    receivers: list[Receiver]
    mend: Callable[[], Awaitable[None]]
    resolve: Callable[[str, int], Awaitable[Sequence[str]]] | None = None
    fails_as: str = ""
    stored: list[Received] = field(default_factory=list)


Ailment = Callable[[Path], AbstractAsyncContextManager[Place]]


def answering(step: WireStep, reason: str, *, stores: bool = False, timeout_s: float = 30) -> Ailment:
    """An endpoint that does this to every request, and has stored it in spite of that, or not."""

    @asynccontextmanager
    async def place(_: Path) -> AsyncIterator[Place]:
        def judge(request: Received) -> WireStep:
            if stores:
                made.stored.append(request)
            return step

        def healthy(request: Received) -> WireStep:
            made.stored.append(request)
            return 204

        async with Receiver(otherwise=judge) as receiver:

            async def mend() -> None:
                receiver.otherwise = healthy
                made.config = EndpointConfig(receiver.url)

            made = Place(EndpointConfig(receiver.url, timeout_s=timeout_s), [receiver], mend, fails_as=reason)
            yield made

    return place


@asynccontextmanager
async def refused(_: Path) -> AsyncIterator[Place]:
    """Nobody listens; then somebody does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with AsyncExitStack() as stack:

        async def mend() -> None:
            receiver = Receiver(port=port)
            made.receivers.append(await stack.enter_async_context(receiver))

        made = Place(EndpointConfig(f"http://127.0.0.1:{port}/"), [], mend, fails_as="network")
        yield made


@asynccontextmanager
async def stranger(folder: Path) -> AsyncIterator[Place]:
    """The endpoint shows a certificate of somebody else's authority; then its own."""
    (other := folder / "other").mkdir()
    authority = Authority.in_folder(folder)
    tls = TlsConfig(ca_file=authority.ca_file)
    async with AsyncExitStack() as stack:
        wrong = Receiver(tls=Authority(trustme.CA(), other).server())
        wrong_stack = await stack.enter_async_context(AsyncExitStack())
        await wrong_stack.enter_async_context(wrong)

        async def mend() -> None:
            await wrong_stack.aclose()
            right = Receiver(port=wrong.port, tls=authority.server())
            made.receivers.append(await stack.enter_async_context(right))

        made = Place(EndpointConfig(wrong.url, tls=tls), [wrong], mend, fails_as="network")
        yield made


@asynccontextmanager
async def nameless(_: Path) -> AsyncIterator[Place]:
    """The endpoint's name is not known; then it is."""
    is_known = False

    async def resolve(host: str, _port: int) -> Sequence[str]:
        if not is_known:
            raise socket.gaierror(socket.EAI_NONAME, f"{host}: Name or service not known")
        return ["127.0.0.1"]

    async with Receiver() as receiver:

        async def mend() -> None:
            nonlocal is_known
            is_known = True

        config = EndpointConfig(f"http://metrics.example:{receiver.port}/", is_confined=True)
        yield Place(config, [receiver], mend, resolve, "network")


AILMENTS: dict[str, Ailment] = {
    "500": answering(500, "http_500"),
    "503": answering(503, "http_503"),
    "503 stored": answering(503, "http_503", stores=True),
    "429": answering(429, "http_429"),
    "429 with pause": answering(Answer(429, {"Retry-After": "20"}), "http_429"),
    "507": answering(507, "http_5xx"),
    "401": answering(401, "http_401"),
    "404": answering(404, "http_404"),
    "reset": answering(Reset(), "network", stores=True),
    "reset while answering": answering(Reset(9), "network", stores=True),
    "timeout": answering(Hang(), "timeout", timeout_s=0.05),
    "slow answer": answering(Trickle(), "timeout", timeout_s=0.05),
    "endless answer": answering(Flood(503), "http_503"),
    "refused": refused,
    "certificate": stranger,
    "name": nameless,
}


@pytest.mark.parametrize("ailment", AILMENTS)
async def test_everything_arrives_once_and_in_order_when_the_trouble_is_over(ailment: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        AILMENTS[ailment](tmp_path) as place,
        HttpClients(LOOPBACK, place.resolve) as clients,
        disk(tmp_path) as (store, backlog),
    ):
        around = Surroundings(clients, clock, random.Random(7), "1.2.3", divide)
        sender = EndpointSender("acme", place.config, around, backlog)
        is_mended = False

        async def mend_in_time() -> None:
            nonlocal is_mended
            if not is_mended and len(clock.sleeps) >= AILS_FOR:
                is_mended = True
                await place.mend()
                sender.reconfigure(place.config)

        clock.on_sleep = mend_in_time
        sender.start()
        most_in_memory = 0
        with structlog.testing.capture_logs():
            for second in range(COLLECTIONS):
                sender.submit([batch(second, lane=lane, lanes=LANES, series=("a", "b")) for lane in range(LANES)])
                await sender.spill()
                most_in_memory = max(most_in_memory, sender._queue.loaded_bytes)
            assert await sender.drain(30)
            counters = sender.snapshot()
            await sender.close()
        assert store.backlog.index(ACME) == {}
    assert is_mended
    assert_closes(counters)
    assert (counters.samples_sent, counters.samples_failed) == (2 * LANES * COLLECTIONS, {})
    assert counters.samples_dropped == 0
    assert place.fails_as in counters.attempts_failed
    assert most_in_memory == 0  # what is put on disk is not in memory
    stored = place.stored or [request for receiver in place.receivers for request in receiver.requests]
    for lane in range(LANES):
        # What was stored and answered with a failure comes again, as the newest.
        assert list(dict.fromkeys(seconds(stored, lane))) == list(range(COLLECTIONS))
        assert seconds(stored, lane) == sorted(seconds(stored, lane))


async def test_sender_that_is_watched_by_nobody_ends_its_requests(tmp_path: Path) -> None:
    async with disk(tmp_path) as (_, backlog), Receiver(otherwise=Hang()) as receiver, HttpClients() as clients:
        around = Surroundings(clients, FakeClock(), random.Random(7), "1.2.3", divide)
        sender = EndpointSender("acme", EndpointConfig(receiver.url), around, backlog)
        sender.start()
        sender.submit([batch(0, lane=lane, lanes=LANES) for lane in range(LANES)])
        await receiver.wait_for_requests(LANES)
        await sender.close()
        await until(lambda: not receiver._handlers)
