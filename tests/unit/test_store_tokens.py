import dataclasses

import pytest

from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.database import Database
from tenants.store.errors import TokenExistsError
from tenants.store.tokens import KEPT_ENDED_TOKENS, TokenRecord, TokenStore

RECORD = TokenRecord(
    token_id="00112233aabbccdd",
    tenant="acme",
    scopes=frozenset({"ingest", "tenant-admin"}),
    secret_hash="$scrypt$hidden",
    created_ms=100,
    expires_ms=None,
    revoked_ms=None,
    note="for the collector",
    created_by="token:0",
)
ENTRY = AuditEntry(0, "token:0", "token.change", "acme", {"token": RECORD.token_id}, "127.0.0.1", None)


def record(token_id: str, **parts: object) -> TokenRecord:
    return dataclasses.replace(RECORD, token_id=token_id, **parts)  # type: ignore[arg-type]


@pytest.fixture
def tokens(database: Database) -> TokenStore:
    return TokenStore(database)


@pytest.mark.parametrize(
    "parts",
    [{}, {"tenant": None, "scopes": frozenset({"operator"})}, {"expires_ms": 2**42, "revoked_ms": 200}],
    ids=["tenant", "operator", "ended"],
)
def test_token_is_there_as_it_was_stored(tokens: TokenStore, parts: dict[str, object]) -> None:
    stored = record("a", **parts)
    tokens.add(stored)
    assert tokens.get("a") == stored
    assert tokens.listed(None) == [stored]


def test_hash_is_in_no_repr() -> None:
    assert "hidden" not in repr(RECORD)


def test_token_that_is_unknown_is_none(tokens: TokenStore) -> None:
    assert tokens.get("a") is None
    assert tokens.listed("acme") == tokens.listed(None) == tokens.all_valid(0) == []


def test_id_is_there_once(database: Database) -> None:
    tokens = TokenStore(database)
    tokens.add(RECORD)
    with pytest.raises(TokenExistsError):
        tokens.add(dataclasses.replace(RECORD, tenant="other"), audit=ENTRY)
    assert tokens.listed(None) == [RECORD]
    assert tokens.change_token() == 1
    assert AuditStore(database).listed(None, None, 10) == []


def test_tokens_of_a_tenant_are_listed_as_they_were_made(tokens: TokenStore) -> None:
    for token_id, tenant, created_ms in (("b", "acme", 1), ("a", "acme", 2), ("c", "other", 0), ("d", None, 3)):
        tokens.add(record(token_id, tenant=tenant, created_ms=created_ms))
    assert [found.token_id for found in tokens.listed("acme")] == ["b", "a"]
    assert [found.token_id for found in tokens.listed(None)] == ["c", "b", "a", "d"]


def test_token_is_valid_until_it_expires_or_is_revoked(tokens: TokenStore) -> None:
    tokens.add(record("forever"))
    tokens.add(record("expires", expires_ms=500))
    tokens.add(record("revoked"))
    assert tokens.revoke("revoked", 300)
    assert [found.token_id for found in tokens.all_valid(499)] == ["expires", "forever"]
    assert [found.token_id for found in tokens.all_valid(500)] == ["forever"]


def test_token_is_revoked_once(database: Database) -> None:
    tokens = TokenStore(database)
    tokens.add(RECORD)
    assert tokens.revoke(RECORD.token_id, 300, audit=ENTRY)
    assert not tokens.revoke(RECORD.token_id, 400, audit=ENTRY)
    assert not tokens.revoke("unknown", 400, audit=ENTRY)
    assert tokens.get(RECORD.token_id) == dataclasses.replace(RECORD, revoked_ms=300)
    assert len(AuditStore(database).listed(None, None, 10)) == 1


def test_change_token_grows_with_what_changes_and_only_then(tokens: TokenStore) -> None:
    assert tokens.change_token() == 0
    tokens.add(RECORD)
    tokens.add(record("b"))
    assert tokens.change_token() == 2
    tokens.revoke("b", 300)
    assert tokens.change_token() == 3
    tokens.revoke("b", 300)
    tokens.revoke("unknown", 300)
    assert tokens.change_token() == 3


def test_change_is_audited(database: Database) -> None:
    TokenStore(database).add(RECORD, audit=ENTRY)
    (stored,) = AuditStore(database).listed("acme", None, 10)
    assert stored == dataclasses.replace(ENTRY, entry_id=1)


@pytest.mark.parametrize("tenant", ["acme", None])
def test_who_makes_and_ends_tokens_keeps_the_hundred_that_ended_last(tokens: TokenStore, tenant: str | None) -> None:
    ended = KEPT_ENDED_TOKENS + 5
    tokens.add(record("other", tenant="other", revoked_ms=1))
    tokens.add(record("valid", tenant=tenant))
    for number in range(ended):
        end = {"expires_ms": 200 + number} if number % 2 else {"revoked_ms": 200 + number}
        tokens.add(record(f"{number:03}", tenant=tenant, created_ms=100, **end))
    tokens.add(record("last", tenant=tenant, created_ms=1000))
    kept = [found.token_id for found in tokens.listed(None)]
    assert set(kept) == {"other", "valid", "last", *(f"{number:03}" for number in range(5, ended))}
