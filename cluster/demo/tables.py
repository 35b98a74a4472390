"""One tenant on the screen: its RED table, its service graph as a tree, and the panel round both."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.demo import figures
from cluster.demo.frame import TREND_POINTS, TenantFrame
from cluster.demo.graph import Branch, service_order, spanning_forest
from cluster.demo.red import EdgeRow, RedRow

MAX_SERVICES = 20
MAX_EDGES = 48
"""Shops have 12 and 25; what a user sends on top must not push the rest off the screen."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters that lines are drawn with."""

    tee: str
    corner: str
    pipe: str
    elsewhere: str
    dot: str
    is_ascii: bool


UNICODE = Glyphs(tee="├▶ ", corner="╰▶ ", pipe="│ ", elsewhere=" ↑", dot="●", is_ascii=False)
ASCII = Glyphs(tee="|> ", corner="`> ", pipe="| ", elsewhere=" ^", dot="*", is_ascii=True)

_CONNECTIONS = {
    "": ("", ""),
    "messaging_system": ("queue", "magenta"),
    "database": ("db", "cyan"),
    "virtual_node": ("ext", "italic yellow"),
}
_RED_WIDTH = 41
_TREND_WIDTH = TREND_POINTS + 1
_TRENDS_FROM = 114


def tenant_panel(tenant: TenantFrame, glyphs: Glyphs, *, beside: int | None) -> Panel:
    """Draw all of a tenant: graph below table, or beside it if there are ``beside`` columns for both."""
    parts: list[RenderableType]
    if beside is not None:
        has_trends = beside >= _TRENDS_FROM
        side_by_side = Table.grid(expand=True, padding=(0, 2, 0, 0))
        side_by_side.add_column(width=_RED_WIDTH + has_trends * _TREND_WIDTH)
        side_by_side.add_column(ratio=1)
        side_by_side.add_row(red_table(tenant, glyphs, has_trends=has_trends), graph_table(tenant, glyphs))
        parts = [side_by_side]
    else:
        parts = [red_table(tenant, glyphs), Text(""), graph_table(tenant, glyphs)]
    return framed(tenant, [*parts, slowest_line(tenant)], glyphs)


def framed(tenant: TenantFrame, parts: Iterable[RenderableType], glyphs: Glyphs) -> Panel:
    """Put a tenant's name and what it has sent round some of its parts."""
    title = Text.assemble((f" {tenant.tenant} ", "bold reverse"), f" {tenant.about} ")
    sent = tenant.sent
    subtitle = Text(f" {figures.count(sent.acknowledged)} spans acknowledged ", style="dim")
    if sent.not_taken:
        subtitle.append(f"{figures.count(sent.not_taken)} not taken ", style="bold red")
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=subtitle,
        subtitle_align="right",
        border_style="dim",
        box=box.ASCII if glyphs.is_ascii else box.ROUNDED,
    )


def red_table(tenant: TenantFrame, glyphs: Glyphs, *, has_trends: bool = True) -> RenderableType:
    """Draw rate, errors and duration of each service, in the order in which a request meets them."""
    reading = tenant.reading
    if reading is None or not reading.red:
        return Text("no spans counted yet", style="dim")
    table = _table("service")
    for heading, width in (("req/s", 5), ("err", 5), ("p50", 6), ("p95", 6)):
        table.add_column(heading, justify="right", width=width, no_wrap=True)
    if has_trends:
        table.add_column("p95, 1 min", width=TREND_POINTS, no_wrap=True)
    order = service_order(spanning_forest(_busiest(reading.edges)))
    rows = sorted(reading.red, key=lambda row: -row.rate)[:MAX_SERVICES]
    for row in sorted(rows, key=lambda row: (order.get(row.service, len(order)), row.service)):
        values = tenant.trends.get(row.service, ())
        cells = _red_cells(row, figures.usual(values))
        table.add_row(*cells, *([figures.trend(values, is_ascii=glyphs.is_ascii)] if has_trends else []))
    left_out = len(reading.red) - len(rows)
    if left_out:
        table.add_row(Text(f"and {left_out} more", style="dim"))
    return table


def graph_table(tenant: TenantFrame, glyphs: Glyphs) -> RenderableType:
    """Draw the service graph as a tree: one line for each edge, with its rate, errors and p95."""
    reading = tenant.reading
    if reading is None or not reading.edges:
        return Text("no edges yet: those with an uninstrumented side are known after a wait", style="dim")
    table = _table("service graph")
    for heading, width in (("", 5), ("req/s", 5), ("err", 5), ("p95", 6)):
        table.add_column(heading, justify="right", width=width, no_wrap=True)
    edges = _busiest(reading.edges)
    instrumented = {row.service for row in reading.red}
    for branch in spanning_forest(edges):
        table.add_row(*_graph_cells(branch, glyphs, is_instrumented=branch.node in instrumented))
    left_out = len(reading.edges) - len(edges)
    if left_out:
        table.add_row(Text(f"and {left_out} more", style="dim"))
    return table


def slowest_line(tenant: TenantFrame) -> Text:
    """Tell the slowest request of the last half minute and its trace, as the exemplars remember it."""
    slowest = tenant.reading.slowest if tenant.reading else None
    if slowest is None:
        return Text("")
    return Text.assemble(
        ("\nslowest ", "dim"),
        figures.duration(slowest.seconds),
        f"  {slowest.service} {slowest.span_name}",
        (f"\n        trace {slowest.trace_id}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _table(heading: str) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(heading, ratio=1, no_wrap=True, overflow="ellipsis")
    return table


def _red_cells(row: RedRow, usual_p95_s: float | None) -> list[Text]:
    return [
        Text(row.service, style="bold"),
        figures.rate(row.rate),
        figures.share(row.error_share),
        figures.duration(row.p50_s),
        figures.duration(row.p95_s, usual_p95_s),
    ]


def _graph_cells(branch: Branch, glyphs: Glyphs, *, is_instrumented: bool) -> list[Text]:
    edge = branch.edge
    if edge is None:
        return [Text(branch.node, style="bold" if is_instrumented else "italic yellow")]
    # A virtual edge has one side without spans: the word belongs to its server only if that is the side.
    kind = "" if edge.connection_type == "virtual_node" and is_instrumented else edge.connection_type
    word, style = _CONNECTIONS.get(kind, (kind, ""))
    line = Text()
    line.append("".join(glyphs.pipe if goes_on else "  " for goes_on in branch.guides), style="dim")
    line.append(glyphs.corner if branch.is_last else glyphs.tee, style="dim")
    line.append(branch.node, style=style or "bold")
    if branch.is_elsewhere:
        line.append(glyphs.elsewhere, style="dim")
    return [
        line,
        Text(word, style="dim"),
        figures.rate(edge.rate),
        figures.share(edge.error_share),
        figures.duration(edge.p95_s),
    ]


def _busiest(edges: list[EdgeRow]) -> list[EdgeRow]:
    return sorted(edges, key=lambda edge: -edge.rate)[:MAX_EDGES]
