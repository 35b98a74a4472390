"""The HTTP headers of a remote write: which are ours, which are the operator's. Merges, never validates."""

from tenants.endpoint.config import EndpointConfig

_PROTECTED = frozenset(
    {
        "accept-encoding",  # an error message must be readable without decompressing a stranger's bytes
        "connection",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "retry-attempt",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_PROTECTED_PREFIXES = ("content-", "x-prometheus-")


def is_protected(name: str) -> bool:
    """Say whether a header belongs to the protocol, so that no setting may carry it (tenancy §7, D-27)."""
    lowered = name.strip().lower()
    return lowered in _PROTECTED or lowered.startswith(_PROTECTED_PREFIXES)


def request_headers(config: EndpointConfig, version: str, attempt: int) -> dict[str, str]:
    """Build the headers of one request (remote-write §1.3), names in lower case.

    Args:
        config: whose headers are added; protected ones are left out.
        version: of Millrace, for ``User-Agent``.
        attempt: 0 for the first; above it is told to the receiver, which may space its ``Retry-After`` by it.
    """
    headers = {name.strip().lower(): value.strip() for name, value in config.headers if not is_protected(name)}
    headers |= {
        "content-type": "application/x-protobuf",
        "content-encoding": "snappy",
        "x-prometheus-remote-write-version": "0.1.0",
        "user-agent": f"millrace/{version}",
        "accept-encoding": "identity",
    }
    if attempt:
        headers["retry-attempt"] = str(attempt)
    return headers
