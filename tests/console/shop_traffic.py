"""A made-up shop's spans, sent over OTLP/HTTP with a token for as long as a test looks."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Final, Self

import httpx

from cluster.demo.acme import ACME
from cluster.demo.otlp import export_request
from cluster.demo.shop import Shop

_TRACES: Final = 12
_PAUSE_S: Final = 0.5


class ShopTraffic:
    """An asynchronous context manager: sends until it is left."""

    def __init__(self, port: int, token: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/x-protobuf"},
            trust_env=False,
        )
        self._shop = Shop(ACME, 1, time.time_ns())
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._send()
        self._task = asyncio.get_running_loop().create_task(self._send_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._client.aclose()

    async def _send(self) -> None:
        now_ns = time.time_ns()
        spans = [span for number in range(_TRACES) for span in self._shop.trace(now_ns - 3_000_000_000 + number * 1000)]
        answer = await self._client.post("/v1/traces", content=export_request(spans).SerializeToString())
        answer.raise_for_status()

    async def _send_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S)
            await self._send()
