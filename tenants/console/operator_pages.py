"""What operators alone see: all tenants, the cluster, the audit."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from tenants.console import figures_text as say
from tenants.console.frame import card, frame, html, live
from tenants.console.markup import Cell, Html, bar, data_path, link, table, tag, tenant_path, text
from tenants.console.visitor import Visitor

PAGE: Final = 50
_ORDERS: Final = {"tenant": "Tenant", "rate": "Spans", "series": "Series", "discarded": "Discarded"}
_STATES: Final = {"active": "good", "dry_run": "", "paused": "poor", "blocked": "bad"}


def state_tag(state: str) -> Html:
    """Return the state of a tenant as a tag."""
    return tag(state.replace("_", " "), _STATES.get(state, ""))


def endpoint_tag(states: Mapping[str, int], lag_s: float) -> Html:
    """Return how the endpoints of a tenant do, the worst first."""
    if not states:
        return tag("none")
    bad = [state for state in states if state.startswith("paused") or state == "crashed"]
    if bad:
        return tag(bad[0].replace("_", " "), "bad")
    if "backing_off" in states or lag_s > 60:
        return tag(f"behind {say.duration(lag_s)}", "poor")
    return tag("ok", "good")


_ACTOR_HEADS: Final = (
    "Process",
    "State",
    "Node",
    "Shards",
    "Spans in",
    "Series",
    "Queued",
    "Retained",
    "Journal waits",
    "Records wait",
    "Lag",
    "Endpoint lag",
)


class TenantsPage:
    """All tenants, some at a time."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._search = ""
        self._order = "rate"
        self._page = 0
        self._total = 0

    def build(self, request: Request) -> None:
        """Build the page."""
        self._order = order if (order := request.query_params.get("order", "rate")) in _ORDERS else "rate"
        with frame(request, self._visitor, "Tenants", "Tenants"):
            with ui.row().classes("items-center w-full gap-4"):
                html("<h1>Tenants</h1>")
                search = ui.input(placeholder="Search by id", on_change=self._on_search)
                search.props('dense outlined clearable debounce=200 data-key="/" aria-label="Search by id"')
                ui.space()
                self._json = html()
                ui.button("Open", on_click=lambda: self._open(search.value)).props("flat dense no-caps").tooltip(
                    "Open the tenant with this id, known or not"
                )
                search.on("keydown.enter", lambda: self._open(search.value))
            with ui.element("section").classes("card"):
                self._table = html()
            with ui.row().classes("items-center w-full gap-2"):
                self._where = ui.label().classes("soft")
                ui.space()
                self._previous = ui.button("Previous", on_click=lambda: self._turn(-1))
                self._next = ui.button("Next", on_click=lambda: self._turn(1))
                self._previous.props('flat dense no-caps data-key="p"')
                self._next.props('flat dense no-caps data-key="n"')
            live(self._refresh)

    async def _on_search(self, event: Any) -> None:
        self._search, self._page = (event.value or "").strip(), 0
        await self._refresh()

    async def _turn(self, pages: int) -> None:
        self._page = max(0, min(self._page + pages, max(0, self._total - 1) // PAGE))
        await self._refresh()

    def _open(self, name: str | None) -> None:
        if name and name.strip():
            ui.navigate.to(tenant_path(name.strip()).removeprefix("/console"))

    async def _refresh(self) -> None:
        query = {"limit": str(PAGE), "skip": str(self._page * PAGE), "order": self._order, "search": self._search}
        answer = await self._visitor.get(f"/api/admin/tenants?{urlencode(query)}")
        rows, self._total = answer["tenants"], answer["total"]
        heads: list[Cell] = [
            link(label, f"/console/?order={order}", is_here=order == self._order) for order, label in _ORDERS.items()
        ]
        tenant, spans, series, discarded = heads
        heads = [tenant, "State", spans, "Bytes", series, "Demand", discarded, "Endpoints", "Problems"]
        self._table.content = table(heads, [_row(row) for row in rows], numbers=(2, 3, 4, 5, 6))
        first = self._page * PAGE
        self._where.text = f"{first + 1 if rows else 0} to {first + len(rows)} of {self._total}"
        self._previous.set_enabled(first > 0)
        self._next.set_enabled(first + len(rows) < self._total)
        self._json.content = f'<a class="json" href="{data_path("admin/tenants", **query)}">JSON</a>'.replace(
            "&", "&amp;"
        )


def _row(row: Mapping[str, Any]) -> list[Cell]:
    rate, limits, endpoints = row["rate"] or {}, row["limits"] or {}, row["endpoints"]
    bytes_per_second, rate_limit = rate.get("bytes_per_second", 0.0), limits.get("rate_limit_bytes", 0)
    series_limit = limits.get("max_active_series") or 0
    series = say.count(row["active_series"]) + (f" of {say.count(series_limit)}" if series_limit else "")
    accepted = row["accepted"]
    reasons = sorted(accepted["refused"] + accepted["discarded"], key=lambda each: -each["spans"])
    why = ", ".join(f"{each['reason']} {say.count(each['spans'])}" for each in reasons[:3])
    problems = row["problems"]
    return [
        link(row["tenant"], tenant_path(row["tenant"])),
        state_tag(row["state"]),
        say.rate(rate.get("spans_per_second")),
        bar(bytes_per_second, rate_limit, f"{say.size(bytes_per_second)}/s of {say.size(rate_limit)}"),
        bar(row["active_series"], series_limit, series),
        say.count(row["series_demand_estimate"]),
        Html(f'{text(say.rate(rate.get("discarded_per_second")))}<div class="soft">{text(why)}</div>'),
        endpoint_tag(endpoints["states"], endpoints["lag_s"]),
        Html(f'<span class="problem">{text("; ".join(problems))}</span>') if problems else "",
    ]


class ClusterPage:
    """Nodes, processes, and what waits between them."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor

    def build(self, request: Request) -> None:
        """Build the page."""
        with frame(request, self._visitor, "Cluster", "Cluster"):
            html("<h1>Cluster</h1>")
            self._tiles = html().classes("tiles")
            with card("Nodes", data_path("admin/actors")):
                self._nodes = html()
            with card("Processes", data_path("admin/actors")):
                self._actors = html()
            live(self._refresh)

    async def _refresh(self) -> None:
        cluster = await self._visitor.get("/api/admin/cluster")
        answer = await self._visitor.get("/api/admin/actors")
        hosts, overrides = cluster["shard_hosts"], cluster["overrides"]
        is_everywhere = overrides["everywhere"] >= overrides["version"]
        actors = answer["actors"]
        down = [row["name"] for row in actors if not row["is_up"]]
        shards = sum(row.get("shards", 0) for row in actors)
        lag_s = max((row.get("oldest_unjournalled_s", 0.0) for row in actors), default=0.0)
        wanted = hosts["wanted"] or "automatic"
        states = "".join(f", {len(hosts[state])} {state}" for state in ("leaving", "missing") if hosts[state])
        self._tiles.content = "".join(
            (
                tile("Processes", f"{len(actors) - len(down)} of {len(actors)} up", kind="bad" if down else ""),
                tile("Shard hosts", str(len(hosts["running"])), f"wanted: {wanted}{states}"),
                tile("Shards", say.count(shards)),
                tile("Oldest not journalled", say.duration(lag_s), kind="poor" if lag_s > 10 else ""),
                tile("Settings", "everywhere" if is_everywhere else "on their way", f"version {overrides['version']}"),
            )
        )
        by_node: dict[str | None, int] = {}
        for row in actors:
            by_node[row["node"]] = by_node.get(row["node"], 0) + 1
        self._nodes.content = table(
            ["Node", "Address", "State", "Processes"],
            [
                [
                    Html(f"<code>{text(node['id'][:12])}</code>"),
                    node["address"],
                    _node_state(node),
                    str(by_node.get(node["id"], 0)),
                ]
                for node in answer["nodes"]
            ],
            numbers=(3,),
        )
        self._actors.content = table(
            _ACTOR_HEADS,
            [_actor(row) for row in actors],
            numbers=range(3, 12),
        )


def _node_state(node: Mapping[str, Any]) -> Cell:
    if not node["is_alive"]:
        return tag("gone", "bad")
    return tag("leaves", "poor") if node["is_draining"] else tag("alive", "good")


def _actor(row: Mapping[str, Any]) -> list[Cell]:
    node = row["node"]
    return [
        row["name"],
        tag("up", "good") if row["is_up"] else tag("down", "bad"),
        Html(f"<code>{text(node[:12])}</code>") if node else "driver" if row["name"] == "service" else say.NONE,
        say.count(row.get("shards")),
        say.count(row.get("spans_received")),
        say.count(row.get("active_series")),
        say.size(row.get("queued_bytes")),
        say.size(row.get("retained_bytes")),
        say.size(row.get("journal_pending_bytes")),
        say.count(row.get("waiting_records")),
        say.duration(row.get("oldest_unjournalled_s")),
        say.duration(row.get("endpoint_lag_s")),
    ]


class AuditPage:
    """Who changed what."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor

    def build(self, request: Request) -> None:
        """Build the page."""
        with frame(request, self._visitor, "Audit", "Audit"):
            html("<h1>Audit</h1>")
            with card("The last 200 changes", data_path("admin/audit", limit="200")):
                self._table = html()
            live(self._refresh)

    async def _refresh(self) -> None:
        entries = (await self._visitor.get("/api/admin/audit?limit=200"))["entries"]
        self._table.content = table(
            ["When", "Who", "What", "Tenant", "Details", "From"],
            [
                [
                    entry["at"],
                    Html(f"<code>{text(entry['actor'])}</code>"),
                    entry["action"],
                    link(entry["tenant"], tenant_path(entry["tenant"])) if entry["tenant"] else "",
                    Html(f"<code>{text(_details(entry['detail']))}</code>"),
                    entry["source_ip"],
                ]
                for entry in entries
            ],
        )


def _details(detail: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in detail.items() if value not in ("", {}, [])
    )


def tile(label: str, value: Cell, sub: str = "", *, kind: str = "") -> Html:
    """Return one figure, with what it is and what there is to say of it."""
    below = f'<div class="sub">{text(sub)}</div>' if sub else ""
    return Html(
        f'<div class="tile {kind}"><div class="label">{text(label)}</div>'
        f'<div class="value">{text(value)}</div>{below}</div>'
    )
