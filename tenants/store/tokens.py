"""The API tokens that were made: their hashes, what they are for, and when they end. Never their secrets."""

from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, or_, select, update

from tenants.store.audit import AuditEntry, write_entry
from tenants.store.change_counter import Feed, last_number, next_number
from tenants.store.database import Database
from tenants.store.errors import TokenExistsError
from tenants.store.schema import TOKENS

KEPT_ENDED_TOKENS: Final = 100
"""How many tokens of one tenant are kept that were revoked or have expired: making tokens does not fill the store."""

_COLUMNS: Final = TOKENS.c


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it is stored. The hash is in no ``repr``.

    Attributes:
        token_id: its public name.
        tenant: whose it is; None: of all tenants.
        scopes: what it may be used for; texts without spaces.
        secret_hash: of its secret.
        created_ms: when it was made, in Unix milliseconds.
        expires_ms: from when on it is not valid any more; None: always valid.
        revoked_ms: when it was revoked; None: it was not.
        note: what it is for.
        created_by: who made it.
    """

    token_id: str
    tenant: str | None
    scopes: frozenset[str]
    secret_hash: str = field(repr=False)
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    note: str
    created_by: str


class TokenStore:
    """All tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: TokenRecord, *, audit: AuditEntry | None = None) -> None:
        """Store a new token, and forget those of its tenant that ended longest ago, beyond 100.

        Raises:
            TokenExistsError: there is one with this id.
        """
        with self._database.write() as connection:
            next_number(connection, Feed.TOKENS)
            if connection.execute(select(_COLUMNS.token_id).where(_COLUMNS.token_id == record.token_id)).first():
                raise TokenExistsError(record.token_id)
            connection.execute(
                insert(TOKENS),
                {
                    "token_id": record.token_id,
                    "tenant": record.tenant,
                    "scopes": " ".join(sorted(record.scopes)),
                    "secret_hash": record.secret_hash,
                    "created_ms": record.created_ms,
                    "expires_ms": record.expires_ms,
                    "revoked_ms": record.revoked_ms,
                    "note": record.note,
                    "created_by": record.created_by,
                },
            )
            _forget_ended(connection, record.tenant, record.created_ms)
            if audit is not None:
                write_entry(connection, audit, audit.revision)

    def get(self, token_id: str) -> TokenRecord | None:
        """Return a token, valid or not; None: there is none, or it was forgotten."""
        with self._database.read() as connection:
            row = connection.execute(select(TOKENS).where(_COLUMNS.token_id == token_id)).one_or_none()
        return None if row is None else _record(row)

    def listed(self, tenant: str | None) -> list[TokenRecord]:
        """Return the tokens of a tenant, or those of everybody, valid or not, in the order in which they were made."""
        query = select(TOKENS).order_by(_COLUMNS.created_ms, _COLUMNS.token_id)
        if tenant is not None:
            query = query.where(_COLUMNS.tenant == tenant)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def revoke(self, token_id: str, now_ms: int, *, audit: AuditEntry | None = None) -> bool:
        """End a token; return whether it was there and not revoked before. If not, nothing is stored."""
        with self._database.write() as connection:
            next_number(connection, Feed.TOKENS)
            revoked = connection.execute(
                update(TOKENS)
                .where(_COLUMNS.token_id == token_id, _COLUMNS.revoked_ms.is_(None))
                .values(revoked_ms=now_ms)
            )
            if revoked.rowcount == 0:
                connection.rollback()
                return False
            if audit is not None:
                write_entry(connection, audit, audit.revision)
            return True

    def all_valid(self, now_ms: int) -> list[TokenRecord]:
        """Return the tokens of everybody that are neither revoked nor expired, by id."""
        query = select(TOKENS).where(_is_valid(now_ms)).order_by(_COLUMNS.token_id)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def change_token(self) -> int:
        """Return a number that grows with every token that is made or revoked. That one expires does not change it."""
        with self._database.read() as connection:
            return last_number(connection, Feed.TOKENS)


def _is_of(tenant: str | None) -> ColumnElement[bool]:
    return _COLUMNS.tenant.is_(None) if tenant is None else _COLUMNS.tenant == tenant


def _is_valid(now_ms: int) -> ColumnElement[bool]:
    return _COLUMNS.revoked_ms.is_(None) & or_(_COLUMNS.expires_ms.is_(None), _COLUMNS.expires_ms > now_ms)


def _forget_ended(connection: Connection, tenant: str | None, now_ms: int) -> None:
    rows = connection.execute(select(TOKENS).where(_is_of(tenant), ~_is_valid(now_ms)))
    ended = sorted(map(_record, rows), key=_ended_ms, reverse=True)
    if surplus := [record.token_id for record in ended[KEPT_ENDED_TOKENS:]]:
        connection.execute(delete(TOKENS).where(_COLUMNS.token_id.in_(surplus)))


def _ended_ms(record: TokenRecord) -> int:
    return min(ms for ms in (record.expires_ms, record.revoked_ms) if ms is not None)


def _record(row: Row[Any]) -> TokenRecord:
    return TokenRecord(
        token_id=row.token_id,
        tenant=row.tenant,
        scopes=frozenset(row.scopes.split()),
        secret_hash=row.secret_hash,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
        note=row.note,
        created_by=row.created_by,
    )
