"""A gRPC call written to the socket by hand, to send what no client library would send.

Knows just enough HTTP/2 (RFC 9113): one stream, headers without compression, flow control for what it sends.
"""

import asyncio
import re
import struct
from dataclasses import dataclass

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class RawAnswer:
    """What came back: the gRPC status (None if the stream or the connection was cut) and all header bytes."""

    status: int | None
    headers: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers_frame(*more: tuple[str, str], path: str = EXPORT) -> bytes:
    fields = [
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")),
        *(("te", "trailers"), ("content-type", "application/grpc")),
        *more,
    ]
    block = b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in fields)
    return frame(HEADERS, END_HEADERS, 1, block)


def _literal(text: str) -> bytes:
    encoded = text.encode()
    assert len(encoded) < 127
    return bytes([len(encoded)]) + encoded


async def raw_call(port: int, message: bytes, *headers: tuple[str, str], is_compressed: bool = False) -> RawAnswer:
    """Send one message as it is and wait for the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + headers_frame(*headers))
        body = bytes([is_compressed]) + struct.pack(">I", len(message)) + message
        return await _exchange(reader, writer, body)
    finally:
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())], timeout=5)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> RawAnswer:
    stream_window = connection_window = 65_535
    position = 0
    seen = b""
    while True:
        while position < len(body) and (size := min(16_384, stream_window, connection_window)) > 0:
            chunk = body[position : position + size]
            position += len(chunk)
            stream_window -= len(chunk)
            connection_window -= len(chunk)
            writer.write(frame(DATA, END_STREAM if position == len(body) else 0, 1, chunk))
        try:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return RawAnswer(None, seen)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == WINDOW_UPDATE and stream:
            stream_window += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE:
            connection_window += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            for offset in range(0, len(payload), 6):
                setting, value = struct.unpack(">HI", payload[offset : offset + 6])
                if setting == 4:
                    stream_window += value - 65_535
            writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            writer.write(frame(PING, ACK, 0, payload))
        elif kind == HEADERS:
            seen += payload
            if flags & END_STREAM:
                status = re.search(rb"grpc-status[\x01-\x02](\d+)", seen)
                return RawAnswer(int(status[1]) if status else None, seen)
        elif kind in {RST_STREAM, GOAWAY}:
            return RawAnswer(None, seen)
