"""Who is sending: tenant ids and how they are read from a request."""

from tenants.identity.tenant_id import (
    HEADER,
    IdentityReason,
    IdentityRefused,
    TenantId,
    identify,
    parse_tenant,
)

__all__ = ["HEADER", "IdentityReason", "IdentityRefused", "TenantId", "identify", "parse_tenant"]
