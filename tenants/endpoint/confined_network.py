"""Connections that go only where remote writes may: the address is judged after the host was resolved.

What a URL says cannot tell where it leads: a name may resolve to another address a moment later, and to one of our own
network. So the address that was judged is the one that is connected to; the host's name is not resolved again.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore

from tenants.settings.remote_write_targets import RemoteWriteTargets

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Return the addresses of a host, in the order in which they should be tried; raises OSError, or
UnicodeError if no host can have this name."""


class ConfinedNetwork(httpcore.AsyncNetworkBackend):
    """Opens connections to hosts and addresses that the settings allow, and to no others; to sockets of files none."""

    def __init__(self, targets: RemoteWriteTargets, resolve: Resolve) -> None:
        self._targets = targets
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (the base class's)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of the host that may be connected to and answers.

        Raises:
            httpcore.ConnectError: the host or all of its addresses are forbidden, or none answers; or no host can have
                this name.
            OSError: the host cannot be resolved.
        """
        if problem := self._targets.host_problem(host):
            raise httpcore.ConnectError(problem)
        failure: Exception = httpcore.ConnectError(f"the host {host} has no address")
        try:
            addresses = await self._resolve(host, port)
        except UnicodeError as error:
            raise httpcore.ConnectError(f"the host {host} cannot be resolved: {error}") from error
        for address in addresses:
            if problem := self._targets.address_problem(address):
                failure = httpcore.ConnectError(f"the host {host} is refused: {problem}")
                continue
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure
