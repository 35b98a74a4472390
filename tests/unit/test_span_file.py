"""Files of export requests: the forms that the Collector's file exporter writes, and what is said of others."""

import json
from pathlib import Path

import pytest
import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cluster.commands.span_file import read_requests
from cluster.errors import CommandError
from tests.unit.export_requests import export_request, otlp_json

REQUESTS = [export_request(1), export_request(3), export_request(2)]
LINES = b"".join(json.dumps(otlp_json(request)).encode() + b"\n" for request in REQUESTS)


def prefixed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


PROTOBUF = [request.SerializeToString() for request in REQUESTS]
JSON = LINES.splitlines()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(LINES, id="json lines"),
        pytest.param(LINES.rstrip(b"\n"), id="json lines, the last without its end"),
        pytest.param(b"\n" + LINES.replace(b"\n", b"\r\n\r\n"), id="json lines between empty ones"),
        pytest.param(prefixed(*PROTOBUF), id="protobuf"),
        pytest.param(prefixed(*JSON), id="json after lengths"),
        pytest.param(prefixed(*map(zstandard.compress, PROTOBUF)), id="protobuf in zstd"),
        pytest.param(prefixed(*map(zstandard.compress, JSON)), id="json in zstd"),
    ],
)
def test_every_form_is_read_in_order(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "spans"
    file.write_bytes(content)
    read = list(read_requests(file))
    assert [each.request for each in read] == REQUESTS
    ends = [each.end for each in read]
    assert ends == sorted(ends)
    assert len(content.rstrip()) <= ends[-1] <= len(content)


def test_empty_file_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "spans"
    file.write_bytes(b"")
    assert list(read_requests(file)) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LINES + b"{no}\n", "spans, line 4: the body is not OTLP/JSON"),
        (LINES + b'{"resourceSpans": 5}\n', "spans, line 4: the body is not OTLP/JSON: expected an array"),
        (b"hello", "spans, byte 0: neither JSON lines nor messages after four bytes of length"),
        (prefixed(PROTOBUF[0]) + b"\x00\x00", f"spans, byte {len(PROTOBUF[0]) + 4}: neither"),
        (prefixed(PROTOBUF[0])[:-1], "spans, byte 0: the last message is cut off"),
        (prefixed(b"\xff\xff\xff"), "spans, byte 0: is no export request of traces"),
        (prefixed(zstandard.compress(PROTOBUF[1])[:-3]), "spans, byte 0: "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "spans"
    file.write_bytes(content)
    with pytest.raises(CommandError) as refused:
        list(read_requests(file))
    assert said in str(refused.value)


def test_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        list(read_requests(tmp_path / "none"))


def test_all_times_move_together_and_what_has_none_gets_none(tmp_path: Path) -> None:
    request = export_request(2)
    first, second = request.resource_spans[0].scope_spans[0].spans
    first.events.add().time_unix_nano = first.start_time_unix_nano + 5
    second.start_time_unix_nano = 0
    second.end_time_unix_nano += 100
    file = tmp_path / "spans"
    file.write_bytes(prefixed(request.SerializeToString()))
    (read,) = read_requests(file)
    assert read.latest_ns == second.end_time_unix_nano
    read.shift(1000)
    moved, without = read.spans()
    assert (moved.start_time_unix_nano, moved.end_time_unix_nano, moved.events[0].time_unix_nano) == (
        first.start_time_unix_nano + 1000,
        first.end_time_unix_nano + 1000,
        first.start_time_unix_nano + 1005,
    )
    assert (without.start_time_unix_nano, without.end_time_unix_nano) == (0, second.end_time_unix_nano + 1000)
    moved.ClearField("events")
    assert ExportTraceServiceRequest.FromString(read.request.SerializeToString()) == read.request
