"""How many bytes does a series take in a shard, in the registry and in its checkpoint, with a million of them?

Feeds spans of as many operations as it takes, flushes every simulated second as a shard host does, and collects once.
Classic histograms have 14 buckets, so a label set of span metrics has 17 series of its histogram and two counters. The
engine's own figure (``state_bytes``) stands beside the growth of the process, which also holds freed memory. After
that a checkpoint is made and the registry restored from it: seconds, and whether it says the same again.
"""

import argparse
import json
import time

import psutil

from bench.plans import plan
from bench.report import print_result
from bench.shapes import SPANS_PER_REQUEST, operation_requests
from tenants import _engine

SERIES_PER_OPERATION = 19


def run(series: int, mode: str, prefix: str) -> None:
    """Make ``series`` series, and print what they take."""
    process = psutil.Process()
    now_ns = time.time_ns()
    compiled = _engine.Plan(json.dumps(plan(mode=mode)))
    shard, registry = _engine.Shard(compiled), _engine.Registry(compiled, now_ns // 1_000_000)
    before = process.memory_info().rss
    spans = 0
    for request in operation_requests(-(-series // SERIES_PER_OPERATION), now_ns):
        split = _engine.split(request, compiled, 1, now_ns)
        spans += split.received_spans
        for _, frame in split.frames:
            shard.apply(frame, now_ns)
        if record := shard.flush(now_ns):
            registry.merge(0, record, now_ns)
    in_shard, in_registry = shard.stats()["state_bytes"], registry.stats()["state_bytes"]
    grown = process.memory_info().rss - before
    active = registry.stats()["active_series"]
    started = time.process_time()
    batches = registry.collect(now_ns // 1_000_000 + 1000, [], 2000)
    collect_s = time.process_time() - started
    if registry.stats()["active_entities"] != spans:
        raise SystemExit(f"{registry.stats()['active_entities']} label sets of {spans} are there")
    started = time.process_time()
    checkpoint = registry.checkpoint()
    checkpoint_s = time.process_time() - started
    started = time.process_time()
    restored = _engine.Registry.restore(compiled, checkpoint)
    restore_s = time.process_time() - started
    if restored.checkpoint() != checkpoint:
        raise SystemExit("the restored registry is another one")
    print_result(
        f"{prefix}_{mode}",
        in_registry / active,
        "bytes per series in the registry",
        shard_bytes_per_series=round(in_shard / active, 1),
        process_bytes_per_series=round(grown / active, 1),
        registry_bytes_per_label_set=round(in_registry / spans),
        shard_bytes_per_label_set=round(in_shard / spans),
        checkpoint_bytes_per_series=round(len(checkpoint) / active, 1),
        checkpoint_bytes_per_label_set=round(len(checkpoint) / spans),
        checkpoint_s=round(checkpoint_s, 3),
        restore_s=round(restore_s, 3),
        active_series=active,
        label_sets=spans,
        samples=sum(batch.samples + batch.histograms for batch in batches),
        samples_per_cpu_second=round(sum(batch.samples + batch.histograms for batch in batches) / collect_s),
        spans_per_request=SPANS_PER_REQUEST,
    )


def main() -> None:
    """Run classic and native."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1_000_000, help="classic series to make")
    arguments = parser.parse_args()
    for mode in ("classic", "native", "both"):
        run(arguments.series, mode, "memory")


if __name__ == "__main__":
    main()
