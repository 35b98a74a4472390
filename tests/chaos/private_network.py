"""Runs a test in a network and a process tree of its own: another pytest, for that one test, in Linux namespaces.

What the test does to the network no other process of the machine sees, nor can it be reached from there. Whatever it
started ends with it, also if it is killed: the kernel ends what is left in its process tree.
"""

import os
import subprocess
import sys
from typing import Final

import pytest

IS_INSIDE: Final = "MILLRACE_PRIVATE_NETWORK"
"""Environment variable that is set in there."""

MARKER: Final = "private_network"


def runs_elsewhere(item: pytest.Item) -> bool:
    """Whether the test has to run in there, and this process is not."""
    return item.get_closest_marker(MARKER) is not None and IS_INSIDE not in os.environ


def run(item: pytest.Item) -> None:
    """Run one test in there; skip it where that is not possible, fail as it fails."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces of its own are for root: run it with sudo, or in a container")
    inside = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    probe = [*inside, "sh", "-c", "ip link add one type veth peer name two && ip link add three type bridge"]
    probed = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if probed.returncode != 0:
        pytest.skip(f"this machine gives nobody a network of its own: {probed.stderr.strip()}")
    # A proxy is not reached from in there.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--capture=no", "--quiet", item.nodeid]
    ended = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *inside, *tests],
        env=environment | {IS_INSIDE: "1"},
        cwd=item.config.rootpath,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if ended.returncode != 0:
        pytest.fail(f"it failed in its own network, see above (exit code {ended.returncode})", pytrace=False)
