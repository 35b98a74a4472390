"""What ``millrace top`` does: tenants by what they send and cost, by two looks at ``/metrics`` of a service."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from itertools import islice
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.commands.metrics_page import samples
from cluster.commands.order import Order
from cluster.commands.service_access import Service
from cluster.errors import CommandError
from cluster.json_output import write_json

_UP: Final = "millrace_actor_up"
_SERIES: Final = "millrace_registry_active_series"
_LAG: Final = "millrace_remote_write_lag_seconds"
_COUNTERS: Final = {
    "millrace_spans_received_total": "spans_per_second",
    "millrace_bytes_received_total": "bytes_per_second",
    "millrace_spans_discarded_total": "discards_per_second",
}


_FIELDS: Final = {
    Order.SPANS: "spans_per_second",
    Order.BYTES: "bytes_per_second",
    Order.SERIES: "active_series",
    Order.DISCARDS: "discards_per_second",
    Order.LAG: "lag_s",
}


@dataclass(slots=True)
class Row:
    """One tenant.

    Attributes:
        tenant: its id; ``__other__``: all beyond those that are measured one by one.
        spans_per_second: received.
        bytes_per_second: received, as protobuf.
        active_series: now.
        discards_per_second: spans, for all reasons together.
        lag_s: age of the oldest samples that wait for an endpoint.
    """

    tenant: str
    spans_per_second: float = 0.0
    bytes_per_second: float = 0.0
    active_series: int = 0
    discards_per_second: float = 0.0
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the page said at one moment.

    Attributes:
        at_s: when, by a clock that never steps.
        actors: that answered.
        counted: counters by metric and labels; the labels hold actor and tenant.
        series: by tenant.
        lag_s: by tenant, of its slowest endpoint.
    """

    at_s: float
    actors: frozenset[str]
    counted: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    series: Mapping[str, int] = field(default_factory=dict)
    lag_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shown:
    """What of it is shown.

    Attributes:
        order: which tenants come first.
        limit: how many are shown.
        interval_s: seconds between two looks.
    """

    order: Order
    limit: int
    interval_s: float


def top(service: Service, shown: Shown, out: Console, *, once: bool, as_json: bool) -> None:
    """Show tenants until interrupted: on a terminal a table that is drawn anew, as JSON a line each time.

    Without a terminal a table is shown once.

    Raises:
        CommandError: the service does not answer at first, or not this. Later the table says so, and goes on.
    """
    rows = _rows(service, shown)
    with suppress(KeyboardInterrupt):
        if as_json:
            for found in islice(rows, 1 if once else None):
                write_json([asdict(row) for row in found], out, is_line=True)
        elif once or not out.is_terminal:
            out.print(_table(next(rows), ""))
        else:
            _live(service, shown, rows, out)


def _live(service: Service, shown: Shown, rows: Iterator[list[Row]], out: Console) -> None:
    found = next(rows)
    with Live(_table(found, service.url), console=out, screen=True, auto_refresh=False) as live:
        while True:
            try:
                found, said = next(rows), service.url
            except CommandError as error:
                # Whoever watches a service wants to see it come back. What failed has ended the iterator.
                rows, said = _rows(service, shown), str(error)
                time.sleep(shown.interval_s)
            live.update(_table(found, said), refresh=True)


def _rows(service: Service, shown: Shown) -> Iterator[list[Row]]:
    before = read_look(service.text("/metrics"), time.monotonic())
    while True:
        time.sleep(shown.interval_s)
        after = read_look(service.text("/metrics"), time.monotonic())
        yield ranked(between(before, after), shown)
        before = after


def read_look(page: str, at_s: float) -> Look:
    """Read the page."""
    actors: set[str] = set()
    counted: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    series: defaultdict[str, int] = defaultdict(int)
    lag_s: defaultdict[str, float] = defaultdict(float)
    for name, labels, value in samples(page, _UP, _SERIES, _LAG, *_COUNTERS):
        if name == _UP:
            actors |= {labels["actor"]} if value else set()
        elif name == _SERIES:
            series[labels["tenant"]] += int(value)
        elif name == _LAG:
            lag_s[labels["tenant"]] = max(lag_s[labels["tenant"]], value)
        else:
            counted[name, frozenset(labels.items())] = value
    return Look(at_s, frozenset(actors), counted, series, lag_s)


def between(before: Look, after: Look) -> list[Row]:
    """Say what happened between two looks, for each tenant that the latter knows."""
    rows: dict[str, Row] = {}
    seconds = max(after.at_s - before.at_s, 1e-9)
    for (name, labels), value in after.counted.items():
        known = dict(labels)
        row = rows.setdefault(known["tenant"], Row(known["tenant"]))
        # What an actor had counted that did not answer before is not of this moment.
        former = before.counted.get((name, labels), 0.0 if known["actor"] in before.actors else value)
        # A restarted actor counts from 0.
        grown = value - former if value >= former else value
        column = _COUNTERS[name]
        setattr(row, column, getattr(row, column) + grown / seconds)
    for tenant, count in after.series.items():
        rows.setdefault(tenant, Row(tenant)).active_series = count
    for tenant, lag_s in after.lag_s.items():
        rows.setdefault(tenant, Row(tenant)).lag_s = lag_s
    return list(rows.values())


def ranked(rows: list[Row], shown: Shown) -> list[Row]:
    """Return the first rows of the order; equal ones by name."""
    column = _FIELDS[shown.order]
    return sorted(rows, key=lambda row: (-getattr(row, column), row.tenant))[: shown.limit]


_COLUMNS: Final[Mapping[str, Callable[[Row], str]]] = {
    "Spans/s": lambda row: f"{row.spans_per_second:,.1f}",
    "Bytes/s": lambda row: decimal(round(row.bytes_per_second)),
    "Series": lambda row: f"{row.active_series:,}",
    "Discards/s": lambda row: f"{row.discards_per_second:,.1f}",
    "Lag": lambda row: str(timedelta(seconds=round(row.lag_s))),
}


def _table(rows: list[Row], said: str) -> Table:
    table = Table(box=SIMPLE_HEAD, caption=Text(said), caption_justify="left")
    table.add_column("Tenant", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(Text(row.tenant), *(text(row) for text in _COLUMNS.values()))
    if not rows:
        table.add_row(Text("no tenant has sent anything yet", style="dim"), *[""] * (len(fields(Row)) - 1))
    return table
