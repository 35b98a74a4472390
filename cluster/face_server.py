"""The HTTP server of the service's own port, in the event loop of its caller. What it serves is the application's."""

import asyncio
from contextlib import nullcontext, suppress
from typing import Final

import uvicorn
from fastapi import FastAPI

from cluster.errors import StartError
from cluster.gateway.listen import CannotListenError, bind
from cluster.tls import Certificates

_SHUTDOWN_S: Final = 2
_TICK_S: Final = 1.0


class _Server(uvicorn.Server):
    """Wakes up once a second for the ``Date`` of answers, where uvicorn looks ten times whether it shall end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Let requests finish, and end."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK_S)


class FaceServer:
    """Serves one application, with TLS if there is a certificate. Touches no signal handlers and logs no requests."""

    def __init__(self, app: FastAPI, listen: str, tls: Certificates | None = None) -> None:
        self._listen = listen
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            # Whoever says where a request came from would write the audit.
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        config.load()
        # uvicorn would read the files itself, and once.
        config.ssl = tls.renewing_context() if tls else None
        self._server = _Server(config)
        # Signals are the service's; uvicorn's own handlers would end only this server.
        self._server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            StartError: the address cannot be had.
        """
        try:
            listener = bind(self._listen)
        except CannotListenError as error:
            raise StartError(str(error)) from None
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        port: int = listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        """Let requests finish, for a moment, and close the port."""
        self._server.end()
        if self._task is not None:
            await self._task
