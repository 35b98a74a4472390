"""How fast is a registry of a million series encoded and compressed, in how many bytes, and how soon is it sent?

Makes label sets of span metrics with classic histograms of 14 buckets and counts spans of many durations in each, so
that buckets differ as they do in life. Then it collects in steady state: every series was sent before. For each message
it prints samples per CPU-second, encoded and compressed, and bytes on the wire a sample. The value is that of the best
of five collections, because neighbours on the same processor slow the others down; the mean stands beside it.
Exemplars, of which an interval has as many as buckets were hit, are measured apart: trace ids cannot be compressed.

``remote_write_sink`` sends one collection with the real sender to a sink in a process of its own, from the beginning of
the collection to the last answer.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import time
from multiprocessing.connection import Connection

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.plans import plan
from bench.report import print_result
from bench.shapes import operation_requests
from tenants import _engine
from tenants.endpoint import Batch, EndpointConfig, EndpointSender, HttpClients, Surroundings, SystemClock
from tenants.settings.protobuf_message import ProtobufMessage

SERIES_PER_OPERATION = 19
EXTERNAL_LABELS = [("__metrics_gen_instance", "millrace-0"), ("cluster", "eu-west-1")]
SAMPLES_PER_BATCH = 2000
COLLECTIONS = 5
#: Rounds of durations, and how often each is counted at most.
ROUNDS = 12
MOST_REPEATS = 60
#: As much as any batch has.
ALL_WRITTEN = (
    b"HTTP/1.1 204 No Content\r\n"
    b"X-Prometheus-Remote-Write-Samples-Written: 1000000\r\n"
    b"X-Prometheus-Remote-Write-Exemplars-Written: 1000000\r\n\r\n"
)


def counted(series: int, now_ns: int) -> _engine.Registry:
    """Return a registry of so many series, whose counts differ from bucket to bucket."""
    rng = random.Random(7)
    compiled = _engine.Plan(json.dumps(plan()))
    shard, registry = _engine.Shard(compiled), _engine.Registry(compiled, now_ns // 1_000_000)
    for body in operation_requests(-(-series // SERIES_PER_OPERATION), now_ns):
        request = ExportTraceServiceRequest.FromString(body)
        spans = [span for scope in request.resource_spans[0].scope_spans for span in scope.spans]
        for _ in range(ROUNDS):
            told = ExportTraceServiceRequest()
            told.resource_spans.add().resource.CopyFrom(request.resource_spans[0].resource)
            chosen = [span for span in spans if rng.random() < 0.6]
            for span in chosen:
                span.trace_id = rng.randbytes(16)
                span.start_time_unix_nano = now_ns - int(rng.lognormvariate(17.5, 1.5))
            told.resource_spans[0].scope_spans.add().spans.extend(chosen)
            split = _engine.split(told.SerializeToString(), compiled, 1, now_ns)
            for _ in range(rng.randint(1, MOST_REPEATS)):
                for _, frame in split.frames:
                    shard.apply(frame, now_ns)
        if record := shard.flush(now_ns):
            registry.merge(0, record, now_ns)
    return registry


def encode(registry: _engine.Registry, message: ProtobufMessage, now_ms: int) -> int:
    """Collect in steady state, print what it takes, and return the time of the last collection."""
    spent = []
    for _ in range(COLLECTIONS):
        now_ms += 15_000
        started = time.process_time()
        batches = registry.collect(now_ms, EXTERNAL_LABELS, SAMPLES_PER_BATCH, message.value)
        spent.append(time.process_time() - started)
    samples = sum(batch.samples for batch in batches)
    if samples != registry.stats()["active_series"]:
        raise SystemExit(f"{samples} samples of {registry.stats()['active_series']} series were encoded")
    size = sum(len(batch.body) for batch in batches)
    print_result(
        f"remote_write_{message.version}",
        samples / min(spent),
        "samples encoded and compressed per CPU-second",
        mean_samples_per_cpu_second=round(samples * COLLECTIONS / sum(spent)),
        bytes_per_sample=round(size / samples, 2),
        batches=len(batches),
        samples=samples,
        registry_bytes_per_series=round(registry.stats()["state_bytes"] / samples, 1),
    )
    return now_ms


def with_exemplars(registry: _engine.Registry, now_ms: int) -> int:
    """Print the first collection, which has a zero sample of every series and the exemplars of all that was counted."""
    batches = registry.collect(now_ms, EXTERNAL_LABELS, SAMPLES_PER_BATCH, ProtobufMessage.V2.value)
    exemplars = sum(batch.exemplars for batch in batches)
    size = sum(len(batch.body) for batch in batches)
    samples = sum(batch.samples for batch in batches)
    print_result(
        "remote_write_2.0.0_first",
        size / samples,
        "bytes on the wire a sample, zero samples and exemplars among them",
        samples=samples,
        exemplars=exemplars,
    )
    return now_ms


def sink(told: Connection) -> None:
    """Take requests and say that all is written; when the client has gone, tell how many and how large they were."""
    asyncio.run(_serve(told))


async def _serve(told: Connection) -> None:
    requests = received = 0
    gone = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests, received
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                requests, received = requests + 1, received + length
                writer.write(ALL_WRITTEN)
        gone.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=1 << 20)
    told.send(server.sockets[0].getsockname()[1])
    await gone.wait()
    told.send((requests, received))


async def send(registry: _engine.Registry, now_ms: int) -> None:
    """Collect in a thread, as a tenant's collector does, and send everything; print the seconds that passed."""
    mine, others = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=sink, args=(others,))
    process.start()
    url = f"http://127.0.0.1:{await asyncio.to_thread(mine.recv)}/"
    seconds = []
    samples = 0
    async with HttpClients() as clients:
        around = Surroundings(clients, SystemClock(), random.Random(7), "bench")
        sender = EndpointSender("bench", EndpointConfig(url, protobuf_message=ProtobufMessage.V2), around)
        sender.start()
        for _ in range(COLLECTIONS):
            now_ms += 15_000
            started = time.perf_counter()
            made = await asyncio.to_thread(
                registry.collect, now_ms, EXTERNAL_LABELS, SAMPLES_PER_BATCH, ProtobufMessage.V2.value
            )
            batches = [
                Batch(each.body, each.samples, each.exemplars, each.series, now_ms, ProtobufMessage.V2) for each in made
            ]
            sender.submit(batches)
            if not await sender.drain(60):
                raise SystemExit("the sink does not take everything")
            seconds.append(time.perf_counter() - started)
            samples += sum(batch.samples for batch in batches)
        counters = sender.snapshot()
        await sender.close()
    requests, received = await asyncio.to_thread(mine.recv)
    process.join()
    if (counters.samples_sent, counters.batches_sent, counters.bytes_sent) != (samples, requests, received):
        raise SystemExit(f"{requests} requests of {received} bytes arrived, not {counters}")
    print_result(
        "remote_write_sink",
        min(seconds),
        "seconds for one collection, from its beginning to the last answer",
        mean_seconds=round(sum(seconds) / len(seconds), 3),
        samples=samples // COLLECTIONS,
        requests=requests // COLLECTIONS,
        megabytes=round(received / COLLECTIONS / 1e6, 2),
    )


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1_000_000)
    arguments = parser.parse_args()
    now_ns = time.time_ns()
    registry = counted(arguments.series, now_ns)
    now_ms = with_exemplars(registry, now_ns // 1_000_000 + 1000)
    for message in ProtobufMessage:
        now_ms = encode(registry, message, now_ms)
    asyncio.run(send(registry, now_ms))


if __name__ == "__main__":
    main()
