import pickle
from typing import Any

import pytest

from cluster.errors import ClusterError, NotConfiguredError, StartError
from cluster.gateway.gateway import Ports
from cluster.gateway.listen import CannotListenError
from cluster.placement import Routes
from tenants import _engine
from tenants.endpoint import EndpointCounters, InvalidEndpointError, TenantEndpointSnapshot
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity import TenantId
from tenants.processing.flush_record import FlushRecord, Place, Pulled, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tenants.settings import Fault, SettingsError, resolve
from tenants.settings.in_force import OverridesInForce, applied, change_between, whole
from tenants.settings.redaction import change_without_endpoints, without_endpoints
from tenants.settings.tenant_state import TenantState
from tests.unit.tenant_work import ACME, config, overrides, spans_on

SECRET = "s3cr3t"
CONFIG = config(f"""
multitenancy_enabled: true
listen: {{otlp_grpc: "127.0.0.1:0"}}
metrics_generator:
  registry: {{collection_interval: 7s, external_labels: {{cluster: c}}}}
  processor: {{span_metrics: {{histogram_buckets: [1, 2]}}}}
remote_write:
- {{url: "http://h/{SECRET}", headers: {{Authorization: "Bearer {SECRET}"}}}}
overrides:
  defaults:
    metrics_generator:
      processors: [span-metrics]
      remote_write: [{{url: "http://defaults/{SECRET}"}}]
      remote_write_headers: {{X-Key: {SECRET}}}
""")
RUNTIME = overrides(
    acme=spans_on(
        shards=3,
        remote_write=[{"url": f"http://acme/{SECRET}", "headers": {"X-Key": SECRET}}],
        remote_write_headers={"X-Other": SECRET},
    ),
    globex={"processors": ["service-graphs"]},
)
DOCUMENTS = overrides(acme={"processors": ["host-info"]})
IN_FORCE = OverridesInForce(4, RUNTIME, DOCUMENTS, {"globex": TenantState.PAUSED})


def holds_secret(value: Any) -> bool:
    return SECRET.encode() in pickle.dumps(value)


def test_no_secret_is_left_in_what_gateways_and_shard_hosts_are_told() -> None:
    assert holds_secret(CONFIG)
    assert holds_secret(whole(IN_FORCE))
    assert not holds_secret(without_endpoints(CONFIG))
    assert not holds_secret(change_without_endpoints(whole(IN_FORCE)))


def test_address_of_the_store_is_left_out() -> None:
    assert not holds_secret(without_endpoints(config(f"store: {{url: 'postgresql://u:{SECRET}@h/d'}}")))


def test_removed_entry_stays_removed() -> None:
    change = change_between(IN_FORCE, OverridesInForce(5))
    assert change_without_endpoints(change) == change
    assert set(change.runtime.values()) == {None}


def test_everything_else_is_the_same_without_secrets() -> None:
    public = without_endpoints(CONFIG)
    told = applied(OverridesInForce(), change_without_endpoints(whole(IN_FORCE)))
    assert told is not None
    for tenant in (ACME, TenantId("globex"), TenantId("other")):
        everything, left = resolve(CONFIG, IN_FORCE, tenant), resolve(public, told, tenant)
        assert everything.remote_write
        assert left.remote_write == ()
        for name in everything.__slots__:
            if "remote_write" not in name:
                assert getattr(left, name) == getattr(everything, name), name
    assert (public.listen, public.cluster, public.log) == (CONFIG.listen, CONFIG.cluster, CONFIG.log)


def test_original_keeps_its_secrets() -> None:
    before = pickle.dumps((CONFIG, IN_FORCE))
    without_endpoints(CONFIG)
    change_without_endpoints(whole(IN_FORCE))
    assert pickle.dumps((CONFIG, IN_FORCE)) == before


def test_secrets_do_not_print() -> None:
    settings = resolve(CONFIG, IN_FORCE, ACME)
    for value in (CONFIG.remote_write[0].headers, settings.remote_write[0].headers, RUNTIME["acme"].metrics_generator):
        assert SECRET not in repr(value).replace(f"http://acme/{SECRET}", "")


# What crosses the borders of processes

KEY = ShardKey(ACME, 1, 2)
COUNTERS = EndpointCounters("main", "http://h/", samples_failed={"http_400": 1})
WAY_OUT = TenantEndpointSnapshot((COUNTERS,), (COUNTERS,), {"no_endpoint": 0})
CROSSING = [
    CONFIG,
    without_endpoints(CONFIG),
    RUNTIME,
    whole(IN_FORCE),
    resolve(CONFIG, IN_FORCE, ACME),
    Routes(1, ("h0", "h1"), ("c",)),
    Ports(1, 2),
    FrameGroup((FrameHead(KEY, (0, 1), b"fingerprint", 3),), b"abc"),
    Pulled((FlushRecord(KEY, Place(3, 1), b"x"),), ((KEY, 2),)),
    {KEY: Place(2, 5)},
    TenantCollectorSnapshot(
        {"edges": 1}, TenantEndpointSnapshot((COUNTERS,), (COUNTERS,), {"no_endpoint": 0}), 1, 0.5, 2
    ),
]


@pytest.mark.parametrize("value", CROSSING, ids=lambda value: type(value).__name__)
def test_what_actors_say_to_each_other_arrives_as_it_was(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_headers_arrive_with_their_values() -> None:
    arrived = pickle.loads(pickle.dumps(CONFIG))
    assert arrived.remote_write[0].headers["Authorization"].get_secret_value() == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    "error",
    [
        ClusterError("x"),
        NotConfiguredError("gateway-0"),
        StartError("no room"),
        CannotListenError("127.0.0.1:1", "in use"),
        InvalidEndpointError("url", "bad"),
        SettingsError([Fault("a.b", "wrong", 3)], "file"),
        _engine.MalformedFrame("damaged"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_between_processes(error: Exception) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
