"""The tables of the control plane, and the numbered steps that make them."""

import re
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, Date, Integer, MetaData, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from tenants.store.migration import Line, Step, take_steps

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

_ADVISORY_LOCK: Final = 0x6D696C6C72616365


class StoredText(TypeDecorator[str]):
    """Text; NUL and lone surrogates, which not every database takes, become U+FFFD, in what is looked for too."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Replace what cannot be stored."""
        return None if value is None else _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)


_METADATA: Final = MetaData()


def _table(name: str, **columns: Any) -> Table:
    return Table(name, _METADATA, *(Column(column, kind) for column, kind in columns.items()))


SCHEMA_VERSION: Final = _table("schema_version", version=Integer)

CHANGE_COUNTERS: Final = _table("change_counters", feed=StoredText, value=BigInteger)

DOCUMENTS: Final = _table("documents", tenant=StoredText, revision=BigInteger, changed=BigInteger)

DOCUMENT_REVISIONS: Final = _table(
    "document_revisions",
    tenant=StoredText,
    revision=BigInteger,
    document=StoredText,
    author=StoredText,
    at_ms=BigInteger,
)

TENANTS: Final = _table(
    "tenants",
    tenant=StoredText,
    revision=BigInteger,
    changed=BigInteger,
    state=StoredText,
    limits=StoredText,
    note=StoredText,
    created_ms=BigInteger,
    updated_ms=BigInteger,
)

TOKENS: Final = _table(
    "tokens",
    token_id=StoredText,
    tenant=StoredText,
    scopes=StoredText,
    secret_hash=StoredText,
    created_ms=BigInteger,
    expires_ms=BigInteger,
    revoked_ms=BigInteger,
    note=StoredText,
    created_by=StoredText,
)

AUDIT_ENTRIES: Final = _table(
    "audit_entries",
    entry_id=BigInteger,
    at_ms=BigInteger,
    actor=StoredText,
    action=StoredText,
    tenant=StoredText,
    detail=StoredText,
    source_ip=StoredText,
    revision=BigInteger,
)

USAGE_DAYS: Final = _table(
    "usage_days",
    tenant=StoredText,
    day=Date,
    spans=BigInteger,
    bytes=BigInteger,
    samples_sent=BigInteger,
    active_series_max=BigInteger,
    active_series_sum=BigInteger,
    active_series_readings=BigInteger,
)

STEPS: Final[tuple[Step, ...]] = (
    (
        "CREATE TABLE change_counters (feed {text} PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO change_counters VALUES ('documents', 0), ('tenants', 0), ('tokens', 0), ('audit', 0)",
        "CREATE TABLE documents (tenant {text} PRIMARY KEY, revision BIGINT NOT NULL, changed BIGINT NOT NULL)",
        "CREATE UNIQUE INDEX documents_changed ON documents (changed)",
        "CREATE TABLE document_revisions (tenant {text} NOT NULL REFERENCES documents (tenant),"
        " revision BIGINT NOT NULL, document {text}, author {text} NOT NULL, at_ms BIGINT NOT NULL,"
        " PRIMARY KEY (tenant, revision))",
        "CREATE TABLE tenants (tenant {text} PRIMARY KEY, revision BIGINT NOT NULL, changed BIGINT NOT NULL,"
        " state {text} NOT NULL, limits {text} NOT NULL, note {text} NOT NULL, created_ms BIGINT NOT NULL,"
        " updated_ms BIGINT NOT NULL)",
        "CREATE UNIQUE INDEX tenants_changed ON tenants (changed)",
        "CREATE TABLE tokens (token_id {text} PRIMARY KEY, tenant {text}, scopes {text} NOT NULL,"
        " secret_hash {text} NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT, revoked_ms BIGINT,"
        " note {text} NOT NULL, created_by {text} NOT NULL)",
        "CREATE INDEX tokens_tenant ON tokens (tenant)",
        "CREATE TABLE audit_entries (entry_id BIGINT PRIMARY KEY, at_ms BIGINT NOT NULL, actor {text} NOT NULL,"
        " action {text} NOT NULL, tenant {text}, detail {text} NOT NULL, source_ip {text} NOT NULL, revision BIGINT)",
        "CREATE INDEX audit_entries_tenant ON audit_entries (tenant, entry_id)",
        "CREATE INDEX audit_entries_at ON audit_entries (at_ms)",
        "CREATE TABLE usage_days (tenant {text} NOT NULL, day DATE NOT NULL, spans BIGINT NOT NULL,"
        " bytes BIGINT NOT NULL, samples_sent BIGINT NOT NULL, active_series_max BIGINT NOT NULL,"
        " active_series_sum BIGINT NOT NULL, active_series_readings BIGINT NOT NULL, PRIMARY KEY (tenant, day))",
        "CREATE INDEX usage_days_day ON usage_days (day)",
    ),
)


def migrate(connection: Connection) -> None:
    """Bring the tables up to date, in the connection's transaction.

    Raises:
        SchemaTooNewError: a newer version was here.
    """
    take_steps(connection, Line("database", SCHEMA_VERSION, _ADVISORY_LOCK, STEPS))
