"""Load generator: plays shops in real time and sends their spans to a real OTLP/gRPC port.

One thread for each tenant: spans leave when they have ended, as from an SDK's batch processor, so a slow
trace arrives in pieces. Requests of a tenant are strictly one after the other; while one is being retried no
new traces are begun, so memory is bounded by the spans of the traces in flight. It does not hide what went
wrong: each tenant's :class:`Tally` says what was acknowledged, retried, refused and lost.

Run it alone with ``python -m cluster.demo.traffic --endpoint 127.0.0.1:4317 --duration 10``.
"""

import heapq
import itertools
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import grpc
import structlog
import typer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cluster.demo.acme import ACME
from cluster.demo.globex import GLOBEX
from cluster.demo.model import Flavour
from cluster.demo.otlp import export_request
from cluster.demo.shop import DemoSpan, Shop

FLAVOURS = {flavour.tenant: flavour for flavour in (ACME, GLOBEX)}

_NS_PER_S = 1_000_000_000
_TICK_S = 0.25
_REPORT_S = 1.0
_MAX_SPANS_PER_REQUEST = 1_000
_REQUEST_TIMEOUT_S = 10.0
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
_MAX_RETRY_S = 25.0
"""Shorter than the ingestion slack of 30 s (processors §5.3): later the spans would not be counted."""

_RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tally:
    """What became of one tenant's traffic so far, counted in spans unless the name says otherwise."""

    traces: int = 0
    requests: int = 0
    retries: int = 0
    acknowledged: int = 0
    rejected: int = 0
    """In acknowledged requests, but set aside by the receiver (``partial_success``)."""
    refused: int = 0
    """In requests answered with a code that must not be retried."""
    lost: int = 0
    """In requests given up after retrying until the spans were too old."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The receiver's answer to a request that it did not take."""

    code: str
    message: str
    is_retryable: bool
    """The same request may succeed later."""


Send = Callable[[ExportTraceServiceRequest], int | Refusal]
"""Deliver one request; returns how many of its spans were rejected, or the refusal of all of it."""

Pause = Callable[[float], bool]
"""Wait for so many seconds; returns True when it is time to stop."""


class Player:
    """Plays one tenant's shop and sends what it yields. Used by one thread; ``tally`` may be read by others.

    Args:
        shop: what to play.
        traces_per_s: mean rate of new traces; the player never catches up with a burst after a stall.
        send: delivers one request.
        clock_ns: wall clock, nanoseconds since the epoch.
        pause: waits, and says when to stop.
        rng: jitter of the back-off.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        traces_per_s: float,
        send: Send,
        clock_ns: Callable[[], int],
        pause: Pause,
        rng: random.Random,
    ) -> None:
        self.tally = Tally()
        self._shop = shop
        self._traces_per_s = traces_per_s
        self._send = send
        self._clock_ns = clock_ns
        self._pause = pause
        self._rng = rng
        self._next_ns = clock_ns()
        self._sequence = itertools.count()
        self._open: list[tuple[int, int, DemoSpan]] = []

    def run(self) -> None:
        """Play until ``pause`` says stop. Spans that have not ended by then are never sent."""
        while not self._pause(_TICK_S):
            self.tick()

    def tick(self) -> None:
        """Begin the traces that are due and send the spans that have ended."""
        now_ns = self._clock_ns()
        self._next_ns = max(self._next_ns, now_ns - int(2 * _TICK_S * _NS_PER_S))
        while self._next_ns <= now_ns:
            for span in self._shop.trace(self._next_ns):
                heapq.heappush(self._open, (span.end_ns, next(self._sequence), span))
            self.tally.traces += 1
            self._next_ns += self._shop.gap_ns(self._next_ns, self._traces_per_s)
        ended = []
        while self._open and self._open[0][0] <= now_ns:
            ended.append(heapq.heappop(self._open)[2])
        for start in range(0, len(ended), _MAX_SPANS_PER_REQUEST):
            self._deliver(ended[start : start + _MAX_SPANS_PER_REQUEST])

    def _deliver(self, spans: Sequence[DemoSpan]) -> None:
        request = export_request(spans)
        tenant = self._shop.flavour.tenant
        backoff_s = _FIRST_BACKOFF_S
        give_up_ns = self._clock_ns() + int(_MAX_RETRY_S * _NS_PER_S)
        while True:
            self.tally.requests += 1
            answer = self._send(request)
            if not isinstance(answer, Refusal):
                self.tally.rejected += answer
                self.tally.acknowledged += len(spans) - answer
                return
            said = f"{answer.code}: {answer.message}"
            if not answer.is_retryable:
                self.tally.refused += len(spans)
                log.error("request refused", tenant=tenant, spans=len(spans), answer=said)
                return
            if self._clock_ns() >= give_up_ns or self._pause(backoff_s * self._rng.uniform(0.8, 1.2)):
                self.tally.lost += len(spans)
                log.error("gave up retrying", tenant=tenant, spans=len(spans), answer=said)
                return
            self.tally.retries += 1
            log.warning("retrying", tenant=tenant, backoff_s=backoff_s, answer=said)
            backoff_s = min(_MAX_BACKOFF_S, 2 * backoff_s)


def grpc_send(channel: grpc.Channel, tenant: str) -> Send:
    """Return a :data:`Send` over an OTLP/gRPC channel, in the name of ``tenant``."""
    stub = TraceServiceStub(channel)  # type: ignore[no-untyped-call]
    metadata = (("x-scope-orgid", tenant),)

    def send(request: ExportTraceServiceRequest) -> int | Refusal:
        try:
            answer = stub.Export(request, timeout=_REQUEST_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code()
            return Refusal(code.name, error.details() or "", code in _RETRYABLE)
        return int(answer.partial_success.rejected_spans)

    return send


def play(
    endpoint: str,
    flavours: Sequence[Flavour],
    *,
    rate: float | None,
    seed: int,
    stop: threading.Event,
    report: Callable[[dict[str, Tally]], None],
) -> dict[str, Tally]:
    """Play the shops against ``endpoint`` (host:port) until ``stop`` is set.

    Args:
        endpoint: host:port of an OTLP/gRPC receiver.
        flavours: the shops, one tenant each.
        rate: traces a second and tenant; None is each shop's own.
        seed: what makes the run repeatable.
        stop: ends the run; what has not ended by then is never sent.
        report: called every second and at the end.
    """
    opened_at_ns = time.time_ns()
    # A loopback port is never behind a proxy, whatever the environment says.
    with grpc.insecure_channel(endpoint, options=[("grpc.enable_http_proxy", 0)]) as channel:
        players = {
            flavour.tenant: Player(
                Shop(flavour, seed, opened_at_ns),
                traces_per_s=rate or flavour.traces_per_s,
                send=grpc_send(channel, flavour.tenant),
                clock_ns=time.time_ns,
                pause=stop.wait,
                rng=random.Random(seed),
            )
            for flavour in flavours
        }
        tallies = {tenant: player.tally for tenant, player in players.items()}
        with ThreadPoolExecutor(len(players), thread_name_prefix="player") as pool:
            runs = [pool.submit(player.run) for player in players.values()]
            while not stop.wait(_REPORT_S):
                report(tallies)
                if any(run.done() for run in runs):
                    stop.set()
        for run in runs:
            run.result()
    report(tallies)
    return tallies


def write_progress(path: Path, tallies: dict[str, Tally]) -> None:
    """Replace ``path`` by the tallies as JSON; a reader sees the old ones or the new ones, never half."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({tenant: asdict(tally) for tenant, tally in tallies.items()}))
    draft.replace(path)


def main(
    *,
    endpoint: Annotated[str, typer.Option(help="OTLP/gRPC port to send to, host:port")] = "127.0.0.1:4317",
    tenant: Annotated[list[str] | None, typer.Option(help="Shop to play (default: all)")] = None,
    rate: Annotated[float | None, typer.Option(help="Traces a second and tenant (default: its own)")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds to play (default: until SIGTERM)")] = None,
    seed: Annotated[int, typer.Option(help="What makes a run repeatable")] = 1,
    progress: Annotated[Path | None, typer.Option(help="File to replace by the tallies, each second")] = None,
) -> None:
    """Play the demo shops through an OTLP/gRPC port until SIGTERM, SIGINT or the end of ``duration``."""
    unknown = set(tenant or ()) - set(FLAVOURS)
    if unknown:
        raise typer.BadParameter(f"no shop {sorted(unknown)}; there are {sorted(FLAVOURS)}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if duration is not None:
        timer = threading.Timer(duration, stop.set)
        timer.daemon = True
        timer.start()

    def report(tallies: dict[str, Tally]) -> None:
        if progress is not None:
            write_progress(progress, tallies)

    flavours = [FLAVOURS[name] for name in tenant or FLAVOURS]
    log.info("playing", endpoint=endpoint, tenants=[flavour.tenant for flavour in flavours])
    tallies = play(endpoint, flavours, rate=rate, seed=seed, stop=stop, report=report)
    for name, tally in tallies.items():
        log.info("played", tenant=name, **asdict(tally))


if __name__ == "__main__":
    typer.run(main)
