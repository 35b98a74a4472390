"""The settings of one way out.

Checks only what would break a request. Which URLs are allowed and whose headers win is decided before.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

import httpx

from tenants.endpoint.errors import InvalidEndpointError
from tenants.settings.protobuf_message import ProtobufMessage
from tenants.settings.remote_write_auth import TlsConfig
from tenants.settings.secret_source import SecretSource

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2, token
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PUBLIC_HEADERS = frozenset({"x-scope-orgid"})  # a tenant's name, not a secret: messages may show it
_SHORTEST_SECRET = 4  # masking shorter strings would only garble messages


@dataclass(frozen=True, slots=True)
class HeaderFrom:
    """A header whose value is a secret that the settings only point to.

    Attributes:
        name: of the header.
        source: where the secret is.
        prefix: stands before it in the value.
        user: the secret is this user's password, and the value is that of basic authentication.
    """

    name: str
    source: SecretSource
    prefix: str = ""
    user: str | None = None

    def value(self, secret: str) -> str:
        """Return the value of the header with the secret in it."""
        return self.prefix + secret if self.user is None else basic_authorization(self.user, secret)


def basic_authorization(user: str, password: str) -> str:
    """Return the value of the header ``Authorization`` (RFC 7617), in UTF-8."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass(frozen=True, slots=True, repr=False)
class EndpointConfig:
    """One remote-write endpoint of one tenant, ready to use: headers merged, secrets in clear, repr masked.

    Attributes:
        url: where to POST; ``http`` or ``https``. User and password in it are sent as basic authentication.
        name: what metrics and logs call it; unique within a tenant. Empty: the URL without its secrets.
        headers: sent with every request; of names that differ only in case the last one counts. Names that
            belong to the protocol are ignored (see :func:`tenants.endpoint.headers.is_protected`).
        headers_from: more headers, with secrets that are read before they are sent.
        tls: how the endpoint is verified and what it is shown; None: the system's authorities, and nothing.
        is_confined: connect only where ``remote_write_targets`` of the service configuration allow it.
        protobuf_message: what it is sent; None: 2.0, or 1.0 if it does not know that (see
            :class:`tenants.endpoint.negotiation.Negotiation`).
        relabel: rules for what is sent here, as the engine reads them; empty: none. Applied where batches are made.
        timeout_s: limit for one whole request, from connecting to the end of the answer.
        max_queue_bytes: bound of what waits (see :class:`tenants.endpoint.queue.BatchQueue`), on disk and in memory.
        max_memory_bytes: bound of what waits in memory, where there is a disk for the rest.
        max_lanes: most requests at once.
        min_backoff_s: pause after the first failure; doubles with each further one.
        max_backoff_s: longest pause, before jitter.
        max_sample_age_s: what is older is dropped: receivers take nothing older than their head block, and a batch
            answered 5xx for ever must not block the rest (remote-write §0 point 5).

    Raises:
        InvalidEndpointError: a field that no request could be made of.
    """

    url: str
    name: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=())
    headers_from: tuple[HeaderFrom, ...] = field(default=())
    tls: TlsConfig | None = None
    is_confined: bool = False
    protobuf_message: ProtobufMessage | None = None
    relabel: str = ""
    timeout_s: float = 30.0
    max_queue_bytes: int = 256 * 1024 * 1024
    max_memory_bytes: int = 16 * 1024 * 1024
    max_lanes: int = 4
    min_backoff_s: float = 0.03
    max_backoff_s: float = 5.0
    max_sample_age_s: float = 7200.0

    def __post_init__(self) -> None:
        _check_url(self.url)
        for position, (name, value) in enumerate(self.headers):
            # By position: who swaps name and value must not find the value in a log.
            if not _HEADER_NAME.fullmatch(name.strip()):
                raise InvalidEndpointError(f"headers[{position}]", "not the name of an HTTP header")
            if _CONTROL_CHARACTER.search(value.strip()):
                raise InvalidEndpointError(f"headers.{name}", "the value holds a control character")
        for positive in (
            "timeout_s",
            "max_queue_bytes",
            "max_memory_bytes",
            "max_lanes",
            "min_backoff_s",
            "max_sample_age_s",
        ):
            if getattr(self, positive) <= 0:
                raise InvalidEndpointError(positive, "must be greater than 0")
        if self.max_backoff_s < self.min_backoff_s:
            raise InvalidEndpointError("max_backoff_s", "must not be less than min_backoff_s")

    def __repr__(self) -> str:
        headers = {name: "***" for name, _ in self.headers}
        return f"EndpointConfig(name={self.name!r}, url={self.display_url!r}, headers={headers})"

    @property
    def label(self) -> str:
        """What metrics and logs call this endpoint."""
        return self.name or self.display_url

    @property
    def display_url(self) -> str:
        """The URL without user, password, query and fragment: those may be secrets."""
        return str(httpx.URL(self.url).copy_with(userinfo=b"", query=None, fragment=None))

    @property
    def points_to_secrets(self) -> bool:
        """Whether there is something to read before requests can be sent."""
        return bool(self.headers_from) or self.tls is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every string that must not appear in a log or a status page, longest first."""
        url = httpx.URL(self.url)
        found = {url.password, url.query.decode("ascii", "replace")}
        for name, value in self.headers:
            if name.strip().lower() not in _PUBLIC_HEADERS:
                found |= {value.strip(), *value.split()[1:]}  # with and without the scheme, "Bearer"
                found |= _passwords(value)
        return tuple(sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=len, reverse=True))


def _passwords(authorization: str) -> set[str]:
    """Return the password of basic authentication as it was before it was encoded."""
    scheme, _, encoded = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return set()
    try:
        _, _, password = base64.b64decode(encoded).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return set()
    return {password}


def _check_url(text: str) -> None:
    try:
        url = httpx.URL(text)
        host, port = url.host, url.port
    except (httpx.InvalidURL, ValueError):
        # The cause would repeat the URL, and with it what may be a password.
        raise InvalidEndpointError("url", "not a URL") from None
    if url.scheme not in {"http", "https"} or not host:
        raise InvalidEndpointError("url", "must be http://host[:port]/path or https://host[:port]/path")
    if port is not None and not 0 < port < 65536:
        raise InvalidEndpointError("url", "the port must be 1 to 65535")
