from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from tenants import _engine
from tenants.endpoint.collector_set import CollectorSet, Taken
from tenants.endpoint.tenant_collector import TenantCollector
from tenants.identity import TenantId
from tenants.processing.flush_record import FlushRecord, Place, ShardKey
from tenants.processing.profile import ProfileBook
from tests.overrides_in_force import whole_of
from tests.unit.conditions import until
from tests.unit.journalled import HOST, journalled, nobody_releases
from tests.unit.receiver import Hang, Receiver
from tests.unit.tenant_work import ACME, NOW_NS, book, calls, group, overrides, spans_on

GLOBEX = TenantId("globex")


@asynccontextmanager
async def collecting(profiles: ProfileBook) -> AsyncIterator[CollectorSet]:
    async with journalled() as bench:
        tenants = CollectorSet(profiles, bench.around, bench.journal, nobody_releases)
        try:
            yield tenants
        finally:
            for collector in tenants._tenants.values():
                await collector.close()


def data(profiles: ProfileBook, tenant: TenantId, *names: str) -> bytes:
    profile = profiles.get(tenant)
    shard = _engine.Shard(profile.plan)
    shard.apply(group(profile, *names, count=1).payload, NOW_NS)
    return shard.flush(NOW_NS)


async def hand_over(tenants: CollectorSet, tenant: TenantId, record: bytes) -> Taken:
    """Hand over a record of the tenant's only shard, and wait until it is in force."""
    key = ShardKey(tenant, 0, 1)
    place = tenants.acknowledged(HOST).get(key)
    if place is None:
        place = Place((await tenants.claim(HOST, [key]))[key].epoch, 0)
    taken = tenants.take([FlushRecord(key, Place(place.epoch, place.sequence + 1), record)])
    for future in taken.futures:
        await future
    return taken


def both(receiver: Receiver, **globex: Any) -> ProfileBook:
    entry = spans_on(remote_write=[{"url": receiver.url, "protobuf_message": "prometheus.WriteRequest"}])
    return book(overrides(acme=entry, globex=entry | globex), "multitenancy_enabled: true")


def both_generating() -> ProfileBook:
    return book(overrides(acme=spans_on(), globex=spans_on()), "multitenancy_enabled: true")


async def test_each_tenants_series_go_out_under_its_name() -> None:
    async with Receiver() as receiver:
        profiles = both(receiver)
        async with collecting(profiles) as tenants:
            await hand_over(tenants, ACME, data(profiles, ACME, "a", "a"))
            await hand_over(tenants, GLOBEX, data(profiles, GLOBEX, "b"))
            assert await tenants.drain(10)
        sent = {request.header("X-Scope-OrgID"): calls([request.body]) for request in receiver.requests}
    assert sent == {"acme": {"a": 2}, "globex": {"b": 1}}


async def test_record_of_a_shard_that_owns_nothing_is_fenced() -> None:
    profiles = book()
    async with collecting(profiles) as tenants:
        key = ShardKey(ACME, 0, 1)
        record = data(profiles, ACME, "a")
        assert tenants.take([FlushRecord(key, Place(3, 1), record)]) == Taken((), ((key, 3),))
        (claimed,) = (await tenants.claim(HOST, [key])).values()
        former = await tenants.claim("another", [key])
        assert former[key].epoch > claimed.epoch
        assert tenants.take([FlushRecord(key, Place(claimed.epoch, 1), record)]).fenced == ((key, claimed.epoch),)
        # The former owner has to hear of what it handed over last.
        assert tenants.acknowledged(HOST) == {key: Place(claimed.epoch, 0)}
        assert tenants.acknowledged("another") == {key: Place(former[key].epoch, 0)}
        await tenants.let_go(HOST, [(key, claimed.epoch)])
        assert tenants.acknowledged(HOST) == {}


async def test_record_is_merged_once_however_often_it_comes() -> None:
    profiles = book()
    async with collecting(profiles) as tenants:
        key = ShardKey(ACME, 0, 1)
        (claimed,) = (await tenants.claim(HOST, [key])).values()
        record = FlushRecord(key, Place(claimed.epoch, 1), data(profiles, ACME, "a"))
        for future in [*tenants.take([record, record]).futures, *tenants.take([record]).futures]:
            await future
        assert tenants.take([record]).futures == ()
        assert tenants.acknowledged(HOST) == {key: record.place}
        assert tenants.snapshots()[ACME].records == 1


async def test_pull_walks_only_through_the_tenants_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[TenantId] = []
    acknowledged = TenantCollector.acknowledged

    def noted(collector: TenantCollector, host: str) -> Iterable[tuple[ShardKey, Place]]:
        walked.append(collector.tenant)
        return acknowledged(collector, host)

    monkeypatch.setattr(TenantCollector, "acknowledged", noted)
    profiles = both_generating()
    async with collecting(profiles) as tenants:
        acme, globex = ShardKey(ACME, 0, 1), ShardKey(GLOBEX, 0, 1)
        (mine,) = (await tenants.claim(HOST, [acme])).values()
        (other,) = (await tenants.claim("other", [globex])).values()
        assert tenants.acknowledged(HOST) == {acme: Place(mine.epoch, 0)}
        assert tenants.acknowledged("other") == {globex: Place(other.epoch, 0)}
        assert tenants.acknowledged("nobody") == {}
        assert walked == [ACME, GLOBEX]
        await tenants.let_go(HOST, [(acme, mine.epoch)])
        assert tenants.acknowledged(HOST) == tenants.acknowledged(HOST) == {}
        assert walked == [ACME, GLOBEX, ACME]
        # It may come back, and elsewhere too.
        (mine,) = (await tenants.claim("other", [acme])).values()
        assert tenants.acknowledged("other") == {globex: Place(other.epoch, 0), acme: Place(mine.epoch, 0)}


async def test_shard_that_is_gone_is_let_go() -> None:
    profiles = book()
    async with collecting(profiles) as tenants:
        key = ShardKey(ACME, 0, 1)
        (claimed,) = (await tenants.claim(HOST, [key])).values()
        await tenants.let_go(HOST, [(key, claimed.epoch - 1), (ShardKey(GLOBEX, 0, 1), 1)])
        assert tenants.acknowledged(HOST) == {key: Place(claimed.epoch, 0)}
        await tenants.let_go(HOST, [(key, claimed.epoch)])
        assert tenants.acknowledged(HOST) == {}


async def test_tenant_struck_by_a_bug_keeps_nobody_else_from_anything() -> None:
    async with Receiver() as receiver:
        profiles = both(receiver)
        async with collecting(profiles) as tenants:
            for tenant in (ACME, GLOBEX):
                await hand_over(tenants, tenant, data(profiles, tenant, "op"))
            tenants._tenants[ACME]._state.registry = _Broken()  # type: ignore[assignment]
            with structlog.testing.capture_logs() as logs:
                assert list(tenants.snapshots()) == [GLOBEX]
                settings = spans_on(
                    remote_write=[{"url": receiver.url, "protobuf_message": "prometheus.WriteRequest"}],
                    max_active_series=7,
                )
                profiles.put_overrides(whole_of(2, overrides(acme=settings, globex=settings)))
                await tenants.use_overrides(None)
                await tenants.end_finished()
                assert not await tenants.drain(5)
            assert {line["tenant"] for line in logs if line["log_level"] == "error"} == {"acme"}
            assert tenants._tenants[GLOBEX]._profile is profiles.get(GLOBEX)
    assert {request.header("X-Scope-OrgID") for request in receiver.requests} == {"globex"}


async def test_bug_in_the_end_of_one_tenant_leaves_the_others_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as receiver:
        profiles = both(receiver)
        async with collecting(profiles) as tenants:
            for tenant in (ACME, GLOBEX):
                await hand_over(tenants, tenant, data(profiles, tenant, "op"))

            async def drain(_deadline_s: float) -> bool:
                raise RuntimeError("bug")

            monkeypatch.setattr(tenants._tenants[ACME], "drain", drain)
            with structlog.testing.capture_logs() as logs:
                assert not await tenants.drain(5)
            assert [(line["event"], line["tenant"]) for line in logs] == [("tenant could not be drained", "acme")]
    assert {request.header("X-Scope-OrgID") for request in receiver.requests} == {"globex"}


async def test_dead_endpoint_of_one_tenant_does_not_delay_the_others_end() -> None:
    async with Receiver() as receiver, Receiver(otherwise=Hang()) as dead:
        profiles = both(receiver, remote_write=[{"url": dead.url, "protobuf_message": "prometheus.WriteRequest"}])
        async with collecting(profiles) as tenants:
            for tenant in (ACME, GLOBEX):
                await hand_over(tenants, tenant, data(profiles, tenant, "op"))
            assert not await tenants.drain(3)
    # Zeros, then values.
    assert len(receiver.requests) == 2


async def test_tenant_that_generates_nothing_any_more_ends_and_can_begin_again() -> None:
    async with Receiver() as receiver:
        profiles = both(receiver)
        async with collecting(profiles) as tenants:
            await hand_over(tenants, ACME, data(profiles, ACME, "a"))
            await tenants._tenants[ACME].collect()
            await tenants.end_finished()
            assert list(tenants.snapshots()) == [ACME]
            profiles.put_overrides(whole_of(2, {}))
            await tenants.use_overrides(None)
            await tenants._tenants[ACME].collect()  # still under the former settings
            await tenants._tenants[ACME].collect()
            await receiver.wait_for_requests(1)
            await until(lambda: tenants._tenants[ACME].is_finished)
            await tenants.end_finished()
            assert tenants.snapshots() == {}
            profiles.put_overrides(whole_of(3, overrides(acme=spans_on())))
            await hand_over(tenants, ACME, data(profiles, ACME, "a"))
            assert list(tenants.snapshots()) == [ACME]


async def test_overrides_reach_every_tenant_that_is_here() -> None:
    entries = {f"t{number}": spans_on() for number in range(250)}
    profiles = book(overrides(**entries))
    async with collecting(profiles) as tenants:
        for name in entries:
            await hand_over(tenants, TenantId(name), data(profiles, TenantId(name), "a"))
        profiles.put_overrides(whole_of(2, overrides(**{name: spans_on(collection_interval="1m") for name in entries})))
        await tenants.use_overrides(None)
        assert {collector._schedule.interval_s for collector in tenants._tenants.values()} == {60}


class _Broken:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("an earlier call panicked in this object; it cannot be used any more")
