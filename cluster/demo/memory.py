"""The built-in receiver: Remote-Write 1.0 on loopback, into memory. For machines without Prometheus."""

import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import snappy

from cluster.demo.errors import MalformedWriteError
from cluster.demo.ports import HOST
from cluster.demo.readings import Exemplar, Rates
from cluster.demo.store import MAX_SERIES, SeriesStore
from cluster.demo.write_request import read_write_request

MAX_BODY_BYTES = 8 << 20
MAX_MESSAGE_BYTES = 32 << 20
"""As in the handler of Prometheus's own client library (remote-write §1.3)."""

_IDLE_TIMEOUT_S = 30


class RefusedWriteError(Exception):
    """A request that is not stored, with the HTTP status that says why. Stays within this module's server."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class MemoryReceiver:
    """A running receiver, see :class:`~cluster.demo.readings.Receiver`; it lives in this process."""

    name = "the built-in receiver"

    def __init__(self) -> None:
        self._store = SeriesStore()
        self._server = _Server(self._store)
        host, port = self._server.server_address[:2]
        self._url = f"http://{host!s}:{port}"
        self.write_url = f"{self._url}/api/v1/write"
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)
        self._thread.start()

    def rates(self, tenant: str, metric: str, by: tuple[str, ...], window_s: float) -> Rates:
        """Return increase per second by label values."""
        return self._store.rates(tenant, metric, by, window_s, _now_ms())

    def total(self, tenant: str, metric: str) -> float:
        """Return the newest values of the metric's series, added up."""
        return self._store.total(tenant, metric)

    def exemplars(self, tenant: str, metric: str, window_s: float) -> list[Exemplar]:
        """Return the exemplars of the last ``window_s``."""
        return self._store.exemplars(tenant, metric, _now_ms() - int(window_s * 1000))

    def look_here(self) -> list[tuple[str, str]]:
        """Return where the newest values can be read."""
        return [
            (
                "Series",
                f"curl {self._url}/series      (install prometheus and start again for PromQL and exemplars)",
            ),
        ]

    def check(self) -> None:
        """Return: it lives and ends with this process."""

    def close(self) -> None:
        """Stop listening and join the server's thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: SeriesStore) -> None:
        self.store = store
        super().__init__((HOST, 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT_S
    server: _Server

    def do_POST(self) -> None:
        try:
            left_out = self._store_body()
        except RefusedWriteError as refusal:
            # The body may not have been read: what follows on this connection would be taken for a request.
            self.close_connection = True
            self._answer(refusal.status, refusal.message)
            return
        if left_out:
            message = f"limit of {MAX_SERIES} series reached: {left_out} series not stored, the rest is"
            self._answer(HTTPStatus.BAD_REQUEST, message)
        else:
            self._answer(HTTPStatus.NO_CONTENT, "")

    def do_GET(self) -> None:
        if self.path != "/series":
            self._answer(HTTPStatus.NOT_FOUND, "there is GET /series and POST /api/v1/write")
            return
        lines = sorted(_exposition(labels, value) for labels, value in self.server.store.newest())
        self._answer(HTTPStatus.OK, "\n".join(lines))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Stay silent: the terminal belongs to the view, and the answers carry what there is to say."""

    def _store_body(self) -> int:
        if self.path != "/api/v1/write":
            raise RefusedWriteError(HTTPStatus.NOT_FOUND, "remote writes go to /api/v1/write")
        content_type = self.headers.get("Content-Type", "")
        if content_type.split(";")[0].strip() != "application/x-protobuf" or "write.v2" in content_type:
            raise RefusedWriteError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only Remote-Write 1.0: application/x-protobuf")
        if self.headers.get("Content-Encoding") != "snappy":
            raise RefusedWriteError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be snappy (block format)")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise RefusedWriteError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is required")
        if int(length) > MAX_BODY_BYTES:
            raise RefusedWriteError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body over {MAX_BODY_BYTES} bytes")
        message = uncompress(self.rfile.read(int(length)))
        try:
            return self.server.store.write(read_write_request(message), _now_ms())
        except MalformedWriteError as error:
            raise RefusedWriteError(HTTPStatus.BAD_REQUEST, str(error)) from error

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = f"{text}\n".encode() if text else b""
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def uncompress(body: bytes) -> bytes:
    """Expand a snappy block whose stated size is within :data:`MAX_MESSAGE_BYTES`.

    Raises:
        RefusedWriteError: it states more, or is damaged.
    """
    stated = 0
    for index, byte in enumerate(body[:5]):
        stated |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    if stated > MAX_MESSAGE_BYTES:
        raise RefusedWriteError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"message over {MAX_MESSAGE_BYTES} bytes")
    try:
        return bytes(snappy.uncompress(body))
    except snappy.UncompressError as error:
        raise RefusedWriteError(HTTPStatus.BAD_REQUEST, "body is not a snappy block") from error


def _exposition(labels: dict[str, str], value: float) -> str:
    pairs = ",".join(f'{name}="{text}"' for name, text in labels.items() if name != "__name__")
    return f"{labels.get('__name__', '')}{{{pairs}}} {value:g}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
