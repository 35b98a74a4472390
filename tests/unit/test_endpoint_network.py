import random
import socket
from collections.abc import Sequence

import httpx
import pytest

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.confined_network import Resolve
from tenants.endpoint.counters import EndpointCounters
from tenants.endpoint.http_clients import ClientKind, HttpClients
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.remote_write_targets import RemoteWriteTargets
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import LOOPBACK, Answer, Receiver

CLOSED = RemoteWriteTargets()


def resolving(**addresses: Sequence[str]) -> Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses[host.partition(".")[0]]

    return resolve


async def sent(
    url: str,
    targets: RemoteWriteTargets = CLOSED,
    resolve: Resolve | None = None,
    *,
    is_confined: bool = True,
    count: int = 1,
) -> EndpointCounters:
    async with HttpClients(targets, resolve) as clients:
        around = Surroundings(clients, FakeClock(), random.Random(7), "1.2.3")
        config = EndpointConfig(url, is_confined=is_confined, max_sample_age_s=1, timeout_s=5)
        sender = EndpointSender("acme", config, around)
        sender.start()
        for _ in range(count):
            sender.submit([Batch(b"body", samples=1, exemplars=0, series=1, timestamp_ms=around.clock.now_ms())])
        assert await sender.drain(10)
        await sender.close()
        return sender.snapshot()


async def test_endpoint_in_the_own_network_is_refused_at_the_connection() -> None:
    async with Receiver() as receiver:
        counters = await sent(receiver.url)
        assert receiver.requests == []
    assert counters.samples_failed == {"too_old": 1}
    assert "127.0.0.1 is refused: the address 127.0.0.1 is not public" in counters.last_error
    assert "remote_write_targets.allowed_private" in counters.last_error


async def test_what_the_settings_allow_is_sent() -> None:
    async with Receiver() as receiver:
        assert (await sent(receiver.url, LOOPBACK)).samples_sent == 1
        assert (await sent(receiver.url, is_confined=False)).samples_sent == 1
        assert len(receiver.requests) == 2


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_other_names_of_this_machine_lead_nowhere(host: str) -> None:
    async with Receiver() as receiver:
        counters = await sent(f"http://{host}:{receiver.port}/")
        assert receiver.requests == []
    assert counters.samples_sent == 0


async def test_name_that_resolves_to_the_own_network_is_refused() -> None:
    async with Receiver() as receiver:
        counters = await sent(f"http://metrics.example:{receiver.port}/", resolve=resolving(metrics=["127.0.0.1"]))
        assert receiver.requests == []
    assert "metrics.example is refused: the address 127.0.0.1" in counters.last_error


async def test_forbidden_address_beside_an_allowed_one_is_not_connected_to() -> None:
    allowed = RemoteWriteTargets(allowed_private=("127.0.0.2/32",))
    async with Receiver() as receiver:
        resolve = resolving(metrics=["127.0.0.1", "127.0.0.2", "127.0.0.1"])
        counters = await sent(f"http://metrics.example:{receiver.port}/", allowed, resolve)
        # Nobody listens at the second address, and the first and last are not tried.
        assert receiver.requests == []
    assert counters.samples_sent == 0


async def test_next_address_is_tried_where_nobody_answers() -> None:
    async with Receiver() as receiver:
        resolve = resolving(metrics=["127.0.0.2", "127.0.0.1"])
        url = f"http://metrics.example:{receiver.port}/"
        assert (await sent(url, LOOPBACK, resolve)).samples_sent == 1
        (request,) = receiver.requests
        assert request.header("host") == f"metrics.example:{receiver.port}"


async def test_each_connection_is_judged_anew() -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    allowed = RemoteWriteTargets(allowed_private=("127.0.0.1/32",))
    async with Receiver([Answer(204, {"Connection": "close"})]) as receiver:
        counters = await sent(f"http://metrics.example:{receiver.port}/", allowed, rebinding, count=2)
        assert len(receiver.requests) == 1
    assert (counters.samples_sent, counters.samples_failed) == (1, {"too_old": 1})


async def test_redirect_into_the_own_network_is_not_followed() -> None:
    async with Receiver() as inner, Receiver([Answer(307, {"Location": inner.url})]) as outer:
        allowed = RemoteWriteTargets(allowed_private=("127.0.0.0/8",))
        counters = await sent(outer.url, allowed)
        assert (len(outer.requests), len(inner.requests)) == (1, 0)
    assert counters.samples_failed == {"http_3xx": 1}


async def test_host_list_holds_at_the_connection_too() -> None:
    targets = RemoteWriteTargets(allowed_hosts=("*.example",), allowed_private=("127.0.0.0/8",))
    resolve = resolving(metrics=["127.0.0.1"], other=["127.0.0.1"])
    async with Receiver() as receiver:
        assert (await sent(f"http://metrics.example:{receiver.port}/", targets, resolve)).samples_sent == 1
        counters = await sent(f"http://other.test:{receiver.port}/", targets, resolve)
        assert len(receiver.requests) == 1
    assert "allowed_hosts" in counters.last_error


async def test_confined_endpoint_does_not_take_over_a_connection_of_one_that_is_not() -> None:
    async with Receiver() as receiver, HttpClients() as clients:
        free = await clients.take(ClientKind(is_confined=False, is_encrypted=False))
        await free.post(receiver.url, content=b"x")
        confined = await clients.take(ClientKind(is_confined=True, is_encrypted=False))
        with pytest.raises(httpx.ConnectError):
            await confined.post(receiver.url, content=b"x")


async def test_senders_of_one_kind_share_a_client_until_the_last_gives_it_back() -> None:
    kind = ClientKind(is_confined=True, is_encrypted=False)
    async with HttpClients() as clients:
        first, second = await clients.take(kind), await clients.take(kind)
        assert first is second
        await clients.give_back(kind)
        assert not first.is_closed
        await clients.give_back(kind)
        assert first.is_closed


async def test_host_that_cannot_be_resolved_is_a_failure_like_others() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    counters = await sent("http://metrics.example/", resolve=unknown)
    assert "Name or service not known" in counters.last_error
    assert counters.samples_failed == {"too_old": 1}


@pytest.mark.parametrize("host", ["a..b.example", ".example.com", "a" * 64 + ".example"])
async def test_host_that_none_can_be_called_is_a_failure_like_others(host: str) -> None:
    counters = await sent(f"http://{host}/")
    assert counters.samples_failed == {"too_old": 1}
    assert f"ConnectError: the host {host} cannot be resolved" in counters.last_error


async def test_system_resolves_where_nothing_else_is_said() -> None:
    async with Receiver() as receiver:
        assert (await sent(f"http://localhost:{receiver.port}/", LOOPBACK)).samples_sent == 1
