"""Threads for the work on registries, which takes from a millisecond to seconds: the big must not hold up the small."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

LONG_S: Final = 0.1
"""Work that takes longer is long."""

_LEAST_THREADS: Final = 4

Result = TypeVar("Result")


class WorkThreads:
    """A bounded number of threads, of which some are never given to long work. One event loop owns it.

    Whether work will be long is for its owner to say, who knows how long it took the last time.

    Args:
        threads: how many; None: two for each processor, at least 4. Long work has half of them.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = threads or max(_LEAST_THREADS, 2 * (os.cpu_count() or 1))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="work")
        self._for_long = asyncio.Semaphore(max(1, count // 2))

    async def run(self, work: Callable[[], Result], *, is_long: bool) -> Result:
        """Do this in a thread, as soon as one is free for it, and return what comes of it.

        Once it has begun it is finished, also if nobody waits for it any more.
        """
        loop = asyncio.get_running_loop()
        if not is_long:
            return await loop.run_in_executor(self._threads, work)
        await self._for_long.acquire()
        done = self._threads.submit(work)

        def release(_: object) -> None:
            # The loop may have been closed meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._for_long.release)

        # Of the thread's future: who gives up waiting does not free the thread.
        done.add_done_callback(release)
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Let go of the threads; what runs is finished."""
        self._threads.shutdown(wait=False)
