from typing import Any

import pytest
from sqlalchemy import text

from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.database import Database
from tenants.store.documents import KEPT_REVISIONS, DocumentStore, StoredDocument, UnreadableDocument
from tenants.store.errors import RevisionConflict

DOCUMENT: dict[str, Any] = {"metrics_generator": {"processors": ["span-metrics"], "collection_interval": "30s"}}


@pytest.fixture
def documents(database: Database) -> DocumentStore:
    return DocumentStore(database)


def damage(database: Database, tenant: str, stored: str) -> None:
    """Write something else where a tenant's latest document is."""
    with database.write() as connection:
        connection.execute(
            text(
                "UPDATE document_revisions SET document = :stored WHERE tenant = :tenant "
                "AND revision = (SELECT revision FROM documents WHERE tenant = :tenant)"
            ),
            {"stored": stored, "tenant": tenant},
        )


def test_tenant_without_a_document_has_none(documents: DocumentStore) -> None:
    assert documents.get("acme") is None
    assert documents.history("acme") == []
    assert documents.all() == []
    assert documents.changes_since(0) == (0, [])


def test_document_is_there_as_it_was_stored(documents: DocumentStore) -> None:
    stored = documents.put("acme", DOCUMENT, 0, "token:1", 1_700_000_000_000)
    assert stored == StoredDocument("acme", 1, DOCUMENT, "token:1", 1_700_000_000_000)
    assert documents.get("acme") == stored
    assert documents.all() == documents.history("acme") == [stored]
    assert documents.get("Acme") is None


def test_what_is_returned_is_no_part_of_what_was_given(documents: DocumentStore) -> None:
    given = {"a": [1]}
    stored = documents.put("acme", given, 0, "me", 0)
    given["a"].append(2)
    assert stored.document == {"a": [1]}


@pytest.mark.parametrize(
    ("before", "expected", "current"),
    [
        ("nothing", 1, 0),
        ("stored", 0, 2),
        ("stored", 1, 2),
        ("stored", 3, 2),
        ("stored", 2**64, 2),
        ("deleted", 3, 0),
        ("deleted", 2, 0),
    ],
)
@pytest.mark.parametrize("change", ["put", "delete"])
def test_other_revision_than_expected_is_a_conflict_and_changes_nothing(
    database: Database, before: str, expected: int, current: int, change: str
) -> None:
    documents = DocumentStore(database)
    if before != "nothing":
        documents.put("acme", {"a": 1}, None, "me", 0)
        documents.put("acme", {"a": 2}, None, "me", 0)
    if before == "deleted":
        documents.delete("acme", None, "me", 0)
    state = (documents.history("acme"), documents.changes_since(0))
    audit = AuditEntry(0, "me", "change", "acme", {}, "", None)
    arguments = ("acme", DOCUMENT, expected) if change == "put" else ("acme", expected)
    with pytest.raises(RevisionConflict) as conflict:
        getattr(documents, change)(*arguments, "me", 0, audit=audit)
    assert conflict.value.current == current
    assert (documents.history("acme"), documents.changes_since(0)) == state
    assert AuditStore(database).listed(None, None, 10) == []


def test_expecting_nothing_in_particular_always_stores(documents: DocumentStore) -> None:
    assert [documents.put("acme", {"a": number}, None, "me", 0).revision for number in range(3)] == [1, 2, 3]


def test_deletion_is_a_revision_and_no_revision_is_used_again(documents: DocumentStore) -> None:
    documents.put("acme", DOCUMENT, 0, "me", 1)
    deleted = documents.delete("acme", 1, "you", 2)
    assert deleted == StoredDocument("acme", 2, None, "you", 2)
    assert documents.get("acme") == deleted
    assert documents.all() == []
    assert documents.put("acme", DOCUMENT, 0, "me", 3).revision == 3
    assert [stored.document for stored in documents.history("acme")] == [DOCUMENT, None, DOCUMENT]


@pytest.mark.parametrize("expected", [None, 0])
def test_there_is_nothing_to_delete_twice(documents: DocumentStore, expected: int | None) -> None:
    with pytest.raises(RevisionConflict):
        documents.delete("acme", expected, "me", 0)
    documents.put("acme", DOCUMENT, 0, "me", 0)
    documents.delete("acme", None, "me", 0)
    with pytest.raises(RevisionConflict):
        documents.delete("acme", expected, "me", 0)


def test_last_twenty_revisions_of_each_tenant_are_kept_newest_first(documents: DocumentStore) -> None:
    assert KEPT_REVISIONS == 20
    documents.put("other", DOCUMENT, 0, "me", 0)
    for revision in range(1, 26):
        documents.put("acme", {"revision": revision}, None, "me", revision)
    history = documents.history("acme")
    assert [stored.revision for stored in history] == list(range(25, 5, -1))
    assert [stored.document for stored in history] == [{"revision": revision} for revision in range(25, 5, -1)]
    assert documents.history("acme", 2) == history[:2]
    assert documents.history("acme", 1000) == history
    assert len(documents.history("other")) == 1


def test_changes_are_told_once_and_in_their_order(documents: DocumentStore) -> None:
    first = documents.put("b", DOCUMENT, 0, "me", 0)
    second = documents.put("a", DOCUMENT, 0, "me", 0)
    token, changes = documents.changes_since(0)
    assert changes == [first, second]
    assert documents.changes_since(token) == (token, [])
    documents.put("a", {}, None, "me", 0)
    last = documents.put("a", {"x": 1}, None, "me", 0)
    deleted = documents.delete("b", None, "me", 0)
    later, changes = documents.changes_since(token)
    assert later > token
    assert changes == [last, deleted]
    assert documents.changes_since(0) == (later, [last, deleted])


def test_entry_of_the_audit_is_stored_with_the_change_and_its_revision(database: Database) -> None:
    documents = DocumentStore(database)
    entry = AuditEntry(5, "token:1", "overrides.replace", "acme", {"changed": ["a"]}, "127.0.0.1", None)
    documents.put("acme", DOCUMENT, 0, "token:1", 5, audit=entry)
    documents.delete("acme", 1, "token:1", 6, audit=entry)
    assert AuditStore(database).listed(None, None, 10) == [
        AuditEntry(5, "token:1", "overrides.replace", "acme", {"changed": ["a"]}, "127.0.0.1", revision, entry_id)
        for revision, entry_id in ((2, 2), (1, 1))
    ]


def test_change_whose_audit_cannot_be_stored_is_not_stored(database: Database) -> None:
    documents = DocumentStore(database)
    entry = AuditEntry(5, "me", "overrides.replace", "acme", {"changed": float("nan")}, "127.0.0.1", None)
    with pytest.raises(ValueError, match="not JSON compliant"):
        documents.put("acme", DOCUMENT, 0, "me", 5, audit=entry)
    assert documents.get("acme") is None


class TestDamagedDocument:
    @pytest.mark.parametrize(
        ("stored", "problem"),
        [('{"hidden": ', "the stored document is not JSON"), ("null", "the stored document is not an object")],
    )
    def test_stops_no_other(self, database: Database, stored: str, problem: str) -> None:
        documents = DocumentStore(database)
        for tenant in ("a", "b", "c"):
            documents.put(tenant, DOCUMENT, 0, "me", 0)
        damage(database, "b", stored)
        for found in (documents.all(), documents.changes_since(0)[1]):
            assert [document.tenant for document in found] == ["a", "b", "c"]
            assert [isinstance(document, UnreadableDocument) for document in found] == [False, True, False]
        bad = documents.get("b")
        assert isinstance(bad, UnreadableDocument)
        assert bad.revision == 1
        assert problem in bad.problem
        assert "hidden" not in bad.problem

    def test_is_left_out_of_the_history_and_can_be_replaced(self, database: Database) -> None:
        documents = DocumentStore(database)
        first = documents.put("acme", DOCUMENT, 0, "me", 0)
        documents.put("acme", DOCUMENT, 1, "me", 0)
        damage(database, "acme", "?")
        assert documents.history("acme") == [first]
        assert documents.put("acme", DOCUMENT, 2, "me", 0).revision == 3
        assert documents.get("acme") == documents.history("acme")[0]
