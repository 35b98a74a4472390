"""Ports on loopback: the usual one where it is free, otherwise any."""

import socket

HOST = "127.0.0.1"


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if it can be listened on, otherwise a port that the system picks.

    Nothing is reserved: between this answer and the listener's bind somebody else may take it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: a port that lingers in TIME_WAIT counts as free, one with a listener does not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, preferred))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
