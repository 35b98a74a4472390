"""What kustomize renders of k8s/, as the tests of it want to read it."""

import copy
import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenants.settings.service_config import ServiceConfig, load_service_config
from tests.unit.k8s_rendering import ROOT, Object, rendered

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

DATABASE_URL = "postgresql://millrace:secret@db.example/millrace"
"""What stands in a Secret, as far as the tests know."""

BASE, SINGLE_NODE, PRODUCTION = "base", "overlays/single-node", "overlays/production"
ALL = (BASE, SINGLE_NODE, PRODUCTION)


@dataclass(frozen=True)
class Pod:
    """One kind of pod: its template, and the options of its raylet's `ray start`."""

    name: str
    template: Object
    ray: Mapping[str, str]

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def spec(self) -> Object:
        spec: Object = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def raylet(self) -> Object:
        """The container that runs `ray start`; everywhere the first."""
        return self.containers[0]

    @property
    def grace_s(self) -> int:
        return int(self.spec["terminationGracePeriodSeconds"])

    @property
    def pre_stop_s(self) -> int:
        """How long the raylet's container sleeps before it gets SIGTERM; part of the grace period."""
        hook = self.raylet.get("lifecycle", {}).get("preStop")
        if hook is None:
            return 0
        command, seconds = hook["exec"]["command"]
        assert command == "sleep"
        return int(seconds)

    @property
    def ray_drain_s(self) -> float:
        """How long `ray start` waits after SIGTERM for its node's actors to go."""
        return float(environment(self.raylet)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])

    @property
    def slots(self) -> dict[str, int]:
        """The custom resources of the raylet."""
        text = self.ray.get("resources", "{}")
        # KubeRay pastes the options into a shell's command line; a Deployment passes them as they are.
        found: dict[str, int] = json.loads(text if self.name == "serve" else shlex.split(text)[0])
        return found

    def volume(self, mount_path: str, container: Object) -> Object:
        mount = next(m for m in container["volumeMounts"] if m["mountPath"] == mount_path)
        volume: Object = next(v for v in self.spec["volumes"] if v["name"] == mount["name"])
        return volume


class Manifests:
    """All rendered objects of a folder of k8s/. Each instance is a copy of its own, to be spoilt by who made it."""

    def __init__(self, folder: str = BASE) -> None:
        self.folder = folder
        self.objects = copy.deepcopy(rendered(folder))
        self.cluster = self.one("RayCluster")
        self.deployment = self.one("Deployment")

    def all(self, kind: str) -> list[Object]:
        return [o for o in self.objects if o["kind"] == kind]

    def one(self, kind: str) -> Object:
        (found,) = self.all(kind)
        return found

    @property
    def groups(self) -> dict[str, Object]:
        """The worker groups of the RayCluster by name."""
        return {g["groupName"]: g for g in self.cluster["spec"]["workerGroupSpecs"]}

    @property
    def pods(self) -> dict[str, Pod]:
        """Every kind of pod: head, the worker groups, serve."""
        head = self.cluster["spec"]["headGroupSpec"]
        pods = [Pod("head", head["template"], head["rayStartParams"])]
        pods += [Pod(name, g["template"], g["rayStartParams"]) for name, g in self.groups.items()]
        serve = self.deployment["spec"]["template"]
        sidecar, _ = serve["spec"]["initContainers"]
        options = (part[2:].partition("=") for part in sidecar["command"] if part.startswith("--"))
        pods.append(Pod("serve", serve, {name: value for name, _, value in options}))
        return {pod.name: pod for pod in pods}

    @property
    def containers(self) -> Iterator[tuple[Pod, Object]]:
        """All containers in the manifests."""
        return ((pod, container) for pod in self.pods.values() for container in pod.containers)

    @property
    def autoscaler(self) -> Object | None:
        """The container that KubeRay adds to the head pod, if autoscaling is on."""
        if not self.cluster["spec"].get("enableInTreeAutoscaling"):
            return None
        options = self.cluster["spec"]["autoscalerOptions"]
        given = {key: options[key] for key in ("resources", "securityContext", "env", "volumeMounts") if key in options}
        image = self.pods["head"].raylet["image"]
        command = ["/bin/bash", "-c", "--"]
        return {"name": "autoscaler", "image": image, "command": command, "args": ["ray kuberay-autoscaler"], **given}

    def replicas(self, name: str) -> range:
        """From how many to how many pods of a kind there are, both included."""
        if name in self.groups:
            group = self.groups[name]
            return range(group["minReplicas"], group["maxReplicas"] + 1)
        return range(1, 2)

    @property
    def secrets(self) -> set[tuple[str, str]]:
        """Name and key of everything that the operator has to make; the key is empty where all of it is mounted."""
        found: set[tuple[str, str]] = set()
        for item in _walk(self.objects):
            for reference in ("secretKeyRef", "credentials"):
                if isinstance(at := item.get(reference), dict):
                    found.add((at["name"], at["key"]))
            if isinstance(item.get("secretName"), str):
                found.add((item["secretName"], ""))
        return found

    @property
    def files(self) -> dict[str, str]:
        """The files of all ConfigMaps."""
        return {name: text for c in self.all("ConfigMap") for name, text in c["data"].items()}

    def selected(self, selector: Object) -> list[str]:
        """Names of the kinds of pods that a label selector matches."""
        return [p.name for p in self.pods.values() if matches(selector, p.labels)]


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) matches; the empty one matches everything."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "the manifests use no other"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def _walk(value: object) -> Iterator[Object]:
    if isinstance(value, dict):
        yield value
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in nested:
        yield from _walk(each)


def environment(container: Object) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}


def size(quantity: str) -> int:
    """Bytes of a quantity of memory."""
    for shift, unit in ((10, "Ki"), (20, "Mi"), (30, "Gi")):
        if quantity.endswith(unit):
            return int(quantity.removesuffix(unit)) << shift
    return int(quantity)


def allowed_s(probe: Object) -> int:
    """How long a probe may fail before the kubelet acts."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def service_config(manifests: Manifests, folder: Path) -> ServiceConfig:
    """What `millrace serve` reads, with the environment that its container has."""
    path = folder / "millrace.yaml"
    path.write_text(manifests.files["millrace.yaml"])
    given = environment(manifests.pods["serve"].containers[-1])
    return load_service_config(path, {name: DATABASE_URL if isinstance(x, dict) else x for name, x in given.items()})
