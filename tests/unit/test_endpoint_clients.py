"""How senders share clients when one of them is given other TLS settings, or a file of all is renewed."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.remote_write_auth import TlsConfig
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Hold, Receiver
from tests.unit.sending import batch, sending, settled

LANES = 4


class TwoTenants:
    """Senders of one kind, who share a client."""

    def __init__(self, first: EndpointSender, second: EndpointSender, clients: HttpClients, clock: FakeClock) -> None:
        self.first = first
        self.second = second
        self.clock = clock
        self._clients = clients

    def users(self) -> list[int]:
        """How many hold each client, in the order in which these were made."""
        return [shared.users for shared in self._clients._shared.values()]


@asynccontextmanager
async def two_tenants(config: EndpointConfig) -> AsyncIterator[TwoTenants]:
    clock = FakeClock()
    async with HttpClients() as clients:
        around = Surroundings(clients, clock, random.Random(7), "1.2.3")
        async with sending(config, around) as first, sending(config, around) as second:
            for sender in (first, second):
                sender.submit([batch(0)])
                await settled(sender)
            yield TwoTenants(first, second, clients, clock)
        assert clients._shared == {}


def all_lanes(second: int) -> list[Batch]:
    return [batch(second, lane=lane, lanes=LANES) for lane in range(LANES)]


async def test_lanes_that_change_the_client_at_once_do_not_take_it_from_another_tenant() -> None:
    async with Receiver() as receiver, two_tenants(EndpointConfig(receiver.url)) as tenants:
        tenants.first.reconfigure(replace(tenants.first.config, tls=TlsConfig(server_name="x")))
        tenants.first.submit(all_lanes(1))
        await settled(tenants.first)
        tenants.second.submit([batch(1)])
        counters = await settled(tenants.second)
        assert (counters.samples_sent, counters.attempts_failed) == (2, {})
        assert tenants.users() == [1, 1]


async def test_renewed_file_moves_every_sender_to_the_new_client_once(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("one")
    async with Receiver() as receiver:
        config = EndpointConfig(receiver.url, tls=TlsConfig(ca_file=str(authority)))
        async with two_tenants(config) as tenants:
            for turn, renewed in enumerate(("second", "the third"), start=1):
                authority.write_text(renewed)
                tenants.clock.time_ms += 6_000
                for sender in (tenants.first, tenants.second):
                    sender.submit(all_lanes(turn))
                    assert (await settled(sender)).attempts_failed == {}
                assert tenants.users() == [2]


async def test_former_client_is_closed_behind_the_last_request_that_is_under_way() -> None:
    async with Receiver() as receiver, two_tenants(EndpointConfig(receiver.url)) as tenants:
        await tenants.second.close()
        receiver.script = [Hold()]
        tenants.first.submit(all_lanes(1)[:1])
        await receiver.wait_for_requests(3)
        tenants.first.reconfigure(replace(tenants.first.config, tls=TlsConfig(server_name="x")))
        tenants.first.submit(all_lanes(1)[1:])
        await receiver.wait_for_requests(6)
        # Its own request, and then the sender with the other three.
        assert tenants.users()[0] == 1
        receiver.release()
        counters = await settled(tenants.first)
        assert (counters.samples_sent, counters.attempts_failed, len(receiver.requests)) == (5, {}, 6)
        assert tenants.users() == [1]
