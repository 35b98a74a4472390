import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog

from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import Acknowledgements, Place, Pulled, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tenants.processing.shard_set import CLAIM_PAUSE_NS, IDLE_NS, SPENT_NS, ShardSet
from tests.overrides_in_force import whole_of
from tests.unit.tenant_work import (
    ACME,
    NOW_NS,
    SECOND_NS,
    EmptyClaims,
    book,
    collected,
    edges_on,
    group,
    joined,
    overrides,
    request,
    span,
    spans_on,
)

GLOBEX = TenantId("globex")
TWO_TENANTS = overrides(acme=spans_on(), globex=spans_on(shards=2))


class Host:
    """A shard set whose clock stands still until it is moved, and one collector that pulls it."""

    def __init__(self, runtime: Any = TWO_TENANTS, **options: Any) -> None:
        self.now_ns = NOW_NS
        self.claims = EmptyClaims()
        self.shards = ShardSet(book(runtime), self.claims, lambda: self.now_ns, **options)
        self.acknowledged: Acknowledgements = {}
        self.registries: dict[TenantId, _engine.Registry] = {}

    def apply(self, tenant: TenantId, *names: str, **options: Any) -> tuple[Place | None, ...]:
        return self.count(self.frames(tenant, *names, **options))

    def count(self, frames: FrameGroup) -> tuple[Place | None, ...]:
        """Count frames when what is not here has been claimed for them."""
        self.shards.begin({head.key for head in frames.heads})
        return self.shards.apply(frames)

    def frames(self, tenant: TenantId, *names: str, **options: Any) -> FrameGroup:
        return group(self.shards.book.get(tenant), *names, **options)

    def pull(self, owns: Callable[[TenantId], bool] = lambda _: True, fenced: Any = ()) -> Pulled:
        return self.shards.pull(dict(self.acknowledged), fenced, owns)

    def merge(self, pulled: Pulled) -> None:
        for key, epoch in pulled.gone:
            assert self.acknowledged.pop(key).epoch == epoch
        for record in pulled.records:
            if record.place > self.acknowledged.get(record.key, Place(0, 0)):
                tenant = record.key.tenant
                if tenant not in self.registries:
                    profile = self.shards.book.get(tenant)
                    self.registries[tenant] = _engine.Registry(profile.plan, NOW_NS // 1_000_000)
                self.registries[tenant].merge(record.place.epoch, record.data, NOW_NS)
                self.acknowledged[record.key] = record.place

    def calls(self, tenant: TenantId) -> dict[str, float]:
        return collected(self.registries[tenant])


def test_group_of_several_tenants_is_counted_shard_by_shard() -> None:
    host = Host()
    together = joined(host.frames(ACME, "a", "b"), host.frames(GLOBEX, *["c"] * 40), host.frames(ACME, "a"))
    assert None not in host.count(together)
    assert set(host.shards.stats()) == {ShardKey(ACME, 0, 1), ShardKey(GLOBEX, 0, 2), ShardKey(GLOBEX, 1, 2)}
    host.merge(host.pull())
    assert host.calls(ACME) == {"a": 2, "b": 1}
    assert host.calls(GLOBEX) == {"c": 40}


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_number_of_shards_changes_no_value(shards: int) -> None:
    host = Host(overrides(acme=spans_on(shards=shards)))
    host.apply(ACME, *[f"op {number % 7}" for number in range(70)])
    assert len(host.shards.stats()) == shards
    host.merge(host.pull())
    assert host.calls(ACME) == {f"op {number}": 10 for number in range(7)}


def test_other_number_of_shards_goes_on_counting_the_same_series() -> None:
    host = Host(overrides(acme=spans_on()))
    for version, shards in enumerate((1, 3, 2, 1), start=2):
        host.shards.book.put_overrides(whole_of(version, overrides(acme=spans_on(shards=shards))))
        host.apply(ACME, *["op"] * 30)
        host.merge(host.pull())
    assert host.calls(ACME) == {"op": 120}


def test_damaged_frame_spoils_nobody_elses() -> None:
    host = Host()
    good, bad = host.frames(ACME, "a"), host.frames(ACME, "b")
    damaged = FrameGroup(bad.heads, bad.payload[:-1] + b"?")
    with structlog.testing.capture_logs() as logs:
        places = host.count(joined(good, damaged, host.frames(GLOBEX, "c")))
    assert [place is None for place in places] == [False, True, False]
    assert [(line["event"], line["shard"]) for line in logs] == [("frame could not be counted", "acme/0of1")]
    host.merge(host.pull())
    assert (host.calls(ACME), host.calls(GLOBEX)) == ({"a": 1}, {"c": 1})


def test_collector_gets_the_records_of_its_own_tenants() -> None:
    host = Host()
    host.apply(ACME, "a")
    host.apply(GLOBEX, "c")
    assert {record.key.tenant for record in host.pull(lambda tenant: tenant == GLOBEX).records} == {GLOBEX}
    assert {record.key.tenant for record in host.pull().records} == {ACME, GLOBEX}


def test_shards_are_claimed_once_and_together() -> None:
    host = Host()
    for _ in range(2):
        host.count(joined(host.frames(ACME, "a"), host.frames(GLOBEX, *["c"] * 40)))
    (asked,) = host.claims.asked
    assert set(asked) == {ShardKey(ACME, 0, 1), ShardKey(GLOBEX, 0, 2), ShardKey(GLOBEX, 1, 2)}


def test_shard_that_cannot_be_claimed_is_not_counted_and_keeps_nobody_else_from_it() -> None:
    host = Host()
    host.claims.refused = {ACME}
    together = joined(host.frames(ACME, "a"), host.frames(GLOBEX, "c"))
    assert [place is None for place in host.count(together)] == [True, False]
    host.claims.refused = set()
    host.now_ns += CLAIM_PAUSE_NS
    assert None not in host.count(together)
    host.merge(host.pull())
    assert (host.calls(ACME), host.calls(GLOBEX)) == ({"a": 1}, {"c": 1})


def test_shard_that_could_not_be_had_is_asked_for_again_after_a_while_and_others_at_once() -> None:
    host = Host()
    acme, globex = ShardKey(ACME, 0, 1), ShardKey(GLOBEX, 0, 2)
    host.claims.refused = {ACME}
    assert host.shards.begin([acme]) == frozenset()
    assert host.shards.begin([acme, globex]) == {globex}
    host.now_ns += CLAIM_PAUSE_NS - 1
    assert host.shards.begin([acme, globex]) == {globex}
    assert host.claims.asked == [[acme], [globex]]
    host.claims.refused = set()
    host.now_ns += 1
    assert host.shards.begin([acme, globex]) == {acme, globex}
    assert host.claims.asked == [[acme], [globex], [acme]]


def test_clock_that_is_put_back_keeps_no_shard_from_being_asked_for() -> None:
    host = Host()
    host.claims.refused = {ACME}
    assert host.apply(ACME, "a") == (None,)
    host.claims.refused = set()
    host.now_ns -= 1
    assert host.apply(ACME, "a") == (Place(1, 1),)


def test_collector_that_does_not_answer_leaves_the_shards_that_are_here_at_work() -> None:
    host = Host()
    host.apply(ACME, "a")

    def fail(_keys: Any) -> Any:
        raise ConnectionError("no way")

    host.shards._claim = fail
    with structlog.testing.capture_logs() as logs:
        places = host.count(joined(host.frames(ACME, "a"), host.frames(GLOBEX, "c")))
    assert [place is None for place in places] == [False, True]
    assert [line["event"] for line in logs] == ["shards cannot be claimed"]


def test_shard_that_lost_its_range_is_forgotten_and_claimed_anew() -> None:
    host = Host()
    key = ShardKey(ACME, 0, 1)
    host.apply(ACME, "a")
    host.pull(fenced=[(key, 99)])
    assert host.shards.durable([key]) == {key: Place(1, 0)}
    with structlog.testing.capture_logs():
        host.pull(fenced=[(key, 1)])
    assert host.shards.durable([key]) == {}
    assert host.apply(ACME, "a") == (Place(2, 1),)


def test_what_is_journalled_is_told() -> None:
    host = Host()
    key = ShardKey(ACME, 0, 1)
    host.apply(ACME, "a")
    host.merge(host.pull())
    assert host.shards.durable([key, ShardKey(GLOBEX, 0, 2)]) == {key: Place(1, 0)}
    host.pull()
    assert host.shards.durable([key]) == {key: Place(1, 1)}


def test_released_shard_hands_over_its_records_until_they_are_journalled_and_is_claimed_for_more() -> None:
    host = Host()
    key = ShardKey(ACME, 0, 1)
    host.apply(ACME, "a")
    released = host.shards.release([(key, 1), (ShardKey(GLOBEX, 0, 2), 9)])
    assert released == host.pull().records
    host.merge(Pulled(released))
    assert host.pull().records == ()
    assert host.shards.durable([key]) == {key: Place(1, 1)}
    host.now_ns += SPENT_NS + SECOND_NS
    host.pull()
    assert host.shards.durable([key]) == {}
    assert host.apply(ACME, "b") == (Place(2, 1),)
    host.merge(host.pull())
    assert host.calls(ACME) == {"a": 1, "b": 1}


def test_epoch_that_is_taken_away_before_it_is_known_is_void() -> None:
    host = Host()
    key = ShardKey(ACME, 0, 1)
    claim = host.claims

    def taken_away_meanwhile(keys: Any) -> Any:
        claimed = claim(keys)
        assert host.shards.release([(key, claimed[key].epoch)]) == ()
        return claimed

    host.shards._claim = taken_away_meanwhile
    assert host.apply(ACME, "a") == (None,)
    host.shards._claim = claim
    assert host.apply(ACME, "a") == (Place(2, 1),)
    # A release that is older than the owner takes nothing.
    assert host.shards.release([(key, 1)]) == ()
    assert host.apply(ACME, "a") == (Place(2, 1),)


def test_frame_made_for_another_range_is_counted_by_each_shard_as_far_as_it_is_its_own() -> None:
    host = Host(overrides(acme=spans_on()))
    whole = host.frames(ACME, *["op"] * 40)
    (head,) = whole.heads
    for index in (0, 1, 1):
        moved = FrameHead(ShardKey(ACME, index, 2), head.made_for, head.fingerprint, head.length)
        assert None not in host.count(FrameGroup((moved,), whole.payload))
    host.merge(host.pull())
    assert host.calls(ACME) == {"op": 40}


def test_answer_is_bounded_and_nobody_waits_for_ever() -> None:
    tenants = [f"tenant-{number}" for number in range(10)]
    host = Host(overrides(**{tenant: spans_on() for tenant in tenants}), max_pull_bytes=1)
    for _ in range(2):
        for tenant in tenants:
            host.apply(TenantId(tenant), "op")
    for _ in range(10):
        pulled = host.pull()
        assert len(pulled.records) == 1
        host.merge(pulled)
        # The first ones have news again: they wait for their turn.
        host.apply(TenantId(tenants[0]), "op")
    assert len(host.registries) == 10


def test_idle_shard_is_dropped_and_the_collector_is_told_until_it_has_heard() -> None:
    host = Host()
    host.apply(ACME, "a")
    host.merge(host.pull())
    host.pull()
    host.now_ns += IDLE_NS + SECOND_NS
    host.merge(host.pull())  # here it forgets its series
    while host.shards.stats():
        if not (pulled := host.pull()).gone:
            host.merge(pulled)
    assert host.pull().gone == host.pull().gone == ((ShardKey(ACME, 0, 1), 1),)
    host.merge(host.pull())
    assert (host.acknowledged, host.pull().gone) == ({}, ())
    host.apply(ACME, "a")
    host.merge(host.pull())
    assert host.calls(ACME) == {"a": 2}


def test_shard_with_open_edges_or_unacknowledged_records_is_not_dropped() -> None:
    host = Host(overrides(acme=edges_on(), globex=spans_on()))
    host.apply(ACME, body=request(spans=[span(kind=3)], service="shop"))
    host.apply(GLOBEX, "a")
    host.now_ns += 2 * IDLE_NS
    waiting = host.pull()
    assert {record.key.tenant for record in waiting.records} == {ACME, GLOBEX}
    assert len(host.shards.stats()) == 2


def test_broken_shard_keeps_nobody_elses_records_back() -> None:
    """A shard is broken when a bug struck in its engine: it refuses every call from then on."""
    host = Host()
    host.apply(ACME, "a")
    host.apply(GLOBEX, "c")
    broken = host.shards._runners[ShardKey(ACME, 0, 1)]
    broken._shard = _BrokenShard()  # type: ignore[assignment]
    broken._has_news = True
    with structlog.testing.capture_logs() as logs:
        assert {record.key.tenant for record in host.pull().records} == {GLOBEX}
        assert ShardKey(ACME, 0, 1) not in host.shards.stats()
        places = host.count(joined(host.frames(ACME, "a"), host.frames(GLOBEX, "c")))
        assert [place is None for place in places] == [True, False]
    assert {line["shard"] for line in logs} == {"acme/0of1"}
    host.merge(host.pull())
    assert host.calls(GLOBEX) == {"c": 2}


class _BrokenShard:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("an earlier call panicked in this object; it cannot be used any more")


# Threads


def test_shard_that_retires_is_claimed_once_even_if_two_threads_find_it_retired() -> None:
    host = Host()
    first, second = host.frames(ACME, "a"), host.frames(ACME, "a")
    host.apply(ACME, "a")
    host.merge(host.pull())
    host.shards.release([(ShardKey(ACME, 0, 1), 1)])
    claim, barrier = host.claims, threading.Barrier(2)

    def slow(keys: Any) -> Any:
        barrier.wait(5)
        return claim(keys)

    host.shards._claim = slow
    threads = [threading.Thread(target=host.count, args=(frame,)) for frame in (first, second)]
    for thread in threads:
        thread.start()
    barrier.wait(5)
    for thread in threads:
        thread.join()
    assert len(claim.asked) == 2
    host.merge(host.pull())
    assert host.calls(ACME) == {"a": 3}


def test_while_a_claim_hangs_shards_that_are_here_go_on_counting() -> None:
    host = Host()
    host.apply(ACME, "a")
    claim, hangs, may_end = host.claims, threading.Event(), threading.Event()

    def hanging(keys: Any) -> Any:
        hangs.set()
        assert may_end.wait(60)
        return claim(keys)

    host.shards._claim = hanging
    other = host.frames(GLOBEX, "c")
    (missing,) = (head.key for head in other.heads)
    together = joined(host.frames(ACME, "a"), other)
    with ThreadPoolExecutor(3) as threads:
        begun = threads.submit(host.shards.begin, [missing])
        assert hangs.wait(60)
        try:
            groups = [threads.submit(host.shards.apply, together) for _ in range(20)]
            answers = [group.result(60) for group in groups]
        finally:
            may_end.set()
        assert begun.result(60) == {missing}
    assert [[place is None for place in answer] for answer in answers] == [[False, True]] * 20
    for _ in range(2):
        assert None not in host.shards.apply(other)
    host.merge(host.pull())
    assert (host.calls(ACME), host.calls(GLOBEX)) == ({"a": 2}, {"c": 1})


def test_shard_that_is_being_claimed_is_not_gone() -> None:
    """The collector has given the range to this host, which does not know it yet: a pull comes between."""
    host = Host()
    key = ShardKey(ACME, 0, 1)
    claim, answers = host.claims, []

    def pulled_meanwhile(keys: Any) -> Any:
        claimed = claim(keys)
        answers.append(host.shards.pull({key: Place(claimed[key].epoch, 0)}, (), lambda _: True))
        return claimed

    host.shards._claim = pulled_meanwhile
    host.apply(ACME, "a")
    assert [answer.gone for answer in answers] == [()]


def test_counts_of_many_threads_arrive_exactly_once_while_shards_come_and_go() -> None:
    host = Host(overrides(acme=spans_on(), globex=spans_on(shards=3)))
    threads_per_tenant, rounds = 2, 300
    counted: Counter[TenantId] = Counter()
    lock = threading.Lock()

    def work(tenant: TenantId) -> None:
        for _ in range(rounds):
            frames = host.frames(tenant, "a")
            # A shard may retire between the claim and the count: then the frame comes again.
            while None in host.count(frames):
                pass
            with lock:
                counted[tenant] += 1

    threads = [
        threading.Thread(target=work, args=(tenant,)) for tenant in (ACME, GLOBEX) for _ in range(threads_per_tenant)
    ]
    for thread in threads:
        thread.start()
    pulls = 0
    while any(thread.is_alive() for thread in threads):
        host.now_ns += 400 * SECOND_NS  # every shard that pauses for two pulls is idle
        pulled = host.pull()
        pulls += 1
        if pulls % 3:  # every third answer is lost
            host.merge(pulled)
    for _ in range(3):
        host.merge(host.pull())
    assert host.calls(ACME) == {"a": counted[ACME]}
    assert host.calls(GLOBEX) == {"a": counted[GLOBEX]}
