"""One JSON line for each result: name, value, unit, machine, commit, and the counts that prove it right."""

import json
import os
import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """Return the processor's model, the number of cores and the architecture."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, {platform.machine()}"


def commit() -> str:
    """Return the abbreviated commit, with a plus sign if the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def print_result(name: str, value: float, unit: str, **counts: float | str) -> None:
    """Print one result as a JSON line."""
    result = {"name": name, "value": round(value, 3), "unit": unit, "machine": machine(), "commit": commit()}
    print(json.dumps(result | {"counts": counts}), flush=True)
