"""Does a tenant notice that the endpoints of others are dead?

200 tenants in one collector with a journal, each with an endpoint of its own. First all endpoints answer; then 25 of
them refuse connections and 25 take requests and never answer. For the other 150 it prints how long it took from the
record that counted a span to the moment when a receiver, in a process of its own, had the sample with that span in it,
and the part of it behind the collection's timestamp. The collections of a tenant are 5 s apart, so that the greater
part of the first is waiting for the next one. The result counts only if every span of these tenants arrived, and each
series in order.
"""

import asyncio
import logging
import multiprocessing
import random
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.report import print_result
from cluster.demo.memory import uncompress
from cluster.demo.write_request import read_write_request
from tenants import _engine
from tenants.endpoint import HttpClients, Surroundings, SystemClock
from tenants.endpoint.collector_set import CollectorSet
from tenants.identity import TenantId
from tenants.journal.backlog_writer import BacklogWriter
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import FlushRecord, Place, ShardKey
from tenants.processing.profile import ProfileBook
from tenants.settings import Overrides, parse_service_config
from tenants.settings.in_force import OverridesInForce, whole
from tenants.settings.model import validate

TENANTS = 200
DEAD = 25
HANGING = 25
INTERVAL_S = 5
WARM_UP_S = 10
MEASURED_S = 40
DRAIN_S = 8
NAMES = 20
"""Span names of a tenant: some 340 series."""

CONFIG = parse_service_config(b"multitenancy_enabled: true\nremote_write_targets: {allowed_private: [127.0.0.0/8]}", {})

Arrival = tuple[float, str, bytes]


def receive(connection: Connection) -> None:
    """Take remote writes until told to end, then answer with what came, and when."""

    async def serve() -> None:
        arrivals: list[Arrival] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").lower().split("\r\n")
                length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
                body = await reader.readexactly(length)
                arrivals.append((time.time(), lines[0].split()[1].strip("/"), body))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                writer.close()

        server = await asyncio.start_server(patient, "127.0.0.1", 0, backlog=1000)
        connection.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(connection.recv)
        connection.send(arrivals)

    asyncio.run(serve())


@contextmanager
def receiver() -> Iterator[tuple[int, Connection]]:
    """A receiver in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=receive, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv(), here
    finally:
        process.terminate()
        process.join()


@contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections, as many as its queue holds, and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1000)
        yield listener.getsockname()[1]


@contextmanager
def nobody() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def book(ports: Sequence[int]) -> ProfileBook:
    """Settings of the tenants, each with the endpoint at its port."""
    made = ProfileBook(CONFIG)
    entries = {}
    for number, port in enumerate(ports):
        endpoint = {"url": f"http://127.0.0.1:{port}/{number}", "protobuf_message": "prometheus.WriteRequest"}
        generator = {
            "processors": ["span-metrics"],
            "collection_interval": f"{INTERVAL_S}s",
            "remote_write": [endpoint],
        }
        entries[f"tenant-{number}"] = validate(Overrides, {"metrics_generator": generator})
    made.put_overrides(whole(OverridesInForce(version=1, runtime=entries)))
    return made


def request(number: int) -> bytes:
    """One span of each name."""
    built = ExportTraceServiceRequest()
    scope = built.resource_spans.add().scope_spans.add()
    now_ns = time.time_ns()
    for name in range(NAMES):
        trace_id = random.Random(number * NAMES + name).randbytes(16)
        scope.spans.append(
            Span(
                name=f"operation {name}",
                trace_id=trace_id,
                span_id=trace_id[:8],
                start_time_unix_nano=now_ns - 1_000_000,
                end_time_unix_nano=now_ns,
            )
        )
    return built.SerializeToString()


class Feed:
    """One shard of one tenant, and when each number of spans was counted."""

    def __init__(self, tenants: CollectorSet, tenant: TenantId) -> None:
        self._tenants = tenants
        self._profile = tenants.book.get(tenant)
        self._key = ShardKey(tenant, 0, 1)
        self._shard = _engine.Shard(self._profile.plan)
        self._place = Place(0, 0)
        self.counted: list[tuple[int, float]] = []

    async def run(self, ends_at: float) -> None:
        """Count a span of each name about once a second."""
        claimed = (await self._tenants.claim("host", [self._key]))[self._key]
        self._place = Place(claimed.epoch, 0)
        rounds = 0
        while time.time() < ends_at:
            rounds += 1
            now_ns = time.time_ns()
            split = _engine.split(request(rounds), self._profile.plan, 1, now_ns)
            for _, frame in split.frames:
                self._shard.apply(frame, now_ns)
            await self._hand_over(self._shard.flush(now_ns))
            self.counted.append((rounds, time.time()))
            await asyncio.sleep(random.uniform(0.8, 1.2))

    async def _hand_over(self, data: bytes) -> None:
        self._place = Place(self._place.epoch, self._place.sequence + 1)
        record = FlushRecord(self._key, self._place, data)
        while not (taken := self._tenants.take([record])).futures:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # the tenant's state is being worked on
        for future in taken.futures:
            await future


async def measure(folder: Path, *, is_sick: bool) -> dict[str, float]:
    """Run all tenants for a while; return delays of those that have an endpoint that answers."""
    with receiver() as (good, connection), silence() as silent, nobody() as refused:
        sick = [refused] * DEAD + [silent] * HANGING if is_sick else []
        # Among the others, so that their turns come between theirs.
        ports = [sick.pop() if sick and number % 4 == 0 else good for number in range(TENANTS)]
        store = JournalStore.open(f"sqlite:///{folder}/journal.db", "collector-0", time.time_ns())
        clock, rng = SystemClock(), random.Random(7)
        journal, backlog = JournalWriter(store, clock, rng), BacklogWriter(store.backlog)
        settings = book(ports)
        async with HttpClients(CONFIG.remote_write_targets) as clients:
            around = Surroundings(clients, clock, rng, "bench", backlog=backlog)

            async def nothing(_host: str, _owned: Any) -> Sequence[FlushRecord]:
                return ()

            tenants = CollectorSet(settings, around, journal, nothing)
            feeds = [Feed(tenants, TenantId(f"tenant-{number}")) for number in range(TENANTS)]
            begun = time.time()
            await asyncio.gather(*(feed.run(begun + WARM_UP_S + MEASURED_S) for feed in feeds))
            await asyncio.sleep(DRAIN_S)
            waiting = [each for shot in tenants.snapshots().values() for each in shot.endpoint.endpoints]
            memory = psutil.Process().memory_info().rss
            connection.send("end")
            arrivals: list[Arrival] = await asyncio.to_thread(connection.recv)
            await tenants.drain(0.5)
        await backlog.close()
        await journal.close()
        store.close()
    healthy = [number for number, port in enumerate(ports) if port == good]
    figures = delays(arrivals, {number: feeds[number].counted for number in healthy}, begun + WARM_UP_S)
    return figures | {
        "healthy": len(healthy),
        "waiting_batches": sum(each.pending_batches for each in waiting),
        "on_disk_batches": sum(each.stored_batches for each in waiting),
        "resident_mib": memory / 2**20,
    }


def delays(arrivals: Sequence[Arrival], counted: dict[int, list[tuple[int, float]]], since: float) -> dict[str, float]:
    """Return the delays from counting to arrival, and from collection to arrival; check that all came, in order."""
    seen: dict[int, list[tuple[float, float]]] = {number: [] for number in counted}
    newest: dict[tuple[int, bytes], int] = {}
    from_collection = []
    for at, path, body in arrivals:
        number = int(path)
        for series in read_write_request(uncompress(body)):
            last = series.samples[-1]
            place = (number, series.identity)
            assert last.timestamp_ms > newest.get(place, 0), f"tenant {number}: out of order"
            newest[place] = last.timestamp_ms
            if b"traces_spanmetrics_calls_total" in series.identity and b"operation 7" in series.identity:
                seen[number].append((last.value, at))
                if at > since:
                    from_collection.append(at - last.timestamp_ms / 1000)
    from_span = []
    for number, rounds in counted.items():
        for count, at in rounds:
            arrived = next((then for value, then in seen[number] if value >= count), None)
            assert arrived is not None, f"tenant {number}: {count} spans counted, not all arrived"
            if at > since:
                from_span.append(arrived - at)
    return {
        "p50_s": quantile(from_span, 0.5),
        "p99_s": quantile(from_span, 0.99),
        "behind_collection_p99_ms": 1000 * quantile(from_collection, 0.99),
        "spans": len(from_span),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which so many of all are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Measure both and print the difference."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = {}
    for name, is_sick in (("all_answer", False), ("50_dead", True)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = asyncio.run(measure(Path(folder), is_sick=is_sick))
        figures = {key: round(value, 3) for key, value in found[name].items()}
        print_result(f"bulkheads.{name}.p99", found[name]["p99_s"], "s from span to receiver", **figures)
    change = found["50_dead"]["p99_s"] / found["all_answer"]["p99_s"] - 1
    print_result("bulkheads.p99_change", 100 * change, "percent")


if __name__ == "__main__":
    main()
