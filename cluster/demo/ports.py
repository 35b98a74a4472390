"""Ports on loopback: the usual one where it is free, otherwise any."""

import socket
from collections.abc import Iterable
from contextlib import ExitStack

HOST = "127.0.0.1"


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if it can be listened on, otherwise a port that the system picks."""
    (port,) = free_ports([preferred])
    return port


def free_ports(preferred: Iterable[int]) -> list[int]:
    """Return each port if it can be listened on, otherwise one that the system picks; all of them differ.

    Nothing is reserved: between this answer and the listener's bind somebody else may take one.
    """
    with ExitStack() as probes:
        # All are held until the last is found: the system picks no port twice.
        return [_bound(probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)), p) for p in preferred]


def _bound(probe: socket.socket, preferred: int) -> int:
    if preferred:
        # As servers do it: a port that lingers in TIME_WAIT counts as free, one with a listener does not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, preferred))
        except OSError:
            # With it, the system might pick a port that another probe holds.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        else:
            return preferred
    probe.bind((HOST, 0))
    return int(probe.getsockname()[1])
