import dataclasses

import pytest
from sqlalchemy import text

from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.database import Database


def entry(at_ms: int, tenant: str | None = "acme") -> AuditEntry:
    return AuditEntry(at_ms, "token:1", "overrides.delete", tenant, {"changed": ["a", {"b": None}]}, "127.0.0.1", 7)


@pytest.fixture
def audit(database: Database) -> AuditStore:
    return AuditStore(database)


def test_entry_is_there_as_it_was_stored_with_a_number(audit: AuditStore) -> None:
    stored = audit.append(entry(5))
    assert stored == dataclasses.replace(entry(5), entry_id=1)
    assert audit.listed(None, None, 10) == [stored]


def test_pages_go_from_the_newest_on_and_leave_nothing_out(audit: AuditStore) -> None:
    # All at once: the time would not do for pages.
    stored = [audit.append(entry(5, tenant)) for tenant in ("acme", "other", None, "acme", "acme", "other", "acme")]
    for tenant in (None, "acme", "other", "unknown"):
        seen: list[AuditEntry] = []
        while page := audit.listed(tenant, seen[-1].entry_id if seen else None, 2):
            assert len(page) <= 2
            seen += page
        assert seen == [one for one in reversed(stored) if tenant in {None, one.tenant}]


def test_old_entries_are_forgotten_and_no_number_is_used_again(audit: AuditStore) -> None:
    for at_ms in (10, 20, 30):
        audit.append(entry(at_ms))
    assert audit.forget_before(20) == 1
    assert [one.at_ms for one in audit.listed(None, None, 10)] == [30, 20]
    assert audit.forget_before(31) == 2
    assert audit.forget_before(31) == 0
    assert audit.append(entry(40)).entry_id == 4


def test_oldest_entries_of_a_tenant_with_too_many_are_forgotten(
    audit: AuditStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.store.audit.KEPT_ENTRIES_OF_TENANT", 3)
    for at_ms in range(10):
        for tenant in ("acme", None) if at_ms else ("acme", "other", None):
            audit.append(entry(at_ms, tenant))
    assert [one.at_ms for one in audit.listed("acme", None, 100)] == [9, 8, 7]
    assert [one.at_ms for one in audit.listed("other", None, 100)] == [0]
    assert len([one for one in audit.listed(None, None, 100) if one.tenant is None]) == 10


def test_damaged_detail_stops_nothing(database: Database) -> None:
    audit = AuditStore(database)
    for at_ms in (1, 2, 3):
        audit.append(entry(at_ms))
    with database.write() as connection:
        connection.execute(text("UPDATE audit_entries SET detail = '{hidden' WHERE entry_id = 2"))
    last, damaged, first = audit.listed(None, None, 10)
    assert (last, first) == (dataclasses.replace(entry(3), entry_id=3), dataclasses.replace(entry(1), entry_id=1))
    assert damaged.at_ms == 2
    assert damaged.detail.keys() == {"unreadable"}
    assert "hidden" not in str(damaged.detail)
