"""A client that sends until it is acknowledged, as exporters do, and more often than it need."""

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import grpc.aio
import httpx

from tests.integration.otlp_client import Answer, GrpcClient, HttpClient
from tests.integration.service import MillraceProcess

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0
_RESENT: Final = 0.2
_HUNG_UP: Final = 0.05
_RETRYABLE: Final = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "429", "502", "503", "504"}


class PersistentClient:
    """Sends requests one after the other, each with the same bytes until it is acknowledged.

    A fifth of what was acknowledged is sent again, now or later, and of some calls the answer is not waited for: both
    happen in networks, and must change nothing.

    Attributes:
        acknowledged: requests that were.
        attempts: calls that were made.
        refused: of these, those that the service refused for now.
        longest_s: longest that a request took from its first call to its acknowledgement.
    """

    def __init__(self, service: MillraceProcess, tenant: str, rng: random.Random) -> None:
        self.acknowledged = 0
        self.attempts = 0
        self.refused = 0
        self.longest_s = 0.0
        self._service = service
        self._tenant = tenant
        self._rng = rng
        self._client: GrpcClient | HttpClient | None = None
        self._again: list[bytes] = []

    async def send_all(self, bodies: Sequence[bytes], pause_s: float) -> None:
        """Send these requests, with pauses between them of so many seconds on average."""
        for body in bodies:
            await self._until_acknowledged(body)
            self.acknowledged += 1
            if self._rng.random() < _RESENT:
                self._again.append(body)
            if self._again and self._rng.random() < _RESENT:
                await self._until_acknowledged(self._again.pop(self._rng.randrange(len(self._again))))
            await asyncio.sleep(self._rng.expovariate(1 / pause_s))
        for body in self._again:
            await self._until_acknowledged(body)
        await self._hang_up()

    async def _until_acknowledged(self, body: bytes) -> None:
        pause_s = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            answer = await self._attempt(body)
            if answer is not None and answer.is_accepted:
                self.longest_s = max(self.longest_s, loop.time() - began)
                return
            assert answer is None or answer.status in _RETRYABLE, answer
            self.refused += answer is not None
            asked_s = (answer and answer.retry_delay_s) or 0.0
            await asyncio.sleep(max(asked_s, self._rng.uniform(pause_s / 2, pause_s)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _attempt(self, body: bytes) -> Answer | None:
        self.attempts += 1
        if self._client is None:
            # Either protocol, whatever the last one was.
            use_grpc = self._rng.random() < 0.5
            port = self._service.grpc_port if use_grpc else self._service.otlp_http_port
            host = self._rng.choice(self._service.otlp_hosts)
            self._client = GrpcClient(port, host) if use_grpc else HttpClient(port, host)
        try:
            async with asyncio.timeout(self._patience_s()):
                answer = await self._client.export(body, self._tenant)
        except (TimeoutError, httpx.HTTPError, grpc.aio.UsageError):
            await self._hang_up()
            return None
        if not answer.is_accepted:
            # A connection that is lost waits ever longer before it is tried again.
            await self._hang_up()
        return answer

    def _patience_s(self) -> float:
        """How long to wait for an answer; now and then hardly at all."""
        return self._rng.uniform(0.0, 0.05) if self._rng.random() < _HUNG_UP else 30.0

    async def _hang_up(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__(None, None, None)
