"""Waiting for what a test is about to look at: bounded, and no longer than needed."""

import asyncio
import socket
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Return as soon as a condition holds that nothing announces; fail after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Wait up to 30 s for the peer to close or reset; return what it sent before."""
    received = b""
    try:
        async with asyncio.timeout(30):
            while chunk := await reader.read(65_536):
                received += chunk
    except ConnectionError:
        pass
    return received


def is_open(port: int) -> bool:
    """Tell whether somebody accepts connections on 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
