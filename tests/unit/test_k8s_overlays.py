"""What each overlay of k8s/ promises beyond the base: one machine, or several and nothing that stops when one fails."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster.declarations import DECLARED
from cluster.service import _ANSWER_TIMEOUT_S
from tenants.identity.access import Scope
from tenants.journal.url import journal_url
from tenants.settings.scalars import Duration
from tenants.settings.service_config import ServiceConfig
from tenants.store.url import store_url
from tests.unit.k8s_manifests import (
    ALL,
    PRODUCTION,
    ROOT,
    SINGLE_NODE,
    Manifests,
    allowed_s,
    environment,
    matches,
    service_config,
    size,
)

SINGLES = {"head", "collector", "serve"}


@pytest.fixture
def single_node() -> Manifests:
    return Manifests(SINGLE_NODE)


@pytest.fixture
def production() -> Manifests:
    return Manifests(PRODUCTION)


@pytest.fixture
def config(production: Manifests, tmp_path: Path) -> ServiceConfig:
    return service_config(production, tmp_path)


def test_single_node_has_one_of_everything_and_fits_a_small_machine(single_node: Manifests) -> None:
    assert all(single_node.replicas(name) == range(1, 2) for name in single_node.pods)
    limits = [container["resources"]["limits"] for _, container in single_node.containers]
    assert sum(size(each["memory"]) for each in limits) <= 6 << 30, "2 GiB are for Kubernetes, Prometheus and the rest"
    requests = [container["resources"]["requests"]["cpu"] for _, container in single_node.containers]
    assert sum(int(cpu.removesuffix("m")) for cpu in requests) <= 1200
    # An anti-affinity or a spread that has to hold would leave pods without a place.
    for pod in single_node.pods.values():
        assert "affinity" not in pod.spec
        assert "topologySpreadConstraints" not in pod.spec


def test_single_node_keeps_both_databases_on_volumes_of_their_own(single_node: Manifests, tmp_path: Path) -> None:
    config = service_config(single_node, tmp_path)
    for url, pod_name, claim in (
        (store_url(config), "serve", "millrace-store"),
        (journal_url(config), "collector", "millrace-journal"),
    ):
        assert url.startswith(f"sqlite:///{config.data_dir}/")
        pod = single_node.pods[pod_name]
        volume = pod.volume(str(config.data_dir), pod.containers[-1])
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert "emptyDir" not in volume
    claims = {c["metadata"]["name"]: c["spec"] for c in single_node.all("PersistentVolumeClaim")}
    assert all(spec["accessModes"] == ["ReadWriteOnce"] for spec in claims.values())
    # Two millrace-serve at once would share a volume and the actors.
    assert single_node.deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_single_node_sends_somewhere(single_node: Manifests, tmp_path: Path) -> None:
    config = service_config(single_node, tmp_path)
    assert config.remote_write
    assert config.overrides.defaults.metrics_generator.processors


def test_production_keeps_everything_that_lasts_in_postgresql(production: Manifests, config: ServiceConfig) -> None:
    for url in (store_url(config), journal_url(config)):
        assert urlsplit(url).scheme == "postgresql"
    given = environment(production.pods["serve"].containers[-1])["MILLRACE_STORE_URL"]
    assert given == {"secretKeyRef": {"name": "millrace-store", "key": "url"}}
    having = [c["name"] for _, c in production.containers if "MILLRACE_STORE_URL" in environment(c)]
    assert having == ["serve"], "nobody else needs the password"
    assert not production.all("PersistentVolumeClaim")


def test_production_outlives_its_head(production: Manifests) -> None:
    options = production.cluster["spec"]["gcsFaultToleranceOptions"]
    assert set(options["redisPassword"]["valueFrom"]) == {"secretKeyRef"}
    head = production.pods["head"].raylet
    # What KubeRay gives its workers, whoever is no worker of KubeRay needs too: longer than until a head is replaced.
    replaced_s = allowed_s(head["livenessProbe"]) + production.pods["head"].grace_s + allowed_s(head["startupProbe"])
    raylet, _, serve = production.pods["serve"].containers
    for container in (raylet, serve):
        assert float(environment(container)["RAY_gcs_rpc_server_reconnect_timeout_s"]) > replaced_s


def test_production_scales_what_the_service_can_scale(production: Manifests, config: ServiceConfig) -> None:
    spec = production.cluster["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    hosts = production.replicas("shard")
    assert len(hosts) > 1
    assert hosts[0] == config.cluster.shard_hosts
    # An apply that says a number would take pods away from the autoscaler.
    assert "replicas" not in production.groups["shard"]


def test_only_the_autoscaler_may_ask_kubernetes(production: Manifests) -> None:
    autoscaler = production.autoscaler
    assert autoscaler is not None
    (path,) = (m["mountPath"] for m in autoscaler["volumeMounts"] if m["name"] == "kubernetes-api")
    assert path == "/var/run/secrets/kubernetes.io/serviceaccount"
    (volume,) = (v for v in production.pods["head"].spec["volumes"] if v["name"] == "kubernetes-api")
    kinds = [next(iter(source)) for source in volume["projected"]["sources"]]
    assert kinds == ["serviceAccountToken", "configMap", "downwardAPI"]
    for _, container in production.containers:
        assert all(m["name"] != "kubernetes-api" for m in container["volumeMounts"])
    # Its log goes where the head's processes have theirs, which is there before it starts.
    assert {"name": "ray", "mountPath": "/tmp/ray"} in autoscaler["volumeMounts"]


def test_every_pod_is_in_one_budget_which_lets_one_go(production: Manifests) -> None:
    of_pod: dict[str, list[str]] = {name: [] for name in production.pods}
    for budget in production.all("PodDisruptionBudget"):
        spec = budget["spec"]
        # Kubernetes cannot count what a RayCluster should have: it knows whole numbers to keep, and nothing else.
        assert isinstance(spec["minAvailable"], int)
        assert "maxUnavailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        names = production.selected(spec["selector"])
        assert spec["minAvailable"] == sum(production.replicas(name)[0] for name in names) - 1
        for name in names:
            of_pod[name].append(budget["metadata"]["name"])
    assert all(len(budgets) == 1 for budgets in of_pod.values()), "an eviction of a pod with two is refused"
    assert {name for name, budgets in of_pod.items() if budgets == ["millrace-single"]} == SINGLES


def test_pods_of_a_group_are_spread_over_nodes_and_zones(production: Manifests) -> None:
    for name in ("gateway", "shard"):
        pod = production.pods[name]
        spread = pod.spec["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        for each in spread:
            assert production.selected(each["labelSelector"]) == [name]
    hard = production.pods["gateway"].spec["topologySpreadConstraints"][0]
    assert hard["whenUnsatisfiable"] == "DoNotSchedule"
    assert hard["nodeTaintsPolicy"] == "Honor", "a node that is drained would keep the pod from all others"


def test_pods_that_there_is_one_of_keep_apart(production: Manifests) -> None:
    for name in SINGLES:
        affinity = production.pods[name].spec["affinity"]["podAntiAffinity"]
        (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
        selector = term["podAffinityTerm"]["labelSelector"]
        assert set(production.selected(selector)) == SINGLES


def test_production_believes_tokens_and_speaks_tls(production: Manifests, config: ServiceConfig) -> None:
    assert config.auth.mode == "token"
    gateway = production.pods["gateway"]
    for tls in (config.listen.otlp_grpc_tls, config.listen.otlp_http_tls):
        assert tls is not None
        volume = gateway.volume(str(tls.cert_file.parent), gateway.raylet)
        assert volume["secret"]["secretName"] == "millrace-otlp-tls"
        # The names that kubernetes.io/tls Secrets have.
        assert (tls.cert_file.name, tls.key_file.name) == ("tls.crt", "tls.key")
        assert volume["secret"]["defaultMode"] == 0o440
    (service,) = (s for s in production.all("Service") if s["metadata"]["name"] == "millrace-otlp")
    assert {port["appProtocol"] for port in service["spec"]["ports"]} == {"https"}


OPERATOR_LABELS = {"namespace", "service", "pod", "container", "endpoint", "job", "instance"}
"""What the Prometheus Operator adds to every sample."""


def test_prometheus_finds_the_metrics_and_may_read_them(production: Manifests, config: ServiceConfig) -> None:
    monitor = production.one("ServiceMonitor")
    services = [s for s in production.all("Service") if matches(monitor["spec"]["selector"], s["metadata"]["labels"])]
    (service,) = services
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = (p for p in service["spec"]["ports"] if p["name"] == endpoint["port"])
    assert port["port"] == config.listen.http.port
    assert endpoint["path"] == "/metrics"
    assert service["metadata"]["namespace"] == monitor["metadata"]["namespace"]
    # The Operator's own labels would take the place of those that samples have under the same names.
    clashes = OPERATOR_LABELS & {label for declared in DECLARED.values() for label in declared.labels}
    assert clashes == {"endpoint"}
    assert endpoint["honorLabels"] is True
    # Without it the answer is 401.
    assert endpoint["authorization"]["credentials"] == {"name": "millrace-metrics-token", "key": "token"}
    # The page of a service whose controller is restarting comes after this long.
    timeout, interval = (Duration.parse(endpoint[name]).seconds for name in ("scrapeTimeout", "interval"))
    assert _ANSWER_TIMEOUT_S < timeout < interval


@pytest.mark.parametrize("folder", ALL)
def test_no_secret_is_in_the_repository(folder: str) -> None:
    assert not Manifests(folder).all("Secret")


@pytest.mark.parametrize(("folder", "heading"), [(SINGLE_NODE, "Try it"), (PRODUCTION, "Run it")])
def test_readme_makes_every_secret(folder: str, heading: str) -> None:
    sections = (ROOT / "k8s" / "README.md").read_text().replace("\\\n", " ").split("\n## ")
    (section,) = (text for text in sections if text.startswith(heading))
    commands = [line for line in section.splitlines() if "create secret" in line]
    secrets = Manifests(folder).secrets
    assert len(commands) == len(secrets)
    for name, key in secrets:
        (command,) = (line for line in commands if f" {name} " in line)
        if key:
            assert f"create secret generic {name} --from-literal={key}=" in command
        else:
            assert f"create secret tls {name} --cert=" in command


def test_readme_asks_for_the_scope_that_metrics_need() -> None:
    assert f"--scope {Scope.OPERATOR}" in (ROOT / "k8s" / "README.md").read_text()
