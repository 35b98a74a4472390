"""Waiting for what nothing announces: until it is so, and no longer than a deadline."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], object | Awaitable[object]], timeout_s: float, otherwise: Callable[[], str]
) -> None:
    """Return as soon as the condition holds; it is asked every few milliseconds.

    Args:
        condition: asks; may be asynchronous.
        timeout_s: how long to go on asking.
        otherwise: says what was seen instead, for the failure.

    Raises:
        AssertionError: it did not come to hold in time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {otherwise()}")
        await asyncio.sleep(0.05)
