import pytest
import structlog
from sqlalchemy import text

from tenants.settings.tenant_state import TenantState
from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.database import Database
from tenants.store.errors import RevisionConflict, UnreadableTenantError
from tenants.store.tenants import TenantRecord, TenantStore

LIMITS = {"ingestion": {"rate_limit_bytes": 1000}}


@pytest.fixture
def tenants(database: Database) -> TenantStore:
    return TenantStore(database)


def test_tenant_that_nobody_stored_is_unknown(tenants: TenantStore) -> None:
    assert tenants.get("acme") is None
    assert tenants.listed("", 10) == []
    assert tenants.changes_since(0) == (0, [])


@pytest.mark.parametrize("state", TenantState)
def test_record_is_there_as_it_was_stored(tenants: TenantStore, state: TenantState) -> None:
    record = tenants.put("acme", state, LIMITS, "a good customer", 0, 5)
    assert record == TenantRecord("acme", state, 1, 5, 5, "a good customer", LIMITS)
    assert tenants.get("acme") == record
    assert tenants.listed("", 10) == [record]


def test_change_is_the_next_revision_and_keeps_when_the_tenant_was_made(tenants: TenantStore) -> None:
    tenants.put("acme", TenantState.ACTIVE, LIMITS, "", 0, 5)
    changed = tenants.put("acme", TenantState.BLOCKED, {}, "did not pay", 1, 9)
    assert changed == TenantRecord("acme", TenantState.BLOCKED, 2, 5, 9, "did not pay", {})
    assert tenants.get("acme") == changed


@pytest.mark.parametrize(("stored", "expected", "current"), [(0, 1, 0), (2, 0, 2), (2, 1, 2), (2, 3, 2)])
def test_other_revision_than_expected_is_a_conflict_and_changes_nothing(
    database: Database, stored: int, expected: int, current: int
) -> None:
    tenants = TenantStore(database)
    for _ in range(stored):
        tenants.put("acme", TenantState.ACTIVE, {}, "", None, 0)
    before = tenants.changes_since(0)
    audit = AuditEntry(0, "me", "tenant.change", "acme", {}, "", None)
    with pytest.raises(RevisionConflict) as conflict:
        tenants.put("acme", TenantState.PAUSED, {}, "", expected, 0, audit=audit)
    assert conflict.value.current == current
    assert tenants.changes_since(0) == before
    assert AuditStore(database).listed(None, None, 10) == []


def test_pages_go_on_after_the_last_tenant_of_the_page_before(tenants: TenantStore) -> None:
    names = ["a", "B", "a.b", "A", "aa", "_x", "a-b", "(z)"]
    for name in names:
        tenants.put(name, TenantState.ACTIVE, {}, "", 0, 0)
    seen: list[str] = []
    while page := tenants.listed(seen[-1] if seen else "", 3):
        seen += [record.tenant for record in page]
    assert seen == sorted(names)


def test_changes_are_told_once_and_in_their_order(tenants: TenantStore) -> None:
    first = tenants.put("b", TenantState.ACTIVE, {}, "", 0, 0)
    second = tenants.put("a", TenantState.ACTIVE, {}, "", 0, 0)
    token, changes = tenants.changes_since(0)
    assert changes == [first, second]
    assert tenants.changes_since(token) == (token, [])
    changed = tenants.put("b", TenantState.PAUSED, {}, "", 1, 0)
    later, changes = tenants.changes_since(token)
    assert later > token
    assert changes == [changed]


def test_entry_of_the_audit_is_stored_with_the_change_and_its_revision(database: Database) -> None:
    entry = AuditEntry(5, "token:1", "tenant.change", "acme", {"state": "paused"}, "127.0.0.1", None)
    tenants = TenantStore(database)
    tenants.put("acme", TenantState.ACTIVE, {}, "", None, 4)
    tenants.put("acme", TenantState.PAUSED, {}, "", None, 5, audit=entry)
    (stored,) = AuditStore(database).listed("acme", None, 10)
    assert (stored.action, stored.detail, stored.revision) == ("tenant.change", {"state": "paused"}, 2)


@pytest.mark.parametrize(("column", "problem"), [("state", "none of those"), ("limits", "limits is not JSON")])
def test_damaged_record_stops_no_other_is_said_and_can_be_written_anew(
    database: Database, column: str, problem: str
) -> None:
    tenants = TenantStore(database)
    for name in ("a", "b", "c"):
        tenants.put(name, TenantState.ACTIVE, {}, "", 0, 0)
    with database.write() as connection:
        connection.execute(text(f"UPDATE tenants SET {column} = 'hidden' WHERE tenant = 'b'"))
    for read in (lambda: tenants.listed("", 10), lambda: tenants.changes_since(0)[1]):
        with structlog.testing.capture_logs() as logs:
            assert [record.tenant for record in read()] == ["a", "c"]
        assert [(line["log_level"], line["tenant"]) for line in logs] == [("error", "b")]
    with pytest.raises(UnreadableTenantError, match=problem) as damaged:
        tenants.get("b")
    assert "hidden" not in str(damaged.value)
    record = tenants.put("b", TenantState.BLOCKED, {}, "", damaged.value.revision, 0)
    assert tenants.get("b") == record
