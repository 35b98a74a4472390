"""A tenant's pages, for itself and for operators: how it does, who calls whom, what it costs, what is in force."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request
from nicegui import ui

from tenants.console import figures_text as say
from tenants.console.charts import Chart
from tenants.console.frame import card, frame, html, live, theme, views
from tenants.console.graph_pictures import GraphPictures
from tenants.console.graph_svg import not_drawn
from tenants.console.markup import Cell, Html, bar, data_path, table, tag, tenant_path, text
from tenants.console.operator_pages import endpoint_tag, state_tag, tile
from tenants.console.visitor import ApiProblemError, Visitor

VIEWS: Final = (
    ("", "Overview"),
    ("graph", "Service graph"),
    ("cardinality", "Cardinality"),
    ("ledger", "Ledger"),
    ("settings", "In force"),
    ("edit", "Edit and history"),
)

_CONSEQUENCES: Final = {
    "active": "Metrics are generated and sent.",
    "dry_run": "Series are counted and nothing is sent.",
    "paused": "Spans are accepted and nothing is generated; series end at the tenant's endpoint.",
    "blocked": "Spans are refused with 403: clients lose them.",
}
_PROCESSORS: Final = '{"metrics_generator": {"processors": ["span-metrics", "service-graphs"]}}'


class TenantPage:
    """What all views of a tenant have."""

    view = ""
    title = "Overview"

    def __init__(self, visitor: Visitor, tenant: str) -> None:
        self.visitor = visitor
        self.tenant = tenant

    def build(self, request: Request) -> None:
        """Build the page."""
        self.is_dark = theme(request)
        self.request = request
        with frame(request, self.visitor, f"{self.title} · {self.tenant}", "Tenants"):
            with ui.row().classes("items-center w-full gap-4"):
                html(f"<h1>{text(self.tenant)}</h1>")
                self.state = html()
                ui.space()
                if self.visitor.is_operator:
                    self._state_menu()
            views(self.tenant, self.view, VIEWS, tenant_path)
            self.content()
            live(self._refresh)

    def content(self) -> None:
        """Build what the view shows."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Show it as it is now."""

    async def get(self, path: str) -> Any:
        """Ask the API about the tenant."""
        return await self.visitor.get(path, self.tenant)

    async def _refresh(self) -> None:
        if self.visitor.is_operator:
            row = await self.visitor.get(f"/api/admin/tenants/{quote(self.tenant, safe='')}")
            self.state.content = state_tag(row["state"])
        await self.refresh()

    def _state_menu(self) -> None:
        with ui.button("Change state").props("outline no-caps color=inherit"), ui.menu():
            for state, consequence in _CONSEQUENCES.items():
                chosen = ui.menu_item(on_click=partial(self._confirm, state)).props("role=menuitem")
                with chosen, ui.column().classes("gap-0"):
                    ui.label(state.replace("_", " "))
                    ui.label(consequence).classes("soft")

    async def _confirm(self, state: str) -> None:
        with ui.dialog() as dialog, ui.card():
            html(f"<h2>{text(self.tenant)}: {text(state.replace('_', ' '))}?</h2>")
            ui.label(_CONSEQUENCES[state])
            with ui.row():
                ui.button("Do it", on_click=lambda: dialog.submit(True)).props("unelevated no-caps")
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps")
        if not await dialog:
            return
        path = f"/api/admin/tenants/{quote(self.tenant, safe='')}"
        try:
            await self.visitor.ask("PATCH", path, content=f'{{"state": "{state}"}}')
            await self._refresh()
        except ApiProblemError as problem:
            ui.notify(problem.detail, type="negative")


class Overview(TenantPage):
    """Rate, errors, duration; series and endpoints."""

    def content(self) -> None:
        """Build what the view shows."""
        self._start = ui.element("section").classes("card")
        self._start.visible = False
        with self._start:
            html(
                "<h2>Nothing is generated yet</h2><p>Spans are accepted and counted for usage; no processor is on. "
                "Turn on span metrics and service graphs, and metrics go to the configured endpoint.</p>"
            )
            ui.button("Turn on metrics", on_click=self._turn_on).props("unelevated no-caps color=primary")
        self._tiles = html().classes("tiles")
        with (
            card("Requests, errors and durations", data_path("timeline", self.tenant)),
            ui.element("div").classes("charts"),
        ):
            self._rate = Chart("Spans in metrics a second", self.is_dark, ("spans/s", "errors/s"))
            self._slow = Chart("Duration", self.is_dark, ("median", "95 %", "99 %"), unit="s")
        with card("The last hour", data_path("timeline", self.tenant)), ui.element("div").classes("charts"):
            self._received = Chart("Spans received a second", self.is_dark, ("received", "discarded"))
            self._series = Chart("Series", self.is_dark, ("active", "demand"))
        with card("Endpoints", data_path("endpoints", self.tenant)):
            self._endpoints = html()
        with card("By span name", data_path("red", self.tenant)):
            self._window = ui.label().classes("soft")
            self._red = html()

    async def refresh(self) -> None:
        """Show it as it is now."""
        red = await self.get("/api/red")
        timeline = await self.get("/api/timeline")
        endpoints = await self.get("/api/endpoints")
        limits = (await self.get("/api/limits"))["limits"]
        self._start.visible = await self._may_be_turned_on()
        points, chart = timeline["points"], timeline["red"]
        self._tiles.content = _tiles(points[-1] if points else None, chart[-1] if chart else None, endpoints, limits)
        self._rate.show(
            [point["at_ms"] for point in chart],
            [point["per_second"] for point in chart],
            [point["per_second"] * point["error_share"] for point in chart],
        )
        self._slow.show(
            [point["at_ms"] for point in chart],
            *([point[key] for point in chart] for key in ("p50_s", "p95_s", "p99_s")),
        )
        self._received.show(
            [point["at_ms"] for point in points],
            *([point[key] for point in points] for key in ("spans", "discarded")),
        )
        self._series.show(
            [point["at_ms"] for point in points],
            *([point[key] for point in points] for key in ("active_series", "series_demand")),
        )
        window_s = red["window_s"]
        more = f"; {red['left_out']} rows that count less are left out" if red["left_out"] else ""
        self._window.text = (
            f"of the last {say.duration(window_s)}" if window_s else "rates come with the second look"
        ) + more
        self._red.content = _red_table(red["rows"][:100])
        self._endpoints.content = _endpoints_table(endpoints)

    async def _may_be_turned_on(self) -> bool:
        """Whether nothing is on, and the tenant may have a document that turns something on."""
        answer = await self.visitor.ask("GET", "/api/overrides?scope=merged", self.tenant)
        return not answer.json()["metrics_generator"]["processors"] and "ETag" in answer.headers

    async def _turn_on(self) -> None:
        try:
            await self.visitor.ask("PATCH", "/api/overrides", self.tenant, content=_PROCESSORS)
        except ApiProblemError as problem:
            ui.notify(problem.detail, type="negative")
        else:
            ui.notify("Metrics are on; the first are sent within a collection interval", type="positive")
            await self.refresh()


def _tiles(
    point: Mapping[str, Any] | None,
    red: Mapping[str, Any] | None,
    endpoints: Mapping[str, Any],
    limits: Mapping[str, Any],
) -> Html:
    series_limit = limits.get("metrics_generator.max_active_series") or 0
    active, demand = (point["active_series"], point["series_demand"]) if point else (None, None)
    states: dict[str, int] = {}
    for each in endpoints["endpoints"]:
        states[each["state"]] = states.get(each["state"], 0) + 1
    lag_s = max((each["lag_s"] for each in endpoints["endpoints"]), default=0.0)
    share = red["error_share"] if red else None
    return Html(
        "".join(
            (
                tile(
                    "Received",
                    say.rate(point["spans"] if point else None),
                    f"{say.size(point['bytes'] if point else None)}/s of "
                    f"{say.size(limits.get('ingestion.rate_limit_bytes'))}/s",
                ),
                tile("Errors", say.share(share), kind="bad" if (share or 0) >= 0.05 else ""),
                tile("95 % within", say.duration(red["p95_s"] if red else None)),
                tile(
                    "Series",
                    bar(active or 0, series_limit, say.count(active)),
                    f"{f'of {say.count(series_limit)}' if series_limit else 'no limit'}; demand {say.count(demand)}",
                ),
                tile("Discarded", say.rate(point["discarded"] if point else None), "by gateways"),
                tile("Endpoints", endpoint_tag(states, lag_s), f"lag {say.duration(lag_s)}" if states else ""),
            )
        )
    )


def _red_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    if not rows:
        return Html('<p class="soft">No spans are in metrics.</p>')
    return table(
        ["Service", "Span name", "Kind", "Rate", "Errors", "Mean", "Median", "95 %", "99 %", "Spans in all"],
        [
            [
                row["service"],
                row["span_name"],
                row["span_kind"],
                say.rate(row["per_second"]),
                tag(say.share(row["error_share"]), "bad")
                if row["error_share"] >= 0.05
                else say.share(row["error_share"]),
                say.duration(row["mean_s"]),
                *(say.quantile(row[key], row["resolution_s"]) for key in ("p50_s", "p95_s", "p99_s")),
                say.count(row["calls"]),
            ]
            for row in rows
        ],
        numbers=range(3, 10),
    )


def _endpoints_table(answer: Mapping[str, Any]) -> Html:
    rows = [(each, False) for each in answer["endpoints"]] + [(each, True) for each in answer["retiring"]]
    lost = sum(answer["samples_discarded"].values())
    note = f'<p class="problem">{say.count(lost)} samples were discarded: there is no endpoint.</p>' if lost else ""
    if not rows:
        return Html(note or '<p class="soft">There is no endpoint.</p>')
    cells: list[list[Cell]] = []
    for each, is_retiring in rows:
        given_up = sum(each["samples_failed"].values()) + each["samples_dropped"]
        cells.append(
            [
                each["endpoint"] + (" (retiring)" if is_retiring else ""),
                Html(f"<code>{text(each['url'])}</code>"),
                endpoint_tag({each["state"]: 1}, each["lag_s"]),
                say.count(each["samples_sent"]),
                say.count(each["pending_samples"]),
                say.count(given_up),
                say.duration(each["lag_s"]),
                Html(f'<span class="problem">{text(each["last_error"] or "")}</span>'),
            ]
        )
    heads = ["Endpoint", "URL", "State", "Sent", "Wait", "Given up", "Lag", "Last error"]
    return Html(note + table(heads, cells, numbers=(3, 4, 5, 6)))


class Graph(TenantPage):
    """Who calls whom."""

    view = "graph"
    title = "Service graph"

    def __init__(self, visitor: Visitor, tenant: str, *, pictures: GraphPictures) -> None:
        super().__init__(visitor, tenant)
        self._pictures = pictures

    def content(self) -> None:
        """Build what the view shows."""
        self._service = self.request.query_params.get("service", "")[:1024]
        query = {"service": self._service} if self._service else {}
        with card("Service graph", data_path("service-graph", self.tenant, **query).replace("&", "&amp;")):
            with ui.row().classes("items-center w-full gap-4"):
                self._select = ui.select(
                    {"": "All services", **({self._service: self._service} if self._service else {})},
                    value=self._service,
                    label="Service",
                    on_change=self._choose,
                    with_input=True,
                )
                self._select.props('dense outlined options-dense data-key="/"').classes("w-64")
                self._left_out = ui.label().classes("soft")
            html(
                "<span>arrow: who calls → who is called</span><span>width: rate</span>"
                '<span><b class="fine">—</b> under 1 % errors</span><span style="color:var(--poor)">— under 5 %</span>'
                '<span class="problem">— 5 % and more</span><span>time: 95th percentile</span>'
                "<span>dashed box: sends no spans</span><span>dashed arrow: messages</span>"
            ).classes("legend")
            self._picture = html().classes("scroll")
        with card("Connections"):
            self._table = html()

    async def refresh(self) -> None:
        """Show it as it is now."""
        query = f"?service={quote(self._service, safe='')}" if self._service else ""
        graph = await self.get(f"/api/service-graph{query}")
        names = {"": "All services"} | {name: name or "(no name)" for name in graph["services"] if name}
        if self._service:
            names.setdefault(self._service, self._service)
        if self._select.options != names:
            self._select.set_options(names, value=self._service)
        edges = graph["edges"]
        hidden = not_drawn(graph)
        self._left_out.text = f"{hidden} connections that count less are not drawn" if hidden else ""
        if not edges:
            self._picture.content = '<p class="soft">No calls between services are known yet.</p>'
            self._table.content = ""
            return
        link = f"{tenant_path(self.tenant, 'graph')}?service="
        self._picture.content = await self._pictures.picture(graph, link)
        self._table.content = table(
            ["Client", "Server", "Type", "Rate", "Errors", "Mean", "Median", "95 %", "99 %", "Requests in all"],
            [
                [
                    edge["client"],
                    edge["server"],
                    edge["connection_type"].replace("_", " ") or "call",
                    say.rate(edge["per_second"]),
                    say.share(edge["error_share"]),
                    say.duration(edge["mean_s"]),
                    *(say.quantile(edge[key], edge["resolution_s"]) for key in ("p50_s", "p95_s", "p99_s")),
                    say.count(edge["calls"]),
                ]
                for edge in edges[:200]
            ],
            numbers=range(3, 10),
        )

    def _choose(self, event: Any) -> None:
        if (event.value or "") != self._service:
            query = f"?service={quote(event.value, safe='')}" if event.value else ""
            ui.navigate.to(tenant_path(self.tenant, "graph").removeprefix("/console") + query)


class Cardinality(TenantPage):
    """Which metrics and labels make the series."""

    view = "cardinality"
    title = "Cardinality"

    def content(self) -> None:
        """Build what the view shows."""
        with card("Series by metric", data_path("cardinality", self.tenant)):
            self._metrics = html()
        with card("Values by label", data_path("cardinality", self.tenant)):
            self._labels = html()

    async def refresh(self) -> None:
        """Show it as it is now."""
        answer = await self.get("/api/cardinality")
        metrics, labels = answer["metrics"], answer["labels"]
        most_series = sum(each["series"] for each in metrics)
        self._metrics.content = table(
            ["Metric", "Series", "Share"],
            [
                [
                    Html(f"<code>{text(each['metric'])}</code>"),
                    say.count(each["series"]),
                    bar(each["series"], most_series * 1.0001, say.share(each["series"] / most_series)),
                ]
                for each in metrics
            ],
            numbers=(1,),
        )
        self._labels.content = table(
            ["Label", "Distinct values", "Label sets with it"],
            [
                [Html(f"<code>{text(each['label'])}</code>"), say.count(each["values"]), say.count(each["label_sets"])]
                for each in labels
            ],
            numbers=(1, 2),
        )


class LedgerView(TenantPage):
    """What became of every span."""

    view = "ledger"
    title = "Ledger"

    def content(self) -> None:
        """Build what the view shows."""
        with card("What became of the spans", data_path("ledger", self.tenant)):
            self._said = html()
            self._total = html()
        with card("By service", data_path("ledger", self.tenant)):
            self._services = html()

    async def refresh(self) -> None:
        """Show it as it is now."""
        ledger = await self.get("/api/ledger")
        closes = (
            tag("closes: every span is accounted for", "good") if ledger["closes"] else tag("does not close", "bad")
        )
        self._said.content = f"<p>{closes} {say.count(ledger['received'])} spans received since the tenant began.</p>"
        rows: list[list[Cell]] = [
            ["Before any processor", reason, f"{spans:,}"] for reason, spans in ledger["discarded"].items()
        ]
        for name, processor in ledger["processors"].items():
            label = name.replace("_", " ").capitalize()
            rows += [
                [label, "received", f"{processor['received']:,}"],
                [label, "generated", f"{processor['generated']:,}"],
            ]
            rows += [
                [label, f"{what.replace('_', ' ')}", f"{processor[what]:,}"]
                for what in ("over_limit", "waiting")
                if processor[what]
            ]
            rows += [
                [label, f"discarded: {reason}", f"{spans:,}"]
                for reason, spans in processor["discarded"].items()
                if spans
            ]
        self._total.content = table(["Where", "What became of them", "Spans"], rows, numbers=(2,))
        self._services.content = table(
            ["Service", "Received", "In span metrics", "In service graphs", "Waiting", "Discarded"],
            [
                [
                    name,
                    f"{each['received']:,}",
                    f"{each['processors']['span_metrics']['generated']:,}",
                    f"{each['processors']['service_graphs']['generated']:,}",
                    f"{sum(processor['waiting'] for processor in each['processors'].values()):,}",
                    f"{sum(each['discarded'].values()):,}",
                ]
                for name, each in list(ledger["services"].items())[:200]
            ],
            numbers=range(1, 6),
        )


class InForce(TenantPage):
    """Every setting in force, and the layer that it came from."""

    view = "settings"
    title = "In force"

    def content(self) -> None:
        """Build what the view shows."""
        self._search = ""
        data = (
            data_path(f"admin/tenants/{quote(self.tenant, safe='')}")
            if self.visitor.is_operator
            else data_path("overrides", scope="merged", provenance="true").replace("&", "&amp;")
        )
        with card("Settings in force", data):
            with ui.row().classes("items-center w-full gap-4"):
                ui.input(placeholder="Search", on_change=self._on_search).props(
                    'dense outlined clearable debounce=150 data-key="/" aria-label="Search"'
                )
                self._only = ui.checkbox("Only what differs from the built-in value", on_change=self.refresh)
            self._table = html()

    async def _on_search(self, event: Any) -> None:
        self._search = (event.value or "").strip().lower()
        await self.refresh()

    async def refresh(self) -> None:
        """Show it as it is now."""
        settings = await self._settings()
        rows: list[list[Cell]] = [
            [Html(f"<code>{text(key)}</code>"), _value(key, found["value"]), _source(found["source"])]
            for key, found in settings.items()
            if self._search in key.lower() and not (self._only.value and found["source"] == "builtin")
        ]
        self._table.content = table(["Setting", "Value", "From"], rows)

    async def _settings(self) -> dict[str, dict[str, Any]]:
        if self.visitor.is_operator:
            row = await self.visitor.get(f"/api/admin/tenants/{quote(self.tenant, safe='')}")
            found: dict[str, dict[str, Any]] = row["settings"]
            return found
        return dict(_flat(await self.get("/api/overrides?scope=merged&provenance=true"), ""))


def _flat(nested: Mapping[str, Any], prefix: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for key, inner in nested.items():
        if set(inner) == {"value", "source"}:
            found.append((prefix + key, inner))
        else:
            found += _flat(inner, f"{prefix}{key}.")
    return found


def _value(key: str, value: Any) -> Html:
    if value in (None, [], {}, ""):
        shown = say.NONE
    elif isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        shown = ", ".join(map(str, value))
    else:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    hint = ""
    if value == 0 and not isinstance(value, bool) and (key.endswith("_bytes") or ".max_" in key):
        is_rate = key in {"ingestion.rate_limit_bytes", "ingestion.burst_size_bytes"}
        hint = f' <span class="soft">{"everything is refused" if is_rate else "no limit"}</span>'
    return Html(f"<code>{text(shown)}</code>{hint}")


def _source(source: str) -> Html:
    return tag(source, "" if source == "builtin" else "good")
