"""Who is asking: tenant ids, tokens, and how both are read from a request."""

from tenants.identity.access import Principal, Scope
from tenants.identity.authenticator import Authenticator
from tenants.identity.denied import Denial, DenialReason, Denied
from tenants.identity.identification import AuthMode, Identification
from tenants.identity.tenant_id import (
    HEADER,
    IdentityReason,
    IdentityRefused,
    TenantId,
    identify,
    parse_tenant,
)
from tenants.identity.token import Token, hash_secret, new_token, parse_token, verify
from tenants.identity.token_table import KnownToken, TokenTable

__all__ = [
    "HEADER",
    "AuthMode",
    "Authenticator",
    "Denial",
    "DenialReason",
    "Denied",
    "Identification",
    "IdentityReason",
    "IdentityRefused",
    "KnownToken",
    "Principal",
    "Scope",
    "TenantId",
    "Token",
    "TokenTable",
    "hash_secret",
    "identify",
    "new_token",
    "parse_tenant",
    "parse_token",
    "verify",
]
