"""Ports for what listens again after it ended: nobody else is given them meanwhile.

Those that the system picks are for connections that go out, too, and taken again within seconds. These lie below its
range (Linux: ``net.ipv4.ip_local_port_range`` begins at 32 768), drawn at random so that runs beside each other differ.
"""

import random
import socket
from typing import Final

_RANDOM: Final = random.SystemRandom()
_PORTS: Final = range(10_000, 32_000)


def lasting_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    while True:
        port = _RANDOM.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
