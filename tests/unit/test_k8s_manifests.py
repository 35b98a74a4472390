"""The manifests of k8s/, base and overlays, are valid, hardened, and agree with the service that they start.

Everything is checked offline: core kinds and pod templates against the strict schemas of Kubernetes, the others
against k8s/schemas/. No cluster is asked.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
from packaging.requirements import Requirement

from cluster import ray_compat
from tenants.api.application import OPENAPI_PATH
from tenants.settings.errors import SettingsError
from tenants.settings.runtime_file import Loaded, RuntimeFile
from tenants.settings.service_config import ServiceConfig
from tests.unit.k8s_manifests import (
    ALL,
    PRODUCTION,
    PROJECT,
    ROOT,
    Manifests,
    Object,
    allowed_s,
    environment,
    service_config,
    size,
)

SCHEMAS = {
    kind: jsonschema.Draft202012Validator(json.loads((ROOT / "k8s" / "schemas" / f"{kind.lower()}.json").read_text()))
    for kind in ("RayCluster", "ServiceMonitor")
}

# The oldest Kubernetes that has native sidecars (serve.yaml), and the newest whose schemas are installed.
KUBERNETES_VERSIONS = ("1.29", kubernetes_validate.latest_version())

# Ray checks a node every 3 s and gives it up after 5 failures; raylets wait 60 s for a lost GCS.
NODE_GIVEN_UP_AFTER_S = 15
GCS_GIVEN_UP_AFTER_S = 60
GCS_PORT = 6379
OBJECT_STORE_MINIMUM_BYTES = 75 << 20
GROUPS_IN_FLIGHT = 3  # of one gateway, to one shard host


@pytest.fixture(params=ALL)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return Manifests(request.param)


@pytest.fixture
def config(manifests: Manifests, tmp_path: Path) -> ServiceConfig:
    return service_config(manifests, tmp_path)


def load_overrides(text: str, path: Path) -> Loaded:
    path.write_text(text)
    loaded = RuntimeFile(path, Path.read_bytes).poll()
    assert isinstance(loaded, Loaded), loaded
    return loaded


def check_schemas(manifests: Manifests, version: str) -> None:
    """Raise for what the API server would refuse, and for what it or KubeRay would silently drop."""
    for item in manifests.objects:
        if schema := SCHEMAS.get(item["kind"]):
            schema.validate(item)
        else:
            kubernetes_validate.validate(item, version, strict=True)
    for pod in manifests.pods.values():
        added = [manifests.autoscaler] if pod.name == "head" and manifests.autoscaler else []
        template = {**pod.template, "spec": {**pod.spec, "containers": [*pod.spec["containers"], *added]}}
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": pod.name}}
        kubernetes_validate.validate({**wrapped, "template": template}, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_rendered_objects_fit_their_schemas(manifests: Manifests, version: str) -> None:
    check_schemas(manifests, version)


def _options(manifests: Manifests) -> Object:
    options: Object = manifests.cluster["spec"]["autoscalerOptions"]
    return options


def _redis(manifests: Manifests) -> Object:
    options: Object = manifests.cluster["spec"]["gcsFaultToleranceOptions"]
    return options


def _scrape(manifests: Manifests) -> Object:
    scrape: Object = manifests.one("ServiceMonitor")["spec"]["endpoints"][0]
    return scrape


SPOILT: dict[str, Callable[[Manifests], object]] = {
    "misspelt pod field": lambda m: m.pods["shard"].spec.update(terminationGracePeriodSecond=60),
    "misspelt container field": lambda m: m.pods["head"].raylet.update(securtyContext={}),
    "number as text": lambda m: m.deployment["spec"].update(replicas="1"),
    "misspelt cluster field": lambda m: m.cluster["spec"].update(upgradeStrategie={}),
    "misspelt ray option": lambda m: m.groups["gateway"]["rayStartParams"].update({"num-cpu": "2"}),
    "resources without quotes": lambda m: m.groups["shard"]["rayStartParams"].update(resources='{"shard_slot": 1}'),
    "status": lambda m: m.cluster.update(status={}),
    "misspelt autoscaler option": lambda m: _options(m).update(idleTimeoutSecond=60),
    "unknown autoscaler": lambda m: _options(m).update(version="v3"),
    "misspelt field of the autoscaler's container": lambda m: _options(m)["securityContext"].update(
        readOnlyRootFs=True
    ),
    "autoscaling as text": lambda m: m.cluster["spec"].update(enableInTreeAutoscaling="true"),
    "misspelt redis option": lambda m: _redis(m).update(redisPasword={}),
    "redis without a scheme": lambda m: _redis(m).update(redisAddress="redis:6379"),
    "password in a manifest": lambda m: _redis(m).update(redisPassword={"value": "secret"}),
    "misspelt monitor field": lambda m: _scrape(m).update(scrapeTimout="5s"),
    "interval without a unit": lambda m: _scrape(m).update(interval="15"),
    "misspelt budget field": lambda m: m.all("PodDisruptionBudget")[0]["spec"].update(minAvailible=1),
    "misspelt policy field": lambda m: m.all("NetworkPolicy")[0]["spec"].update(podSelectors={}),
    "misspelt spread field": lambda m: m.pods["shard"].spec["topologySpreadConstraints"][0].update(maxSkews=1),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_schemas_refuse_mistakes(spoil: Callable[[Manifests], object]) -> None:
    manifests = Manifests(PRODUCTION)
    spoil(manifests)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_schemas(manifests, KUBERNETES_VERSIONS[0])


def test_service_accepts_the_files_it_gets(manifests: Manifests, config: ServiceConfig, tmp_path: Path) -> None:
    assert config.multitenancy_enabled
    assert config.log.format == "json"
    assert not load_overrides(manifests.files["overrides.yaml"], tmp_path / "overrides.yaml").overrides


def test_service_accepts_nothing_that_names_what_its_container_lacks(tmp_path: Path) -> None:
    manifests = Manifests(PRODUCTION)
    serve = manifests.pods["serve"].containers[-1]
    serve["env"] = [each for each in serve["env"] if each["name"] != "MILLRACE_STORE_URL"]
    with pytest.raises(SettingsError, match="MILLRACE_STORE_URL"):
        service_config(manifests, tmp_path)


def test_service_accepts_the_example_in_the_overrides(manifests: Manifests, tmp_path: Path) -> None:
    lines = [x[2:] for x in manifests.files["overrides.yaml"].splitlines() if x.startswith("# ")]
    example = "\n".join(lines[lines.index("overrides:") :])
    tenant = load_overrides(example, tmp_path / "overrides.yaml").overrides["acme"]
    assert tenant.metrics_generator.processors
    assert tenant.metrics_generator.remote_write


def test_serve_reads_files_that_are_mounted(manifests: Manifests, config: ServiceConfig) -> None:
    pod = manifests.pods["serve"]
    for container in pod.containers:  # the controller is an actor: it lives in the raylet's container
        sources = pod.volume("/etc/millrace", container)["projected"]["sources"]
        mounted = {s["configMap"]["name"] for s in sources}
        assert mounted == {c["metadata"]["name"] for c in manifests.all("ConfigMap")}
        # With a subPath the kubelet would never renew the overrides.
        assert all("subPath" not in m for m in container["volumeMounts"])
    (config_path,) = (a.partition("=")[2] for a in pod.containers[-1]["args"] if a.startswith("--config="))
    for path in (Path(config_path), config.overrides.per_tenant_override_config):
        assert path is not None
        assert path.parent == Path("/etc/millrace")
        assert path.name in manifests.files


def test_changed_configuration_rolls_serve_and_changed_overrides_do_not(manifests: Manifests) -> None:
    names = {next(iter(c["data"])): c["metadata"]["name"] for c in manifests.all("ConfigMap")}
    assert re.fullmatch(r"millrace-config-[a-z0-9]{10}", names["millrace.yaml"])
    assert names["overrides.yaml"] == "millrace-overrides"


def test_services_lead_to_the_ports_of_the_configuration(manifests: Manifests, config: ServiceConfig) -> None:
    at = config.listen
    listen = {"otlp-grpc": at.otlp_grpc, "otlp-http": at.otlp_http, "http": at.http}
    assert {address.host for address in listen.values()} == {"0.0.0.0"}
    services = manifests.all("Service")
    exposed = {p["name"]: p["port"] for s in services for p in s["spec"]["ports"]}
    assert exposed == {name: address.port for name, address in listen.items()}
    for service in services:
        (name,) = manifests.selected({"matchLabels": service["spec"]["selector"]})
        ports = {p["name"]: p["containerPort"] for p in manifests.pods[name].containers[-1]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_selectors_match_the_pods_they_mean(manifests: Manifests) -> None:
    selectors = {s["metadata"]["name"]: {"matchLabels": s["spec"]["selector"]} for s in manifests.all("Service")}
    selectors["deployment"] = manifests.deployment["spec"]["selector"]
    assert {name: manifests.selected(selector) for name, selector in selectors.items()} == {
        "millrace-otlp": ["gateway"],
        "millrace": ["serve"],
        "deployment": ["serve"],
    }


def test_no_port_of_a_pod_is_taken_twice(manifests: Manifests, config: ServiceConfig) -> None:
    for pod in manifests.pods.values():
        named = [p for c in pod.containers for p in c.get("ports", [])]
        ports = [p["containerPort"] for p in named if p["name"] != "metrics"]
        ports += [int(pod.ray[name]) for name in ("node-manager-port", "metrics-export-port") if name in pod.ray]
        assert len(ports) == len(set(ports)), pod.name
        # KubeRay adds one at 8080 to a Ray pod that names none.
        metrics = [p["containerPort"] for p in named if p["name"] == "metrics"]
        assert metrics == ([] if pod.name == "serve" else [int(pod.ray["metrics-export-port"])])
        assert config.listen.http.port not in metrics


def test_every_container_is_without_privileges(manifests: Manifests) -> None:
    enforced = manifests.one("Namespace")["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in manifests.pods.values():
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
    containers = [container for _, container in manifests.containers]
    containers += [manifests.autoscaler] if manifests.autoscaler else []
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_every_container_can_write_where_it_must(manifests: Manifests, config: ServiceConfig) -> None:
    for pod, container in manifests.containers:
        paths = {"/tmp/ray", "/dev/shm"}
        if pod.name in {"serve", "collector"}:
            paths.add(str(config.data_dir))
        for path in paths:
            volume = pod.volume(path, container)
            if path == str(config.data_dir) and "persistentVolumeClaim" in volume:
                claims = {c["metadata"]["name"] for c in manifests.all("PersistentVolumeClaim")}
                assert volume["persistentVolumeClaim"]["claimName"] in claims
                assert pod.spec["securityContext"]["fsGroup"] == pod.spec["securityContext"]["runAsGroup"]
                continue
            assert volume["emptyDir"]["sizeLimit"], "without a limit it fills the node"
        assert pod.volume("/dev/shm", container)["emptyDir"]["medium"] == "Memory"


def test_memory_of_every_container_is_reserved(manifests: Manifests) -> None:
    for pod, container in manifests.containers:
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        shared = size(pod.volume("/dev/shm", container)["emptyDir"]["sizeLimit"])
        assert shared < size(resources["limits"]["memory"]), "shared memory is part of the container's"


def test_object_store_fits_and_holds_the_groups_in_flight(manifests: Manifests, config: ServiceConfig) -> None:
    largest_group = config.cluster.group_bytes + config.cluster.max_request_bytes
    peers = max(*manifests.replicas("shard"), *manifests.replicas("gateway"))
    for pod in manifests.pods.values():
        store = int(pod.ray["object-store-memory"])
        assert store > OBJECT_STORE_MINIMUM_BYTES
        # Ray only warns of a smaller /dev/shm, and then the store is on disk.
        assert store < size(pod.volume("/dev/shm", pod.raylet)["emptyDir"]["sizeLimit"])
        assert store < size(pod.volume("/tmp/ray", pod.raylet)["emptyDir"]["sizeLimit"])
        if pod.name in {"gateway", "shard"}:
            assert store > peers * GROUPS_IN_FLIGHT * largest_group


def test_actors_find_their_slots(manifests: Manifests, config: ServiceConfig) -> None:
    pods, groups = manifests.pods, manifests.groups
    assert {name: pod.slots for name, pod in pods.items()} == {
        "head": {},
        "gateway": {"gateway_slot": 1},
        "shard": {"shard_slot": 1},
        "collector": {"collector_slot": 1},
        "serve": {"controller_slot": 1},
    }
    assert config.cluster.shard_hosts == manifests.replicas("shard")[0]
    assert manifests.replicas("collector") == range(1, 2)
    # Gateways follow the nodes, but nobody asks Ray's autoscaler for more of them.
    assert len(manifests.replicas("gateway")) == 1
    assert pods["head"].ray["num-cpus"] == "0"
    for name, group in groups.items():
        assert group.get("replicas", group["minReplicas"]) in manifests.replicas(name)
        assert pods[name].ray["num-cpus"] == pods[name].raylet["resources"]["limits"]["cpu"]


def test_workers_have_the_environment_of_the_embedded_ray(manifests: Manifests) -> None:
    wanted = {
        "RAY_max_direct_call_object_size": str(ray_compat.INLINE_BYTES),
        "RAY_task_rpc_inlined_bytes_limit": str(ray_compat.INLINE_TOTAL_BYTES),
    }
    source = Path(ray_compat.__file__).read_text()
    for name in manifests.groups:
        env = environment(manifests.pods[name].raylet)
        assert wanted.items() <= env.items()
        for variable, shift in re.findall(r'"(MALLOC_\w+)", str\((\d+ << \d+)\)', source):
            number, bits = map(int, shift.split(" << "))
            assert env[variable] == str(number << bits)


def test_service_waits_for_the_slots_that_it_fills(manifests: Manifests) -> None:
    raylet, waiting, _ = manifests.pods["serve"].containers
    assert raylet["restartPolicy"] == "Always"  # a native sidecar: up before the next one starts
    offered = {
        slot: manifests.replicas(name)[0] * count
        for name in manifests.groups
        for slot, count in manifests.pods[name].slots.items()
    }
    assert dict(each.split("=") for each in waiting["args"]) == {slot: str(count) for slot, count in offered.items()}
    python, script, address, _ = waiting["command"]
    assert python == "python3"
    assert Path(script).name in manifests.files
    assert address == manifests.pods["serve"].ray["address"]


def test_deadlines_of_a_stop_nest(manifests: Manifests, config: ServiceConfig) -> None:
    pods = manifests.pods
    drain_s = config.cluster.drain_timeout.seconds
    assert config.cluster.flush_interval.seconds < drain_s
    for name in manifests.groups:
        assert drain_s < pods[name].ray_drain_s
        assert pods[name].pre_stop_s + pods[name].ray_drain_s < pods[name].grace_s
    # A pod that leaves its Service is sent new connections for a while.
    assert pods["gateway"].pre_stop_s > 0
    # serve drains, after it its raylet; the head, which both need, waits for both.
    service_s = drain_s + pods["serve"].ray_drain_s
    assert service_s < pods["serve"].grace_s
    assert service_s < pods["head"].pre_stop_s < pods["head"].grace_s
    assert pods["head"].ray_drain_s == 0


def test_liveness_is_slower_than_what_it_must_not_forestall(manifests: Manifests, config: ServiceConfig) -> None:
    pods = manifests.pods
    for name in [*manifests.groups, "serve"]:
        assert allowed_s(pods[name].raylet["livenessProbe"]) > NODE_GIVEN_UP_AFTER_S
    assert allowed_s(pods["head"].raylet["livenessProbe"]) > GCS_GIVEN_UP_AFTER_S
    serve = pods["serve"].containers[-1]
    assert allowed_s(serve["livenessProbe"]) > config.cluster.drain_timeout.seconds


def test_every_process_is_probed_on_a_port_it_has(manifests: Manifests) -> None:
    for pod, container in manifests.containers:
        kinds = ["startupProbe", "livenessProbe"]
        if container in pod.spec["containers"]:
            kinds.append("readinessProbe")
        elif "restartPolicy" not in container:
            continue  # it ends by itself
        raylet_port = GCS_PORT if pod.name == "head" else int(pod.ray["node-manager-port"])
        named = {p["name"] for p in container.get("ports", [])}
        for probe in (container[kind] for kind in kinds):
            if "grpc" in probe:
                assert probe["grpc"] == {"port": raylet_port}
            else:
                assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in named


def test_serve_is_asked_what_needs_neither_a_token_nor_the_controller(manifests: Manifests) -> None:
    serve = manifests.pods["serve"].containers[-1]
    assert serve["livenessProbe"]["httpGet"]["path"] == OPENAPI_PATH
    assert {serve[kind]["httpGet"]["path"] for kind in ("startupProbe", "readinessProbe")} == {"/ready"}


def test_serve_finds_the_head_and_a_raylet_of_its_own(manifests: Manifests) -> None:
    head, serve = manifests.pods["head"], manifests.pods["serve"]
    assert {"name": "gcs-server", "containerPort": GCS_PORT} in head.raylet["ports"]
    address = f"{manifests.cluster['metadata']['name']}-head-svc:{GCS_PORT}"
    assert serve.ray["address"] == address
    assert f"--ray-address={address}" in serve.containers[-1]["args"]
    assert serve.raylet["restartPolicy"] == "Always"
    # A Ray driver looks for its raylet among the processes that it can see.
    assert serve.spec["shareProcessNamespace"] is True


def test_one_process_drives_the_actors(manifests: Manifests) -> None:
    spec = manifests.deployment["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_ray_is_closed_to_who_has_no_token(manifests: Manifests) -> None:
    assert not manifests.all("Secret"), "a token in the repository is no secret"
    containers = [container for _, container in manifests.containers]
    containers += [manifests.autoscaler] if manifests.autoscaler else []
    for container in containers:
        env = environment(container)
        assert env["RAY_AUTH_MODE"] == "token"
        assert env["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": "millrace-ray-auth", "key": "auth_token"}}
        assert env["RAY_USAGE_STATS_ENABLED"] == "0"


def test_all_containers_run_the_image_of_this_version(manifests: Manifests) -> None:
    images = {container["image"] for _, container in manifests.containers}
    (image,) = images
    assert image.rpartition("/")[2] == f"{PROJECT['name']}:{PROJECT['version']}"


def test_ray_version_is_one_that_the_project_accepts(manifests: Manifests) -> None:
    (ray,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray")
    assert manifests.cluster["spec"]["rayVersion"] in ray.specifier
