"""The pages before the console, as plain HTML: sign in, sign out; and the JSON behind each page, by its link."""

from html import escape
from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tenants.api.access import Access, GuardedRouter
from tenants.console.visitor import COOKIE, ApiProblemError, Door

PREFIX: Final = "/console"
SIGN_IN: Final = f"{PREFIX}/sign-in"
SIGN_OUT: Final = f"{PREFIX}/sign-out"
DATA: Final = f"{PREFIX}/data"

_MAX_FORM_BYTES: Final = 4096
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

_PAGE: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Millrace</title>
<style>
:root {{ color-scheme: light dark; --back: light-dark(#f6f7f9, #14171c); --card: light-dark(#fff, #1d2128);
  --line: light-dark(#d5dae1, #363d48); --soft: light-dark(#5b6573, #9aa5b4); --accent: light-dark(#0b6e75, #3fb8c0);
  --bad: light-dark(#b3261e, #ff8a80); }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--back);
  font: 16px/1.5 system-ui, sans-serif; }}
main {{ width: min(26rem, 92vw); background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 2rem; box-sizing: border-box; }}
h1 {{ margin: 0 0 .25rem; font-size: 1.5rem; letter-spacing: -.01em; }}
p {{ margin: 0 0 1.25rem; color: var(--soft); font-size: .92rem; }}
label {{ display: block; font-weight: 600; font-size: .9rem; margin-bottom: .35rem; }}
input, button {{ font: inherit; width: 100%; box-sizing: border-box; padding: .6rem .75rem; border-radius: 6px; }}
input {{ border: 1px solid var(--line); background: transparent; color: inherit;
  font-family: ui-monospace, monospace; }}
button {{ margin-top: 1rem; border: 0; background: var(--accent); color: light-dark(#fff, #0b1416); font-weight: 600;
  cursor: pointer; }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }}
[role=alert] {{ color: var(--bad); font-weight: 600; }}
</style></head>
<body><main>
<h1>Millrace</h1>
<p>Sign in with an API token: your organisation's with the scope <b>tenant-admin</b>, or an operator's.</p>
{problem}<form method="post" action="{action}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus spellcheck="false">
<button type="submit">Sign in</button>
</form></main></body></html>
"""


def door_router(door: Door) -> GuardedRouter:
    """Build the routes. Open to anybody: who may see what is found out in each."""
    router = GuardedRouter(tags=["console"], include_in_schema=False)

    @router.route_for("GET", "/", Access.OPEN)
    async def root() -> Response:
        """Lead people to the console."""
        return RedirectResponse(f"{PREFIX}/", 307)

    @router.route_for("GET", SIGN_IN, Access.OPEN)
    async def ask() -> Response:
        """Ask for a token."""
        return _page("")

    @router.route_for("POST", SIGN_IN, Access.OPEN)
    async def sign_in(*, request: Request) -> Response:
        """Give the cookie of a session for a token."""
        token = await _token(request)
        opened = await door.sign_in(token, request) if token else None
        if opened is None:
            return _page("This token does not open the console: it is unknown, has ended, or lacks the scope.", 401)
        cookie, home = opened
        answer = RedirectResponse(home, 303)
        answer.set_cookie(
            COOKIE,
            cookie,
            path="/console",
            secure=_is_over_tls(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    @router.route_for("POST", SIGN_OUT, Access.OPEN)
    async def sign_out(*, request: Request) -> Response:
        """End the session, and with it every page that is open."""
        door.sessions.close(request.cookies.get(COOKIE))
        answer = RedirectResponse(SIGN_IN, 303)
        answer.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")
        return answer

    @router.route_for("GET", f"{DATA}/{{path:path}}", Access.OPEN)
    async def data(
        *, request: Request, path: str, org: Annotated[str | None, Query(max_length=150)] = None
    ) -> Response:
        """Answer what the API answers the visitor: a browser cannot send a token with a link.

        ``org`` is the tenant that an operator asks for; all other parameters are the API's.
        """
        visitor = await door.visitor(request)
        if visitor is None:
            return RedirectResponse(SIGN_IN, 303)
        query = "&".join(part for part in request.url.query.split("&") if part and not part.startswith("org="))
        try:
            answer = await visitor.ask("GET", f"/api/{path}?{query}" if query else f"/api/{path}", org)
        except ApiProblemError as problem:
            return Response(problem.detail, problem.status, media_type="text/plain", headers=_HEADERS)
        return Response(answer.content, 200, media_type=answer.headers.get("content-type"), headers=_HEADERS)

    return router


def _page(problem: str, status: int = 200) -> HTMLResponse:
    shown = f'<p role="alert">{escape(problem)}</p>\n' if problem else ""
    return HTMLResponse(_PAGE.format(problem=shown, action=SIGN_IN), status, headers=_HEADERS)


def _is_over_tls(request: Request) -> bool:
    """Whether the browser is, be it with a proxy that ends TLS: who lies about it spoils a cookie of their own."""
    forwarded, _, _ = request.headers.get("x-forwarded-proto", "").partition(",")
    is_forwarded = forwarded.strip().lower() == "https"
    return is_forwarded or request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


async def _token(request: Request) -> str:
    """Read the form; nothing, if it is none or too long for one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            return ""
    return parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
