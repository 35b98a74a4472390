"""The NetworkPolicies of k8s/ let through every connection that Millrace needs, and no other that would hurt."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tenants.journal.url import journal_url
from tenants.settings.service_config import ServiceConfig
from tenants.store.url import store_url
from tests.unit.k8s_manifests import ALL, Manifests, Object, service_config
from tests.unit.k8s_network import Party, is_allowed, ports_of

NAMESPACE = "millrace"
RAY_PORTS = (6379, 6380, 10001, 10002, 19999, 43210)  # GCS, raylets, clients, workers, and what is taken at random

OTHER_POD = Party("pod of another namespace", "shop", {"app": "cart"})
NEIGHBOUR = Party("pod of the namespace that is not Millrace's", NAMESPACE, {"app": "debug"})
STRANGER = Party("address outside", address="198.51.100.7")
INGRESS = Party("Ingress on the nodes' network", address="10.1.2.3")
DNS = Party("DNS", "kube-system", {"k8s-app": "kube-dns"})
NODE_DNS = Party("DNS of the node", address="169.254.20.10")
ENDPOINT = Party("endpoint", address="203.0.113.5")
DATABASE = Party("database", "databases", {"app": "postgresql"})
REDIS = Party("Redis", "databases", {"app": "redis"})
KUBERNETES = Party("Kubernetes API", address="10.96.0.1")
PROMETHEUS = Party("Prometheus", "monitoring", {"app": "prometheus"})

Connection = tuple[Party, Party, int, str]


@pytest.fixture(params=ALL)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return Manifests(request.param)


@pytest.fixture
def config(manifests: Manifests, tmp_path: Path) -> ServiceConfig:
    return service_config(manifests, tmp_path)


def parties(manifests: Manifests) -> dict[str, Party]:
    return {name: Party(name, NAMESPACE, pod.labels) for name, pod in manifests.pods.items()}


def needed(manifests: Manifests, config: ServiceConfig) -> Iterator[Connection]:
    """Everything that has to get through, as the manifests and the service configuration say."""
    pods = parties(manifests)
    for one in pods.values():
        for other in pods.values():
            yield from ((one, other, port, "TCP") for port in RAY_PORTS)
        for server in (DNS, NODE_DNS):
            yield from ((one, server, 53, protocol) for protocol in ("UDP", "TCP"))
    for client in (OTHER_POD, STRANGER, INGRESS):
        yield client, pods["gateway"], config.listen.otlp_grpc.port, "TCP"
        yield client, pods["gateway"], config.listen.otlp_http.port, "TCP"
    for client in (OTHER_POD, STRANGER, PROMETHEUS):
        yield client, pods["serve"], config.listen.http.port, "TCP"
    for name in ("collector", "serve"):  # the latter for `millrace doctor`
        yield pods[name], ENDPOINT, 443, "TCP"
        for endpoint in config.remote_write:
            at = urlsplit(endpoint.url)
            target = PROMETHEUS if at.hostname and at.hostname.endswith(".svc") else ENDPOINT
            yield pods[name], target, at.port or 443, "TCP"
    for name, url in (("serve", store_url(config)), ("collector", journal_url(config))):
        if url.startswith("postgresql"):
            yield pods[name], DATABASE, urlsplit(url).port or 5432, "TCP"
    if redis := manifests.cluster["spec"].get("gcsFaultToleranceOptions"):
        yield pods["head"], REDIS, urlsplit(redis["redisAddress"]).port or 6379, "TCP"
    if manifests.autoscaler:
        yield from ((pods["head"], KUBERNETES, port, "TCP") for port in (443, 6443))


def refused(manifests: Manifests) -> Iterator[Connection]:
    """What must not get through, whatever else does."""
    pods = parties(manifests)
    for pod in pods.values():
        for outsider in (OTHER_POD, NEIGHBOUR, STRANGER, PROMETHEUS):
            yield from ((outsider, pod, port, "TCP") for port in (*RAY_PORTS, 8090))
        # Not even names: who may be reached is said, one by one.
        yield pod, STRANGER, 22, "TCP"
        yield pod, STRANGER, 53, "UDP"
    for name in ("gateway", "shard"):  # they see spans, so they have no way out
        yield from ((pods[name], ENDPOINT, port, "TCP") for port in (80, 443, 9090))
        yield from ((pods[name], target, port, "TCP") for target, port in ((DATABASE, 5432), (REDIS, 6379)))
        yield pods[name], KUBERNETES, 443, "TCP"
    yield OTHER_POD, pods["gateway"], 8080, "TCP"
    yield OTHER_POD, pods["serve"], 4317, "TCP"
    yield NEIGHBOUR, ENDPOINT, 443, "TCP"


def text(connection: Connection) -> str:
    source, target, port, protocol = connection
    return f"{source.name} -> {target.name} {protocol} {port}"


def test_what_is_needed_gets_through(manifests: Manifests, config: ServiceConfig) -> None:
    policies = manifests.all("NetworkPolicy")
    assert [text(each) for each in needed(manifests, config) if not is_allowed(policies, *each)] == []


def test_nothing_else_gets_through(manifests: Manifests) -> None:
    policies = manifests.all("NetworkPolicy")
    assert [text(each) for each in refused(manifests) if is_allowed(policies, *each)] == []


def test_every_policy_is_needed(manifests: Manifests, config: ServiceConfig) -> None:
    policies = manifests.all("NetworkPolicy")
    for policy in policies:
        others = [each for each in policies if each is not policy]
        lost = [each for each in needed(manifests, config) if not is_allowed(others, *each)]
        won = [each for each in refused(manifests) if is_allowed(others, *each)]
        assert lost or won, f"{policy['metadata']['name']} changes nothing"


def test_policies_select_pods_that_there_are_and_open_ports_that_they_have(manifests: Manifests) -> None:
    policies = manifests.all("NetworkPolicy")
    for policy in policies:
        assert manifests.selected(policy["spec"]["podSelector"]), policy["metadata"]["name"]
    for policy, port in ports_of(policies, "Ingress"):
        for name in manifests.selected(policy["spec"]["podSelector"]):
            has = {p["containerPort"] for p in manifests.pods[name].containers[-1]["ports"]}
            assert port in has, f"{policy['metadata']['name']}: {name} has no port {port}"


def policy(spec: Object) -> Object:
    return {"metadata": {"name": "x", "namespace": NAMESPACE}, "spec": {"podSelector": {}, **spec}}


def test_evaluator_knows_the_rules_of_policies() -> None:
    here, there = Party("here", NAMESPACE, {"a": "1"}), Party("there", NAMESPACE, {"a": "2"})
    assert is_allowed([], here, there, 1), "without policies all is open"
    deny = policy({"policyTypes": ["Ingress", "Egress"]})
    assert not is_allowed([deny], here, there, 1)
    out = policy({"policyTypes": ["Egress"], "egress": [{}]})
    into = policy({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "1"}}}]}]})
    assert not is_allowed([deny, out], here, there, 1), "one end is not enough"
    assert is_allowed([deny, out, into], here, there, 1)
    assert not is_allowed([deny, out, into], there, here, 1)
    assert not is_allowed([deny, out, into], Party("elsewhere", "other", {"a": "1"}), there, 1), (
        "labels count here only"
    )
    block = policy({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]})
    assert is_allowed([block], here, Party("near", address="10.1.1.1"), 1)
    assert not is_allowed([block], here, Party("far", address="11.1.1.1"), 1)
    some = policy({"policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "UDP", "port": 5, "endPort": 7}]}]})
    assert [port for port in (4, 5, 7, 8) if is_allowed([some], here, STRANGER, port, "UDP")] == [5, 7]
    assert not is_allowed([some], here, STRANGER, 5, "TCP")
