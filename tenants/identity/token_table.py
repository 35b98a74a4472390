"""All tokens, as every process that checks them has them: hashes, never secrets.

One process makes a table from what is stored and pushes it whole; nobody changes it.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol, Self

from tenants.identity.access import Scope, check_grant
from tenants.identity.tenant_id import TenantId
from tenants.identity.token import check_hash


class StoredToken(Protocol):
    """A token as it is stored."""

    @property
    def token_id(self) -> str: ...  # noqa: D102
    @property
    def tenant(self) -> str | None: ...  # noqa: D102
    @property
    def scopes(self) -> Set[str]: ...  # noqa: D102
    @property
    def secret_hash(self) -> str: ...  # noqa: D102
    @property
    def expires_ms(self) -> int | None: ...  # noqa: D102
    @property
    def revoked_ms(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that exists.

    Attributes:
        token_id: its public name.
        tenant: whose it is; None: of all tenants.
        scopes: what it may be used for.
        secret_hash: of its secret.
        expires_ms: when it ends, in Unix milliseconds; None: never.
        revoked_ms: when it was revoked; None: it was not.
    """

    token_id: str
    tenant: TenantId | None
    scopes: frozenset[Scope]
    secret_hash: str = field(repr=False)
    expires_ms: int | None = None
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TokenTable:
    """All tokens by their ids. Pickles; hashes are in no ``repr``.

    Attributes:
        tokens: by ``token_id``.
        unreadable: ids of stored tokens that are no good and were left out: damaged, or written by a newer version.
    """

    tokens: Mapping[str, KnownToken] = field(default_factory=dict, repr=False)
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, stored: Iterable[StoredToken]) -> Self:
        """Read stored tokens. One that cannot be read stops no other; a scope that is not known is not granted."""
        tokens: dict[str, KnownToken] = {}
        unreadable: list[str] = []
        for record in stored:
            try:
                tokens[record.token_id] = _known(record)
            except ValueError:
                unreadable.append(record.token_id)
        return cls(tokens, tuple(unreadable))


def _known(record: StoredToken) -> KnownToken:
    tenant = None if record.tenant is None else TenantId(record.tenant)
    scopes = frozenset(scope for scope in Scope if scope.value in record.scopes)
    check_grant(tenant, scopes)
    check_hash(record.secret_hash)
    return KnownToken(record.token_id, tenant, scopes, record.secret_hash, record.expires_ms, record.revoked_ms)
