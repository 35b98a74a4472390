"""A clock that stands still until a test moves it; sleepers wake when their time has come."""

import asyncio

from tests.unit.conditions import until
from tests.unit.fake_clock import START_MS


class StandingClock:
    """Starts at ``START_MS``."""

    def __init__(self) -> None:
        self.time_ms = START_MS
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self.time_ms

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time_ms + seconds * 1000, awake))
        await awake

    def move(self, seconds: float) -> None:
        self.time_ms += round(seconds * 1000)
        for sleeper in self._sleepers[:]:
            if sleeper[0] <= self.time_ms:
                self._sleepers.remove(sleeper)
                if not sleeper[1].done():
                    sleeper[1].set_result(None)

    async def pass_by(self, seconds: int) -> None:
        """Move second by second, each time as soon as somebody sleeps."""
        for _ in range(seconds):
            await until(lambda: any(not awake.done() for _, awake in self._sleepers))
            self.move(1)
