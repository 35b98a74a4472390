from collections.abc import Sequence

import pytest

from cluster import ray_compat, shard_host
from cluster.errors import NotConfiguredError, StaleCollectorError
from cluster.measurements import families
from cluster.placement import Routes
from cluster.shard_host import ShardHost
from tenants.identity import TenantId
from tenants.processing.flush_record import Claimed, Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.profile import ProfileBook
from tests.overrides_in_force import whole_of
from tests.unit.tenant_work import ACME, EmptyClaims, config, group, overrides, spans_on

TENANTS = overrides(acme=spans_on(), globex=spans_on(shards=2))
ROUTES = Routes(1, ("shard-host-0",), ("collector-0", "collector-1"))


class Collector:
    """The handle of a collector that gives out every range."""

    def __init__(self) -> None:
        self.claim = self
        self._claims = EmptyClaims()

    def remote(self, host: str, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        assert host == "shard-host-0"
        return self._claims(keys)


COLLECTORS = {name: Collector() for name in ROUTES.collectors}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> ShardHost:
    monkeypatch.setattr(ray_compat, "wait_for", lambda calls, _timeout_s: calls)
    monkeypatch.setattr(shard_host, "set_up_logging", lambda *_: None)
    monkeypatch.setattr("time.time_ns", lambda: 1_800_000_000_000_000_000)
    return ShardHost("shard-host-0")


def frames(tenant: TenantId, *names: str):  # type: ignore[no-untyped-def]
    book = ProfileBook(config())
    book.put_overrides(whole_of(1, TENANTS))
    return group(book.get(tenant), *names)


def ingest(host: ShardHost, frames: FrameGroup) -> Sequence[Place | None]:
    """Let a host count frames when it has their shards."""
    host.adopt([head.key for head in frames.heads])
    return host.ingest(frames)


def test_host_that_was_not_configured_counts_and_answers_nothing(host: ShardHost) -> None:
    assert not host.is_configured()
    assert host.measure() == []
    for call in (
        lambda: host.ingest(frames(ACME, "a")),
        lambda: host.adopt([ShardKey(ACME, 0, 1)]),
        lambda: host.pull("collector-0", 1, {}, ()),
        lambda: host.put_overrides(whole_of(1, {})),
    ):
        with pytest.raises(NotConfiguredError, match="shard-host-0"):
            call()


def test_tenants_are_pulled_by_the_collector_of_the_routes(host: ShardHost) -> None:
    host.configure(config(), ROUTES, COLLECTORS, whole_of(1, TENANTS))
    assert host.is_configured()
    for tenant in (ACME, TenantId("globex")):
        assert None not in ingest(host, frames(tenant, *["op"] * 20))
    pulled = {name: host.pull(name, 1, {}, ()) for name in ROUTES.collectors}
    found = {key.tenant: name for name, answer in pulled.items() for key in {record.key for record in answer.records}}
    assert found == {tenant: ROUTES.collector_of(tenant) for tenant in (ACME, TenantId("globex"))}
    assert sum(len(answer.records) for answer in pulled.values()) == 3


def test_collector_that_has_been_replaced_is_refused(host: ShardHost) -> None:
    host.configure(config(), ROUTES, COLLECTORS, whole_of(1, TENANTS))
    host.pull("collector-0", 2, {}, ())
    for call in (lambda: host.pull("collector-0", 1, {}, ()), lambda: host.release("collector-0", 1, ())):
        with pytest.raises(StaleCollectorError, match="collector-0"):
            call()
    host.pull("collector-1", 1, {}, ())


def test_configuring_again_keeps_what_was_counted(host: ShardHost) -> None:
    host.configure(config(), ROUTES, COLLECTORS, whole_of(1, TENANTS))
    ingest(host, frames(ACME, "a"))
    (before,) = host.pull(ROUTES.collector_of(ACME), 1, {}, ()).records
    one_collector = Routes(2, ROUTES.shard_hosts, ("collector-0",))
    host.configure(config(), one_collector, COLLECTORS, whole_of(2, overrides(acme=spans_on(max_active_series=5))))
    pulled = host.pull("collector-0", 1, {}, ())
    assert pulled.records[0] == before
    assert {record.key.tenant for record in pulled.records} == {ACME}
    assert ("millrace_settings_version", (), 2) in host.measure()


def test_shards_of_a_tenant_are_measured_together(host: ShardHost) -> None:
    host.configure(config(), ROUTES, COLLECTORS, whole_of(1, TENANTS))
    ingest(host, frames(ACME, "a", "b"))
    ingest(host, frames(TenantId("globex"), *["op"] * 20))
    host.put_overrides(whole_of(2, TENANTS))
    figures = {(name, *labels): value for name, labels, value in host.measure()}
    assert figures["millrace_shards",] == 3
    assert figures["millrace_settings_version",] == 2
    assert figures["millrace_shard_entities", "acme"] == 2
    assert figures["millrace_shard_entities", "globex"] == 2
    assert figures["millrace_shard_open_edges", "acme"] == 0
    names = {family.name for family in families({"shard-host-0": host.measure()})}
    assert len({name for name in names if not name.startswith("millrace_process_")}) == 8


def test_tenants_beyond_the_bound_are_measured_together(host: ShardHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_host, "MAX_MEASURED_TENANTS", 1)
    host.configure(config(), ROUTES, COLLECTORS, whole_of(1, overrides(acme=spans_on(), b=spans_on(), c=spans_on())))
    for tenant in (ACME, TenantId("b"), TenantId("c")):
        book = ProfileBook(config())
        book.put_overrides(whole_of(1, overrides(**{str(tenant): spans_on()})))
        ingest(host, group(book.get(tenant), "a", "b"))
    figures = {labels[0]: value for name, labels, value in host.measure() if name == "millrace_shard_entities"}
    assert figures == {"acme": 2, "__other__": 4}
