"""The receiver where Prometheus is installed: one server of the demo's own, on loopback, with exemplars on.

It also scrapes Millrace's ``/metrics``, so that the service's own numbers can be queried beside the tenants'.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.demo.children import Child
from cluster.demo.errors import ReceiverError
from cluster.demo.ports import HOST, free_port
from cluster.demo.readings import EXEMPLAR_LABEL, TENANT_LABEL, Exemplar, Rates

_USUAL_PORT = 9090
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 15.0
_REQUEST_TIMEOUT_S = 5.0


class PrometheusReceiver:
    """A running Prometheus, see :class:`~cluster.demo.readings.Receiver`.

    Args:
        binary: the program.
        directory: takes its configuration, data and log.
        service_address: host:port of the ``/metrics`` to scrape.
        ephemeral_ports: do not ask for port 9090.

    Raises:
        ChildFailedError: it did not start.
    """

    def __init__(self, binary: str, directory: Path, service_address: str, *, ephemeral_ports: bool) -> None:
        port = free_port(0 if ephemeral_ports else _USUAL_PORT)
        self.name = f"Prometheus on port {port}"
        self._url = f"http://{HOST}:{port}"
        self.write_url = f"{self._url}/api/v1/write"
        configuration = directory / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(_configuration(service_address), sort_keys=False))
        # A loopback port is never behind a proxy, whatever the environment says.
        self._client = httpx.Client(base_url=self._url, timeout=_REQUEST_TIMEOUT_S, trust_env=False)
        self._child = Child(
            "prometheus",
            [
                binary,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'prometheus-data'}",
                f"--web.listen-address={HOST}:{port}",
                "--web.enable-remote-write-receiver",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            directory / "prometheus.log",
        )
        try:
            self._child.wait_until(self._is_ready, _START_TIMEOUT_S, threading.Event().wait)
        except BaseException:
            self.close()
            raise

    def rates(self, tenant: str, metric: str, by: tuple[str, ...], window_s: float) -> Rates:
        """Return increase per second by label values."""
        query = f"sum by ({', '.join(by)}) (rate({_selector(metric, tenant)}[{max(1, round(window_s))}s]))"
        return {
            tuple(series["metric"].get(name, "") for name in by): float(series["value"][1])
            for series in self._get("query", {"query": query})["result"]
        }

    def total(self, tenant: str, metric: str) -> float:
        """Return the newest values of the metric's series, added up."""
        result = self._get("query", {"query": f"sum({_selector(metric, tenant)})"})["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def exemplars(self, tenant: str, metric: str, window_s: float) -> list[Exemplar]:
        """Return the exemplars of the last ``window_s``."""
        now_s = time.time()
        found = self._get(
            "query_exemplars",
            {"query": _selector(metric, tenant), "start": f"{now_s - window_s:.3f}", "end": f"{now_s:.3f}"},
        )
        return [
            Exemplar(
                series["seriesLabels"],
                exemplar["labels"].get(EXEMPLAR_LABEL, ""),
                float(exemplar["value"]),
                int(exemplar["timestamp"] * 1000),
            )
            for series in found
            for exemplar in series["exemplars"]
        ]

    def look_here(self) -> list[tuple[str, str]]:
        """Return a query to open in the browser, and where the exemplars are."""
        calls = "sum+by(tenant)(rate(traces_spanmetrics_calls_total[1m]))"
        return [
            ("Rates", f"{self._url}/graph?g0.tab=0&g0.expr={calls}"),
            (
                "Exemplars",
                f"curl '{self._url}/api/v1/query_exemplars?query=traces_spanmetrics_latency_bucket'",
            ),
        ]

    def check(self) -> None:
        """Return if it is running."""
        self._child.check()

    def close(self) -> None:
        """Stop it, by its own process id."""
        self._client.close()
        self._child.stop(_STOP_TIMEOUT_S)

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def _get(self, endpoint: str, parameters: Mapping[str, str]) -> Any:
        try:
            answer = self._client.get(f"/api/v1/{endpoint}", params=dict(parameters))
        except httpx.HTTPError as error:
            raise ReceiverError(f"{self.name} does not answer: {error}") from error
        if not answer.is_success:
            raise ReceiverError(f"{self.name} answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()["data"]


def _selector(metric: str, tenant: str) -> str:
    return f'{metric}{{{TENANT_LABEL}="{tenant}"}}'


def _configuration(service_address: str) -> dict[str, object]:
    return {
        "global": {"scrape_interval": "5s"},
        "storage": {"exemplars": {"max_exemplars": 20_000}},
        "scrape_configs": [{"job_name": "millrace", "static_configs": [{"targets": [service_address]}]}],
    }
