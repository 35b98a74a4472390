import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, inspect, select, text, update

from tenants.identity.tenant_id import TenantId
from tenants.journal import schema
from tenants.journal.errors import Fenced, JournalBacklogFull, JournalClosed, JournalDamaged, JournalError
from tenants.journal.schema import CHECKPOINTS, ENTRIES, migrate
from tenants.journal.store import JournalSizes, JournalStore
from tenants.store.database import Database
from tenants.store.documents import DocumentStore
from tenants.store.errors import SchemaTooNewError, StoreUnavailable, StoreUrlError
from tests.unit.conftest import OpenJournal

A, B = TenantId("acme"), TenantId("B'uzz(1)")

RANDOM = random.Random(5)

Tamper = Callable[[Database], None]


def fill(journal: JournalStore, tenant: TenantId, last: int, first: int = 1) -> None:
    """Append entries whose bodies are their positions."""
    journal.append([(tenant, position, b"%d" % position) for position in range(first, last + 1)])


def positions(journal: JournalStore, tenant: TenantId) -> tuple[int, list[int]]:
    """Return the positions of the checkpoint, 0 if there is none, and of the entries; bodies must be what they were."""
    checkpoint, entries = journal.load(tenant)
    assert all(body == b"%d" % position for position, body in entries)
    return checkpoint.position if checkpoint else 0, [position for position, _ in entries]


def tampered(url: str, change: Tamper) -> None:
    database = Database.open(url, migrate)
    change(database)
    database.close()


def execute(statement: object) -> Tamper:
    def change(database: Database) -> None:
        with database.write() as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    return change


def test_what_was_appended_is_loaded_in_order_by_whoever_opens_it(store_url: str, open_journal: OpenJournal) -> None:
    bodies = [b"", b"x" * 1000, RANDOM.randbytes(200_000), b"\0\xff"]
    open_journal(store_url).append(
        [(A, 1, bodies[0]), (B, 1, bodies[1]), (A, 2, bodies[2]), (A, 3, bodies[3]), (B, 2, bodies[0])]
    )
    # Without closing: that is what a crash leaves.
    again = open_journal(store_url, 2)
    assert again.tenants() == [B, A]
    assert again.load(A) == (None, [(1, bodies[0]), (2, bodies[2]), (3, bodies[3])])
    assert again.load(B) == (None, [(1, bodies[1]), (2, bodies[0])])
    assert (again.last_position(A), again.last_position(B)) == (3, 2)
    fill(again, A, 4, 4)
    assert open_journal(store_url, 2).last_position(A) == 4


def test_tenant_without_journal_has_none(journal: JournalStore) -> None:
    assert journal.tenants() == []
    assert journal.load(A) == (None, [])
    assert (journal.last_position(A), journal.sizes(A)) == (0, JournalSizes(0, 0))
    journal.append([])
    journal.checkpoints([])
    assert journal.tenants() == []


def test_positions_go_on_where_they_ended(journal: JournalStore) -> None:
    for position in (0, 2):
        with pytest.raises(ValueError, match=rf"position {position} of tenant acme does not follow 0"):
            journal.append([(A, position, b"")])
    fill(journal, A, 2)
    for entries in ([(A, 2, b"2")], [(A, 3, b"3"), (A, 3, b"3")], [(A, 3, b"3"), (A, 5, b"5")], [(B, 2, b"2")]):
        with pytest.raises(ValueError, match="does not follow"):
            journal.append(entries)
    assert positions(journal, A) == (0, [1, 2])
    fill(journal, A, 3, 3)
    assert positions(journal, A) == (0, [1, 2, 3])


def test_append_that_fails_in_the_middle_appends_nothing(store_url: str, open_journal: OpenJournal) -> None:
    journal = open_journal(store_url)
    tampered(store_url, execute(insert(ENTRIES).values(tenant="b", position=1, body=b"foreign")))
    with pytest.raises(JournalDamaged, match=r"acme at position 1 .*somebody else writes"):
        journal.append([(A, 1, b"1"), (TenantId("b"), 1, b"1")])
    assert positions(journal, A) == (0, [])
    assert journal.last_position(A) == 0


def test_append_that_was_committed_without_an_answer_can_be_made_again(
    store_url: str, open_journal: OpenJournal
) -> None:
    entries = [(A, 1, b"1"), (B, 1, b"1"), (A, 2, b"2" * 500)]
    journal, other = open_journal(store_url), open_journal(store_url)
    other.append(entries)
    journal.append(entries)
    assert journal.last_position(A) == 2
    fill(journal, B, 2, 2)
    assert positions(journal, B) == (0, [1, 2])
    assert len(journal.load(A).entries) == 2


def test_entry_of_somebody_else_at_the_position_is_found(store_url: str, open_journal: OpenJournal) -> None:
    journal, other = open_journal(store_url), open_journal(store_url, owner="collector-1")
    other.append([(A, 1, b"1"), (A, 2, b"other")])
    with pytest.raises(JournalDamaged, match=r"acme at position 2 .*somebody else writes") as damaged:
        journal.append([(A, 1, b"1"), (A, 2, b"2")])
    assert (damaged.value.tenant, damaged.value.position) == (A, 2)


def test_tenant_that_another_owner_had_is_loaded_first(store_url: str, open_journal: OpenJournal) -> None:
    journal, other = open_journal(store_url), open_journal(store_url, owner="collector-1")
    fill(other, A, 3)
    assert journal.tenants() == [A]
    assert positions(journal, A) == (0, [1, 2, 3])
    fill(journal, A, 4, 4)
    journal.forget(A)
    assert positions(other, A) == (0, [])
    fill(other, A, 1)


class TestCheckpoint:
    @pytest.mark.parametrize("size", [0, 1, 4 << 20, (4 << 20) + 1, 9 << 20])
    def test_stands_for_the_entries_before_it(self, store_url: str, open_journal: OpenJournal, size: int) -> None:
        journal = open_journal(store_url)
        body = RANDOM.randbytes(size)
        fill(journal, A, 5)
        fill(journal, B, 2)
        journal.checkpoint(A, 3, body)
        for one in (journal, open_journal(store_url)):
            assert one.load(A) == ((3, body), [(4, b"4"), (5, b"5")])
            assert positions(one, B) == (0, [1, 2])
            assert one.last_position(A) == 5
        fill(journal, A, 6, 6)

    def test_replaces_the_former_also_by_a_smaller_one(self, journal: JournalStore) -> None:
        fill(journal, A, 2)
        journal.checkpoint(A, 1, RANDOM.randbytes(9 << 20))
        journal.checkpoint(A, 2, b"small")
        assert journal.load(A) == ((2, b"small"), [])
        journal.checkpoint(A, 2, b"again")
        assert journal.load(A) == ((2, b"again"), [])

    def test_goes_on_with_entries_after_it(self, store_url: str, open_journal: OpenJournal) -> None:
        fill(open_journal(store_url), A, 2)
        open_journal(store_url).checkpoint(A, 2, b"state")
        again = open_journal(store_url)
        assert again.tenants() == [A]
        assert again.last_position(A) == 2
        fill(again, A, 3, 3)
        assert positions(again, A) == (2, [3])

    def test_of_several_tenants_is_one_transaction(self, journal: JournalStore) -> None:
        fill(journal, A, 2)
        fill(journal, B, 2)
        with pytest.raises(ValueError, match="not between"):
            journal.checkpoints([(A, 2, b"a"), (B, 3, b"b")])
        assert (positions(journal, A), positions(journal, B)) == ((0, [1, 2]), (0, [1, 2]))
        journal.checkpoints([(A, 2, b"a"), (B, 1, b"b")])
        assert (positions(journal, A), positions(journal, B)) == ((2, []), (1, [2]))

    def test_cannot_be_where_no_state_was(self, journal: JournalStore) -> None:
        fill(journal, A, 5)
        journal.checkpoint(A, 3, b"state")
        for position in (2, 6):
            with pytest.raises(ValueError, match=r"between the former at 3 and the last entry at 5"):
                journal.checkpoint(A, position, b"state")
        assert positions(journal, A) == (3, [4, 5])


class TestForget:
    def test_removes_everything_of_one_tenant(self, store_url: str, open_journal: OpenJournal) -> None:
        journal = open_journal(store_url)
        for tenant in (A, B):
            fill(journal, tenant, 3)
            journal.checkpoint(tenant, 2, b"state")
        journal.forget(A)
        for one in (journal, open_journal(store_url)):
            assert one.tenants() == [B]
            assert one.load(A) == (None, [])
            assert positions(one, B) == (2, [3])
            assert one.sizes(A) == JournalSizes(0, 0)

    def test_lets_positions_begin_again(self, journal: JournalStore) -> None:
        fill(journal, A, 3)
        journal.forget(A)
        fill(journal, A, 1)
        assert positions(journal, A) == (0, [1])


def test_sizes_are_those_in_the_database(store_url: str, open_journal: OpenJournal) -> None:
    def measured() -> JournalSizes:
        database = Database.open(store_url, migrate)
        with database.read() as connection:
            entries = sum(map(len, connection.execute(select(ENTRIES.c.body)).scalars()))
            checkpoints = sum(map(len, connection.execute(select(CHECKPOINTS.c.body)).scalars()))
        database.close()
        return JournalSizes(entries, checkpoints)

    journal = open_journal(store_url)
    changes: list[Callable[[], None]] = [
        lambda: fill(journal, A, 9),
        lambda: journal.append([(A, 10, b"x" * 1000), (A, 11, RANDOM.randbytes(1000))]),
        lambda: journal.checkpoint(A, 4, b"x" * 10_000),
        lambda: fill(journal, A, 13, 12),
        lambda: journal.checkpoint(A, 13, RANDOM.randbytes(5 << 20)),
        lambda: fill(journal, A, 14, 14),
    ]
    for change in changes:
        change()
        assert journal.sizes(A) == measured()
        again = open_journal(store_url)
        assert again.sizes(A) == measured()
        again.load(A)
        assert again.sizes(A) == measured()
    assert 5 << 20 < measured().checkpoint < (5 << 20) + 100


def test_load_beside_an_append_does_not_turn_back_what_is_known(
    journal: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal, A, 2)
    read = journal._read_checkpoint

    def read_and_meanwhile_append(*arguments: object) -> object:
        found = read(*arguments)  # type: ignore[arg-type]
        fill(journal, A, 3, 3)
        return found

    monkeypatch.setattr(journal, "_read_checkpoint", read_and_meanwhile_append)
    assert positions(journal, A) == (0, [1, 2])
    assert journal.last_position(A) == 3


class TestDamage:
    @pytest.fixture
    def damaged_by(self, store_url: str, open_journal: OpenJournal) -> Callable[[Tamper], str]:
        """Return what damages a journal and tells the fault that is then found."""
        journal = open_journal(store_url)
        fill(journal, A, 6)
        journal.checkpoint(A, 2, RANDOM.randbytes(9 << 20))
        fill(journal, B, 2)

        def damage(change: Tamper) -> str:
            tampered(store_url, change)
            again = open_journal(store_url)
            assert again.tenants() == [B, A]
            with pytest.raises(JournalDamaged) as damaged:
                again.load(A)
            assert damaged.value.tenant == A
            assert "restore the database from a backup; or delete the tenant's rows" in str(damaged.value)
            place = store_url.partition("///")[2] or "postgres on 127.0.0.1"
            assert place in str(damaged.value)
            # The others' journals are good.
            assert positions(again, B) == (0, [1, 2])
            return f"{damaged.value.position}: {damaged.value.problem}"

        return damage

    def test_gap_is_found(self, damaged_by: Callable[[Tamper], str]) -> None:
        fault = damaged_by(execute(delete(ENTRIES).where(ENTRIES.c.position == 4, ENTRIES.c.tenant == "acme")))
        assert fault.startswith("4: the entry is missing (table journal_entry of ")

    def test_gap_behind_the_checkpoint_is_found(self, damaged_by: Callable[[Tamper], str]) -> None:
        fault = damaged_by(execute(delete(ENTRIES).where(ENTRIES.c.position == 3, ENTRIES.c.tenant == "acme")))
        assert fault.startswith("3: the entry is missing")

    def test_checkpoint_that_is_missing_is_no_beginning(self, damaged_by: Callable[[Tamper], str]) -> None:
        assert damaged_by(execute(delete(CHECKPOINTS))).startswith("1: the entry is missing")

    def test_body_that_changed_is_found(self, damaged_by: Callable[[Tamper], str]) -> None:
        fault = damaged_by(execute(update(ENTRIES).where(ENTRIES.c.position == 5).values(body=b"\0\1\2\3\0045")))
        assert fault.startswith("5: its checksum does not fit (table journal_entry of ")

    def test_bodies_that_were_exchanged_are_found(self, damaged_by: Callable[[Tamper], str]) -> None:
        def exchange(database: Database) -> None:
            with database.write() as connection:
                bodies = dict(
                    connection.execute(
                        select(ENTRIES.c.position, ENTRIES.c.body).where(ENTRIES.c.tenant == "acme")
                    ).all()  # type: ignore[arg-type]
                )
                for one, other in ((5, 6), (6, 5)):
                    connection.execute(
                        update(ENTRIES)
                        .where(ENTRIES.c.tenant == "acme", ENTRIES.c.position == one)
                        .values(body=bodies[other])
                    )

        assert damaged_by(exchange).startswith("5: its checksum does not fit")

    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_part_of_a_checkpoint_that_is_missing_is_found(
        self, damaged_by: Callable[[Tamper], str], part: int
    ) -> None:
        fault = damaged_by(execute(delete(CHECKPOINTS).where(CHECKPOINTS.c.part == part)))
        assert fault.startswith("2: the checkpoint is not of 3 parts (table journal_checkpoint of ")

    def test_part_of_a_checkpoint_that_changed_is_found(self, damaged_by: Callable[[Tamper], str]) -> None:
        fault = damaged_by(execute(update(CHECKPOINTS).where(CHECKPOINTS.c.part == 1).values(body=b"")))
        assert fault.startswith("2: part 1 of the checkpoint: 0 bytes are less than a head (table journal_checkpoint")

    def test_position_of_a_checkpoint_that_changed_is_found(self, damaged_by: Callable[[Tamper], str]) -> None:
        fault = damaged_by(execute(update(CHECKPOINTS).values(position=3)))
        assert fault.startswith("3: part 0 of the checkpoint: its checksum does not fit")

    def test_name_that_is_no_tenant_is_found(self, store_url: str, open_journal: OpenJournal) -> None:
        open_journal(store_url)
        tampered(store_url, execute(insert(ENTRIES).values(tenant="a/b", position=1, body=b"")))
        with pytest.raises(JournalDamaged, match=r"'a/b' is not a tenant id"):
            open_journal(store_url)


class TestSchema:
    def test_tables_are_those_that_the_steps_make(self, store_url: str) -> None:
        database = Database.open(store_url, migrate)
        with database.read() as connection:
            there = inspect(connection)
            columns = {
                table: {column["name"] for column in there.get_columns(table)} for table in there.get_table_names()
            }
        database.close()
        declared = schema.SCHEMA_VERSION.metadata.tables.values()
        assert columns == {table.name: set(table.columns.keys()) for table in declared}

    def test_of_a_newer_version_is_refused_and_left_alone(self, store_url: str, open_journal: OpenJournal) -> None:
        fill(open_journal(store_url), A, 1)
        newer = len(schema.STEPS) + 1
        tampered(store_url, execute(text(f"UPDATE journal_schema_version SET version = {newer}")))
        with pytest.raises(SchemaTooNewError, match=rf"the journal has schema {newer}.*up to {newer - 1}"):
            open_journal(store_url)

    def test_of_an_older_version_is_brought_up_to_date(
        self, store_url: str, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(open_journal(store_url), A, 2)
        added = ("ALTER TABLE journal_entry ADD COLUMN colour {text}", "CREATE TABLE journal_extra (a {blob})")
        monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, added))
        for _ in range(2):
            again = open_journal(store_url)
            assert positions(again, A) == (0, [1, 2])
        fill(again, A, 3, 3)
        tampered(store_url, execute(text("SELECT colour, a FROM journal_entry, journal_extra")))

    def test_shares_a_database_with_the_control_plane(
        self, store_url: str, open_journal: OpenJournal, open_database: Callable[[str], Database]
    ) -> None:
        journal, documents = open_journal(store_url), DocumentStore(open_database(store_url))
        fill(journal, A, 1)
        documents.put("acme", {}, 0, "me", 0)
        newer = len(schema.STEPS) + 1
        tampered(store_url, execute(text(f"UPDATE journal_schema_version SET version = {newer}")))
        assert DocumentStore(open_database(store_url)).get("acme") is not None


def test_url_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(StoreUrlError):
        JournalStore.open("mysql://me:hidden@host/journal", "collector-0", 1)


def test_what_was_acknowledged_survives_a_process_that_is_killed(store_url: str, open_journal: OpenJournal) -> None:
    script = """
import itertools, sys
from tenants.identity.tenant_id import TenantId
from tenants.journal.store import JournalStore

journal = JournalStore.open(sys.stdin.readline().strip(), "collector-0", 1)
for position in itertools.count(1):
    journal.append([(TenantId(name), position, b"%d" % position) for name in ("a", "b")])
    if position % 10 == 0:
        journal.checkpoint(TenantId("a"), position - 5, b"state")
    print(position, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        print(store_url, file=child.stdin, flush=True)
        acknowledged = 0
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged == 57:
                child.send_signal(signal.SIGKILL)
    journal = open_journal(store_url, 2)
    checkpoint, entries = positions(journal, TenantId("a"))
    last = entries[-1]
    # One may have been committed that it had no time to tell of, and a checkpoint after it.
    assert acknowledged <= last <= acknowledged + 1
    assert checkpoint in {position // 10 * 10 - 5 for position in (acknowledged, last)}
    assert positions(journal, TenantId("b")) == (0, list(range(1, last + 1)))


@pytest.mark.parametrize(
    "error",
    [
        Fenced("collector-0", 1, 2),
        Fenced("collector-0", 1, None),
        JournalDamaged(A, 3, "it is"),
        JournalDamaged(None, None, "it is"),
        JournalBacklogFull(3, 2),
        JournalClosed(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: JournalError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert not isinstance(error, StoreUnavailable)
