"""The HTTP headers of a remote write: which are ours, which are the operator's. Merges, never validates."""

from tenants.endpoint.config import EndpointConfig
from tenants.settings.protobuf_message import ProtobufMessage

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
# That of 1.0 without its message: receivers older than 2.0 know no parameters.
_CONTENT_TYPES = {
    ProtobufMessage.V1: "application/x-protobuf",
    ProtobufMessage.V2: f"application/x-protobuf;proto={ProtobufMessage.V2}",
}
_PROTECTED_PREFIXES = ("content-", "x-prometheus-")


def is_protected(name: str) -> bool:
    """Say whether a header belongs to the protocol, so that no setting may carry it (tenancy §7, D-27)."""
    lowered = name.strip().lower()
    return lowered in _PROTECTED or lowered.startswith(_PROTECTED_PREFIXES)


def request_headers(config: EndpointConfig, version: str, attempt: int, message: ProtobufMessage) -> dict[str, str]:
    """Build the headers of one request (remote-write §1.3), names in lower case.

    Args:
        config: whose headers are added; protected ones are left out.
        version: of Millrace, for ``User-Agent``.
        attempt: 0 for the first; above it is told to the receiver, which may space its ``Retry-After`` by it.
        message: which one the body is.
    """
    headers = {name.strip().lower(): value.strip() for name, value in config.headers if not is_protected(name)}
    headers |= {
        "content-type": _CONTENT_TYPES[message],
        "content-encoding": "snappy",
        "x-prometheus-remote-write-version": message.version,
        "user-agent": f"millrace/{version}",
        "accept-encoding": "identity",
    }
    if attempt:
        headers["retry-attempt"] = str(attempt)
    return headers
