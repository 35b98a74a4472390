import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import Acknowledgements, Pulled, ShardKey
from tenants.processing.shard_runner import ShardRunner
from tenants.processing.shard_set import IDLE_NS, FrameGroup, ShardSet
from tests.overrides_in_force import whole_of
from tests.unit.tenant_work import (
    ACME,
    NOW_NS,
    SECOND_NS,
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
        self.shards = ShardSet(book(runtime), lambda: self.now_ns, **options)
        self.acknowledged: Acknowledgements = {}
        self.registries: dict[TenantId, _engine.Registry] = {}
        self._sources: dict[ShardKey, int] = {}

    def apply(self, tenant: TenantId, *names: str, **options: Any) -> tuple[int, ...]:
        return self.shards.apply(self.frames(tenant, *names, **options))

    def frames(self, tenant: TenantId, *names: str, **options: Any) -> FrameGroup:
        return group(self.shards.book.get(tenant), *names, **options)

    def pull(self, owns: Callable[[TenantId], bool] = lambda _: True, incarnation: int = 1) -> Pulled:
        return self.shards.pull("collector-0", incarnation, dict(self.acknowledged), owns)

    def merge(self, pulled: Pulled) -> None:
        for key in pulled.gone:
            del self.acknowledged[key]
        for record in pulled.records:
            if record.sequence > self.acknowledged.get(record.key, 0):
                tenant = record.key.tenant
                if tenant not in self.registries:
                    profile = self.shards.book.get(tenant)
                    self.registries[tenant] = _engine.Registry(profile.plan, NOW_NS // 1_000_000)
                source = self._sources.setdefault(record.key, len(self._sources))
                self.registries[tenant].merge(source, record.data, NOW_NS)
                self.acknowledged[record.key] = record.sequence

    def calls(self, tenant: TenantId) -> dict[str, float]:
        return collected(self.registries[tenant])


def test_group_of_several_tenants_is_counted_shard_by_shard() -> None:
    host = Host()
    together = joined(host.frames(ACME, "a", "b"), host.frames(GLOBEX, *["c"] * 40), host.frames(ACME, "a"))
    assert host.shards.apply(together) == ()
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
    damaged = FrameGroup(bad.shards, bad.payload[:-1] + b"?")
    with structlog.testing.capture_logs() as logs:
        assert host.shards.apply(joined(good, damaged, host.frames(GLOBEX, "c"))) == (1,)
    assert [(line["event"], line["shard"]) for line in logs] == [("frame could not be counted", "acme/0of1")]
    host.merge(host.pull())
    assert (host.calls(ACME), host.calls(GLOBEX)) == ({"a": 1}, {"c": 1})


def test_collector_gets_the_records_of_its_own_tenants() -> None:
    host = Host()
    host.apply(ACME, "a")
    host.apply(GLOBEX, "c")
    assert {record.key.tenant for record in host.pull(lambda tenant: tenant == GLOBEX).records} == {GLOBEX}
    assert {record.key.tenant for record in host.pull().records} == {ACME, GLOBEX}


def test_epoch_tells_two_lives_of_a_host_apart() -> None:
    first = Host()
    assert first.pull().epoch == first.pull().epoch == NOW_NS
    assert ShardSet(book(), lambda: NOW_NS + 1).epoch != first.pull().epoch


def test_new_collector_reads_everything_from_the_definitions_on() -> None:
    host = Host()
    host.apply(ACME, "a")
    host.apply(GLOBEX, *["c"] * 20)
    host.merge(host.pull())
    host.pull()  # brings the acknowledgements
    host.registries.clear()
    host.acknowledged.clear()
    host.merge(host.pull(incarnation=2))
    host.apply(ACME, "a", "b")
    host.apply(GLOBEX, *["c"] * 20)
    host.merge(host.pull(incarnation=2))
    assert (host.calls(ACME), host.calls(GLOBEX)) == ({"a": 1, "b": 1}, {"c": 20})


def test_two_collectors_do_not_disturb_each_other() -> None:
    host = Host()
    for collector, tenant in (("one", ACME), ("two", GLOBEX)) * 3:
        host.apply(tenant, "op")

        def owns(asked: TenantId, own: TenantId = tenant) -> bool:
            return asked == own

        host.merge(host.shards.pull(collector, 7, dict(host.acknowledged), owns))
    assert (host.calls(ACME), host.calls(GLOBEX)) == ({"op": 3}, {"op": 3})


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
        host.merge(host.pull())
    assert host.pull().gone == host.pull().gone == (ShardKey(ACME, 0, 1),)
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
        host.shards.close_edges()
        assert {record.key.tenant for record in host.pull().records} == {GLOBEX}
        assert ShardKey(ACME, 0, 1) not in host.shards.stats()
        assert host.shards.apply(joined(host.frames(ACME, "a"), host.frames(GLOBEX, "c"))) == (0,)
    assert {line["shard"] for line in logs} == {"acme/0of1"}
    host.merge(host.pull())
    assert host.calls(GLOBEX) == {"c": 2}


class _BrokenShard:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("an earlier call panicked in this object; it cannot be used any more")


# Threads


def test_retired_shard_is_replaced_once_even_if_two_threads_find_it_retired() -> None:
    """Both find the retired shard; the second must not throw away the successor that the first counts in."""
    host = Host()
    key = ShardKey(ACME, 0, 1)
    frame = host.frames(ACME, "a")
    host.shards.apply(frame)
    host.shards._runners[key]._is_retired = True
    barrier = threading.Barrier(2)
    apply = ShardRunner.apply

    def slow_to_learn(runner: ShardRunner, *arguments: Any) -> bool:
        is_counted = apply(runner, *arguments)
        if not is_counted:
            barrier.wait(5)
        return is_counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardRunner, "apply", slow_to_learn)
        threads = [threading.Thread(target=host.shards.apply, args=(frame,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    host.merge(host.pull())
    assert host.calls(ACME) == {"a": 2}


def test_shard_that_retires_while_a_frame_arrives_loses_nothing() -> None:
    """The pull retires the shard; before it forgets it, the frame is counted in a successor."""
    host = Host()
    host.apply(ACME, "a")
    host.merge(host.pull())
    host.now_ns += 2 * IDLE_NS
    retire = ShardRunner.retire_if_idle
    arrivals = [host.frames(ACME, "a")]

    def frame_arrives(runner: ShardRunner, before_ns: int) -> bool:
        is_retired = retire(runner, before_ns)
        if is_retired and arrivals:
            host.shards.apply(arrivals.pop())
        return is_retired

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardRunner, "retire_if_idle", frame_arrives)
        for _ in range(4):
            host.merge(host.pull())
    assert not arrivals
    assert host.calls(ACME) == {"a": 2}


def test_counts_of_many_threads_arrive_exactly_once_while_shards_come_and_go() -> None:
    host = Host(overrides(acme=spans_on(), globex=spans_on(shards=3)))
    frames = {tenant: host.frames(tenant, "a", "b") for tenant in (ACME, GLOBEX)}
    threads_per_tenant, rounds = 2, 300

    def work(tenant: TenantId) -> None:
        for _ in range(rounds):
            host.shards.apply(frames[tenant])

    threads = [threading.Thread(target=work, args=(tenant,)) for tenant in frames for _ in range(threads_per_tenant)]
    for thread in threads:
        thread.start()
    lost = 0
    while any(thread.is_alive() for thread in threads):
        host.now_ns += 400 * SECOND_NS  # every shard that pauses for two pulls is idle
        pulled = host.pull()
        lost += 1
        if lost % 3:  # every third answer is lost
            host.merge(pulled)
    for _ in range(3):
        host.merge(host.pull())
    expected = {"a": threads_per_tenant * rounds, "b": threads_per_tenant * rounds}
    assert host.calls(ACME) == host.calls(GLOBEX) == expected
