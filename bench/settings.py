"""How long do the settings of ten thousand tenants take: to read, to read again after a change, to look up, to resolve?

Reads a runtime file of block entries, then the same with one entry changed, then with all of them changed. Every
gateway looks a tenant up with every request, so that has to cost nanoseconds; a tenant is resolved once after each
change that concerns it. CPU time, the best of some runs.
"""

import argparse
import asyncio
import gc
import pickle
import time
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.report import print_result
from cluster.gateway.dispatch import Dispatcher
from cluster.gateway.host_lane import GroupBounds, HostCalls
from cluster.placement import Routes
from cluster.settings_push import ENTRIES_AT_ONCE
from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.profile import ProfileBook
from tenants.settings.in_force import OverridesInForce, change_between, in_parts, whole
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.runtime_file import Loaded, RuntimeFile
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import resolve

_RUNS = 5
_LOOKUPS = 200_000
_RESOLVED = 2_000


def runtime_text(tenants: int, *, series: int = 1_000, changed: int = -1) -> bytes:
    """Return a runtime file; the tenant at ``changed`` has another limit than its neighbours."""
    entries = (_entry(index, series + index + (1 if index == changed else 0)) for index in range(tenants))
    return f"overrides:\n{''.join(entries)}".encode()


def _entry(index: int, limit: int) -> str:
    return (
        f"  tenant-{index}:\n"
        "    metrics_generator:\n"
        "      processors: [span-metrics, service-graphs]\n"
        f"      max_active_series: {limit}\n"
        "      collection_interval: 15s\n"
        "    ingestion:\n"
        f"      rate_limit_bytes: {limit * 10}\n"
        f"      burst_size_bytes: {limit * 20}\n"
    )


class _File:
    """A runtime file in memory."""

    def __init__(self) -> None:
        self.content = b""
        self.runtime = RuntimeFile(Path("overrides.yaml"), lambda _: self.content)

    def load(self, content: bytes) -> tuple[float, RuntimeOverrides]:
        self.content = content
        started = time.process_time()
        outcome = self.runtime.poll()
        took_s = time.process_time() - started
        if not isinstance(outcome, Loaded):
            raise SystemExit(f"not loaded: {outcome}")
        return took_s, outcome.overrides


def measure_file(tenants: int) -> tuple[RuntimeOverrides, RuntimeOverrides]:
    """Print what it takes to read the file; return its entries, and those with all of them changed."""
    texts = [
        runtime_text(tenants),
        runtime_text(tenants, changed=tenants // 2),
        runtime_text(tenants, series=2_000),
    ]
    best = [float("inf")] * len(texts)
    changed: list[int] = []
    loaded: list[RuntimeOverrides] = []
    for _ in range(_RUNS):
        file = _File()
        took, loaded = zip(*(file.load(text) for text in texts), strict=True)  # type: ignore[assignment]
        best = [min(pair) for pair in zip(best, took, strict=True)]
        changed = [
            sum(latter[tenant] is not entry for tenant, entry in former.items()) for former, latter in pairwise(loaded)
        ]
    if changed != [1, tenants]:
        raise SystemExit(f"{changed} entries are other objects, which should be 1 and {tenants}")
    for name, took_s, count in zip(("first", "one_changed", "all_changed"), best, (tenants, *changed), strict=True):
        print_result(
            f"settings_{name}", took_s * 1e3, "CPU-ms", entries=tenants, entries_new=count, file_bytes=len(texts[0])
        )
    return loaded[0], loaded[2]


def measure_book(runtime: RuntimeOverrides) -> None:
    """Print what it takes to put a change in force, to look a tenant up, and to resolve one."""
    config, first = ServiceConfig(), OverridesInForce(1, runtime)
    names = [TenantId(name) for name in list(runtime)[:_RESOLVED]]
    resolving_s = _best(lambda: [resolve(config, first, name) for name in names])
    print_result("settings_resolve", resolving_s / len(names) * 1e6, "CPU-us", tenants=len(names))
    book = ProfileBook(config)
    book.put_overrides(whole(first))
    profiles = {name: book.get(name) for name in names}
    lookups = _LOOKUPS // len(names) * len(names)
    looking_s = _best(lambda: [book.get(name) for _ in range(lookups // len(names)) for name in names])
    if any(book.get(name) is not profile for name, profile in profiles.items()):
        raise SystemExit("a profile is another object though nothing changed")
    print_result("settings_lookup", looking_s / lookups * 1e9, "CPU-ns", lookups=lookups)
    second = OverridesInForce(2, {**runtime, str(names[0]): runtime[str(names[1])]})
    started = time.process_time()
    change = change_between(first, second)
    book.put_overrides(change)
    took_s = time.process_time() - started
    print_result("settings_put_change", took_s * 1e3, "CPU-ms", entries=len(runtime), entries_new=len(change.runtime))


async def measure_pause(former: RuntimeOverrides, latter: RuntimeOverrides) -> None:
    """Print how long a gateway that all tenants send to is kept from it while all their settings change.

    Changes come as they do from the controller: in parts, pickled.
    """
    config = ServiceConfig()
    routes = Routes(1, ("shard-host-0",), ("collector-0",))

    async def send(group: FrameGroup) -> list[Place]:
        return [Place(1, 1)] * len(group.heads)

    async def durable(keys: Collection[ShardKey]) -> dict[ShardKey, Place]:
        return dict.fromkeys(keys, Place(1, 1))

    async def adopt(keys: Collection[ShardKey]) -> Collection[ShardKey]:
        return keys

    dispatcher = Dispatcher(
        ProfileBook(config),
        routes,
        {"shard-host-0": HostCalls(send, durable, adopt)},
        GroupBounds(1 << 20, 0.0),
        time.time_ns,
        poll_s=0.25,
        monotonic_ns=time.monotonic_ns,
        random=lambda: 0.5,
        gateways=1,
    )
    first, second = OverridesInForce(1_000, former), OverridesInForce(2_000, latter)
    await dispatcher.put_overrides(whole(first))
    body = _one_span()
    for name in former:
        await dispatcher.submit(TenantId(name), body)
    parts = [pickle.dumps(part) for part in in_parts(change_between(first, second), ENTRIES_AT_ONCE)]
    gaps: list[float] = []

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    gc.collect()
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.05)
    for part in parts:
        await dispatcher.put_overrides(pickle.loads(part))
        await asyncio.sleep(0)
    watching.cancel()
    changed = {dispatcher.book.get(TenantId(name)).settings.max_active_series for name in list(former)[:10]}
    if changed != {entry.metrics_generator.max_active_series for entry in list(latter.values())[:10]}:
        raise SystemExit("the change is not in force")
    print_result("settings_longest_pause", max(gaps) * 1e3, "ms", tenants=len(former), parts=len(parts))


def _one_span() -> bytes:
    now_ns = time.time_ns()
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    span = group.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = now_ns.to_bytes(16), now_ns.to_bytes(8), "work"
    span.start_time_unix_nano, span.end_time_unix_nano = now_ns, now_ns
    return request.SerializeToString()


def _best(work: Callable[[], object]) -> float:
    took = []
    for _ in range(_RUNS):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return min(took)


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000, help="entries of the runtime file")
    former, latter = measure_file(parser.parse_args().tenants)
    measure_book(former)
    asyncio.run(measure_pause(former, latter))


if __name__ == "__main__":
    main()
