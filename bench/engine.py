"""How many spans does the engine take from bytes to merged series in one second of CPU?

Runs everything that the engine does for a span, in one thread: fingerprint, split into one frame a shard, apply, flush
every simulated second, merge into registry and mirror, and one collection at the end. Both processors are on; ``full``
adds filters and target info, ``native`` counts in native histograms. The result counts only if the series add up to the
spans that were fed. The value is that of the best half second, because neighbours on the same processor slow the others
down by up to a half; the mean of all stands beside it.
"""

import argparse
import json
import time
from dataclasses import dataclass

from bench.plans import plan
from bench.report import print_result
from bench.shapes import BATCHED, MANY_DIMENSIONS, SCATTERED, SPANS_PER_REQUEST, Shape
from tenants import _engine

REQUESTS = 16  # few, so that they stay in the cache: a gateway splits what it has just received
FLUSH_EVERY = 200
WINDOW_S = 0.5


@dataclass(frozen=True)
class Case:
    """One benchmark."""

    name: str
    shape: Shape
    is_full: bool = False
    mode: str = "classic"
    dimensions: tuple[str, ...] | None = None


CASES = (
    Case("batched", BATCHED),
    Case("batched_native", BATCHED, mode="native"),
    Case("scattered", SCATTERED),
    Case("scattered_full", SCATTERED, is_full=True),
    Case("scattered_full_native", SCATTERED, is_full=True, mode="native"),
    Case("scattered_full_11_labels", SCATTERED, is_full=True, dimensions=MANY_DIMENSIONS),
)


def run(case: Case, seconds: float, shard_count: int) -> None:
    """Feed the shape's requests again and again for about ``seconds`` of CPU, and print the rate."""
    shape = case.shape
    now_ns = time.time_ns()
    requests = shape.requests(REQUESTS, now_ns)
    compiled = _engine.Plan(json.dumps(plan(case.dimensions or shape.dimensions, mode=case.mode, is_full=case.is_full)))
    shards = [_engine.Shard(compiled, index=index, count=shard_count) for index in range(shard_count)]
    registry, mirror = _engine.Registry(compiled, now_ns // 1_000_000), _engine.Mirror(600 * 10**9)
    spans = fed = 0
    spent = {"fingerprint": 0.0, "split": 0.0, "apply": 0.0, "flush": 0.0, "merge": 0.0, "mirror": 0.0}
    flushed = {"record": 0, "durable": 0}
    started = window_started = time.process_time()
    window_spans, best = 0, 0.0
    while (now_s := time.process_time()) - started < seconds:
        if now_s - window_started >= WINDOW_S:
            best = max(best, (spans - window_spans) / (now_s - window_started))
            window_started, window_spans = now_s, spans
        for request in requests:
            at = time.process_time()
            _engine.fingerprint(request)
            spent["fingerprint"] += time.process_time() - at
            at = time.process_time()
            split = _engine.split(request, compiled, shard_count, now_ns)
            spent["split"] += time.process_time() - at
            at = time.process_time()
            for shard, frame in split.frames:
                # The same requests come again and again, and are to be counted.
                shards[shard].apply(frame, now_ns, fingerprint=fed.to_bytes(16))
            spent["apply"] += time.process_time() - at
            spans += split.received_spans
            fed += 1
            if fed % FLUSH_EVERY == 0:
                _flush(shards, registry, mirror, now_ns, spent, flushed)
    _flush(shards, registry, mirror, now_ns, spent, flushed)
    cpu_s = time.process_time() - started
    stats = registry.stats()
    if stats["edges"] != fed * shape.edges_per_request or spans != fed * SPANS_PER_REQUEST:
        raise SystemExit(f"{case.name}: {stats['edges']} edges of {fed * shape.edges_per_request} were counted")
    at = time.process_time()
    batches = registry.collect(now_ns // 1_000_000 + 1000, [], 2000)
    collect_s = time.process_time() - at
    print_result(
        f"engine_{case.name}",
        best,
        "spans per CPU-second",
        bytes_per_span=round(sum(map(len, requests)) / REQUESTS / SPANS_PER_REQUEST),
        frame_bytes_per_span=round(sum(len(f) for _, f in split.frames) / SPANS_PER_REQUEST),
        shards=shard_count,
        mean_spans_per_cpu_second=round(spans / cpu_s),
        spans=spans,
        edges=stats["edges"],
        active_series=stats["active_series"],
        samples_sent=sum(batch.samples + batch.histograms for batch in batches),
        **{f"{step}_ns_per_span": round(s / spans * 1e9, 1) for step, s in spent.items()},
        **{f"{part}_bytes_per_span": round(size / spans, 2) for part, size in flushed.items()},
        collect_ns_per_series=round(collect_s / stats["active_series"] * 1e9),
        shard_bytes_per_series=round(sum(s.stats()["state_bytes"] for s in shards) / stats["active_series"], 1),
        registry_bytes_per_series=round(stats["state_bytes"] / stats["active_series"], 1),
    )


def _flush(
    shards: list[_engine.Shard],
    registry: _engine.Registry,
    mirror: _engine.Mirror,
    now_ns: int,
    spent: dict[str, float],
    flushed: dict[str, int],
) -> None:
    for source, shard in enumerate(shards):
        at = time.process_time()
        record = shard.flush(now_ns)
        spent["flush"] += time.process_time() - at
        at = time.process_time()
        if record:
            registry.merge(source, record, now_ns)
        spent["merge"] += time.process_time() - at
        at = time.process_time()
        if record:
            durable = _engine.durable_part(record)
            mirror.apply(source, len(shards), durable, now_ns)
            flushed["record"] += len(record)
            flushed["durable"] += len(durable)
        spent["mirror"] += time.process_time() - at


def main() -> None:
    """Run all cases, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(case.name for case in CASES))
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU seconds for each shape")
    parser.add_argument("--shards", type=int, default=1)
    arguments = parser.parse_args()
    for case in CASES:
        if not arguments.cases or case.name in arguments.cases:
            run(case, arguments.seconds, arguments.shards)


if __name__ == "__main__":
    main()
