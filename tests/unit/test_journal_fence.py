"""A journal has one owner, and a former one writes nothing any more."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text

from tenants.identity.tenant_id import TenantId
from tenants.journal.errors import Fenced
from tenants.journal.store import JournalStore
from tests.postgres import Postgres
from tests.unit.conftest import OpenJournal

A = TenantId("acme")

WRITES: dict[str, Callable[[JournalStore], None]] = {
    "append": lambda journal: journal.append([(A, 2, b"2")]),
    "checkpoint": lambda journal: journal.checkpoint(A, 1, b"state"),
    "forget": lambda journal: journal.forget(A),
}


@pytest.mark.parametrize("write", WRITES)
def test_former_owner_writes_nothing(store_url: str, open_journal: OpenJournal, write: str) -> None:
    former = open_journal(store_url, 1)
    former.append([(A, 1, b"1")])
    successor = open_journal(store_url, 2)
    for _ in range(2):
        with pytest.raises(Fenced, match=r"collector-0 belongs to incarnation 2 and not to incarnation 1") as fenced:
            WRITES[write](former)
        assert (fenced.value.owner, fenced.value.incarnation, fenced.value.current) == ("collector-0", 1, 2)
    assert successor.load(A) == (None, [(1, b"1")])
    WRITES[write](successor)


def test_former_owner_cannot_come_back(store_url: str, open_journal: OpenJournal) -> None:
    successor = open_journal(store_url, 2)
    with pytest.raises(Fenced, match="belongs to incarnation 2 and not to incarnation 1"):
        open_journal(store_url, 1)
    successor.append([(A, 1, b"1")])


def test_owner_may_open_it_again(store_url: str, open_journal: OpenJournal) -> None:
    first, again = open_journal(store_url, 1), open_journal(store_url, 1)
    again.append([(A, 1, b"1")])
    first.load(A)
    first.append([(A, 2, b"2")])


def test_owners_of_other_names_do_not_fence_each_other(store_url: str, open_journal: OpenJournal) -> None:
    one, other = open_journal(store_url, 7, "collector-0"), open_journal(store_url, 3, "collector-1")
    one.append([(A, 1, b"1")])
    other.append([(TenantId("other"), 1, b"1")])
    with pytest.raises(Fenced, match="the journal of collector-1 belongs to incarnation 3"):
        open_journal(store_url, 2, "collector-1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("DELETE FROM journal_owner", "belongs to nobody"),
        ("UPDATE journal_owner SET incarnation = 1", "belongs to incarnation 1 and not to incarnation 2"),
    ],
)
def test_owner_of_a_database_that_was_turned_back_writes_nothing(
    store_url: str, open_journal: OpenJournal, change: str, match: str
) -> None:
    journal = open_journal(store_url, 2)
    with journal._database.write() as connection:
        connection.execute(text(change))
    with pytest.raises(Fenced, match=match):
        journal.append([(A, 1, b"1")])


def test_successor_waits_for_what_is_being_committed_and_then_sees_it(
    store_url: str, open_journal: OpenJournal
) -> None:
    former = open_journal(store_url, 1)
    opened: list[JournalStore] = []
    taking_over = threading.Thread(target=lambda: opened.append(open_journal(store_url, 2)))
    with former._write() as connection:
        taking_over.start()
        # It has to wait; if it did not, what is committed below would be missing in what it loads.
        taking_over.join(0.3)
        assert not opened
        connection.execute(text("INSERT INTO journal_owner VALUES ('committed', 1)"))
    taking_over.join()
    with opened[0]._database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM journal_owner WHERE name = 'committed'")).scalar_one() == 1
    with pytest.raises(Fenced):
        former.append([(A, 1, b"1")])


def test_many_who_open_at_once_leave_the_newest_as_owner(store_url: str, open_journal: OpenJournal) -> None:
    workers = 6
    together = threading.Barrier(workers)
    opened: dict[int, JournalStore] = {}

    def take_over(incarnation: int) -> None:
        together.wait()
        try:
            opened[incarnation] = open_journal(store_url, incarnation)
        except Fenced:
            return

    threads = [threading.Thread(target=take_over, args=(number,)) for number in range(1, workers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened.pop(workers).append([(A, 1, b"1")])
    for journal in opened.values():
        with pytest.raises(Fenced):
            journal.append([(A, 1, b"1")])


def test_commit_is_on_the_disk_also_where_the_server_is_set_to_be_quick(
    postgres: Postgres, open_journal: OpenJournal
) -> None:
    url = postgres.new_database()
    for setting, used in (("off", "local"), ("remote_apply", "remote_apply"), ("on", "on")):
        journal = open_journal(f"{url}?options=-csynchronous_commit%3D{setting}")
        with journal._write() as connection:
            assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == used
