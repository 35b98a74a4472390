"""Opens sockets for whoever has the page open that they are for: for nobody else anything is kept."""

from typing import Final
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tenants.console.visitor import Door

# In the words of Engine.IO and of NiceGUI's own refusal, at which a page loads itself anew and so comes to the sign-in.
# From a bare 403 it would take this for an outage, and try again for ever.
_HELLO: Final = '0{"sid":"none","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
_REFUSAL: Final = '44{"message":"Implicit handshake failed"}'
_BETWEEN_PACKETS: Final = "\x1e"


def is_socket(scope: Scope) -> bool:
    """Whether this is for a socket of NiceGUI, which may also be a series of requests."""
    return scope["type"] == "websocket" or (scope["type"] == "http" and "_nicegui_ws" in scope["path"])


class OwnSockets:
    """ASGI middleware in front of NiceGUI, which asks nobody whose a page is."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        if not is_socket(scope) or self._is_own(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(f"{_HELLO}{_BETWEEN_PACKETS}{_REFUSAL}")(scope, receive, send)
        else:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": _HELLO})
            await send({"type": "websocket.send", "text": _REFUSAL})
            await send({"type": "websocket.close", "code": 1008})

    def _is_own(self, scope: Scope) -> bool:
        # NiceGUI lets a socket listen to the one page that its address names, and to any if it names none.
        pages = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("client_id", [])
        return len(pages) == 1 and self._door.has_opened(HTTPConnection(scope), pages[0])
