"""A real Prometheus that takes remote writes, for tests: its own data, a free port on 127.0.0.1."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.lasting_ports import lasting_port

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_TAKEN_PORT_TRIES = 3
_WRITES = {"handler": "/api/v1/write"}
# What its log says of samples and exemplars that it does not take.
_REFUSALS = ("from remote write", "appending remote write", "ingesting out-of-order exemplars", "write request")
# What it says when it ends under a write: it answers 500 or nothing, and is sent the same again.
_ENDING = "file already closed"
# What it says of a request whose sender was killed before it had sent all of it: it answers 400, to nobody.
_CUT = 'msg="Error decoding remote write request" err="unexpected EOF"'


class Prometheus:
    """One Prometheus process with the remote-write receiver; unless its configuration says more it scrapes nothing.

    Use it as an asynchronous context manager, or call :meth:`start` and :meth:`stop`. Between them it can end and
    live again, with its data and its port: :meth:`end` and :meth:`start_again`.

    Args:
        features: that are switched on.
        configuration: the text of its configuration file.
        host: the address it listens on.
    """

    def __init__(
        self,
        features: str = "exemplar-storage,native-histograms",
        configuration: str = "scrape_configs: []\n",
        host: str = "127.0.0.1",
    ) -> None:
        self._features = features
        self._configuration = configuration
        self._host = host
        self._binary = shutil.which("prometheus")
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.AsyncClient | None = None
        self._port = 0
        self._answers_before: Counter[str] = Counter()

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
        return f"http://{self._host}:{self._port}"

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
        (self._folder / "prometheus.yml").write_text(self._configuration)
        self._client = httpx.AsyncClient(trust_env=False, timeout=10)
        for _ in range(_TAKEN_PORT_TRIES):
            self._port = lasting_port()
            self._launch()
            if await self._becomes_ready():
                return
            # Somebody may have taken the port between our look and its bind: try another one.
            if "address already in use" not in self._log():
                break
        await self._fail_to_start()

    async def end(self, *, kill: bool = False) -> None:
        """End the process and keep its data: as its operator would, or with ``kill`` as a power cut would."""
        assert self._process is not None, "not started"
        # What it counted dies with it.
        self._answers_before = await self.write_answers()
        if kill:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        else:
            await self._terminate(self._process)

    async def start_again(self) -> None:
        """Start it after :meth:`end`, in the same place, and wait until it has read its data and is ready.

        Raises:
            RuntimeError: it did not become ready; with its log.
        """
        self._launch()
        if not await self._becomes_ready():
            await self._fail_to_start()

    async def stop(self) -> None:
        """End the process that was started, and remove its data. Can be repeated."""
        if self._process is not None and self._process.poll() is None:
            await self._terminate(self._process)
        self._process = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder)
            self._folder = None

    async def write_answers(self) -> Counter[str]:
        """Return how often it gave remote writes each status, in all its lives.

        What it answered between the last reading of a life and its end is missing; :attr:`refusals` has that too.
        """
        assert self._client is not None, "not started"
        answers = Counter(self._answers_before)
        for family in text_string_to_metric_families((await self._client.get(f"{self.base_url}/metrics")).text):
            for sample in family.samples:
                if sample.name == "prometheus_http_requests_total" and _WRITES.items() <= sample.labels.items():
                    answers[sample.labels["code"]] += round(sample.value)
        return answers

    @property
    def refusals(self) -> list[str]:
        """The lines of its log, over all its lives, about samples and exemplars that it did not take."""
        lines = [line for line in self._log().splitlines() if _ENDING not in line and _CUT not in line]
        return [line for line in lines if any(words in line for words in _REFUSALS)]

    @property
    def cut_requests(self) -> int:
        """How many requests, over all its lives, ended before they were whole."""
        return sum(_CUT in line for line in self._log().splitlines())

    async def query(self, expr: str, time: float | None = None) -> list[dict[str, Any]]:
        """Evaluate a PromQL expression at ``time`` (seconds since the epoch; default now).

        Returns:
            The elements of the vector or matrix, such as ``{"metric": {...}, "value": [time, "1"]}``.
        """
        parameters = {"query": expr} | ({} if time is None else {"time": f"{time:.3f}"})
        result: list[dict[str, Any]] = (await self._get("query", parameters))["result"]
        return result

    async def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Evaluate an expression at ``start``, every ``step`` seconds, and at ``end`` at most.

        Returns:
            The elements of the matrix, such as ``{"metric": {...}, "values": [[time, "1"], ...]}``.
        """
        parameters = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        result: list[dict[str, Any]] = (await self._get("query_range", parameters))["result"]
        return result

    async def label_names(self, match: str) -> list[str]:
        """Return the names of the labels of the series that match the selector."""
        result: list[str] = await self._get("labels", {"match[]": match})
        return result

    async def label_values(self, label: str, match: str) -> list[str]:
        """Return the values of a label of the series that match the selector."""
        result: list[str] = await self._get(f"label/{label}/values", {"match[]": match})
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

    async def rules(self) -> list[dict[str, Any]]:
        """Return its rules, such as ``{"name": "…", "health": "ok", "state": "inactive"}``."""
        groups: list[dict[str, Any]] = (await self._get("rules", {}))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def _get(self, path: str, parameters: dict[str, str]) -> Any:
        assert self._client is not None, "not started"
        response = await self._client.get(f"{self.base_url}/api/v1/{path}", params=parameters)
        answer = response.json()
        if answer["status"] != "success":
            raise RuntimeError(f"prometheus refused {path} {parameters}: {answer['error']}")
        return answer["data"]

    async def _fail_to_start(self) -> NoReturn:
        log = self._log()
        await self.stop()
        raise RuntimeError(f"prometheus did not become ready; its log ends:\n{log[-2000:]}")

    async def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _launch(self) -> None:
        assert self._binary is not None
        assert self._folder is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    "--web.enable-remote-write-receiver",
                    f"--enable-feature={self._features}",
                    f"--web.listen-address={self._host}:{self._port}",
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
