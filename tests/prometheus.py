"""A real Prometheus that takes remote writes, for tests: its own data, a free port on 127.0.0.1."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from cluster.demo.ports import free_port

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_TAKEN_PORT_TRIES = 3


class Prometheus:
    """One Prometheus process with the remote-write receiver, exemplars and native histograms, scraping nothing.

    Use it as an asynchronous context manager, or call :meth:`start` and :meth:`stop`.
    """

    def __init__(self) -> None:
        self._binary = shutil.which("prometheus")
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.AsyncClient | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where to remote-write."""
        return f"{self.base_url}/api/v1/write"

    @property
    def base_url(self) -> str:
        """Where its API and pages are."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            RuntimeError: there is no ``prometheus`` on the path, or it did not become ready; with its log.
        """
        if self._binary is None:
            raise RuntimeError(
                "these tests need a real Prometheus (2.42 or newer) and found no 'prometheus' on PATH; "
                "on Debian: apt-get install prometheus"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        (self._folder / "prometheus.yml").write_text("scrape_configs: []\n")
        self._client = httpx.AsyncClient(trust_env=False, timeout=10)
        for _ in range(_TAKEN_PORT_TRIES):
            self._port = free_port()
            self._launch()
            if await self._becomes_ready():
                return
            # Somebody may have taken the port between our look and its bind: try another one.
            if "address already in use" not in self._log():
                break
        log = self._log()
        await self.stop()
        raise RuntimeError(f"prometheus did not become ready; its log ends:\n{log[-2000:]}")

    async def stop(self) -> None:
        """End the process that was started, and remove its data. Can be repeated."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        self._process = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder)
            self._folder = None

    async def query(self, expr: str, time: float | None = None) -> list[dict[str, Any]]:
        """Evaluate a PromQL expression at ``time`` (seconds since the epoch; default now).

        Returns:
            The elements of the vector or matrix, such as ``{"metric": {...}, "value": [time, "1"]}``.
        """
        parameters = {"query": expr} | ({} if time is None else {"time": f"{time:.3f}"})
        result: list[dict[str, Any]] = (await self._get("query", parameters))["result"]
        return result

    async def series(self, match: str) -> list[dict[str, str]]:
        """Return the label sets of the series that match the selector, whenever they had samples."""
        result: list[dict[str, str]] = await self._get("series", {"match[]": match, "start": "0"})
        return result

    async def query_exemplars(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the exemplars of the series that ``expr`` selects, between two times in seconds."""
        result: list[dict[str, Any]] = await self._get(
            "query_exemplars", {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}"}
        )
        return result

    async def _get(self, path: str, parameters: dict[str, str]) -> Any:
        assert self._client is not None, "not started"
        response = await self._client.get(f"{self.base_url}/api/v1/{path}", params=parameters)
        answer = response.json()
        if answer["status"] != "success":
            raise RuntimeError(f"prometheus refused {path} {parameters}: {answer['error']}")
        return answer["data"]

    def _launch(self) -> None:
        assert self._binary is not None
        assert self._folder is not None
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    "--web.enable-remote-write-receiver",
                    "--enable-feature=exemplar-storage,native-histograms",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
            )

    async def _becomes_ready(self) -> bool:
        assert self._client is not None
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while self._process.poll() is None:
                    # Refused until it listens, 503 until it is ready.
                    with contextlib.suppress(httpx.TransportError):
                        if (await self._client.get(f"{self.base_url}/-/ready")).status_code == 200:
                            return True
                    await asyncio.sleep(0.05)
        return False

    def _log(self) -> str:
        assert self._folder is not None
        return (self._folder / "log").read_text(errors="replace")
