"""``millrace demo``: run the demo until Ctrl-C, SIGTERM or the end of its time, and say how it went.

Exit code 0 if all ended as they should; otherwise the reason, the last lines of the log that has more, and 1.
"""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cluster.demo import figures
from cluster.demo.children import tail
from cluster.demo.errors import ChildFailedError, DemoError
from cluster.demo.red import CALLS
from cluster.demo.stage import SERVE, Stage
from cluster.demo.view import everything, glyphs_for, open_view, plain_console
from cluster.demo.workspace import Workspace, choose_ports

_REDRAW_S = 0.25


def run_demo(duration_s: float | None, ephemeral_ports: bool, *, serve: Sequence[str] = SERVE) -> int:
    """Run the demo in the foreground; must be called from the main thread, which takes the signals.

    Args:
        duration_s: end after so many seconds of traffic; None is until a signal.
        ephemeral_ports: use no well-known port, so that several demos can run side by side.
        serve: the service's command, which gets ``--config FILE``.

    Returns:
        The exit code.
    """
    console = plain_console()
    directory = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
    stage = Stage(
        Workspace(directory),
        choose_ports(ephemeral=ephemeral_ports),
        ephemeral_ports=ephemeral_ports,
        clock_s=time.monotonic,
        serve=serve,
    )
    try:
        with _stop_on_signals() as stop:
            try:
                _perform(stage, console, stop, duration_s)
            finally:
                stage.close()
    except DemoError as error:
        _report_failure(console, error, directory)
        return 1
    if stage.playing_s > 0:
        console.print(everything(stage.frame(), glyphs_for(console), console.width))
    console.print(_last_line(stage), soft_wrap=True)
    shutil.rmtree(directory)
    return 0


def _perform(stage: Stage, console: Console, stop: threading.Event, duration_s: float | None) -> None:
    with open_view(console) as view:

        def pause(seconds: float) -> bool:
            view.show(stage.frame())
            return stop.wait(seconds)

        if not stage.start(pause):
            return
        while not pause(_REDRAW_S) and (duration_s is None or stage.playing_s < duration_s):
            stage.watch()
        stage.finish(show=lambda: view.show(stage.frame()))


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(stage: Stage) -> Text:
    if stage.playing_s <= 0:
        return Text("Millrace demo ended before any traffic.")
    line = Text(f"Millrace demo ended after {stage.playing_s:.0f} s of traffic.")
    for tenant, (sent, counted) in stage.totals.items():
        traces, spans = figures.count(sent.traces), figures.count(sent.acknowledged)
        line.append(f" {tenant}: {traces} traces, {spans} spans acknowledged, ")
        line.append(figures.count(counted), style="green" if counted == sent.acknowledged else "bold yellow")
        line.append(f" counted in {CALLS}")
        line.append(f", {figures.count(sent.not_taken)} not taken." if sent.not_taken else ".")
    return line


def _report_failure(console: Console, error: DemoError, directory: Path) -> None:
    if isinstance(error, ChildFailedError):
        console.print(Text(tail(error.log)), soft_wrap=True)
    console.print(Text(f"The demo ended: {error}. Its files are in {directory}", style="bold red"), soft_wrap=True)
