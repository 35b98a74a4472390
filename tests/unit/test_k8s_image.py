"""The Dockerfile of the image keeps the promises that the manifests make for it. Nothing is built here."""

import itertools
import re

from packaging.specifiers import SpecifierSet

from tests.unit.k8s_manifests import PROJECT, ROOT, Manifests


def stages() -> list[list[str]]:
    """The instructions by stage, continued lines joined, comments gone."""
    text = (ROOT / "k8s" / "image" / "Dockerfile").read_text()
    text = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line]
    starts = [i for i, line in enumerate(lines) if line.startswith("FROM ")]
    return [lines[a:b] for a, b in itertools.pairwise([*starts, len(lines)])]


def test_image_runs_as_the_user_of_the_manifests() -> None:
    (user,) = (line.split()[1] for line in stages()[-1] if line.startswith("USER "))
    for pod in Manifests().pods.values():
        security = pod.spec["securityContext"]
        assert user == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_image_ends_without_what_builds_it() -> None:
    last = stages()[-1]
    assert last[-1] == 'ENTRYPOINT ["millrace"]'
    tools = re.compile(r"apt-get|cargo|rust|gcc|pip install|--from=wheel")
    assert not [line for line in last if tools.search(line)]
    assert any("pip uninstall" in line for line in last)


def test_image_is_built_on_fixed_versions_that_the_project_supports() -> None:
    for stage in stages():
        base = stage[0].split()[1]
        name, _, tag = base.partition(":")
        version = tag.partition("-")[0]
        assert re.fullmatch(r"[0-9]+\.[0-9]+", version), f"{base} moves"
        if name == "python":
            assert f"{version}.0" in SpecifierSet(PROJECT["requires-python"])


def test_image_is_built_from_the_packages_and_not_from_the_work_tree() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [line.split()[1:-1] for line in stages()[0] if line.startswith("COPY ")]
    assert "*" in allowed
    assert {f"!{name}" for name in itertools.chain(*copied)} == {x for x in allowed if x.startswith("!")}
