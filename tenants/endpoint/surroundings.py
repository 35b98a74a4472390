"""What a sender needs from outside: time, randomness, the network. Holds no settings and no state."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

from tenants.endpoint.division import Divide, parts
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.work_threads import WorkThreads
from tenants.journal.backlog_writer import BacklogWriter
from tenants.tracing.spans import Tracer


class Clock(Protocol):
    """Wall time and the passing of it."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch; may step back when the machine's clock is set."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""


class SystemClock:
    """The clock of the machine and of the running event loop."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all senders of a process share.

    Attributes:
        clients: whoever made them closes them, after the senders.
        clock: wall time and back-off sleeps. Time limits on network calls are the event loop's own.
        rng: jitter of the back-off.
        version: of Millrace, for ``User-Agent``.
        divide: how a batch is divided that a receiver does not take whole.
        backlog: where batches wait on disk; None: in memory only.
        threads: for the work on registries.
        tracer: of Millrace's own traces; None: none.
    """

    clients: HttpClients
    clock: Clock
    rng: random.Random
    version: str
    divide: Divide = parts
    backlog: BacklogWriter | None = None
    threads: WorkThreads = field(default_factory=WorkThreads)
    tracer: Tracer | None = None
