"""Several threads on one store, each with connections of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from tenants.settings.tenant_state import TenantState
from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.change_counter import Feed, next_number
from tenants.store.database import Database
from tenants.store.documents import DocumentStore, StoredDocument
from tenants.store.errors import RevisionConflict
from tenants.store.tenants import TenantRecord, TenantStore
from tests.postgres import Postgres

T = TypeVar("T")

WORKERS = 6
ROUNDS = 15


def together(work: Callable[[int], object], workers: int = WORKERS) -> None:
    """Run the work in so many threads that begin at once; raises what any of them raises."""
    start = threading.Barrier(workers)

    def run(worker: int) -> None:
        start.wait()
        work(worker)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(workers)))


def outcome(change: Callable[[], T]) -> T | RevisionConflict:
    """Return what a change stored, or the conflict that it met."""
    try:
        return change()
    except RevisionConflict as conflict:
        return conflict


def count_up(documents: DocumentStore, tenant: str, audit: AuditEntry | None = None) -> None:
    """Add 1 to a number in the document, as often as it takes until nobody else was faster."""
    while True:
        stored = documents.get(tenant)
        assert stored is None or isinstance(stored, StoredDocument)
        document = (stored and stored.document) or {"count": 0}
        expected = stored.revision if stored and stored.document is not None else 0
        try:
            documents.put(tenant, {"count": document["count"] + 1}, expected, "me", 0, audit=audit)
        except RevisionConflict:
            continue
        return


@pytest.mark.parametrize("stores", ["one", "one each"])
def test_no_update_is_lost(store_url: str, open_database: Callable[[str], Database], stores: str) -> None:
    databases = [open_database(store_url) for _ in range(WORKERS if stores == "one each" else 1)]
    audit = AuditEntry(0, "me", "change", "acme", {}, "", None)

    def count(worker: int) -> None:
        for _ in range(ROUNDS):
            count_up(DocumentStore(databases[worker % len(databases)]), "acme", audit)

    together(count)
    stored = DocumentStore(databases[0]).get("acme")
    assert isinstance(stored, StoredDocument)
    assert (stored.document, stored.revision) == ({"count": WORKERS * ROUNDS}, WORKERS * ROUNDS)
    entries = AuditStore(databases[0]).listed("acme", None, 1000)
    assert [entry.revision for entry in entries] == list(range(WORKERS * ROUNDS, 0, -1))


def test_of_many_that_expect_nothing_one_makes_the_document_and_the_record(database: Database) -> None:
    documents, tenants = DocumentStore(database), TenantStore(database)
    outcomes: dict[str, list[int]] = {"documents": [], "tenants": []}

    def make(worker: int) -> None:
        stored = outcome(lambda: documents.put("acme", {"worker": worker}, 0, "me", 0))
        outcomes["documents"].append(worker if isinstance(stored, StoredDocument) else -stored.current)
        record = outcome(lambda: tenants.put("acme", TenantState.ACTIVE, {"worker": worker}, "", 0, 0))
        outcomes["tenants"].append(worker if isinstance(record, TenantRecord) else -record.current)

    together(make)
    stored, record = documents.get("acme"), tenants.get("acme")
    assert isinstance(stored, StoredDocument)
    assert record is not None
    assert (stored.revision, record.revision) == (1, 1)
    for kind, kept in (("documents", stored.document), ("tenants", record.limits)):
        # Conflicts name the revision of the one that was faster.
        assert kept is not None
        assert sorted(outcomes[kind]) == sorted([kept["worker"]] + [-1] * (WORKERS - 1))


def test_revisions_go_on_while_some_delete_and_others_put(database: Database) -> None:
    documents = DocumentStore(database)
    outcomes: list[StoredDocument | RevisionConflict] = []

    def change(worker: int) -> None:
        for _ in range(ROUNDS):
            if worker % 2:
                outcomes.append(outcome(lambda: documents.put("acme", {}, None, "me", 0)))
            else:
                outcomes.append(outcome(lambda: documents.delete("acme", None, "me", 0)))

    together(change)
    stored = [one.revision for one in outcomes if isinstance(one, StoredDocument)]
    assert sorted(stored) == list(range(1, len(stored) + 1))
    assert {one.current for one in outcomes if isinstance(one, RevisionConflict)} <= {0}


def test_reader_of_changes_misses_none_that_others_commit_meanwhile(database: Database) -> None:
    documents = DocumentStore(database)
    is_over = threading.Event()
    seen: dict[str, int] = {}
    tokens = [0]

    def look() -> None:
        while True:
            # Before the look: the last one comes after everything.
            was_over = is_over.is_set()
            token, changes = documents.changes_since(tokens[-1])
            tokens.append(token)
            for stored in changes:
                assert stored.revision > seen.get(stored.tenant, 0), "told twice, or an older one"
                seen[stored.tenant] = stored.revision
            if was_over:
                return

    reader = threading.Thread(target=look)
    reader.start()
    try:
        together(lambda worker: [documents.put(f"tenant-{worker}", {}, None, "me", 0) for _ in range(ROUNDS)])
    finally:
        is_over.set()
        reader.join()
    assert seen == {f"tenant-{worker}": ROUNDS for worker in range(WORKERS)}
    assert tokens == sorted(tokens)
    assert tokens[-1] == WORKERS * ROUNDS


def test_number_that_is_taken_but_not_committed_hides_none_behind_it(database: Database) -> None:
    documents = DocumentStore(database)
    later = threading.Thread(target=documents.put, args=("later", {}, 0, "me", 0))
    with database.write() as connection:
        next_number(connection, Feed.DOCUMENTS)
        later.start()
        # It has to wait; if it did not, it would be seen here with a number behind the one that is still open.
        later.join(0.3)
        token, changes = documents.changes_since(0)
        assert (token, changes) == (0, [])
    later.join()
    token, changes = documents.changes_since(token)
    assert [stored.tenant for stored in changes] == ["later"]


def test_feeds_of_postgresql_do_not_wait_for_each_other(
    postgres: Postgres, open_database: Callable[[str], Database]
) -> None:
    database = open_database(postgres.new_database())
    with database.write() as connection:
        next_number(connection, Feed.DOCUMENTS)
        TenantStore(database).put("acme", TenantState.ACTIVE, {}, "", 0, 0)
