"""Bad input on every port: the right refusal, a message that helps, bounded memory, and the service goes on.

What each receiver does with each fault alone is tested beside it; here all of it meets the running service, and after
every test good spans are still counted, by every way in.
"""

import asyncio
import contextlib
import json
import random
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import pytest_asyncio
import zstandard
from google.protobuf.message import DecodeError

from tests import otlp_raw
from tests.integration.otlp_client import JSON, Answer, GrpcClient, HttpClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import full_request, until_counted
from tests.prometheus import Prometheus
from tests.unit.export_requests import otlp_json
from tests.unit.raw_grpc import raw_call

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

MIB: Final = 1 << 20
MAX_REQUEST_BYTES: Final = 16 * MIB
MAX_JSON_BYTES: Final = 4 * MIB
BOMB_BYTES: Final = 512 * MIB
# What the gateway may grow by while a test sends one request after the other: a body, what it inflates to, and room
# for the allocator. Decoding JSON takes many times its size, but only one is decoded at a time.
ROOM_BYTES: Final = 96 * MIB
ROOM_FOR_JSON_BYTES: Final = 100 * MAX_JSON_BYTES + ROOM_BYTES
MUTATIONS: Final = 200
IN_FLIGHT: Final = 8
TENANT: Final = "mutants"
"""Gets whatever is accepted of what was damaged, so that all of it goes the whole way to its endpoint."""

Export = Callable[[bytes], Awaitable[Answer]]


@dataclass
class Ways:
    """The ways in.

    Attributes:
        room_bytes: what the gateway may grow by during the test.
    """

    grpc: GrpcClient
    http: HttpClient
    grpc_port: int
    room_bytes: int = ROOM_BYTES

    def exports(self) -> dict[str, Export]:
        """Return how to send a body, by protocol and encoding."""
        return {
            "grpc": lambda body: self.grpc.export(body, TENANT),
            "http": lambda body: self.http.export(body, TENANT),
            "json": lambda body: self.http.export(body, TENANT, content_type=JSON),
        }


@pytest_asyncio.fixture(loop_scope="session")
async def ways(service: MillraceProcess, prometheus: Prometheus, request: pytest.FixtureRequest) -> AsyncIterator[Ways]:
    """Connect; afterwards see that the same gateway has kept to its memory and that good spans are still counted."""
    await service.put_tenants(**{TENANT: {"processors": ["span-metrics", "service-graphs"], "shards": 3}})
    (gateway,) = service.actors("Gateway")
    before = _reset_peak_bytes(gateway)
    seen_lines = len(service.events)
    async with GrpcClient(service.grpc_port) as grpc, HttpClient(service.otlp_http_port) as http:
        connected = Ways(grpc, http, service.grpc_port)
        yield connected
        for way, export in connected.exports().items():
            # Each time another: the same would be known, and counted once.
            good = full_request(service_name=request.node.name)
            body = json.dumps(otlp_json(good)).encode() if way == "json" else good.SerializeToString()
            assert (await export(body)).is_accepted
        await until_counted(prometheus, 6, tenant=TENANT, service=request.node.name)
    assert service.actors("Gateway") == [gateway]
    assert _peak_bytes(gateway) - before < connected.room_bytes
    written = (await service.metrics())["millrace_remote_write_samples_total"].items()
    outcomes = {dict(labels)["outcome"] for labels, samples in written if samples and ("tenant", TENANT) in labels}
    assert outcomes == {"sent"}
    own = [line for line in service.events[seen_lines:] if line.get("tenant") in {None, TENANT}]
    assert [line for line in own if line["level"] not in {"debug", "info"}] == []


def _reset_peak_bytes(process: psutil.Process) -> int:
    # Linux: 5 lets the high-water mark begin anew.
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return _peak_bytes(process)


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


async def answers_to(export: Export, bodies: list[bytes]) -> list[Answer]:
    """Send all, a few at a time; return the answers in the same order."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def send(body: bytes) -> Answer:
        async with slots:
            return await export(body)

    return await asyncio.gather(*(send(body) for body in bodies))


def is_otlp(body: bytes) -> bool:
    """Return whether a lenient reader can read the protobuf: one that takes any bytes for text."""
    try:
        otlp_raw.parse(body)
    except DecodeError:
        return False
    return True


def mutations(body: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield damaged copies: bits flipped, bytes overwritten, cut out, doubled, and lengths blown up."""
    for _ in range(MUTATIONS):
        at, width = rng.randrange(len(body)), rng.choice([1, 1, 1, 2, 8])
        piece = body[at : at + width]
        damaged = [
            bytes(byte ^ 1 << rng.randrange(8) for byte in piece),
            rng.randbytes(width),
            b"",
            piece * 2,
            b"\xff" * width,
            b"\x00" * width,
        ]
        yield body[:at] + rng.choice(damaged) + body[at + width :]


@pytest.mark.parametrize("way", ["grpc", "http"])
async def test_truncated_protobuf_is_refused_with_its_offset(ways: Ways, way: str) -> None:
    body = full_request().SerializeToString()
    cuts = random.Random(1).sample(range(1, len(body)), MUTATIONS)
    for cut, answer in zip(cuts, await answers_to(ways.exports()[way], [body[:cut] for cut in cuts]), strict=True):
        # Between two resources a request that is cut off is a request.
        if is_otlp(body[:cut]):
            assert answer.is_accepted, (cut, answer)
        else:
            assert_malformed(answer, at_most=cut)


@pytest.mark.parametrize("way", ["grpc", "http"])
async def test_mutated_protobuf_is_counted_or_refused_with_its_offset(ways: Ways, way: str) -> None:
    bodies = list(mutations(full_request().SerializeToString(), random.Random(2)))
    answers = await answers_to(ways.exports()[way], bodies)
    for body, answer in zip(bodies, answers, strict=True):
        if not answer.is_accepted:
            assert_malformed(answer, at_most=len(body))
    assert MUTATIONS // 5 < sum(answer.is_accepted for answer in answers) < MUTATIONS * 4 // 5


def assert_malformed(answer: Answer, at_most: int) -> None:
    """See that the answer is final, and says where in the request the fault is."""
    assert answer.status in {"INVALID_ARGUMENT", "400"}, answer
    found = re.fullmatch(r"malformed OTLP request: .+ at byte (\d+) in [a-z_.]+ \(malformed\)", answer.message)
    assert found, answer
    assert int(found[1]) <= at_most


async def test_truncated_json_is_refused_with_its_line_and_column(ways: Ways) -> None:
    body = json.dumps(otlp_json(full_request())).encode()
    cuts = random.Random(3).sample(range(1, len(body)), MUTATIONS)
    for cut, answer in zip(cuts, await answers_to(ways.exports()["json"], [body[:cut] for cut in cuts]), strict=True):
        assert answer.status == "400", (cut, answer)
        assert re.search(r"not OTLP/JSON: .* line 1 column \d+", answer.message), (cut, answer)


async def test_mutated_json_is_counted_or_refused_with_a_place(ways: Ways) -> None:
    bodies = list(mutations(json.dumps(otlp_json(full_request())).encode(), random.Random(4)))
    answers = await answers_to(ways.exports()["json"], bodies)
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.is_accepted or answer.status == "400", (body, answer)
        if not answer.is_accepted:
            assert re.search(r"line \d+ column \d+| at byte \d+| at [\w.\[\]]+ \(", answer.message), (body, answer)
    assert MUTATIONS // 20 < sum(answer.is_accepted for answer in answers) < MUTATIONS


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "expected an object, got an array at the top"),
        ({"resourceSpans": {}}, "expected an array, got an object at resourceSpans"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}, "spans[0].traceId"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 5}]}]}]}, "expected text, got a number at"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "-1"}]}]}]}, "spans[0].startTimeUnixNano"),
    ],
)
async def test_json_that_is_not_otlp_is_refused_with_the_path(ways: Ways, document: Any, place: str) -> None:
    answer = await ways.exports()["json"](json.dumps(document).encode())
    assert answer.status == "400"
    assert place in answer.message


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"content_type": "text/plain"}, "415", "use application/x-protobuf or application/json"),
        ({"content_type": ""}, "415", "use application/x-protobuf or application/json"),
        ({"headers": {"content-encoding": "br"}}, "415", "use gzip, zstd, deflate or none"),
        ({"headers": {"content-encoding": "gzip"}}, "400", "cannot be decompressed as gzip"),
        ({"headers": {"content-encoding": "zstd"}}, "400", "cannot be decompressed as zstd"),
        ({"content_type": JSON}, "400", "not OTLP/JSON"),
        ({"path": "/v1/metrics"}, "404", "POST /v1/traces"),
        ({"method": "PUT"}, "405", "use POST"),
    ],
)
async def test_http_request_that_is_not_for_traces_is_refused_with_what_to_do(
    ways: Ways, changes: dict[str, Any], status: str, says: str
) -> None:
    answer = await ways.http.export(full_request().SerializeToString(), TENANT, **changes)
    assert (answer.status, says in answer.message) == (status, True), answer


async def test_grpc_request_that_is_not_for_traces_is_refused(ways: Ways) -> None:
    body = full_request().SerializeToString()
    metrics = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
    assert (await ways.grpc.export(body, TENANT, method=metrics)).status == "UNIMPLEMENTED"
    unknown = await raw_call(ways.grpc_port, body, ("grpc-encoding", "zstd"), is_compressed=True)
    assert unknown.status in {12, 13}  # UNIMPLEMENTED or INTERNAL, the transport's choice: both are final
    for junk in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", random.Random(5).randbytes(65_536), b"PRI * HTTP/2.0"):
        await until_hung_up(ways.grpc_port, junk)


async def until_hung_up(port: int, junk: bytes) -> None:
    """Send bytes and wait until the connection is closed or reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        with contextlib.suppress(OSError):
            writer.write(junk)
            writer.write_eof()
            await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("tenant", "grpc_code", "http_status", "says"),
    [
        (None, "UNAUTHENTICATED", "401", "send the header X-Scope-OrgID"),
        ("", "UNAUTHENTICATED", "401", "send the header X-Scope-OrgID"),
        ("a/b", "INVALID_ARGUMENT", "400", "invalid X-Scope-OrgID: character '/' at position 2"),
        ("a|b", "INVALID_ARGUMENT", "400", "invalid X-Scope-OrgID: it names more than one tenant"),
        ("x" * 151, "INVALID_ARGUMENT", "400", "invalid X-Scope-OrgID: the tenant id has 151 bytes"),
        ("__internal", "INVALID_ARGUMENT", "400", "invalid X-Scope-OrgID: '*' and ids that begin with '__'"),
    ],
)
async def test_request_without_a_good_tenant_is_refused_and_names_the_header(
    ways: Ways, tenant: str | None, grpc_code: str, http_status: str, says: str
) -> None:
    good = full_request()
    by_grpc = await ways.grpc.export(good.SerializeToString(), tenant)
    by_http = await ways.http.export(good.SerializeToString(), tenant)
    by_json = await ways.http.export(json.dumps(otlp_json(good)).encode(), tenant, content_type=JSON)
    assert [answer.status for answer in (by_grpc, by_http, by_json)] == [grpc_code, http_status, http_status]
    for answer in (by_grpc, by_http, by_json):
        assert says in answer.message


async def test_tenant_that_nobody_knows_is_accepted_like_one_without_processors(
    ways: Ways, service: MillraceProcess
) -> None:
    body = full_request().SerializeToString()
    answers = [await client.export(body, "unheard-of") for client in (ways.grpc, ways.http)]
    assert all(answer.is_accepted for answer in answers)
    assert await service.metric("millrace_spans_received_total", tenant="unheard-of") == 4
    assert "unheard-of" not in (await service.status())["tenants"]


def zeros(compress: Any) -> bytes:
    """Return a bomb: half a GiB of zeros, through an object with ``compress`` and ``flush``."""
    piece = bytes(MIB)
    return b"".join([*(compress.compress(piece) for _ in range(BOMB_BYTES // MIB)), compress.flush()])


@pytest.mark.parametrize(
    ("encoding", "compressor"),
    [
        ("gzip", lambda: zlib.compressobj(1, wbits=31)),
        ("deflate", lambda: zlib.compressobj(1)),
        ("zstd", lambda: zstandard.ZstdCompressor().compressobj()),
    ],
)
async def test_bomb_is_refused_at_the_limit(ways: Ways, encoding: str, compressor: Callable[[], Any]) -> None:
    bomb = await asyncio.to_thread(zeros, compressor())
    assert len(bomb) < MAX_JSON_BYTES
    for content_type, limit in (("application/x-protobuf", MAX_REQUEST_BYTES), (JSON, MAX_JSON_BYTES)):
        answer = await ways.http.export(bomb, TENANT, content_type=content_type, headers={"content-encoding": encoding})
        assert answer.status == "413"
        assert f"more than {limit} bytes decompressed" in answer.message
    if encoding != "zstd":  # gRPC does not know it
        headers = (("grpc-encoding", encoding), ("x-scope-orgid", TENANT))
        assert (await raw_call(ways.grpc_port, bomb, *headers, is_compressed=True)).status == 8  # RESOURCE_EXHAUSTED


async def test_oversized_request_is_refused_by_its_size(ways: Ways) -> None:
    large = bytes(MAX_REQUEST_BYTES + 1)
    parts = (large[start : start + MIB] for start in range(0, len(large), MIB))
    for answer in (await ways.http.export(large, TENANT), await ways.http.export(parts, TENANT)):
        assert answer.status == "413"
        assert f"more than {MAX_REQUEST_BYTES} bytes; send smaller batches" in answer.message
    answer = await ways.exports()["json"](b" " * (MAX_JSON_BYTES + 1))
    assert (answer.status, f"more than {MAX_JSON_BYTES} bytes" in answer.message) == ("413", True)
    answer = await ways.exports()["grpc"](large)
    assert (answer.status, str(MAX_REQUEST_BYTES) in answer.message) == ("RESOURCE_EXHAUSTED", True)


async def test_largest_json_of_many_small_values_stays_within_its_memory(ways: Ways) -> None:
    ways.room_bytes = ROOM_FOR_JSON_BYTES
    spans = b",".join([b"{}"] * (MAX_JSON_BYTES // 3 - 100))
    answer = await ways.exports()["json"](b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + spans + b"]}]}]}")
    assert answer.status == "200"
    assert answer.rejected_spans == spans.count(b"{")
