from collections import Counter

import pytest

from cluster.placement import Routes
from tenants.identity import TenantId

TENANTS = [TenantId(f"tenant-{index}") for index in range(300)]


def routes(hosts: int, collectors: int = 1, *, without: int | None = None) -> Routes:
    names = tuple(f"shard-host-{index}" for index in range(hosts) if index != without)
    return Routes(1, names, tuple(f"collector-{index}" for index in range(collectors)))


def test_places_are_the_same_in_every_process_and_release() -> None:
    """Golden: changing these moves every tenant's shards while the service is upgraded."""
    four = routes(4, 3)
    assert [four.host_of(TenantId("acme"), shard)[-1] for shard in range(5)] == list("31023")
    assert [four.host_of(TenantId("globex"), shard)[-1] for shard in range(5)] == list("31203")
    assert [four.collector_of(TenantId(tenant))[-1] for tenant in ("acme", "globex", "initech")] == list("120")


def test_order_of_names_does_not_matter() -> None:
    forth = routes(5, 5)
    back = Routes(7, forth.shard_hosts[::-1], forth.collectors[::-1])
    for tenant in TENANTS[:50]:
        assert [forth.host_of(tenant, shard) for shard in range(7)] == [
            back.host_of(tenant, shard) for shard in range(7)
        ]
        assert forth.collector_of(tenant) == back.collector_of(tenant)


@pytest.mark.parametrize(("shards", "expected"), [(1, [1]), (2, [1, 1]), (5, [2, 3])])
def test_shards_of_a_tenant_are_spread_over_two_hosts(shards: int, expected: list[int]) -> None:
    two = routes(2)
    for tenant in TENANTS:
        placed = Counter(two.host_of(tenant, shard) for shard in range(shards))
        assert sorted(placed.values()) == expected


def test_no_host_has_two_shards_of_a_tenant_while_another_has_none() -> None:
    for hosts, shards in ((8, 8), (8, 5), (3, 10)):
        many = routes(hosts)
        for tenant in TENANTS:
            placed = Counter(many.host_of(tenant, shard) for shard in range(shards))
            assert len(placed) == min(hosts, shards)
            assert max(placed.values()) - min(placed.values()) <= 1


def test_tenants_are_spread_over_hosts_and_collectors() -> None:
    spread = routes(4, 4)
    for placed in (Counter(spread.host_of(t, 0) for t in TENANTS), Counter(spread.collector_of(t) for t in TENANTS)):
        assert len(placed) == 4
        assert max(placed.values()) < 1.5 * len(TENANTS) / 4


def test_host_that_leaves_moves_only_the_tenants_it_had() -> None:
    before, after = routes(5), routes(5, without=2)
    for tenant in TENANTS:
        if before.host_of(tenant, 0) != "shard-host-2":
            assert after.host_of(tenant, 0) == before.host_of(tenant, 0)


def test_shards_that_ranked_before_the_host_that_left_stay() -> None:
    before, after = routes(6), routes(6, without=2)
    for tenant in TENANTS:
        ranked = [before.host_of(tenant, shard) for shard in range(6)]
        lost = ranked.index("shard-host-2")
        remaining = [after.host_of(tenant, shard) for shard in range(5)]
        assert remaining == ranked[:lost] + ranked[lost + 1 :]
