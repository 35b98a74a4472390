"""The demo's cast: receiver, Millrace and traffic, started in this order and ended in the reverse one.

Only that order makes the totals comparable: what the traffic was told is what Millrace counted, and what it
flushed at its end is what the receiver has. It draws nothing; :meth:`Stage.frame` is what there is to draw.
"""

import json
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import httpx

from cluster.commands.tokens import create as create_token
from cluster.demo.children import Child, describe_exit
from cluster.demo.errors import ChildFailedError, ReceiverError
from cluster.demo.frame import Frame, Phase, Sent, TenantFrame, Trends
from cluster.demo.readings import Receiver
from cluster.demo.receiver import start_receiver
from cluster.demo.red import CALLS, TenantReading, read_tenant
from cluster.demo.traffic import FLAVOURS
from cluster.demo.workspace import COLLECTION_S, Listen, Workspace
from tenants.identity.access import Scope

READ_EVERY_S = 2.0
SERVE = (sys.executable, "-m", "cluster.cli", "serve")

_MIN_WINDOW_S, _MAX_WINDOW_S = 2.0 * COLLECTION_S + 1.0, 30.0
"""A rate needs two collections in its window."""
_MILLRACE_START_S = 120.0
_MILLRACE_STOP_S = 60.0
"""Longer than the service's own drain deadline: it has to end by itself, with exit code 0."""
_TRAFFIC_STOP_S = 20.0


@dataclass(slots=True)
class _Watch:
    """What is known of one tenant so far."""

    sent: Sent = field(default_factory=Sent)
    reading: TenantReading | None = None
    trends: Trends = field(default_factory=Trends)
    counted: int = 0


class Stage:
    """Owns what is running. Used by one thread; :meth:`close` may be called at any time, and again.

    Args:
        workspace: where files go.
        listen: Millrace's ports.
        ephemeral_ports: for the receiver's own port.
        clock_s: monotonic seconds.
        serve: the service's command, which gets ``--config FILE``.
    """

    def __init__(
        self,
        workspace: Workspace,
        listen: Listen,
        *,
        ephemeral_ports: bool,
        clock_s: Callable[[], float],
        serve: Sequence[str] = SERVE,
    ) -> None:
        self._workspace = workspace
        self._listen = listen
        self._ephemeral_ports = ephemeral_ports
        self._clock_s = clock_s
        self._serve = serve
        self._begun_at_s = clock_s()
        self._playing_since_s: float | None = None
        self._played_s: float | None = None
        self._read_at_s = float("-inf")
        self._watches = {tenant: _Watch() for tenant in FLAVOURS}
        self._receiver: Receiver | None = None
        self._millrace: Child | None = None
        self._traffic: Child | None = None
        self._trouble = ""
        self._token = ""
        self._phase = Phase.STARTING

    def start(self, pause: Callable[[float], bool]) -> bool:
        """Start all three, each when the one before is ready. Returns False if ``pause`` was interrupted.

        Raises:
            ChildFailedError: one of them did not start.
        """
        workspace, listen = self._workspace, self._listen
        self._receiver = start_receiver(
            workspace.directory, listen.address(listen.http), ephemeral_ports=self._ephemeral_ports
        )
        workspace.write_settings(listen, self._receiver.write_url)
        self._token = create_token(
            workspace.service_config, {}, [Scope.OPERATOR], tenant=None, days=1, note="the demo's operator"
        )
        serve = [*self._serve, "--config", str(workspace.service_config)]
        self._millrace = Child("millrace", serve, workspace.log("millrace"))
        if not self._millrace.wait_until(self._is_ready, _MILLRACE_START_S, pause):
            return False
        play = [
            *(sys.executable, "-m", "cluster.demo.traffic"),
            *("--endpoint", listen.address(listen.otlp_grpc)),
            *("--progress", str(workspace.progress)),
        ]
        self._traffic = Child("traffic", play, workspace.log("traffic"))
        self._playing_since_s = self._clock_s()
        self._phase = Phase.WAITING
        return True

    def watch(self) -> None:
        """Check that all are running and, every :data:`READ_EVERY_S`, read what the view shows.

        Raises:
            ChildFailedError: one of them has ended.
        """
        for part in (self._receiver, self._millrace, self._traffic):
            if part is not None:
                part.check()
        now_s = self._clock_s()
        if now_s - self._read_at_s >= READ_EVERY_S:
            self._read_at_s = now_s
            self._read(now_s)

    def finish(self, show: Callable[[], None]) -> None:
        """End traffic and Millrace, and take the final counts. The receiver still runs.

        Args:
            show: called when there is something new to draw: the stops may take a while.

        Raises:
            ChildFailedError: one of them did not end in time, or not with exit code 0.
        """
        self._played_s = self.playing_s
        self._phase = Phase.STOPPING
        show()
        # Traffic that was stopped while still starting has not caught its signal, and has sent nothing.
        _stop(self._traffic, _TRAFFIC_STOP_S, {0, -signal.SIGTERM})
        _stop(self._millrace, _MILLRACE_STOP_S, {0})
        self._read_progress()
        if self._receiver is not None:
            for tenant, watch in self._watches.items():
                watch.counted = round(self._receiver.total(tenant, CALLS))
        self._phase = Phase.ENDED

    def close(self) -> None:
        """End whatever still runs, in order; nothing is awaited beyond its time."""
        try:
            if self._traffic is not None:
                self._traffic.stop(_TRAFFIC_STOP_S)
        finally:
            try:
                if self._millrace is not None:
                    self._millrace.stop(_MILLRACE_STOP_S)
            finally:
                if self._receiver is not None:
                    self._receiver.close()

    @property
    def playing_s(self) -> float:
        """How long the traffic has been going, in seconds, or went."""
        if self._played_s is not None:
            return self._played_s
        return 0.0 if self._playing_since_s is None else self._clock_s() - self._playing_since_s

    @property
    def totals(self) -> dict[str, tuple[Sent, int]]:
        """What each tenant's traffic was told and, after :meth:`finish`, what its counters say."""
        return {tenant: (watch.sent, watch.counted) for tenant, watch in self._watches.items()}

    def frame(self) -> Frame:
        """Return what there is to draw now."""
        return Frame(
            phase=self._phase,
            age_s=self._clock_s() - self._begun_at_s,
            detail=self._trouble or self._detail(),
            tenants=[
                TenantFrame(tenant, FLAVOURS[tenant].about, watch.sent, watch.reading, watch.trends.snapshot())
                for tenant, watch in self._watches.items()
            ],
            look_here=self._look_here(),
        )

    def _is_ready(self) -> bool:
        url = f"http://{self._listen.address(self._listen.http)}/ready"
        try:
            return httpx.get(url, timeout=1.0, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _read(self, now_s: float) -> None:
        self._read_progress()
        receiver = self._receiver
        if receiver is None:
            return
        # The window grows with the run: over 30 s the first half minute would read as a slow start.
        window_s = min(_MAX_WINDOW_S, max(_MIN_WINDOW_S, self.playing_s))
        try:
            readings = {tenant: read_tenant(receiver, tenant, window_s) for tenant in self._watches}
        except ReceiverError as error:
            # One missed read is not the end: the last tables stay, and a dead receiver is found by its check.
            self._trouble = str(error)
            return
        self._trouble = ""
        for tenant, reading in readings.items():
            watch = self._watches[tenant]
            watch.reading = reading
            watch.trends.record(now_s, reading.red)
        if all(reading.red and reading.edges for reading in readings.values()):
            self._phase = Phase.RUNNING

    def _read_progress(self) -> None:
        if not self._workspace.progress.exists():
            return
        tallies = json.loads(self._workspace.progress.read_text())
        for tenant, tally in tallies.items():
            not_taken = tally["rejected"] + tally["refused"] + tally["lost"]
            self._watches[tenant].sent = Sent(tally["traces"], tally["acknowledged"], not_taken)

    def _detail(self) -> str:
        if self._phase is Phase.STARTING:
            return "Millrace and its Ray runtime come up, this takes some seconds"
        if self._phase is Phase.WAITING:
            return f"the shops are open; every {COLLECTION_S} s a collection"
        if self._phase is Phase.STOPPING:
            return "traffic first, then Millrace flushes and sends what it has"
        name = self._receiver.name if self._receiver is not None else ""
        return f"a remote write every {COLLECTION_S} s to {name}"

    def _look_here(self) -> list[tuple[str, str]]:
        workspace, listen = self._workspace, self._listen
        service = f"http://{listen.address(listen.http)}"
        exporter = f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{listen.address(listen.otlp_grpc)}"
        return [
            *(self._receiver.look_here() if self._receiver is not None else ()),
            ("Console", f"{service}/console/   sign in with {self._token}"),
            ("Millrace", f"{service}/status   {service}/metrics"),
            ("Your spans", f"{exporter} OTEL_EXPORTER_OTLP_HEADERS=x-scope-orgid=acme"),
            ("Settings", f"{workspace.overrides}   edit and save it while this runs"),
            ("Log", str(workspace.log("millrace"))),
            *(("Ports", note) for note in listen.moved),
        ]


def _stop(child: Child | None, timeout_s: float, expected: Collection[int]) -> None:
    if child is None:
        return
    code = child.stop(timeout_s)
    if code not in expected:
        raise ChildFailedError(child.name, f"stopped with {describe_exit(code)}", child.log)
