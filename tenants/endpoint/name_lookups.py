"""The system's way to resolve hosts, in threads: a name server that hangs must not hold up those who ask another."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

MAX_LOOKUPS: Final = 256
"""At once: those of sixteen tenants with sixteen endpoints each, of which nobody answers one for half a minute."""


class NameLookups:
    """Looks each host up once at a time; who asks meanwhile is told the same. One event loop owns it.

    Each lookup under way has a thread, and keeps it until the system gives up, whoever still waits for it.
    """

    def __init__(self) -> None:
        # They are made as they are needed.
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, "resolve")
        self._running: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[str]:  # noqa: ARG002  (of any port they are the same)
        """Return the addresses of a host, in the order in which they should be tried.

        Raises:
            OSError: it has none, or too many others are being looked up.
            UnicodeError: no host can have this name.
        """
        lookup = self._running.get(host)
        if lookup is None:
            if len(self._running) >= MAX_LOOKUPS:
                raise OSError(f"too many names are being looked up ({MAX_LOOKUPS})")
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
            self._running[host] = lookup
            lookup.add_done_callback(lambda done: self._on_done(host, done))
        # Not the lookup itself: that would end for all when one does not wait any more.
        await asyncio.wait([lookup])
        return lookup.result()

    def close(self) -> None:
        """Begin no other lookup; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _on_done(self, host: str, lookup: asyncio.Future[list[str]]) -> None:
        del self._running[host]
        if not lookup.cancelled():
            # Looked at, or asyncio would complain where nobody waits any more.
            lookup.exception()


def _look_up(host: str) -> list[str]:
    found: list[tuple[Any, ...]] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
