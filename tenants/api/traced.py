"""Requests to the service's port in traces of Millrace itself. Put around the application only while tracing is on."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenants.identity.access import Principal
from tenants.tracing.spans import TENANT, Span, Tracer, within

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_TRACEPARENT: Final = b"traceparent"


class TracedApi:
    """Traces what changes something always, and what only reads sampled; a client's own trace is a link."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with within(self._begin(scope)) as span:
            if span is None:
                await self._app(scope, receive, send)
                return

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _say(span, scope, message["status"])
                await send(message)

            await self._app(scope, receive, send_and_note)

    def _begin(self, scope: Scope) -> Span | None:
        method = scope["method"]
        link = next((value.decode("latin-1") for name, value in scope["headers"] if name == _TRACEPARENT), "")
        begin = self._tracer.sampled if method in _READING else self._tracer.always
        return begin(method, {"http.request.method": method}, kind="server", link=link)


def _say(span: Span, scope: Scope, status: int) -> None:
    # What the path says beyond the route is of the client's making, and may be a tenant's.
    if (route := getattr(scope.get("route"), "path", None)) is not None:
        span.rename(f"{scope['method']} {route}")
        span.set({"http.route": route})
    principal = scope.get("state", {}).get("principal")
    if isinstance(principal, Principal) and principal.tenant is not None:
        span.set({TENANT: str(principal.tenant)})
    span.set({"http.response.status_code": status})
    if status >= 500:
        span.fail(f"http_{status}")
