"""Nothing of the service can be reached from another machine, Ray's own ports included: they can run code."""

import ipaddress
import socket

import psutil
import pytest

from tests.integration.service import MillraceProcess

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


async def test_every_socket_of_every_process_is_on_loopback(service: MillraceProcess) -> None:
    processes = service.processes()
    assert len(processes) > 8, "Ray's daemons and the actors are not there"
    listening: set[int] = set()
    for process in processes:
        for connection in process.net_connections(kind="inet"):
            what = (" ".join(process.cmdline())[:80], connection)
            assert is_loopback(connection.laddr.ip), what
            if connection.raddr:
                assert is_loopback(connection.raddr.ip), what
            elif connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                listening.add(connection.laddr.port)
    # Those that we know to be there were seen; the rest is Ray's.
    assert {service.http_port, service.grpc_port, service.otlp_http_port} < listening
