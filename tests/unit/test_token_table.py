import pickle
from dataclasses import dataclass, replace

import pytest

from tenants.identity import Scope, TenantId, TokenTable
from tenants.identity.access import check_grant

HASH = "$scrypt$ln=14,r=8,p=1$" + "A" * 22 + "$" + "B" * 42 + "E"


@dataclass(frozen=True)
class Stored:
    token_id: str = "0123456789abcdef"
    tenant: str | None = "acme"
    scopes: frozenset[str] = frozenset({"ingest"})
    secret_hash: str = HASH
    expires_ms: int | None = None
    revoked_ms: int | None = None


def test_stored_tokens_are_found_by_their_ids() -> None:
    other = Stored("f" * 16, None, frozenset({"operator", "ingest"}), expires_ms=5, revoked_ms=7)
    table = TokenTable.of([Stored(), other])

    assert table.unreadable == ()
    assert table.tokens.keys() == {"0123456789abcdef", "f" * 16}
    acme, operator = table.tokens["0123456789abcdef"], table.tokens["f" * 16]
    assert (acme.tenant, acme.scopes, acme.expires_ms) == (TenantId("acme"), {Scope.INGEST}, None)
    assert (operator.tenant, operator.scopes) == (None, {Scope.OPERATOR, Scope.INGEST})
    assert (operator.expires_ms, operator.revoked_ms) == (5, 7)


@pytest.mark.parametrize(
    "bad",
    [
        Stored("bad", tenant="a/b"),
        Stored("bad", scopes=frozenset()),
        Stored("bad", scopes=frozenset({"everything"})),
        Stored("bad", scopes=frozenset({"operator"})),
        Stored("bad", secret_hash="plain"),
    ],
)
def test_token_that_cannot_be_read_stops_no_other(bad: Stored) -> None:
    table = TokenTable.of([bad, Stored()])

    assert table.tokens.keys() == {"0123456789abcdef"}
    assert table.unreadable == ("bad",)


def test_scope_of_a_newer_version_is_not_granted() -> None:
    table = TokenTable.of([replace(Stored(), scopes=frozenset({"ingest", "everything"}))])

    assert table.tokens["0123456789abcdef"].scopes == {Scope.INGEST}


def test_table_travels_and_shows_no_hash() -> None:
    table = TokenTable.of([Stored()])

    assert pickle.loads(pickle.dumps(table)) == table
    assert HASH not in repr(table) + repr(table.tokens["0123456789abcdef"])


@pytest.mark.parametrize(
    ("tenant", "scopes", "is_good"),
    [
        ("acme", {Scope.INGEST}, True),
        ("acme", {Scope.INGEST, Scope.TENANT_ADMIN}, True),
        (None, {Scope.OPERATOR}, True),
        (None, {Scope.INGEST}, True),
        ("acme", {Scope.OPERATOR}, False),
        (None, set(), False),
    ],
)
def test_operators_belong_to_no_tenant_and_every_token_is_for_something(
    tenant: str | None, scopes: set[Scope], is_good: bool
) -> None:
    granted = None if tenant is None else TenantId(tenant)
    if is_good:
        check_grant(granted, scopes)
    else:
        with pytest.raises(ValueError, match="token"):
            check_grant(granted, scopes)
