"""What kustomize renders of k8s/base, as the tests of it want to read it."""

import copy
import json
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Object = dict[str, Any]


@cache
def _rendered() -> list[Object]:
    commands = (["kubectl", "kustomize"], ["kustomize", "build"])
    command = next((c for c in commands if shutil.which(c[0])), None)
    if command is None:
        pytest.fail("neither kubectl nor kustomize is on PATH; k8s/README.md says how to get one", pytrace=False)
    base = str(ROOT / "k8s" / "base")
    result = subprocess.run([*command, base], capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0:
        pytest.fail(f"{shlex.join(command)} refuses k8s/base: {result.stderr}", pytrace=False)
    return list(yaml.safe_load_all(result.stdout))


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
    """All rendered objects. Each instance is a copy of its own, to be spoilt by the test that made it."""

    def __init__(self) -> None:
        self.objects = copy.deepcopy(_rendered())
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
        (sidecar,) = serve["spec"]["initContainers"]
        options = (part[2:].partition("=") for part in sidecar["command"] if part.startswith("--"))
        pods.append(Pod("serve", serve, {name: value for name, _, value in options}))
        return {pod.name: pod for pod in pods}

    @property
    def containers(self) -> Iterator[tuple[Pod, Object]]:
        return ((pod, container) for pod in self.pods.values() for container in pod.containers)

    @property
    def files(self) -> dict[str, str]:
        """The files of all ConfigMaps."""
        return {name: text for c in self.all("ConfigMap") for name, text in c["data"].items()}

    def selected(self, selector: Mapping[str, str]) -> list[str]:
        """Names of the kinds of pods that a selector matches."""
        return [p.name for p in self.pods.values() if selector.items() <= p.labels.items()]


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
