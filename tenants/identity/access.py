"""Who is asking, once that is known, and what they may do. Decides nothing about a single request."""

from collections.abc import Set
from dataclasses import dataclass
from enum import StrEnum

from tenants.identity.tenant_id import TenantId


class Scope(StrEnum):
    """What a token may be used for. The texts are stored, part of the API, and never change. None includes another."""

    INGEST = "ingest"
    """Send spans."""

    TENANT_ADMIN = "tenant-admin"
    """Read and change what belongs to a tenant: its document, its ledger, its usage."""

    OPERATOR = "operator"
    """Everything about every tenant, except sending spans for it."""


TRUSTED_SCOPES = frozenset({Scope.INGEST, Scope.TENANT_ADMIN})
"""What whoever names a tenant may do while headers are trusted."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent one request.

    Attributes:
        tenant: for whom the request acts; None: an operator, or a token of all tenants, that named none.
        scopes: what it may do.
        actor: who it was, for the audit: ``token:<id>`` or ``header:<tenant>``; never a secret.
    """

    tenant: TenantId | None
    scopes: frozenset[Scope]
    actor: str


def check_grant(tenant: TenantId | None, scopes: Set[Scope]) -> None:
    """Check what a token is to be for. Without a tenant it is for all tenants, within its scopes.

    Raises:
        ValueError: it would be good for nothing, or tie an operator to one tenant.
    """
    if not scopes:
        raise ValueError(f"a token needs a scope: {', '.join(Scope)}")
    if tenant is not None and Scope.OPERATOR in scopes:
        raise ValueError("a token with the scope operator is for all tenants: name none, or leave the scope out")
