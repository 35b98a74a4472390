"""What does it cost to count every span once, and to go on with the same numbers after any process has died?

For one tenant with a million series that spans keep moving:

* CPU a span, with fingerprints, the durable part of records, mirror, journal (committed to SQLite) and retained frames,
  and without all that, measured turn by turn on the same requests. Shards write the ledger and what they tell of half
  edges into their records in both: an engine that does not is not there to compare with. The best turn of each counts.
* Bytes of journal a span, by how many spans there are in a flush: a record holds each series that moved once. Spans are
  spread evenly over all operations, which is the worst case; most real ones move the same few.
* Memory of the deduplication window when it is full, in a shard and in the mirror.
* Time to recover from checkpoint and journal, at the length at which the next checkpoint is due, and at the greatest,
  while an endpoint takes nothing. The result counts only if the recovered registry has the same figures.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from bench.plans import plan
from bench.report import print_result
from bench.shapes import BATCHED, SPANS_PER_REQUEST, Shape, operation_requests
from cluster.gateway.retention import Retention, SentFrame
from tenants import _engine
from tenants.endpoint.recovery import recover
from tenants.endpoint.tenant_collector import MIN_CHECKPOINT_BYTES, UNDELIVERED_ENTRIES
from tenants.identity.tenant_id import TenantId
from tenants.journal.entries import BeginEntry, ClaimEntry, CollectEntry, Entry, RecordEntry, encode
from tenants.journal.store import JournalStore
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.tenant_state import DEDUPLICATION_WINDOW_NS, TenantState
from tenants.settings.service_config import ServiceConfig
from tests.postgres import Postgres

MILLION: Final = Shape("million", (), 13_000, BATCHED.build)
REQUESTS: Final = 160
SPANS_A_FLUSH: Final = (200_000, 1_000_000)
TURNS: Final = 30
FLUSHES_A_COLLECTION: Final = 15
SECOND_NS: Final = 1_000_000_000
WINDOW: Final = 1 << 20
"""Most fingerprints of one shard (``MAX_FINGERPRINTS`` of the engine)."""

TENANT: Final = TenantId("million")
KEY: Final = ShardKey(TENANT, 0, 1)
HOST: Final = "shard-host-0"
# The same requests come again for some simulated minutes, and are not too late.
PLAN: Final = json.dumps(plan() | {"ingestion_time_range_slack_s": 3600.0})


def fingerprint_of(number: int) -> bytes:
    """Return a fingerprint that looks like any other."""
    return (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16)


class Plain:
    """Counts requests, and merges what was counted."""

    def __init__(self, now_ns: int) -> None:
        self.plan = _engine.Plan(PLAN)
        self.now_ns = now_ns
        self.shard = _engine.Shard(self.plan)
        self.registry = _engine.Registry(self.plan, now_ns // 1_000_000)

    def count(self, request: bytes) -> None:
        """Split a request and apply its frame."""
        ((_, frame),) = _engine.split(request, self.plan, 1, self.now_ns).frames
        self.shard.apply(frame, self.now_ns)

    def flush(self) -> None:
        """Merge everything since the last flush, a second later."""
        self.registry.merge(0, self.shard.flush(self.now_ns), self.now_ns)
        self.now_ns += SECOND_NS


class Exact:
    """Does the same so that all of it is journalled, counted once, and kept until then."""

    def __init__(self, now_ns: int, store: JournalStore) -> None:
        self.plan = _engine.Plan(PLAN)
        self.now_ns = now_ns
        self.store = store
        self.durable_bytes = 0
        self._requests = 0
        self._sequence = 0
        self._retention = Retention()
        begin = BeginEntry(PLAN, now_ns // 1_000_000, 7)
        claim = ClaimEntry(0, 1, HOST, 1, now_ns)
        self.state = TenantState(TENANT, begin)
        self.journal(begin, claim)
        self.shard = _engine.Shard(self.plan, state=self.state.claim(claim).state)

    def journal(self, *entries: Entry) -> None:
        """Commit entries."""
        first = self.store.last_position(TENANT) + 1
        self.store.append([(TENANT, first + number, encode(entry)) for number, entry in enumerate(entries)])

    def count(self, request: bytes) -> None:
        """Split a request, apply its frame once, and keep it."""
        _engine.fingerprint(request)
        ((_, frame),) = _engine.split(request, self.plan, 1, self.now_ns).frames
        # The same requests come again and again, and are to be counted.
        self._requests += 1
        fingerprint = fingerprint_of(self._requests)
        loop = asyncio.get_running_loop()
        sent = SentFrame(
            KEY, (0, 1), fingerprint, frame, loop.create_future(), loop.create_future(), since_s=self.now_ns / 1e9
        )
        self.shard.apply(frame, self.now_ns, fingerprint=fingerprint, made_for=(0, 1))
        sent.place = Place(1, self._sequence + 1)
        self._retention.keep(sent)

    def flush(self) -> None:
        """Journal everything since the last flush, merge it, and let go of its frames, a second later."""
        record = self.shard.flush(self.now_ns)
        durable = _engine.durable_part(record)
        self._sequence += 1
        entry = RecordEntry(0, 1, 1, self._sequence, self.now_ns, durable)
        self.journal(entry)
        if not self.state.take(entry, record):
            raise SystemExit("a record was not taken")
        self._retention.settle({KEY: Place(1, self._sequence)}, (KEY,))
        if self._retention:
            raise SystemExit("frames are left")
        self.durable_bytes += len(durable)
        self.now_ns += SECOND_NS

    def collect(self) -> None:
        """Journal a collection, and do it; it is not delivered."""
        entry = CollectEntry(self.now_ns // 1_000_000, self.state.delivered_ms, False)
        self.journal(entry)
        self.state.begin_collection(entry)
        self.state.registry.collect_silently(entry.timestamp_ms)

    def checkpoint(self) -> None:
        """Let a checkpoint stand for what is journalled."""
        self.store.checkpoint(TENANT, self.store.last_position(TENANT), self.state.checkpoint())


class Feed:
    """The same requests again and again, to whom is named."""

    def __init__(self, now_ns: int) -> None:
        self._requests = MILLION.requests(REQUESTS, now_ns)
        self._next = 0

    def turn(self, *counters: Plain | Exact, spans: int) -> list[float]:
        """Let each count so many spans and flush; return the seconds of CPU that each took."""
        first, took = self._next, []
        for counter in counters:
            started = time.process_time()
            for number in range(first, first + spans // SPANS_PER_REQUEST):
                counter.count(self._requests[number % REQUESTS])
            counter.flush()
            took.append(time.process_time() - started)
        self._next = first + spans // SPANS_PER_REQUEST
        return took


def measure_costs(feed: Feed, plain: Plain, exact: Exact) -> None:
    """Print CPU and bytes of journal a span, by spans a flush."""
    feed.turn(plain, exact, spans=REQUESTS * SPANS_PER_REQUEST)
    defined = exact.store.sizes(TENANT).entries
    for spans in SPANS_A_FLUSH:
        before, durable_before = exact.store.sizes(TENANT).entries, exact.durable_bytes
        turns = [feed.turn(plain, exact, spans=spans) for _ in range(TURNS)]
        journal = exact.store.sizes(TENANT).entries - before
        series = exact.state.registry.stats()["active_series"]
        if exact.state.registry.stats()["edges"] != plain.registry.stats()["edges"]:
            raise SystemExit("both did not count the same")
        # The best turn of each, as neighbours on the same processor slow the others down by more than what is measured.
        without, with_ = (min(took) / spans * 1e9 for took in zip(*turns, strict=True))
        print_result(
            f"exactness_cpu_{spans // 1000}k",
            (with_ / without - 1) * 100,
            "% CPU a span more",
            median_of_turns=round(statistics.median(exact_s / plain_s - 1 for plain_s, exact_s in turns) * 100, 1),
            ns_per_span_without=round(without, 1),
            ns_per_span_with=round(with_, 1),
            spans_a_flush=spans,
            active_series=series,
        )
        print_result(
            f"exactness_journal_{spans // 1000}k",
            journal / spans / TURNS,
            "bytes of journal a span",
            uncompressed=round((exact.durable_bytes - durable_before) / spans / TURNS, 2),
            first_flush_bytes=defined,
            spans_a_flush=spans,
            active_series=series,
        )


def measure_window() -> None:
    """Print what a full window takes."""
    process, now_ns = psutil.Process(), time.time_ns()
    compiled = _engine.Plan(PLAN)
    shard, mirror = _engine.Shard(compiled), _engine.Mirror(DEDUPLICATION_WINDOW_NS)
    ((_, frame),) = _engine.split(next(operation_requests(1, now_ns)), compiled, 1, now_ns).frames
    shard.apply(frame, now_ns)
    before, rss_before = shard.stats()["state_bytes"], process.memory_info().rss
    for number in range(1, WINDOW + 2):
        shard.apply(frame, now_ns, fingerprint=fingerprint_of(number))
    in_shard, rss = shard.stats()["state_bytes"] - before, process.memory_info().rss - rss_before
    mirror.apply(0, 1, _engine.durable_part(shard.flush(now_ns)), now_ns)
    figures = shard.stats()
    if (figures["fingerprints"], figures["fingerprints_dropped"]) != (WINDOW, 1):
        raise SystemExit(f"another bound than {WINDOW}: {figures}")
    print_result(
        "exactness_window",
        in_shard / WINDOW,
        "bytes a fingerprint in a shard",
        mib_of_a_full_shard=round(in_shard / 2**20, 1),
        mib_that_the_process_grew=round(rss / 2**20, 1),
        mib_in_the_mirror=round(mirror.stats()["state_bytes"] / 2**20, 1),
        most_fingerprints=WINDOW,
    )


def measure_recovery(name: str, url: str, feed: Feed, exact: Exact) -> None:
    """Print how long a collector takes to go on; ``exact`` has journalled a million series at ``url``."""
    exact.checkpoint()
    incarnation, flushes = 1, 0
    for length, times in (("due", 1), ("longest", UNDELIVERED_ENTRIES)):
        due = times * max(MIN_CHECKPOINT_BYTES, exact.store.sizes(TENANT).checkpoint)
        while exact.store.sizes(TENANT).entries < due:
            feed.turn(exact, spans=SPANS_A_FLUSH[0])
            flushes += 1
            if flushes % FLUSHES_A_COLLECTION == 0:
                exact.collect()
        sizes, stats = exact.store.sizes(TENANT), exact.state.registry.stats()
        exact.store.close()
        incarnation += 1
        started, cpu_started = time.perf_counter(), time.process_time()
        exact.store = JournalStore.open(url, "bench", incarnation)
        recovered = recover(exact.store, TENANT, ProfileBook(ServiceConfig()).get(TENANT).settings)
        took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        # Memory that was given back is not taken again.
        if recovered.state.registry.stats() | {"state_bytes": 0} != stats | {"state_bytes": 0}:
            raise SystemExit("another registry was recovered")
        print_result(
            f"exactness_recovery_{name}_{length}",
            took_s,
            "s",
            cpu_s=round(cpu_s, 2),
            active_series=stats["active_series"],
            checkpoint_bytes=sizes.checkpoint,
            entry_bytes=sizes.entries,
            flushes=flushes,
            collections_encoded_again=len(recovered.undelivered),
        )


def databases() -> Iterator[tuple[str, str]]:
    """Yield name and URL of an empty database of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        yield "sqlite", f"sqlite:///{Path(folder) / 'journal.db'}"
    with Postgres() as server:
        yield "postgresql", server.new_database()


async def run() -> None:
    """Measure everything; futures of retained frames need an event loop."""
    measure_window()
    now_ns = time.time_ns()
    feed = Feed(now_ns)
    for name, url in databases():
        exact = Exact(now_ns, JournalStore.open(url, "bench", 1))
        if name == "sqlite":
            measure_costs(feed, Plain(now_ns), exact)
        else:
            feed.turn(exact, spans=REQUESTS * SPANS_PER_REQUEST)
        measure_recovery(name, url, feed, exact)
        exact.store.close()


def main() -> None:
    """Run all."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(run())


if __name__ == "__main__":
    main()
