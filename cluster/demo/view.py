"""Show frames: redrawn in place on a terminal, printed now and then where there is none.

On a terminal the frame is laid out by the room there is: all tenants side by side, or below each other, or
one after the other in turns, or a single table in turns. It keeps nothing between frames.
"""

import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.demo import figures
from cluster.demo.frame import Frame, Phase, TenantFrame
from cluster.demo.red import TenantReading
from cluster.demo.tables import (
    ASCII,
    UNICODE,
    Glyphs,
    framed,
    graph_table,
    red_table,
    slowest_line,
    tenant_panel,
)

TURN_S = 8.0
"""How long one page is shown where not everything fits."""

_PRINT_EVERY_S = 5.0
_FILLED_AFTER_S = 6.0
"""Virtual edges wait for their missing half before they are counted, and then for a collection."""

_COLUMNS_FROM = 116
_BESIDE_FROM = 98
_PLAIN_WIDTH = 120
_PHASE_STYLES = {Phase.RUNNING: "bold green", Phase.ENDED: "bold"}


class View(Protocol):
    """Something that shows frames; a context manager that leaves the terminal as it found it."""

    def __enter__(self) -> "View": ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, frame: Frame) -> None:
        """Show a frame, or leave it out if it comes too early."""


def open_view(console: Console) -> View:
    """Return the view that suits the console."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def plain_console() -> Console:
    """Return a console on standard output; wide where the output is no terminal and has no width."""
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def glyphs_for(console: Console) -> Glyphs:
    """Return the line characters that the console's encoding has."""
    return UNICODE if console.encoding.startswith("utf") else ASCII


class LiveView:
    """Redraws in place, on the terminal's other screen; what was there before comes back at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, frame: Frame) -> None:
        """Draw the frame at once."""
        self._live.update(fit(frame, self._console), refresh=True)


class PlainView:
    """Prints: one line a tenant every few seconds, and everything once the tables have had time to fill."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase: Phase | None = None
        self._phase_since_s = 0.0
        self._printed_at_s = float("-inf")
        self._is_drawn = False

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to put back."""

    def show(self, frame: Frame) -> None:
        """Print the frame if the phase is new or the last print is some seconds ago."""
        is_new = frame.phase is not self._phase
        if not is_new and frame.age_s - self._printed_at_s < _PRINT_EVERY_S:
            return
        if is_new:
            self._phase, self._phase_since_s = frame.phase, frame.age_s
        self._printed_at_s = frame.age_s
        is_filled = frame.phase is Phase.RUNNING and frame.age_s - self._phase_since_s >= _FILLED_AFTER_S
        if is_filled and not self._is_drawn:
            self._is_drawn = True
            self._console.print(everything(frame, glyphs_for(self._console), self._console.width))
        else:
            self._console.print(summary(frame))


def everything(frame: Frame, glyphs: Glyphs, width: int) -> RenderableType:
    """Draw a frame without regard to height; where to look next is left out once there is nothing to see."""
    beside = width if width >= _BESIDE_FROM else None
    panels = [tenant_panel(tenant, glyphs, beside=beside) for tenant in frame.tenants]
    return Group(_header(frame, glyphs), *panels, *([] if frame.phase is Phase.ENDED else [_foot(frame)]))


def summary(frame: Frame) -> RenderableType:
    """Say in one line a tenant what a frame says."""
    lines = [Text(f"[{_clock(frame.age_s)}] {frame.phase.value}: {frame.detail}")]
    lines.extend(
        _tenant_line(tenant, tenant.reading) for tenant in frame.tenants if tenant.reading and tenant.reading.red
    )
    return Group(*lines)


def _tenant_line(tenant: TenantFrame, reading: TenantReading) -> Text:
    busiest = max(reading.red, key=lambda row: row.rate)
    worst = max(reading.red, key=lambda row: row.error_share)
    return Text.assemble(
        f"  {tenant.tenant}: {figures.count(tenant.sent.acknowledged)} spans, {len(reading.red)} services, ",
        f"{len(reading.edges)} edges; ",
        f"{busiest.service} {figures.rate(busiest.rate)} req/s, p95 {figures.duration(busiest.p95_s)}; ",
        f"most errors {worst.service} {figures.share(worst.error_share)}",
    )


def fit(frame: Frame, console: Console) -> RenderableType:
    """Draw a frame in the first layout that fits the console, or in the last one, cut."""
    drawn: RenderableType = Text("")
    for drawn in _layouts(frame, console):
        if _height(drawn, console, console.width) <= console.height:
            break
    return drawn


def _layouts(frame: Frame, console: Console) -> Iterator[RenderableType]:
    glyphs, width = glyphs_for(console), console.width
    header, foot = _header(frame, glyphs), _foot(frame)
    if not any(tenant.reading for tenant in frame.tenants):
        yield Group(header, foot)
        return
    if width >= _COLUMNS_FROM:
        yield Group(header, _columns(frame, glyphs, console), foot)
    beside = width if width >= _BESIDE_FROM else None
    yield Group(header, *(tenant_panel(tenant, glyphs, beside=beside) for tenant in frame.tenants), foot)
    tenant = frame.tenants[int(frame.age_s // TURN_S) % len(frame.tenants)]
    turns = Text(f" one tenant at a time, {TURN_S:.0f} s each: a larger terminal shows all", style="dim")
    page = tenant_panel(tenant, glyphs, beside=beside)
    yield Group(header, page, foot, turns)
    yield Group(header, page, turns)
    draw = (red_table, graph_table)[int(frame.age_s // (TURN_S * len(frame.tenants))) % 2]
    yield Group(header, framed(tenant, [draw(tenant, glyphs), slowest_line(tenant)], glyphs))
    yield Group(header, framed(tenant, [draw(tenant, glyphs)], glyphs))


def _columns(frame: Frame, glyphs: Glyphs, console: Console) -> RenderableType:
    columns = Table.grid(expand=True)
    panels = [tenant_panel(tenant, glyphs, beside=None) for tenant in frame.tenants]
    height = max(_height(panel, console, console.width // len(panels)) for panel in panels)
    for panel in panels:
        columns.add_column(ratio=1)
        panel.height = height
    columns.add_row(*panels)
    return columns


def _height(drawn: RenderableType, console: Console, width: int) -> int:
    return len(console.render_lines(drawn, console.options.update(width=width, height=None), pad=False))


def _header(frame: Frame, glyphs: Glyphs) -> RenderableType:
    phase = Text.assemble(
        (" Millrace demo ", "bold reverse"),
        "  ",
        (f"{glyphs.dot} {frame.phase.value}", _PHASE_STYLES.get(frame.phase, "bold yellow")),
        f"  {_clock(frame.age_s)}  ",
        (frame.detail, "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
    return Padding(phase, (0, 0, 1, 0))


def _foot(frame: Frame) -> RenderableType:
    foot = Table.grid(padding=(0, 2, 0, 0))
    foot.add_column(style="dim", no_wrap=True)
    foot.add_column(overflow="fold")
    for what, where in frame.look_here:
        foot.add_row(what, Text(where, style=f"link {where}" if where.startswith("http") else ""))
    return Padding(foot, (0, 0, 0, 1))


def _clock(age_s: float) -> str:
    minutes, seconds = divmod(int(age_s), 60)
    return f"{minutes}:{seconds:02d}"
