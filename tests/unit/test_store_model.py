"""Any history of changes, against a model of dictionaries and lists."""

import dataclasses
import itertools
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import text

from tenants.settings.tenant_state import TenantState
from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.database import Database
from tenants.store.documents import DocumentStore, StoredDocument
from tenants.store.errors import RevisionConflict, TokenExistsError
from tenants.store.tenants import TenantRecord, TenantStore
from tenants.store.tokens import TokenRecord, TokenStore
from tenants.store.usage import UsageDay, UsageStore

T = TypeVar("T")

EXAMPLES = {"sqlite": 0.5, "postgresql": 0.05}
"""Which part of the examples of the profile are tried."""

names = st.sampled_from(["a", "A", "b", "a.b"])
objects = st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=3), max_size=3)
# Mostly what is there; sometimes what was there, or never.
expectations = st.sampled_from(["current", "current", "none", "any", "before", "after"])
tenants_or_none = st.none() | names


class Stores(RuleBasedStateMachine):
    """All stores of one database, and what they should hold."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        _empty(database)
        self._documents = DocumentStore(database)
        self._tenants = TenantStore(database)
        self._tokens = TokenStore(database)
        self._audit = AuditStore(database)
        self._usage = UsageStore(database)
        self._now = itertools.count(1)

        self._revisions: dict[str, list[StoredDocument]] = {}
        self._records: dict[str, TenantRecord] = {}
        self._made: dict[str, TokenRecord] = {}
        self._token_changes = 0
        self._entries: list[AuditEntry] = []
        self._days: dict[tuple[date, str], UsageDay] = {}

        # Two readers of changes, that look at different times.
        self._seen_documents: list[tuple[int, dict[str, StoredDocument]]] = [(0, {}), (0, {})]
        self._seen_tenants: tuple[int, dict[str, TenantRecord]] = (0, {})

    def _current(self, tenant: str) -> int:
        latest = self._revisions[tenant][-1] if tenant in self._revisions else None
        return latest.revision if latest and latest.document is not None else 0

    def _entry(self, tenant: str | None, revision: int | None, now_ms: int) -> tuple[AuditEntry, AuditEntry]:
        """Return an entry as it is given to a store, and as it should be stored."""
        given = AuditEntry(now_ms, "me", "change", tenant, {"at": now_ms}, "127.0.0.1", None)
        return given, dataclasses.replace(given, revision=revision, entry_id=len(self._entries) + 1)

    @rule(tenant=names, document=st.none() | objects, expectation=expectations, is_audited=st.booleans())
    def change_document(self, tenant: str, document: dict[str, Any] | None, expectation: str, is_audited: bool) -> None:
        now_ms = next(self._now)
        current = self._current(tenant)
        history = self._revisions.setdefault(tenant, [])
        revision = history[-1].revision + 1 if history else 1
        expected = _expected(expectation, current)
        given, audited = self._entry(tenant, revision, now_ms)
        audit = given if is_audited else None
        if document is None:
            stored = _outcome(lambda: self._documents.delete(tenant, expected, "me", now_ms, audit=audit))
        else:
            stored = _outcome(lambda: self._documents.put(tenant, document, expected, "me", now_ms, audit=audit))
        if expected not in {None, current} or (document is None and current == 0):
            assert stored == current
        else:
            assert stored == StoredDocument(tenant, revision, document, "me", now_ms)
            history.append(stored)
            self._entries += [audited] if is_audited else []
        if not history:
            del self._revisions[tenant]

    @rule(tenant=names, state=st.sampled_from(TenantState), limits=objects, expectation=expectations)
    def change_tenant(self, tenant: str, state: TenantState, limits: dict[str, Any], expectation: str) -> None:
        now_ms = next(self._now)
        before = self._records.get(tenant)
        current = before.revision if before else 0
        expected = _expected(expectation, current)
        given, audited = self._entry(tenant, current + 1, now_ms)
        record = _outcome(lambda: self._tenants.put(tenant, state, limits, "note", expected, now_ms, audit=given))
        if expected not in {None, current}:
            assert record == current
        else:
            created_ms = before.created_ms if before else now_ms
            assert record == TenantRecord(tenant, state, current + 1, created_ms, now_ms, "note", limits)
            self._records[tenant] = record
            self._entries.append(audited)

    @rule(token_id=st.sampled_from("xyz"), tenant=tenants_or_none, lifetime_ms=st.none() | st.integers(1, 20))
    def add_token(self, token_id: str, tenant: str | None, lifetime_ms: int | None) -> None:
        now_ms = next(self._now)
        expires_ms = None if lifetime_ms is None else now_ms + lifetime_ms
        record = TokenRecord(token_id, tenant, frozenset({"ingest"}), "hash", now_ms, expires_ms, None, "note", "me")
        given, audited = self._entry(tenant, None, now_ms)
        try:
            self._tokens.add(record, audit=given)
        except TokenExistsError:
            assert token_id in self._made
        else:
            assert token_id not in self._made
            self._made[token_id] = record
            self._token_changes += 1
            self._entries.append(audited)

    @rule(token_id=st.sampled_from("xyz"))
    def revoke_token(self, token_id: str) -> None:
        now_ms = next(self._now)
        record = self._made.get(token_id)
        given, audited = self._entry(None, None, now_ms)
        is_news = record is not None and record.revoked_ms is None
        assert self._tokens.revoke(token_id, now_ms, audit=given) == is_news
        if record and is_news:
            self._made[token_id] = dataclasses.replace(record, revoked_ms=now_ms)
            self._token_changes += 1
            self._entries.append(audited)

    @rule(parts=st.lists(st.tuples(names, st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), max_size=4))
    def add_usage(self, parts: list[tuple[str, int, int, int]]) -> None:
        rows = [
            UsageDay(date(2026, 1, 1) + timedelta(days=day), tenant, spans, 2 * spans, 3, series, series, 1)
            for tenant, day, spans, series in parts
        ]
        self._usage.add(rows)
        for row in rows:
            key = (row.day, row.tenant)
            self._days[key] = self._days[key].plus(row) if key in self._days else row

    @rule(reader=st.integers(0, 1))
    def look_for_documents(self, reader: int) -> None:
        token, seen = self._seen_documents[reader]
        later, changes = self._documents.changes_since(token)
        assert later >= token
        for stored in changes:
            assert isinstance(stored, StoredDocument)
            assert seen.get(stored.tenant) != stored, "told twice"
            seen[stored.tenant] = stored
        assert seen == {tenant: history[-1] for tenant, history in self._revisions.items()}
        self._seen_documents[reader] = (later, seen)

    @rule()
    def look_for_tenants(self) -> None:
        token, seen = self._seen_tenants
        later, changes = self._tenants.changes_since(token)
        assert later >= token
        seen.update({record.tenant: record for record in changes})
        assert len(changes) <= later - token
        assert seen == self._records
        self._seen_tenants = (later, seen)

    @rule(tenant=tenants_or_none, limit=st.integers(1, 5), back=st.none() | st.integers(0, 5))
    def read_audit(self, tenant: str | None, limit: int, back: int | None) -> None:
        before = None if back is None else len(self._entries) - back
        entries = [
            entry
            for entry in reversed(self._entries)
            if tenant in {None, entry.tenant} and (before is None or (entry.entry_id or 0) < before)
        ]
        assert self._audit.listed(tenant, before, limit) == entries[:limit]

    @rule()
    def read_everything_else(self) -> None:
        for tenant in ("a", "A", "b", "a.b"):
            history = self._revisions.get(tenant, [])
            assert self._documents.get(tenant) == (history[-1] if history else None)
            assert self._documents.history(tenant) == history[:-21:-1]
            assert self._tenants.get(tenant) == self._records.get(tenant)
        there = [history[-1] for _, history in sorted(self._revisions.items()) if history[-1].document is not None]
        assert self._documents.all() == there
        assert (
            self._tenants.listed("A", 2) == [record for name, record in sorted(self._records.items()) if name > "A"][:2]
        )
        assert self._tokens.change_token() == self._token_changes
        now_ms = next(self._now)
        assert self._tokens.all_valid(now_ms) == [
            record
            for _, record in sorted(self._made.items())
            if record.revoked_ms is None and (record.expires_ms is None or record.expires_ms > now_ms)
        ]
        assert self._usage.read(None, date.min, date.max) == [day for _, day in sorted(self._days.items())]

    def teardown(self) -> None:
        self.look_for_documents(0)
        self.look_for_tenants()
        self.read_audit(None, 100, None)
        self.read_everything_else()


def _outcome(change: Callable[[], T]) -> T | int:
    """Return what a change stored; or the current revision, if it is another one than was expected."""
    try:
        return change()
    except RevisionConflict as conflict:
        return conflict.current


def _expected(expectation: str, current: int) -> int | None:
    return {"current": current, "none": 0, "any": None, "before": max(current - 1, 0), "after": current + 1}[
        expectation
    ]


def _empty(database: Database) -> None:
    with database.write() as connection:
        for table in ("document_revisions", "documents", "tenants", "tokens", "audit_entries", "usage_days"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("UPDATE change_counters SET value = 0"))


@pytest.mark.timeout(600)
def test_any_history_of_changes_matches_the_model(store_url: str, database: Database) -> None:
    examples = int(settings().max_examples * EXAMPLES[store_url.partition(":")[0]])
    run_state_machine_as_test(
        lambda: Stores(database),  # type: ignore[arg-type]
        settings=settings(max_examples=examples, stateful_step_count=30),
    )
