"""Addresses to listen on, and the one error for those that cannot be had."""

import socket

from cluster.errors import ClusterError


class CannotListenError(ClusterError):
    """A listener could not be opened: the port is taken, the address is not ours, or is not an address.

    Attributes:
        listen: the address as configured.
        problem: what the system said.
    """

    def __init__(self, listen: str, problem: str) -> None:
        super().__init__(listen, problem)
        self.listen = listen
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot listen on {self.listen}: {self.problem}"


def split_address(listen: str) -> tuple[str, int]:
    """Split ``host:port`` (``[::1]:4318`` for IPv6; port 0 takes a free one).

    Raises:
        CannotListenError: the text is something else.
    """
    host, colon, port = listen.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not host or not is_port or (":" in host and not host.startswith("[")):
        raise CannotListenError(listen, "write host:port, such as 127.0.0.1:4318 or [::1]:4318")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind(listen: str) -> socket.socket:
    """Bind a TCP socket for one listener; the port is taken from now on, and shared with nobody.

    Raises:
        CannotListenError: the address cannot be had.
    """
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # The port is not reused while another process listens on it: SO_REUSEADDR only passes over TIME_WAIT.
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CannotListenError(listen, error.strerror or str(error)) from error
