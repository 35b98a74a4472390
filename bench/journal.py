"""How long does a collector wait for its journal: one commit for all tenants, entry after entry, a checkpoint and back?

Entries are of the size of a small tenant's flush record; half of their bytes are random. Wall-clock time, since waiting
for the disk is most of it; the best of some runs. ``--url postgresql://...`` measures an empty database there.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import print_result
from tenants.endpoint.surroundings import SystemClock
from tenants.identity.tenant_id import TenantId
from tenants.journal.entries import RecordEntry, decode, encode
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter

_RUNS = 5
_ENTRY_BYTES = 1_000
_SUBMITTERS = 100
_SUBMITS = 100


def data(size: int, seed: int = 1) -> bytes:
    """Return bytes of which about half are left when they are compressed."""
    return random.Random(seed).randbytes(size // 2).ljust(size, b"\0")


def record(sequence: int) -> RecordEntry:
    """Return an entry."""
    return RecordEntry(0, 1, 1, sequence, sequence, data(_ENTRY_BYTES, sequence))


def measure_entries() -> None:
    """Print how many entries are encoded, and decoded, in a second."""
    entries = [record(sequence) for sequence in range(10_000)]
    bodies = [encode(entry) for entry in entries]
    if [decode(body) for body in bodies] != entries:
        raise SystemExit("entries are not read as they were written")
    for name, work in (("encode", lambda: list(map(encode, entries))), ("decode", lambda: list(map(decode, bodies)))):
        print_result(f"journal_{name}", len(entries) / _best(work), "entries/s", bytes=sum(map(len, bodies)))


def measure_one_commit(store: JournalStore, tenants: int) -> None:
    """Print how long one commit of an entry of each tenant takes."""
    names = [TenantId(f"tenant-{number}") for number in range(tenants)]
    body = encode(record(1))
    took = []
    for position in range(1, _RUNS + 1):
        entries = [(name, position, body) for name in names]
        started = time.perf_counter()
        store.append(entries)
        took.append(time.perf_counter() - started)
    if any(len(store.load(name).entries) != _RUNS for name in names[:: tenants // 10]):
        raise SystemExit("entries are missing")
    stored = sum(store.sizes(name).entries for name in names) // _RUNS
    print_result("journal_one_commit", min(took) * 1e3, "ms", tenants=tenants, stored_bytes=stored)


async def measure_writer(store: JournalStore) -> None:
    """Print how many entries are committed in a second when many wait for each of theirs."""
    writer = JournalWriter(store, SystemClock(), random.Random(1))

    async def submit(name: TenantId) -> None:
        for sequence in range(_SUBMITS):
            await writer.submit(name, record(sequence))

    names = [TenantId(f"waiting-{number}") for number in range(_SUBMITTERS)]
    started = time.perf_counter()
    await asyncio.gather(*map(submit, names))
    took_s = time.perf_counter() - started
    await writer.close()
    entries = sum(len(store.load(name).entries) for name in names)
    if entries != _SUBMITTERS * _SUBMITS:
        raise SystemExit(f"{entries} entries are there")
    print_result("journal_group_commit", entries / took_s, "entries/s", entries=entries, commits=writer.commits)


def measure_checkpoint(store: JournalStore, size: int) -> None:
    """Print how long it takes to write a checkpoint, and to read it again."""
    name, body = TenantId("large"), data(size)
    store.append([(name, 1, b"")])
    writing_s = _best(lambda: store.checkpoint(name, 1, body))
    loaded = store.load(name).checkpoint
    if loaded is None or loaded.body != body:
        raise SystemExit("the checkpoint is another one")
    stored = store.sizes(name).checkpoint
    print_result("journal_checkpoint_write", writing_s * 1e3, "ms", bytes=size, stored_bytes=stored)
    print_result(
        "journal_checkpoint_load", _best(lambda: store.load(name)) * 1e3, "ms", bytes=size, stored_bytes=stored
    )


def measure_opening(url: str) -> None:
    """Print how long it takes to open what was written before."""

    def reopen() -> None:
        JournalStore.open(url, "bench", 1).close()

    print_result("journal_open", _best(reopen) * 1e3, "ms")


def _best(work: Callable[[], object]) -> float:
    took = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000, help="in one commit")
    parser.add_argument("--checkpoint-bytes", type=int, default=20_000_000)
    parser.add_argument("--url", help="of an empty database; an SQLite file in a temporary directory if left out")
    options = parser.parse_args()
    measure_entries()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{Path(folder) / 'journal.db'}"
        store = JournalStore.open(url, "bench", 1)
        measure_one_commit(store, options.tenants)
        asyncio.run(measure_writer(store))
        measure_checkpoint(store, options.checkpoint_bytes)
        store.close()
        measure_opening(url)


if __name__ == "__main__":
    main()
