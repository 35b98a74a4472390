"""What kustomize makes of a folder below k8s/."""

import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

Object = dict[str, Any]


@cache
def rendered(folder: str) -> list[Object]:
    """Render it once; whoever wants to change the objects takes a copy."""
    commands = (["kubectl", "kustomize"], ["kustomize", "build"])
    command = next((c for c in commands if shutil.which(c[0])), None)
    if command is None:
        pytest.fail("neither kubectl nor kustomize is on PATH; k8s/README.md says how to get one", pytrace=False)
    path = str(ROOT / "k8s" / folder)
    result = subprocess.run([*command, path], capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0:
        pytest.fail(f"{shlex.join(command)} refuses k8s/{folder}: {result.stderr}", pytrace=False)
    return list(yaml.safe_load_all(result.stdout))
