"""Where the engine reads a body: at once if that is quick, in a thread if other requests would have to wait."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

IN_THREAD_BYTES: Final = 1 << 20
"""Larger bodies are read in a thread."""


async def beside_the_loop(size: int, read: Callable[[], T]) -> T:
    """Return what ``read`` makes of a body of ``size`` bytes."""
    return await asyncio.to_thread(read) if size > IN_THREAD_BYTES else read()
