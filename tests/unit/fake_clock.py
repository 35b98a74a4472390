"""A clock whose sleeps take no time: they are noted, and the time of day moves on by them."""

import asyncio
from collections.abc import Awaitable, Callable

START_MS = 1_800_000_000_000


class FakeClock:
    """Starts at ``START_MS``. Set ``on_sleep`` to do something while a sleeper sleeps."""

    def __init__(self) -> None:
        self.time_ms: float = START_MS
        self.sleeps: list[float] = []
        self.on_sleep: Callable[[], Awaitable[None]] | None = None

    def now_ms(self) -> int:
        return int(self.time_ms)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if self.on_sleep is not None:
            await self.on_sleep()
        await asyncio.sleep(0)
        self.time_ms += seconds * 1000
