"""HTTP headers of remote writes: which may be configured, and what a tenant's requests finally carry.

Values are secrets from the moment they are read; nothing here prints them.
"""

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr

from tenants.identity.tenant_id import HEADER as ORG_ID_HEADER
from tenants.identity.tenant_id import TenantId

T = TypeVar("T")

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")  # token, RFC 9110 §5.6.2
_VALUE = re.compile(r"(?:[!-~](?:[!-~ \t]*[!-~])?)?")  # visible ASCII, no space at the ends
_MAX_VALUE = 8192

# tenancy §10 D-27: what the protocol, the HTTP client or the connection decides.
_DENIED = frozenset(
    {
        "host",
        "user-agent",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_DENIED_PREFIXES = ("content-", "x-prometheus-")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("is not a header name")
    if name.lower() in _DENIED or name.lower().startswith(_DENIED_PREFIXES):
        raise ValueError("is a header that Millrace sets itself; remove it")
    return name


def _check_value(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if len(secret) > _MAX_VALUE:
        raise ValueError(f"should be at most {_MAX_VALUE} characters")
    if not _VALUE.fullmatch(secret):
        raise ValueError("should be visible ASCII without line breaks, and without space at its ends")
    return value


def check_unique(headers: Mapping[str, T]) -> Mapping[str, T]:
    """Return headers of which no two differ only in the case of their letters; raise ValueError otherwise."""
    seen: dict[str, str] = {}
    for name in headers:
        if (first := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"{first} and {name} are the same header; keep one")
    return headers


HeaderName = Annotated[str, AfterValidator(_check_name)]
SecretHeaderValue = Annotated[SecretStr, AfterValidator(_check_value)]

Headers = Annotated[
    Mapping[HeaderName, SecretHeaderValue],
    Field(max_length=32),
    AfterValidator(check_unique),
]
"""Header names and secret values, checked against the deny list; names are unique in any case of letters."""


def final_headers(
    endpoint: Mapping[str, SecretStr], tenant: Mapping[str, SecretStr], org_id: TenantId | None
) -> dict[str, SecretStr]:
    """Merge what one tenant's requests to one endpoint carry (tenancy §7).

    Args:
        endpoint: the endpoint's own headers.
        tenant: the tenant's ``remote_write_headers``; they win, whatever the case of their letters.
        org_id: sent as ``X-Scope-OrgID`` unless a header of that name has a value; None to send none.
    """
    merged = {name.lower(): (name, value) for headers in (endpoint, tenant) for name, value in headers.items()}
    given = merged.get(ORG_ID_HEADER.lower())
    if org_id is not None and not (given and given[1].get_secret_value()):
        merged[ORG_ID_HEADER.lower()] = (ORG_ID_HEADER, SecretStr(str(org_id)))
    return dict(merged.values())
