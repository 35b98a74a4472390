"""What the pages of k8s/ tell an operator to type is right: commands, names of objects, the overlay of one's own."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cluster.cli import app
from cluster.declarations import DECLARED
from tests.unit.k8s_manifests import ALL, PRODUCTION, ROOT, Manifests

PAGES = {path.name: path.read_text() for path in (ROOT / "k8s" / "README.md", ROOT / "k8s" / "runbooks" / "upgrade.md")}
EVERYTHING = [item for folder in ALL for item in Manifests(folder).objects]
POD_LABELS = [pod.labels for pod in Manifests(PRODUCTION).pods.values()]


def commands() -> Iterator[str]:
    """Every command line in a block of shell, joined where it goes on."""
    for text in PAGES.values():
        for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE):
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            yield from (line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))


def millrace_calls() -> list[str]:
    inside = [re.search(r"(?:^|-- )millrace (.+?)(?:\)\"|$)", line) for line in commands()]
    docker = [re.search(r"millrace:NEW (.+)$", line) for line in commands()]
    return [found.group(1).partition("  #")[0].rstrip(")\"'") for found in (*inside, *docker) if found]


@pytest.mark.parametrize("call", millrace_calls())
def test_millrace_understands_every_call(call: str, tmp_path: Path) -> None:
    file = tmp_path / "millrace.yaml"
    file.touch()
    # The file is there in the pod.
    arguments = [str(file) if re.fullmatch(r"/(etc/millrace|config)/.*", each) else each for each in shlex.split(call)]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "list_commands"):
        name, *arguments = arguments
        assert name in command.list_commands(None), f"millrace has no command {name}"
        command = command.get_command(None, name)
    command.make_context(command.name, arguments)


def test_there_are_calls_to_understand() -> None:
    assert {call.split()[0] for call in millrace_calls()} == {"doctor", "tokens", "rescale", "config"}


@pytest.mark.parametrize("line", [line for line in commands() if "kubectl" in line])
def test_kubectl_is_told_of_objects_that_there_are(line: str) -> None:
    names = {(item["kind"].lower(), item["metadata"]["name"]) for item in EVERYTHING}
    names |= {("deployment", "prometheus")}  # made by the page itself
    for kind, name in re.findall(r"\b(deployment|service|raycluster|configmap)/([-a-z]+)", line):
        assert (kind, name) in names
    for key, value in re.findall(r"-l (app[-a-z./]+)=([-a-z]+)", line):
        assert any(labels.get(key) == value for labels in POD_LABELS)
    for container in re.findall(r"deployment/millrace-serve -c ([-a-z]+)", line):
        assert container in {c["name"] for c in Manifests(PRODUCTION).pods["serve"].containers}
    for path in re.findall(r"(?:-k|-f|kustomize) (k8s/\S+)", line):
        assert (ROOT / path).exists()


def test_a_metric_that_a_page_speaks_of_is_one() -> None:
    for text in PAGES.values():
        assert set(re.findall(r"\bmillrace_[a-z_]+\b", text)) <= DECLARED.keys()


def test_links_lead_somewhere() -> None:
    for name, text in PAGES.items():
        page = next((ROOT / "k8s").rglob(name))
        for link in re.findall(r"\]\(([^)]+)\)", text):
            target, _, heading = link.partition("#")
            if target.startswith("https://"):
                continue
            linked = page if not target else (page.parent / target).resolve()
            assert linked.exists(), link
            if heading:
                titles = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
                assert heading in {re.sub(r"[^-a-z0-9]", "", title.lower().replace(" ", "-")) for title in titles}, link


def test_overlay_of_the_page_renders_and_changes_what_it_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("my-overlay")
    (text,) = re.findall(r"```yaml\n# my-overlay/kustomization.yaml\n(.*?)```", PAGES["README.md"], flags=re.DOTALL)
    production = ROOT / "k8s" / PRODUCTION
    text = text.replace("../k8s/overlays/production", os.path.relpath(production, folder.resolve()))
    (folder / "kustomization.yaml").write_text(text.replace("REGISTRY", "registry.test"))
    for name in ("millrace.yaml", "overrides.yaml"):
        (folder / name).write_bytes((production / name).read_bytes())
    manifests = Manifests(os.path.relpath(folder.resolve(), ROOT / "k8s"))
    assert {container["image"] for _, container in manifests.containers} == {"registry.test/millrace:0.1.0"}
    redis = manifests.cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
    assert redis == "rediss://redis.example:6379"
    assert yaml.safe_load(manifests.files["millrace.yaml"])["cluster"]["shard_hosts"] == 3
