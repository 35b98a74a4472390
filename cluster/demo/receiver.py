"""Choose where the demo's metrics arrive: Prometheus where it is installed, the built-in one elsewhere."""

import shutil
from pathlib import Path

from cluster.demo.memory import MemoryReceiver
from cluster.demo.prometheus import PrometheusReceiver
from cluster.demo.readings import Receiver


def start_receiver(directory: Path, service_address: str, *, ephemeral_ports: bool) -> Receiver:
    """Start a receiver that is ready to be written to.

    Args:
        directory: for its files; must exist.
        service_address: host:port of Millrace's own ``/metrics``, for Prometheus to scrape.
        ephemeral_ports: take any free port, not the usual one.

    Raises:
        ChildFailedError: Prometheus is installed but does not start.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        return MemoryReceiver()
    return PrometheusReceiver(binary, directory, service_address, ephemeral_ports=ephemeral_ports)
