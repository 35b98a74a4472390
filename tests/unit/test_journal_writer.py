import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from structlog.testing import capture_logs

from tenants.identity.tenant_id import TenantId
from tenants.journal.entries import Entry, PlanEntry, RecordEntry, decode
from tenants.journal.errors import Fenced, JournalBacklogFull, JournalClosed, JournalDamaged
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter
from tenants.store.errors import StoreUnavailable
from tests.postgres import Postgres
from tests.unit.conditions import until
from tests.unit.fake_clock import FakeClock
from tests.unit.troubled_journal import Gate, TroubledStore, failing

A, B = TenantId("a"), TenantId("b")
AWAY = StoreUnavailable("it is away")


def plan(number: int) -> Entry:
    return PlanEntry(str(number))


def numbers(store: JournalStore, tenant: TenantId) -> list[int]:
    """Return the numbers of the tenant's entries, in the journal's order."""
    entries = [decode(body) for _, body in store.load(tenant).entries]
    return [int(entry.plan_text) for entry in entries if isinstance(entry, PlanEntry)]


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[TroubledStore]:
    store = await asyncio.to_thread(TroubledStore.open, store_url, "collector-0", 1)
    store.trouble()
    yield store
    store.close()


@pytest.fixture
async def writer(store: TroubledStore, clock: FakeClock) -> AsyncIterator[JournalWriter]:
    writer = JournalWriter(store, clock, random.Random(1))
    yield writer
    await writer.close()


async def has_come(gate: Gate) -> None:
    await asyncio.to_thread(gate.has_come.wait, 10)


class TestOrder:
    async def test_entries_of_one_tenant_are_journalled_and_put_in_force_as_submitted(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        in_force: list[tuple[TenantId, int]] = []

        async def submit(tenant: TenantId, first: int) -> None:
            for number in range(first, first + 50):
                done = writer.submit(tenant, plan(number), lambda number=number: in_force.append((tenant, number)))  # type: ignore[misc]
                if number % 7 == 0:
                    await done
                    assert (tenant, number) in in_force
                await asyncio.sleep(0)

        await asyncio.gather(submit(A, 0), submit(B, 0))
        await writer.close()
        for tenant in (A, B):
            assert numbers(store, tenant) == list(range(50))
            assert [number for one, number in in_force if one == tenant] == list(range(50))
        committed = [place for group in store.groups for place in group]
        # What is put in force follows the journal, over all tenants.
        assert [(tenant, number + 1) for tenant, number in in_force] == committed
        assert (writer.entries, writer.commits, writer.pending_bytes) == (100, len(store.groups), 0)
        assert writer.written_bytes == sum(2 + len(str(number)) for number in range(50)) * 2
        assert writer.commit_s > 0

    async def test_what_is_submitted_while_a_commit_runs_goes_into_the_next(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        gate = Gate()
        store.before = [gate]
        in_force: list[int] = []
        first = writer.submit(A, plan(0), lambda: in_force.append(0))
        await has_come(gate)
        others = [
            writer.submit(tenant, plan(number), lambda number=number: in_force.append(number))  # type: ignore[misc]
            for number, tenant in enumerate([A, B, A, TenantId("c")], 1)
        ]
        assert in_force == []
        assert not first.done()
        gate.open()
        await asyncio.gather(first, *others)
        assert store.groups == [[(A, 1)], [(A, 2), (B, 1), (A, 3), (TenantId("c"), 1)]]
        assert in_force == [0, 1, 2, 3, 4]

    async def test_nobody_is_told_before_all_of_the_commit_is_in_force(self, writer: JournalWriter) -> None:
        events: list[str] = []

        async def wait_for(number: int) -> None:
            await writer.submit(A, plan(number), lambda: events.append("in force"))
            events.append("told")

        await asyncio.gather(*(wait_for(number) for number in range(3)))
        assert events == ["in force"] * 3 + ["told"] * 3

    async def test_entry_is_put_in_force_also_if_nobody_waits_any_more(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        in_force: list[int] = []
        for number in range(3):
            writer.submit(A, plan(number), lambda number=number: in_force.append(number)).cancel()  # type: ignore[misc]
        await writer.close()
        assert in_force == numbers(store, A) == [0, 1, 2]

    async def test_what_fails_to_be_put_in_force_is_told_and_others_go_on(self, writer: JournalWriter) -> None:
        in_force: list[int] = []
        bad = writer.submit(A, plan(0), failing(KeyError("bug")))
        good = writer.submit(A, plan(1), lambda: in_force.append(1))
        with pytest.raises(KeyError, match="bug"):
            await bad
        await good
        await writer.submit(A, plan(2))
        assert in_force == [1]

    async def test_entries_go_on_behind_those_of_the_process_before(
        self, writer: JournalWriter, store: TroubledStore, store_url: str, clock: FakeClock
    ) -> None:
        await writer.submit(A, plan(1))
        # Without closing: that is what a crash leaves.
        successor = JournalStore.open(store_url, "collector-0", 2)
        second = JournalWriter(successor, clock, random.Random(1))
        await second.submit(A, plan(2))
        await second.close()
        assert numbers(successor, A) == [1, 2]
        successor.close()

    async def test_callbacks_of_one_commit_let_others_have_a_turn(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        seen: list[int] = []

        def work() -> None:
            time.sleep(0.011)
            seen.append(turns)

        taking = asyncio.create_task(take_turns())
        await asyncio.gather(*(writer.submit(A, plan(number), work) for number in range(10)))
        taking.cancel()
        assert len(store.groups) == 1
        assert len(set(seen)) == len(seen)

    async def test_entry_that_cannot_be_written_is_refused_at_once(
        self, writer: JournalWriter, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match="no range 1 of 1"):
            writer.submit(A, RecordEntry(1, 1, 1, 1, 1, b""))
        monkeypatch.setattr("tenants.journal.writer.MAX_BODY_BYTES", 10)
        with pytest.raises(ValueError, match="11 bytes cannot be stored; 10 can"):
            writer.submit(A, PlanEntry("x" * 9))
        await writer.submit(A, plan(1))
        assert numbers(store, A) == [1]


class TestOutage:
    @pytest.mark.parametrize("committed", [False, True], ids=["not committed", "committed, but not answered"])
    async def test_same_entries_are_tried_again_until_they_are_committed(
        self, writer: JournalWriter, store: TroubledStore, clock: FakeClock, committed: bool
    ) -> None:
        trouble = [failing(AWAY), failing(AWAY), failing(AWAY)]
        store.trouble(after=trouble) if committed else store.trouble(before=trouble)
        in_force: list[int] = []
        was_failing: list[tuple[bool, list[int]]] = []

        async def look_and_submit() -> None:
            was_failing.append((writer.is_failing, in_force.copy()))
            number = len(was_failing)
            writer.submit(A, plan(number), lambda: in_force.append(number))

        clock.on_sleep = look_and_submit
        with capture_logs() as lines:
            await writer.submit(A, plan(0), lambda: in_force.append(0))
            await writer.close()
        assert was_failing == [(True, [])] * 3
        assert store.groups == [[(A, 1)]] * 4 + [[(A, 2), (A, 3), (A, 4)]]
        assert in_force == numbers(store, A) == [0, 1, 2, 3]
        assert (writer.failures, writer.commits, writer.is_failing) == (3, 2, False)
        assert clock.sleeps[0] < clock.sleeps[1] < clock.sleeps[2]
        assert [(line["log_level"], line["event"]) for line in lines] == [
            ("error", "journal cannot be written to, entries wait"),
            ("info", "journal is written to again"),
        ]
        assert "it is away" in lines[0]["problem"]

    async def test_next_outage_begins_with_a_short_pause_and_a_line(
        self, writer: JournalWriter, store: TroubledStore, clock: FakeClock
    ) -> None:
        with capture_logs() as lines:
            for _ in range(2):
                store.before = [failing(AWAY)] * 4
                await writer.submit(A, plan(0))
        assert clock.sleeps[4] < 0.2 < clock.sleeps[3]
        assert [line["log_level"] for line in lines] == ["error", "info"] * 2

    async def test_pauses_have_an_end(self, writer: JournalWriter, store: TroubledStore, clock: FakeClock) -> None:
        store.before = [failing(AWAY)] * 30
        await writer.submit(A, plan(0))
        assert 4 < max(clock.sleeps) < 6

    async def test_full_disk_and_then_room_again(self, tmp_path: Path, clock: FakeClock) -> None:
        store = JournalStore.open(f"sqlite:///{tmp_path / 'journal.db'}", "collector-0", 1)
        writer = JournalWriter(store, clock, random.Random(1))
        chance = random.Random(3)
        in_force: list[int] = []

        def set_max_pages(pages: int) -> None:
            # For this connection, the only one of the pool.
            with store._database.write() as connection:
                connection.execute(text(f"PRAGMA max_page_count = {pages}"))

        async def make_room() -> None:
            if len(clock.sleeps) == 5:
                set_max_pages(100_000)

        set_max_pages(60)
        clock.on_sleep = make_room
        done = []
        for number in range(1, 41):
            entry = RecordEntry(0, 1, 1, number, 0, chance.randbytes(10_000))
            done.append(writer.submit(A, entry, lambda number=number: in_force.append(number)))  # type: ignore[misc]
            if number % 8 == 0:
                await asyncio.wait(done, timeout=0.01)
        await asyncio.gather(*done)
        await writer.close()
        entries = [decode(body) for _, body in store.load(A).entries]
        assert in_force == [entry.sequence for entry in entries if isinstance(entry, RecordEntry)] == [*range(1, 41)]
        assert writer.failures == 5
        store.close()

    async def test_postgres_that_was_stopped_and_started_again(self, clock: FakeClock) -> None:
        with Postgres() as server:
            store = JournalStore.open(server.new_database(), "collector-0", 1)
            writer = JournalWriter(store, clock, random.Random(1))
            in_force: list[int] = []
            await writer.submit(A, plan(0), lambda: in_force.append(0))
            server.halt()

            async def start_again() -> None:
                if len(clock.sleeps) == 3:
                    await asyncio.to_thread(server.resume)

            clock.on_sleep = start_again
            await asyncio.gather(
                *(writer.submit(A, plan(number), lambda number=number: in_force.append(number)) for number in (1, 2))  # type: ignore[misc]
            )
            await writer.close()
            assert in_force == numbers(store, A) == [0, 1, 2]
            assert writer.failures == 3
            store.close()


class TestBacklog:
    async def test_has_a_bound(self, store: TroubledStore, clock: FakeClock) -> None:
        writer = JournalWriter(store, clock, random.Random(1), max_pending_bytes=100)
        gate = Gate()
        store.before = [gate]
        done = [writer.submit(A, PlanEntry("x" * 38)), writer.submit(A, PlanEntry("x" * 58))]
        assert writer.pending_bytes == 100
        await has_come(gate)
        for _ in range(2):
            with pytest.raises(
                JournalBacklogFull, match="100 bytes of entries wait for the journal, and 100 may"
            ) as full:
                writer.submit(B, PlanEntry(""))
            assert (full.value.pending_bytes, full.value.max_bytes) == (100, 100)
        gate.open()
        await asyncio.gather(*done)
        assert writer.pending_bytes == 0
        await writer.submit(B, PlanEntry(""))
        await writer.close()
        assert (store.last_position(A), store.last_position(B)) == (2, 1)

    async def test_takes_one_entry_however_large(self, store: TroubledStore, clock: FakeClock) -> None:
        writer = JournalWriter(store, clock, random.Random(1), max_pending_bytes=100)
        large = writer.submit(A, PlanEntry("x" * 1000))
        with pytest.raises(JournalBacklogFull):
            writer.submit(A, PlanEntry(""))
        await large
        await writer.close()


class TestEnd:
    @pytest.mark.parametrize(
        "error", [JournalDamaged(A, 1, "other"), ValueError("a bug")], ids=lambda error: type(error).__name__
    )
    async def test_what_is_final_is_told_to_all(
        self, writer: JournalWriter, store: TroubledStore, error: Exception
    ) -> None:
        gate = Gate()
        store.before = [lambda: (gate(), failing(error)())[0]]
        in_force: list[int] = []
        first = writer.submit(A, plan(0), lambda: in_force.append(0))
        await has_come(gate)
        second = writer.submit(B, plan(0), lambda: in_force.append(0))
        waiting = [asyncio.create_task(writer.checkpoint(B, bytes)), asyncio.create_task(writer.forget(B))]
        await asyncio.sleep(0)
        with capture_logs() as lines:
            gate.open()
            for one in (first, second, *waiting):
                with pytest.raises(type(error)):
                    await one
        assert [line["log_level"] for line in lines] == ["error"]
        for later in (writer.submit(A, plan(1)), writer.checkpoint(A, bytes), writer.forget(A)):
            with pytest.raises(type(error)):
                await later
        assert (in_force, writer.pending_bytes) == ([], 0)
        await writer.close()
        assert store.tenants() == []

    async def test_former_owner_puts_nothing_in_force(
        self, writer: JournalWriter, store: TroubledStore, store_url: str
    ) -> None:
        in_force: list[int] = []
        await writer.submit(A, plan(0), lambda: in_force.append(0))
        successor = JournalStore.open(store_url, "collector-0", 2)
        with capture_logs() as lines:
            pending = [writer.submit(A, plan(number), lambda: in_force.append(1)) for number in (1, 2)]
            pending.append(writer.submit(B, plan(1), lambda: in_force.append(1)))
            for one in (*pending, writer.submit(A, plan(3))):
                with pytest.raises(Fenced, match="belongs to incarnation 2"):
                    await one
        assert [line["event"] for line in lines] == ["journal belongs to somebody else"]
        assert in_force == numbers(successor, A) == [0]
        with pytest.raises(Fenced):
            await writer.checkpoint(A, bytes)
        successor.close()

    async def test_checkpoint_of_a_former_owner_is_refused(
        self, writer: JournalWriter, store: TroubledStore, store_url: str
    ) -> None:
        await writer.submit(A, plan(0))
        successor = JournalStore.open(store_url, "collector-0", 2)
        for _ in range(2):
            with pytest.raises(Fenced):
                await writer.checkpoint(A, bytes)
        with pytest.raises(Fenced):
            await writer.submit(A, plan(1))
        assert successor.load(A).checkpoint is None
        successor.close()

    async def test_closing_commits_what_waits(self, writer: JournalWriter, store: TroubledStore) -> None:
        gate = Gate()
        store.before = [gate]
        in_force: list[int] = []
        writer.submit(A, plan(0), lambda: in_force.append(0))
        await has_come(gate)
        writer.submit(A, plan(1), lambda: in_force.append(1))
        checkpoint = asyncio.create_task(writer.checkpoint(B, lambda: b"state"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        for later in (writer.submit(A, plan(2)), writer.checkpoint(A, bytes), writer.forget(A)):
            with pytest.raises(JournalClosed, match="the journal is closed"):
                await later
        gate.open()
        await closing
        await checkpoint
        await writer.close()
        assert in_force == numbers(store, A) == [0, 1]

    async def test_closing_without_anything_that_waits(self, store: TroubledStore, clock: FakeClock) -> None:
        await JournalWriter(store, clock, random.Random(1)).close()

    @pytest.mark.parametrize("is_mended", [True, False])
    async def test_closing_in_an_outage_tries_once_more(self, store: TroubledStore, is_mended: bool) -> None:
        class EndlessClock(FakeClock):
            async def sleep(self, seconds: float) -> None:
                self.sleeps.append(seconds)
                await asyncio.Event().wait()

        clock = EndlessClock()
        writer = JournalWriter(store, clock, random.Random(1))
        store.before = [failing(AWAY), None if is_mended else failing(AWAY)]
        in_force: list[int] = []
        first = writer.submit(A, plan(0), lambda: in_force.append(0))
        await until(lambda: bool(clock.sleeps))
        second = writer.submit(A, plan(1), lambda: in_force.append(1))
        await writer.close()
        if is_mended:
            assert in_force == numbers(store, A) == [0, 1]
        else:
            for one in (first, second):
                with pytest.raises(StoreUnavailable, match="it is away"):
                    await one
            assert in_force == numbers(store, A) == []
            # The second was not even tried: it must not be committed without the first.
            assert store.groups == [[(A, 1)]] * 2


class TestCheckpoint:
    async def test_stands_for_what_is_in_force_when_it_is_made(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        gate = Gate()
        store.before = [gate]
        in_force: list[int] = []

        def submit(number: int) -> asyncio.Future[None]:
            return writer.submit(A, plan(number), lambda: in_force.append(number))

        submit(1)
        await has_come(gate)
        submit(2)
        made = asyncio.create_task(writer.checkpoint(A, lambda: bytes(in_force)))
        await asyncio.sleep(0)
        submit(3)
        gate.open()
        await made
        last = submit(4)
        await last
        checkpoint, _ = store.load(A)
        assert checkpoint is not None
        # What was submitted before is in it; what came later may be, or is in the journal behind it.
        assert bytes([1, 2]) <= checkpoint.body
        assert checkpoint.body == bytes(range(1, checkpoint.position + 1))
        assert [*checkpoint.body, *numbers(store, A)] == [1, 2, 3, 4]
        assert writer.checkpoints == 1

    async def test_of_a_tenant_that_has_nothing_waiting(self, writer: JournalWriter, store: TroubledStore) -> None:
        await writer.submit(A, plan(1))
        await writer.checkpoint(A, lambda: b"state")
        assert store.load(A) == ((1, b"state"), [])
        assert writer.sizes(A) == store.sizes(A) == (0, 10)

    async def test_that_fails_is_told_and_entries_go_on(
        self, writer: JournalWriter, store: TroubledStore, clock: FakeClock
    ) -> None:
        await writer.submit(A, plan(1))
        store.before = [failing(AWAY)]
        with capture_logs() as lines, pytest.raises(StoreUnavailable, match="it is away"):
            await writer.checkpoint(A, lambda: b"state")
        await writer.submit(A, plan(2))
        assert numbers(store, A) == [1, 2]
        assert (writer.failures, writer.checkpoints, clock.sleeps, lines) == (1, 0, [], [])
        await writer.checkpoint(A, lambda: b"state")
        assert store.load(A) == ((2, b"state"), [])

    async def test_that_cannot_be_made_is_told_and_others_are_written(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        await asyncio.gather(writer.submit(A, plan(1)), writer.submit(B, plan(1)))
        bad, good = await asyncio.gather(
            writer.checkpoint(A, lambda: failing(KeyError("bug"))() or b""),
            writer.checkpoint(B, lambda: b"state"),
            return_exceptions=True,
        )
        assert isinstance(bad, KeyError)
        assert good is None
        assert (numbers(store, A), store.load(B)) == ([1], ((1, b"state"), []))

    async def test_of_many_tenants_are_written_together_up_to_a_size(
        self, writer: JournalWriter, store: TroubledStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tenants.journal.writer._CHECKPOINT_BYTES", 50)
        tenants = [TenantId(f"t{number}") for number in range(20)]
        await asyncio.gather(*(writer.submit(tenant, plan(1)) for tenant in tenants))
        groups: list[int] = []
        write = store.checkpoints

        def count_and_write(checkpoints: list[tuple[TenantId, int, bytes]]) -> None:
            groups.append(len(checkpoints))
            write(checkpoints)

        monkeypatch.setattr(store, "checkpoints", count_and_write)
        await asyncio.gather(*(writer.checkpoint(tenant, lambda: b"x" * 10) for tenant in tenants))
        assert groups == [5, 5, 5, 5]
        assert all(store.load(tenant) == ((1, b"x" * 10), []) for tenant in tenants)

    async def test_twice_at_once_of_one_tenant(self, writer: JournalWriter, store: TroubledStore) -> None:
        await writer.submit(A, plan(1))
        await asyncio.gather(writer.checkpoint(A, lambda: b"first"), writer.checkpoint(A, lambda: b"second"))
        assert store.load(A) == ((1, b"second"), [])


class TestForget:
    async def test_takes_what_was_submitted_before_and_leaves_what_comes_after(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        # All of them wait together behind a commit.
        gate = Gate()
        store.before = [gate]
        writer.submit(B, plan(7))
        await has_come(gate)
        for number in range(3):
            writer.submit(A, plan(number))
        forgotten = asyncio.create_task(writer.forget(A))
        await asyncio.sleep(0)
        after = writer.submit(A, plan(3))
        gate.open()
        await forgotten
        await after
        assert (numbers(store, A), numbers(store, B), store.last_position(A)) == ([3], [7], 1)

    @pytest.mark.parametrize("committed", [False, True], ids=["not committed", "committed, but not answered"])
    async def test_is_tried_again(self, writer: JournalWriter, store: TroubledStore, committed: bool) -> None:
        await writer.submit(A, plan(0))
        store.trouble(after=[failing(AWAY)]) if committed else store.trouble(before=[failing(AWAY)])
        forgotten = asyncio.create_task(writer.forget(A))
        await asyncio.sleep(0)
        await writer.submit(A, plan(1))
        await forgotten
        assert numbers(store, A) == [1]

    async def test_holds_up_a_checkpoint_that_has_to_follow_later_entries(
        self, writer: JournalWriter, store: TroubledStore
    ) -> None:
        gate = Gate()
        store.before = [gate]
        in_force: list[int] = []
        writer.submit(A, plan(1), lambda: in_force.append(1))
        await has_come(gate)
        forgotten = asyncio.create_task(writer.forget(B))
        await asyncio.sleep(0)
        writer.submit(A, plan(2), lambda: in_force.append(2))
        checkpoint = asyncio.create_task(writer.checkpoint(A, lambda: bytes(in_force)))
        await asyncio.sleep(0)
        gate.open()
        await checkpoint
        await forgotten
        assert store.load(A) == ((2, b"\1\2"), [])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([A, B])),
        st.tuples(st.just("submit"), st.sampled_from([A, B])),
        st.tuples(st.just("checkpoint"), st.sampled_from([A, B])),
        st.tuples(st.just("forget"), st.sampled_from([A, B])),
        st.tuples(st.sampled_from(["turn", "wait"]), st.just(A)),
    ),
    max_size=30,
)
TROUBLE = st.lists(st.sampled_from([None, None, failing(AWAY)]), max_size=12)


@given(ACTIONS, TROUBLE, TROUBLE)
@settings(max_examples=settings().max_examples // 3)
def test_journal_always_holds_what_is_in_force(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[tuple[str, TenantId]],
    before: list[Callable[[], None] | None],
    after: list[Callable[[], None] | None],
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('journal') / 'journal.db'}"
    in_force: dict[TenantId, list[int]] = {A: [], B: []}

    def journalled(store: JournalStore) -> dict[TenantId, list[int]]:
        held = {}
        for tenant in (A, B):
            checkpoint, _ = store.load(tenant)
            held[tenant] = [*(checkpoint.body if checkpoint else b""), *numbers(store, tenant)]
        return held

    async def act(writer: JournalWriter) -> bool:
        """Return whether everything was committed."""
        tasks: list[asyncio.Future[None]] = []
        checkpoints: set[asyncio.Future[None]] = set()
        for number, (action, tenant) in enumerate(actions):
            own = in_force[tenant]
            if action == "submit":
                tasks.append(writer.submit(tenant, plan(number), lambda own=own, number=number: own.append(number)))  # type: ignore[misc]
            elif action == "checkpoint":
                tasks.append(asyncio.ensure_future(writer.checkpoint(tenant, lambda own=own: bytes(own))))  # type: ignore[misc]
                checkpoints.add(tasks[-1])
            elif action == "forget":
                # The state ends when nothing of the tenant waits any more, as whoever asks for it sees to.
                await asyncio.gather(*tasks, return_exceptions=True)
                own.clear()
                await writer.forget(tenant)
            elif action == "turn":
                await asyncio.sleep(0)
            else:
                await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        await writer.close()
        # The last try of a writer that is being closed may fail, too.
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(outcome is None or outcome is AWAY for outcome in outcomes)
        return not any(outcomes[number] for number, task in enumerate(tasks) if task not in checkpoints)

    store = TroubledStore.open(url, "collector-0", 1)
    store.trouble(before, after)
    is_all_committed = asyncio.run(act(JournalWriter(store, FakeClock(), random.Random(1))))
    successor = JournalStore.open(url, "collector-0", 2)
    for tenant, held in journalled(successor).items():
        assert held[: len(in_force[tenant])] == in_force[tenant]
        # Behind it only what was committed at the very end, without an answer.
        assert held == in_force[tenant] or not is_all_committed
    store.close()
    successor.close()
