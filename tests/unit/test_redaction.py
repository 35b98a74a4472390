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
from tenants.processing.flush_record import FlushRecord, Pulled, ShardKey
from tenants.processing.shard_set import FrameGroup
from tenants.settings import Fault, SettingsError, resolve
from tenants.settings.redaction import overrides_without_endpoints, without_endpoints
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


def holds_secret(value: Any) -> bool:
    return SECRET.encode() in pickle.dumps(value)


def test_no_secret_is_left_in_what_gateways_and_shard_hosts_are_told() -> None:
    assert holds_secret(CONFIG)
    assert holds_secret(RUNTIME)
    assert not holds_secret(without_endpoints(CONFIG))
    assert not holds_secret(overrides_without_endpoints(RUNTIME))


def test_everything_else_is_the_same_without_secrets() -> None:
    public, runtime = without_endpoints(CONFIG), overrides_without_endpoints(RUNTIME)
    for tenant in (ACME, TenantId("globex"), TenantId("other")):
        whole, left = resolve(CONFIG, RUNTIME, tenant), resolve(public, runtime, tenant)
        assert whole.remote_write
        assert left.remote_write == ()
        for name in set(whole.__slots__) - {"remote_write", "provenance"}:
            assert getattr(left, name) == getattr(whole, name), name
    assert (public.listen, public.cluster, public.log) == (CONFIG.listen, CONFIG.cluster, CONFIG.log)


def test_original_keeps_its_secrets() -> None:
    before = pickle.dumps((CONFIG, RUNTIME))
    without_endpoints(CONFIG)
    overrides_without_endpoints(RUNTIME)
    assert pickle.dumps((CONFIG, RUNTIME)) == before


def test_secrets_do_not_print() -> None:
    settings = resolve(CONFIG, RUNTIME, ACME)
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
    resolve(CONFIG, RUNTIME, ACME),
    Routes(1, ("h0", "h1"), ("c",)),
    Ports(1, 2),
    FrameGroup(((KEY, 3),), b"abc"),
    Pulled(7, (FlushRecord(KEY, 1, b"x"),), (KEY,)),
    {KEY: 5},
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
