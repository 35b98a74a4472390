"""Accepts connections with TLS for a protocol, and bounds those that are still in their handshake.

``loop.create_server`` would do the handshakes too, but nobody could count them, nor give each connection the
certificate of its time.
"""

import asyncio
import socket
from collections.abc import Callable

from cluster.tls import HANDSHAKE_TIMEOUT_S, Certificates

_RETRY_AFTER_S = 1.0
_SHUTDOWN_S = 1.0


class TlsServer:
    """Accepts until it is closed. What it has handed on by then goes on.

    Args:
        listener: bound and listening; closed with the server.
        protocol: makes the protocol of a connection, which hears of it after the handshake.
        certificates: of the port.
        is_full: asked for each connection with the number of open handshakes: whether it is to be closed at once.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        certificates: Certificates,
        is_full: Callable[[int], bool],
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._certificates = certificates
        self._is_full = is_full
        self._handshakes: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        listener.setblocking(False)
        # Not loop.sock_accept: when it is cancelled with a client at the door, asyncio loses that connection.
        self._loop.add_reader(listener, self._accept)

    @property
    def handshakes(self) -> int:
        """Connections that are in their handshake now."""
        return len(self._handshakes)

    def close(self) -> None:
        """Accept no more, and cut handshakes short. Can be repeated."""
        if self._listener.fileno() < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._handshakes:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            # Most likely out of file descriptors: trying at once would only take the loop's time.
            self._loop.remove_reader(self._listener)
            self._retry = self._loop.call_later(_RETRY_AFTER_S, self._loop.add_reader, self._listener, self._accept)
            return
        if self._is_full(len(self._handshakes)):
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._shake_hands(connection))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._certificates.context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError:
            # A client that has no certificate, speaks something else or went away. The loop has closed the connection.
            return
