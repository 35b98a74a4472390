"""The Dockerfile of the image keeps the promises that the manifests make for it. Nothing is built here."""

import itertools
import re
import subprocess
from pathlib import PurePosixPath

from packaging.specifiers import SpecifierSet

from tests.unit.k8s_manifests import ALL, PROJECT, ROOT, Manifests


def stages() -> list[list[str]]:
    """The instructions by stage, continued lines joined, comments gone."""
    text = (ROOT / "k8s" / "image" / "Dockerfile").read_text()
    text = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line]
    starts = [i for i, line in enumerate(lines) if line.startswith("FROM ")]
    return [lines[a:b] for a, b in itertools.pairwise([*starts, len(lines)])]


def test_image_runs_as_the_user_of_the_manifests() -> None:
    (user,) = (line.split()[1] for line in stages()[-1] if line.startswith("USER "))
    for pod in (pod for folder in ALL for pod in Manifests(folder).pods.values()):
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


def test_image_has_every_file_of_the_packages_and_nothing_that_was_built() -> None:
    # The console's pictures and scripts are in the packages beside the code: maturin takes all files of a package.
    tracked = subprocess.run(
        ["git", "ls-files", "cluster", "tenants"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    out = [x for x in (ROOT / ".dockerignore").read_text().splitlines() if x and x[0] not in "!#*"]
    out += [x for x in (ROOT / ".dockerignore").read_text().splitlines() if x.startswith("**/")]
    left_out = [path for path in tracked if any(_is_ignored(path, pattern) for pattern in out)]
    assert all(path.startswith("tenants/engine/fuzz/") for path in left_out), left_out
    for path in ("tenants/_engine.abi3.so", "cluster/__pycache__/x.pyc", "tenants/engine/target/release/x"):
        assert any(_is_ignored(path, pattern) for pattern in out)


def _is_ignored(path: str, pattern: str) -> bool:
    """As docker does, for the patterns that the file has: a pattern means what is below it, too."""
    candidates = [path, *(str(parent) for parent in PurePosixPath(path).parents)]
    if pattern.startswith("**/"):
        return any(PurePosixPath(each).match(pattern[3:]) for each in candidates)
    return pattern in candidates
