"""Answers that are held back, to shape the load of a tenant (tenancy §4.8)."""

import asyncio
from collections.abc import Callable
from typing import Final

from tenants.limits.rate import Random
from tenants.settings.scalars import Duration

MAX_WAITING: Final = 256
"""Answers that wait at once. Each holds a connection, of which all tenants together have a bounded number."""

_JITTER: Final = 0.1
_SECOND_NS: Final = 1_000_000_000


class ArtificialDelay:
    """Holds answers back. One event loop owns it.

    An answer beyond the bounds is not held back: clients of other tenants would pay for it.

    Args:
        random: spreads the delays by a tenth.
        clock_ns: a clock that never goes back.
        max_bytes: size of all requests whose answers wait; they cost memory as long as they do.
        max_waiting: number of answers that wait.
    """

    def __init__(
        self, random: Random, clock_ns: Callable[[], int], *, max_bytes: int, max_waiting: int = MAX_WAITING
    ) -> None:
        self._random = random
        self._clock_ns = clock_ns
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._ended = asyncio.Event()
        self._waiting = 0
        self._bytes = 0

    async def pad(self, delay: Duration, began_ns: int, size: int) -> float:
        """Wait until a request of ``size`` bytes has taken ``delay`` since ``began_ns``, give or take a tenth.

        Returns:
            Seconds that were added; 0 if it had taken as long by itself, or if too many wait.
        """
        padded_ns = round(delay.ns * (1 - _JITTER + 2 * _JITTER * self._random()))
        missing_ns = began_ns + padded_ns - self._clock_ns()
        if missing_ns <= 0 or self._waiting >= self._max_waiting or self._bytes + size > self._max_bytes:
            return 0.0
        self._waiting += 1
        self._bytes += size
        try:
            return await self._sleep(missing_ns / _SECOND_NS)
        finally:
            self._waiting -= 1
            self._bytes -= size

    def end(self) -> None:
        """Hold nothing back from now on, not even what waits: the process wants to stop."""
        self._ended.set()

    async def _sleep(self, seconds: float) -> float:
        before_ns = self._clock_ns()
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return seconds
        return (self._clock_ns() - before_ns) / _SECOND_NS
