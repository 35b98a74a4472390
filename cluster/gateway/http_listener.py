"""One HTTP listener inside a running event loop: uvicorn's protocol with the bounds that it does not have.

uvicorn limits neither the size of a request's head, nor the time for a request to arrive, nor connections
that send nothing. Here each of them is bounded. Its ``Server`` is not used: that is made to own the process,
with its signals and its exit. What is done with a request is the app's.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cluster.gateway.listen import bind
from cluster.gateway.tls_server import TlsServer
from cluster.tls import Certificates

_MAX_HEAD_BYTES: Final = 32 * 1024
_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)
# For apps to notice that their connection is gone, and for cancelled ones to end.
_LAST_GRACE_S: Final = 1.0

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class ConnectionBounds:
    """What a listener allows its connections, and what became of those that went beyond.

    Attributes:
        max_connections: connections held at one time; further ones are closed at once.
        request_timeout_s: for a request to arrive in full, head and body, from the connection or its first
            byte; then the connection is closed without an answer: OTLP clients send again what was not
            answered, but not what was answered with 408.
        idle_timeout_s: for the next request on a connection to begin.
        refused_connections: closed because there were too many.
        timed_out_requests: closed because a request did not arrive in time.
        oversized_heads: closed because a head, or the trailers of a body, were too large.
    """

    max_connections: int
    request_timeout_s: float
    idle_timeout_s: float
    refused_connections: int = field(default=0, init=False)
    timed_out_requests: int = field(default=0, init=False)
    oversized_heads: int = field(default=0, init=False)


class HttpListener:
    """Serves one ASGI app over HTTP/1.1, in TLS if there is a certificate. Touches no signal handlers, logs nothing."""

    def __init__(self, app: App, listen: str, bounds: ConnectionBounds, tls: Certificates | None = None) -> None:
        self.bounds = bounds
        self._tls = tls
        self._app = app
        self._listen = listen
        self._state = ServerState()
        self._server: asyncio.Server | TlsServer | None = None

    @property
    def connections(self) -> int:
        """Connections open now; with TLS, those whose handshake is done."""
        return len(self._state.connections)

    async def start(self) -> int:
        """Listen; requests are taken from now on.

        Returns:
            The port.

        Raises:
            CannotListenError: the address cannot be had; nothing was started.
        """
        socket = bind(self._listen)
        config = uvicorn.Config(
            cast("Any", self._app),
            interface="asgi3",
            http=HttpToolsProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            # Below ERROR uvicorn reports what any client can provoke, a line for each attempt.
            log_level=logging.ERROR,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=math.ceil(self.bounds.idle_timeout_s),
        )
        config.load()

        def connection() -> asyncio.Protocol:
            return _BoundedConnection(self.bounds, config=config, server_state=self._state, app_state={})

        if self._tls is None:
            self._server = await asyncio.get_running_loop().create_server(connection, sock=socket)
        else:
            self._server = TlsServer(socket, connection, self._tls, self._is_full)
        port: int = socket.getsockname()[1]
        return port

    async def drain(self, deadline_s: float) -> None:
        """Close the port and idle connections, let requests finish, and close.

        At the deadline the other connections are cut; requests still being worked on a second later are
        cancelled.
        """
        if self._server is None:
            return
        self._server.close()
        connections = cast("set[_BoundedConnection]", self._state.connections)
        for connection in list(connections):
            connection.shutdown()
        if await self._is_quiet_within(deadline_s):
            return
        for connection in list(connections):
            connection.transport.abort()
        if await self._is_quiet_within(_LAST_GRACE_S):
            return
        for task in list(self._state.tasks):
            task.cancel()
        await self._is_quiet_within(_LAST_GRACE_S)

    def _is_full(self, handshakes: int) -> bool:
        is_full = self.connections + handshakes >= self.bounds.max_connections
        self.bounds.refused_connections += is_full
        return is_full

    async def _is_quiet_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                # uvicorn tells nobody when a connection or a request ends.
                while self._state.connections or self._state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False
        return True


class _BoundedConnection(HttpToolsProtocol):
    """One connection. A deadline runs while a request is arriving, and before the first one."""

    def __init__(self, bounds: ConnectionBounds, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._bounds = bounds
        self._deadline: asyncio.TimerHandle | None = None
        # Received since a head was complete or a body grew: what the parser may be holding.
        self._head_bytes = 0
        self._has_progress = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.max_connections:
            self._bounds.refused_connections += 1
            transport.abort()
        else:
            self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Any byte stops uvicorn's own timer for idle connections, even a blank line between requests.
        self._start_deadline()
        self._has_progress = False
        super().data_received(data)
        # The parser joins the pieces of a field until it ends: its callbacks come too late to count.
        self._head_bytes = 0 if self._has_progress else self._head_bytes + len(data)
        if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self._bounds.oversized_heads += 1
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._start_deadline()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._has_progress = True
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_progress = True
        self._stop_deadline()
        super().on_message_complete()

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._bounds.request_timeout_s, self._time_out)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_out(self) -> None:
        self._deadline = None
        self._bounds.timed_out_requests += 1
        self.transport.abort()
