"""What the code imports is declared in pyproject.toml: a fresh machine installs nothing else."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OWN = {"cluster", "tenants", "tests", "bench"}
# Parts of a declared package's own interface that live in a package it brings along.
BROUGHT_BY = {
    "starlette": "fastapi",
    "pydantic-core": "pydantic",
    "annotated-types": "pydantic",
    "httpcore": "httpx",
}


def _declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for name in extras for line in project["optional-dependencies"][name]]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def _imported(folder: str) -> Iterator[tuple[str, Path]]:
    """Each foreign module's full name, and the file that imports it."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top not in OWN and top not in sys.stdlib_module_names:
                    yield name, path


@pytest.mark.parametrize(
    ("folder", "extras"), [("cluster", ()), ("tenants", ()), ("tests", ("test",)), ("bench", ("test",))]
)
def test_every_import_comes_from_a_declared_dependency(folder: str, extras: tuple[str, ...]) -> None:
    brings = packages_distributions()
    declared = _declared(*extras)
    for name, path in _imported(folder):
        found = {canonicalize_name(one) for one in brings[name.partition(".")[0]]}
        found |= {BROUGHT_BY[one] for one in found if one in BROUGHT_BY}
        assert found & declared, f"{path.relative_to(ROOT)} imports {name}, which no declared dependency brings"
