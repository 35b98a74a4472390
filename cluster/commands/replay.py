"""What ``millrace replay`` does: sends the export requests of a file to a running gateway, as if they happened now.

One request at a time, in the order of the file, as an exporter does: how fast the service answers is how fast it goes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.commands.service_access import TOKEN, Reach, bearer
from cluster.commands.span_file import FileRequest, read_requests
from cluster.errors import CommandError
from cluster.gateway.otlp_http import TRACES_PATH, MediaType
from cluster.json_output import write_json
from tenants.identity.tenant_id import HEADER, TenantId

_TIMEOUT_S: Final = 60.0
_RETRIED: Final = frozenset({429, 502, 503, 504})
_MAX_PAUSE_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.5
_PATIENCE_S: Final = 300.0
"""For one request that is pushed back again and again."""
_DISORDER_NS: Final = 60 * 1_000_000_000
"""How far requests of one recording may be out of order."""

_MENDS: Final = {
    400: "name the tenant with --tenant, or see what is wrong with the file",
    401: f"put a token with the scope ingest into {TOKEN}",
    403: f"the tenant is blocked, or the token in {TOKEN} is another's",
    404: "--url should be the gateway's OTLP/HTTP port (listen.otlp_http)",
    413: "the request is larger than cluster.max_request_bytes or the tenant's ingestion.burst_size_bytes",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent, and how.

    Attributes:
        file: with the requests.
        tenant: whose they are; None: the token, or the service's configuration, says.
        speed: how many times as fast as it happened; 0: as fast as the service takes it.
        keeps_times: send spans with the times in the file.
    """

    file: Path
    tenant: TenantId | None
    speed: float
    keeps_times: bool


@dataclass(slots=True)
class Sent:
    """What was sent by now."""

    requests: int = 0
    spans: int = 0
    rejected_spans: int = 0
    pushed_back: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How time passes, for tests another way."""

    now_ns: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def replay(
    plan: Plan, reach: Reach, environ: Mapping[str, str], out: Console, *, as_json: bool, timing: Timing | None = None
) -> Sent:
    """Send everything in the file, and say what was sent; an interruption ends it early, and says so too.

    Raises:
        SettingsError: the configuration has faults.
        CommandError: the file or the gateway is not what it should be; what was sent before is sent.
    """
    timing = timing or Timing()
    url = reach.gateway_address(environ)
    headers = {"Content-Type": MediaType.PROTOBUF.value, **bearer(environ.get(TOKEN, "").strip())}
    if plan.tenant is not None:
        headers[HEADER] = str(plan.tenant)
    sent = Sent()
    began = timing.monotonic()
    is_whole = True
    with reach.client(url, headers, _TIMEOUT_S) as client, _progress(plan.file, out, is_quiet=as_json) as advance:
        gateway = _Gateway(url, client, timing, sent)
        schedule = Schedule(plan.speed, timing)
        try:
            for each in read_requests(plan.file):
                schedule.wait_for(each.latest_ns)
                if not plan.keeps_times and each.latest_ns:
                    each.shift(timing.now_ns() - each.latest_ns)
                gateway.send(each)
                advance(each.end)
        except KeyboardInterrupt:
            is_whole = False
    sent.seconds = timing.monotonic() - began
    if as_json:
        write_json({**asdict(sent), "is_whole": is_whole}, out, is_line=True)
    else:
        out.print(_said(sent, is_whole=is_whole), soft_wrap=True, markup=False)
    return sent


class Schedule:
    """When requests are due: as far apart as they were, divided by the speed.

    One that is sent late makes all after it late: nothing is made up for. One that is older than what was sent before
    is due at once; one that is much older begins anew, as in a file that was written twice.
    """

    def __init__(self, speed: float, timing: Timing) -> None:
        self._speed = speed
        self._timing = timing
        self._last: tuple[int, float] | None = None

    def wait_for(self, time_ns: int) -> None:
        """Wait until a request of that time is due; one without a time is due at once."""
        if not self._speed or not time_ns:
            return
        now = self._timing.monotonic()
        if self._last is not None:
            last_ns, at_s = self._last
            if last_ns - _DISORDER_NS < time_ns <= last_ns:
                return
            due = at_s + max(0, time_ns - last_ns) / 1e9 / self._speed
            if due > now:
                self._timing.sleep(due - now)
                now = due
        self._last = (time_ns, now)


class _Gateway:
    """Sends one request after the other, again while it is pushed back."""

    def __init__(self, url: str, client: httpx.Client, timing: Timing, sent: Sent) -> None:
        self._url = url
        self._client = client
        self._timing = timing
        self._sent = sent

    def send(self, each: FileRequest) -> None:
        """Send a request and count it.

        Raises:
            CommandError: the gateway cannot be reached, refuses it, or pushes it back for too long.
        """
        body = each.request.SerializeToString()
        gives_up_at = self._timing.monotonic() + _PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        while (answer := self._post(body)).status_code in _RETRIED:
            self._sent.pushed_back += 1
            if self._timing.monotonic() > gives_up_at:
                raise CommandError(
                    f"{self._so_far()}; then it pushed one back for {_PATIENCE_S:g} s ({answer.status_code}): "
                    f"{_message(answer)}; lower --speed, or see why the service does not keep up: millrace status"
                )
            asked = answer.headers.get("retry-after", "")
            self._timing.sleep(min(float(asked) if asked.isdecimal() else pause_s, _MAX_PAUSE_S))
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)
        if not answer.is_success:
            said = f"{self._so_far()}; then it refused one ({answer.status_code}): {_message(answer)}"
            mend = _MENDS.get(answer.status_code)
            raise CommandError(f"{said}; {mend}" if mend else said)
        self._sent.requests += 1
        self._sent.spans += sum(1 for _ in each.spans())
        self._sent.rejected_spans += _rejected(answer)

    def _post(self, body: bytes) -> httpx.Response:
        try:
            return self._client.post(TRACES_PATH, content=body)
        except (httpx.HTTPError, OSError) as error:
            raise CommandError(
                f"no gateway answers at {self._url} ({type(error).__name__}: {error}); "
                f"check that it runs, --url, and listen.otlp_http of --config; {self._so_far()}"
            ) from None

    def _so_far(self) -> str:
        return f"{self._url} took {self._sent.requests} requests of {self._sent.spans} spans"


def _message(answer: httpx.Response) -> str:
    try:
        text: str = RpcStatus.FromString(answer.content).message
    except DecodeError:
        text = answer.text
    return text[:300] or answer.reason_phrase


def _rejected(answer: httpx.Response) -> int:
    try:
        return int(ExportTraceServiceResponse.FromString(answer.content).partial_success.rejected_spans)
    except DecodeError:
        raise CommandError(f"{answer.url} is no OTLP/HTTP port: {answer.text[:100]!r}; see --url") from None


@contextmanager
def _progress(file: Path, out: Console, *, is_quiet: bool) -> Iterator[Callable[[int], None]]:
    if is_quiet or not out.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size if file.exists() else None)
        yield lambda end: progress.update(task, completed=end)


def _said(sent: Sent, *, is_whole: bool) -> str:
    rate = sent.spans / sent.seconds if sent.seconds else 0.0
    said = f"{sent.requests:,} requests of {sent.spans:,} spans in {sent.seconds:,.1f} s ({rate:,.0f} spans/s)"
    if sent.rejected_spans:
        said += f"; {sent.rejected_spans:,} spans rejected: millrace tenants show says why"
    if sent.pushed_back:
        said += f"; pushed back {sent.pushed_back:,} times"
    return said if is_whole else f"interrupted; {said}"
