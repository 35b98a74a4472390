"""The HTTP client that all tenants' senders share, set up so that no tenant can reach another through it."""

import logging
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

# Longer than the usual collection interval of 15 s, or every collection would pay for a new TLS handshake.
_KEEPALIVE_S = 75.0


def new_client() -> httpx.AsyncClient:
    """Make the client; call once per process, inside the event loop that will use it.

    TLS certificates are verified, against the CA bundle of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` where set.
    Redirects are not followed, cookies not kept (a receiver that serves two tenants would get the cookie of
    one with the request of the other), and the environment's proxies not used: settings alone say where
    samples go.
    """
    # At INFO httpx logs the full URL of every request, with whatever secret is in its query.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return httpx.AsyncClient(
        verify=httpx.create_ssl_context(),
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        # No limit: a pool that is full of one tenant's hanging requests would stop the others. Each sender
        # has one request in flight, so there are never more connections than senders.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_S),
    )
