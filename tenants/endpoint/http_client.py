"""HTTP clients for senders, set up so that no tenant can reach another through them."""

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

# Longer than the usual collection interval of 15 s, or every collection would pay for a new TLS handshake.
_KEEPALIVE_S = 75.0


def new_client(context: ssl.SSLContext, network: httpcore.AsyncNetworkBackend | None = None) -> httpx.AsyncClient:
    """Make a client; call inside the event loop that will use it.

    Redirects are not followed, cookies not kept (a receiver that serves two tenants would get the cookie of one with
    the request of the other), and the environment's proxies not used: settings alone say where samples go.

    Args:
        context: how TLS certificates are verified.
        network: opens the connections; None: any that is asked for.
    """
    # At INFO httpx logs the full URL of every request, with whatever secret is in its query.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return httpx.AsyncClient(
        transport=_Transport(context, network),
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


class _Transport(httpx.AsyncBaseTransport):
    """Like httpx's own, which does not let one choose who opens connections."""

    def __init__(self, context: ssl.SSLContext, network: httpcore.AsyncNetworkBackend | None) -> None:
        # No limit: a pool that is full of one tenant's hanging requests would stop the others. Each sender has one
        # request in flight, so there are never more connections than senders.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=network,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of the answer is read by whoever asked."""
        url = request.url
        with _as_httpx_errors():
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


@contextlib.contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as e:
        # Both name their errors alike.
        kind: type[httpx.TransportError] = getattr(httpx, type(e).__name__, httpx.TransportError)
        raise kind(str(e)) from e
