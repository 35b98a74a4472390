"""A sender and a receiver with a script, for tests of what becomes of batches."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters
from tenants.endpoint.endpoint_backlog import EndpointBacklog
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.identity.tenant_id import TenantId
from tenants.journal.backlog_writer import BacklogWriter
from tenants.journal.store import JournalStore
from tests.unit.fake_clock import START_MS
from tests.unit.receiver import Received, Receiver, Step

ACME = TenantId("acme")
KEY = "endpoint"


def batch(second: int = 0, *, lane: int = 0, lanes: int = 1, series: Sequence[str] = ("a",)) -> Batch:
    """A batch of one sample for each of these series; its body says what is in it."""
    body = f"{second}/{lane} {' '.join(series)}".encode()
    return Batch(body, len(series), 0, len(series), START_MS + 1000 * second, lane=lane, lanes=lanes)


def divide(whole: Batch) -> list[Batch]:
    """Halve a batch of :func:`batch`."""
    head, *series = whole.body.decode().split()
    if len(series) == 1:
        return [whole]
    middle = (len(series) + 1) // 2
    return [
        replace(whole, body=f"{head} {' '.join(half)}".encode(), samples=len(half), series=len(half))
        for half in (series[:middle], series[middle:])
    ]


def seconds(requests: Iterable[Received], lane: int | None = None) -> list[int]:
    """Which collections came in, in order; of one lane, or all."""
    heads = [request.body.decode().split()[0].split("/") for request in requests]
    return [int(second) for second, of in heads if lane is None or int(of) == lane]


def series(request: Received) -> list[str]:
    """The series of a request."""
    return request.body.decode().split()[1:]


@asynccontextmanager
async def sending(
    config: EndpointConfig, around: Surroundings, backlog: EndpointBacklog | None = None
) -> AsyncIterator[EndpointSender]:
    sender = EndpointSender("acme", config, around, backlog)
    sender.start()
    try:
        yield sender
    finally:
        await sender.close()


@asynccontextmanager
async def sending_to(
    script: Iterable[Step], around: Surroundings, *, otherwise: Step = 204, **settings: Any
) -> AsyncIterator[tuple[Receiver, EndpointSender]]:
    """A receiver with a script, and a sender with these settings that sends to it."""
    async with (
        Receiver(script, otherwise=otherwise) as receiver,
        sending(EndpointConfig(receiver.url, **settings), around) as sender,
    ):
        yield receiver, sender


@asynccontextmanager
async def disk(folder: Path, incarnation: int = 1) -> AsyncIterator[tuple[JournalStore, EndpointBacklog]]:
    """A backlog in a file of the folder."""
    store = JournalStore.open(f"sqlite:///{folder}/journal.db", "collector-0", incarnation)
    writer = BacklogWriter(store.backlog)
    try:
        yield store, EndpointBacklog(writer, ACME, KEY)
    finally:
        await writer.close()
        store.close()


async def settled(sender: EndpointSender) -> EndpointCounters:
    """Everything submitted has been answered for good; no sample is unaccounted for."""
    assert await sender.drain(10)
    counters = sender.snapshot()
    assert_closes(counters)
    return counters


def assert_closes(counters: EndpointCounters) -> None:
    """Every sample is somewhere."""
    assert counters.samples_submitted == (
        counters.samples_sent
        + sum(counters.samples_failed.values())
        + counters.samples_dropped
        + counters.pending_samples
    )
