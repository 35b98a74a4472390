"""A remote-write receiver that does as it is told: real sockets on 127.0.0.1, scripted answers, full records.

It speaks just enough HTTP/1.1 to be spoken to by a real client. It does not decode what it is sent; :func:`stores_all`
does, and answers as receivers of Remote-Write 2.0 do.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from tenants.settings.remote_write_targets import RemoteWriteTargets
from tests.remote_write_v2 import decode_v2

LOOPBACK: Final = RemoteWriteTargets(allowed_private=("127.0.0.0/8",))
"""Lets endpoints in overrides send to receivers of tests."""


@dataclass(frozen=True)
class Answer:
    """Answer with a status. ``resets_after_head`` breaks the connection where the body should begin."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    resets_after_head: bool = False


@dataclass(frozen=True)
class Hang:
    """Take the request and say nothing, until the client gives up."""


@dataclass(frozen=True)
class Hold:
    """Answer 204, but not before :meth:`Receiver.release`."""


@dataclass(frozen=True)
class Trickle:
    """Begin an answer and go on with one byte at a time, without end."""

    pause_s: float = 0.01


@dataclass(frozen=True)
class Flood:
    """Answer with a status and a body that does not end."""

    status: int


@dataclass(frozen=True)
class Reset:
    """Break the connection after so many bytes of a good answer."""

    after_bytes: int = 0


WireStep = int | Answer | Hang | Trickle | Flood | Reset
Decide = Callable[["Received"], WireStep]
"""What to do with a request, once it is known."""
Step = WireStep | Hold | Decide


@dataclass(frozen=True)
class Received:
    """One request: target, headers as they were on the wire, body."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """The value of a header that must not occur twice."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None


def is_v2(request: Received) -> bool:
    """Whether a request says that it is Remote-Write 2.0."""
    return request.header("Content-Type") == "application/x-protobuf;proto=io.prometheus.write.v2.Request"


def stores_all(request: Received) -> WireStep:
    """Answer as a receiver of both messages that stores everything; of 2.0 it says how much that is."""
    return Answer(204, written(request)) if is_v2(request) else 204


def written(request: Received, *, fewer: int = 0) -> dict[str, str]:
    """Return the headers that say what was stored of a 2.0 request: all but some samples."""
    series = [each.series for each in decode_v2(request.body).series.values()]
    counts = {
        "Samples": sum(len(each.samples) for each in series) - fewer,
        "Histograms": sum(len(each.histograms) for each in series),
        "Exemplars": sum(len(each.exemplars) for each in series),
    }
    return {f"X-Prometheus-Remote-Write-{kind}-Written": str(count) for kind, count in counts.items()}


class Receiver:
    """Plays its script, one step per request, then answers ``otherwise`` (204) for ever."""

    def __init__(
        self,
        script: Iterable[Step] = (),
        *,
        otherwise: Step = 204,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = list(script)
        self.otherwise = otherwise
        self.requests: list[Received] = []
        self.most_at_once = 0
        self._at_once = 0
        self._connections = 0
        self._port = port
        self._tls = tls
        self._arrival = asyncio.Condition()
        self._released = asyncio.Event()
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.release()
        for writer in self._handlers.values():
            writer.transport.abort()
        await asyncio.gather(*self._handlers)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/api/v1/write"

    @property
    def bodies(self) -> list[bytes]:
        return [request.body for request in self.requests]

    def release(self) -> None:
        """Let the requests that ``Hold`` holds be answered, now and from now on."""
        self._released.set()

    async def wait_for_requests(self, count: int, timeout_s: float = 10) -> None:
        """Wait until ``count`` requests have come in since the start."""
        async with asyncio.timeout(timeout_s), self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers[handler] = writer
        self._connections += 1
        number = self._connections
        try:
            while (request := await _read_request(reader, number)) is not None:
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    async with self._arrival:
                        self.requests.append(request)
                        self._arrival.notify_all()
                    step = self.script.pop(0) if self.script else self.otherwise
                    if isinstance(step, Hold):
                        await self._released.wait()
                        step = 204
                    if not isinstance(step, WireStep):
                        step = step(request)
                    if not await _play(step, reader, writer):
                        return
                finally:
                    self._at_once -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as a client may
        finally:
            del self._handlers[handler]
            writer.close()


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next(int(value) for name, value in headers if name.lower() == "content-length")
    return Received(method, target, headers, await reader.readexactly(length), connection)


async def _play(step: WireStep, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Play one step; say whether the connection lives on."""
    match step:
        case int(status):
            return await _play(Answer(status), reader, writer)
        case Answer(status, headers, body, resets_after_head):
            lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
            if status != 204:
                lines.append(f"Content-Length: {len(body) + (1 if resets_after_head else 0)}")
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
            if resets_after_head:
                writer.transport.abort()
            return not resets_after_head
        case Hang():
            await reader.read()
            return False
        case Trickle(pause_s):
            writer.write(b"HTTP/1.1 204 No")
            while not writer.is_closing():
                await writer.drain()
                await asyncio.sleep(pause_s)
                writer.write(b"o")
            return False
        case Flood(status):
            writer.write(f"HTTP/1.1 {status} Scripted\r\nContent-Length: {10**15}\r\n\r\n".encode())
            while not writer.is_closing():
                writer.write(b"no " * 1000)
                await writer.drain()
                await asyncio.sleep(0)
            return False
        case Reset(after_bytes):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[:after_bytes])
            await writer.drain()
            writer.transport.abort()
            return False
