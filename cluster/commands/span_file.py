"""Files of export requests, as the OpenTelemetry Collector's file exporter writes them; read one request at a time.

JSON lines, or messages after four bytes of length (big-endian), each in protobuf or JSON, compressed with zstd or not.
Which of them it is shows in the bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cluster.errors import CommandError
from cluster.gateway.decompress import decompress
from cluster.gateway.otlp_json import json_to_protobuf
from cluster.gateway.refusal import Refused

_MAX_MESSAGE_BYTES: Final = 256 << 20
"""Also what one may become when it is inflated. No gateway takes more."""

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One request.

    Attributes:
        request: what it holds.
        end: where it ends in the file, in bytes.
    """

    request: ExportTraceServiceRequest
    end: int

    def spans(self) -> Iterator[Span]:
        """Return its spans."""
        for resource in self.request.resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans

    @property
    def latest_ns(self) -> int:
        """When its last span ended; 0: none says."""
        return max((span.end_time_unix_nano for span in self.spans()), default=0)

    def shift(self, by_ns: int) -> None:
        """Move every time in it; what has none gets none."""
        for span in self.spans():
            span.start_time_unix_nano = _moved(span.start_time_unix_nano, by_ns)
            span.end_time_unix_nano = _moved(span.end_time_unix_nano, by_ns)
            for event in span.events:
                event.time_unix_nano = _moved(event.time_unix_nano, by_ns)


def read_requests(path: Path) -> Iterator[FileRequest]:
    """Return the requests of a file in its order; those of other signals are left out.

    Raises:
        CommandError: the file cannot be read, or not understood; the message says where.
    """
    try:
        with path.open("rb") as file:
            first = file.read(1)
            file.seek(0)
            yield from (_lines if first in b"{ \t\r\n" else _messages)(file, path)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None


def _lines(file: BinaryIO, path: Path) -> Iterator[FileRequest]:
    end, number = 0, 0
    while line := file.readline(_MAX_MESSAGE_BYTES + 1):
        number += 1
        end += len(line)
        where = f"{path}, line {number}"
        if len(line) > _MAX_MESSAGE_BYTES:
            raise CommandError(f"{where}: has more than {_MAX_MESSAGE_BYTES} bytes, and is no line of OTLP/JSON")
        if line.strip():
            yield FileRequest(_of_json(line, where), end)


def _messages(file: BinaryIO, path: Path) -> Iterator[FileRequest]:
    end = 0
    while head := file.read(_LENGTH_BYTES):
        where = f"{path}, byte {end}"
        length = int.from_bytes(head, "big")
        if len(head) < _LENGTH_BYTES or length > _MAX_MESSAGE_BYTES:
            raise CommandError(
                f"{where}: neither JSON lines nor messages after four bytes of length, as the Collector's file "
                "exporter writes them"
            )
        body = file.read(length)
        if len(body) < length:
            raise CommandError(f"{where}: the last message is cut off; {length} bytes are promised, {len(body)} there")
        end += _LENGTH_BYTES + length
        read = _of_json if (body := _inflated(body, where)).startswith(b"{") else _of_protobuf
        yield FileRequest(read(body, where), end)


def _inflated(body: bytes, where: str) -> bytes:
    if not body.startswith(_ZSTD):
        return body
    inflated = decompress(body, "zstd", _MAX_MESSAGE_BYTES)
    if isinstance(inflated, Refused):
        raise CommandError(f"{where}: {inflated.message}")
    return inflated


def _of_json(body: bytes, where: str) -> ExportTraceServiceRequest:
    read = json_to_protobuf(body)
    if isinstance(read, Refused):
        raise CommandError(f"{where}: {read.message}")
    return _of_protobuf(read, where)


def _of_protobuf(body: bytes, where: str) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise CommandError(f"{where}: is no export request of traces: {error}") from None


def _moved(time_ns: int, by_ns: int) -> int:
    return max(0, time_ns + by_ns) if time_ns else 0
