"""What the user sees, drawn from fixed frames."""

import io

import pytest
from rich.console import Console

from cluster.demo import figures
from cluster.demo.frame import TREND_POINTS, Frame, Phase, Sent, TenantFrame, Trends
from cluster.demo.red import EdgeRow, RedRow, SlowTrace, TenantReading
from cluster.demo.tables import MAX_EDGES, MAX_SERVICES
from cluster.demo.view import TURN_S, LiveView, PlainView, everything, fit, glyphs_for, open_view, summary

SERVICES = ["web-frontend", "api-gateway", "cart", "checkout", "payment", "order-worker"]
EDGES = [
    EdgeRow("user", "web-frontend", "virtual_node", 50.0, 0.0, 0.021),
    EdgeRow("web-frontend", "api-gateway", "", 50.0, 0.0, 0.018),
    EdgeRow("api-gateway", "cart", "", 12.5, 0.0, 0.0031),
    EdgeRow("api-gateway", "checkout", "", 4.25, 0.12, 1.42),
    EdgeRow("checkout", "payment", "", 4.25, 0.12, 1.38),
    EdgeRow("checkout", "cart", "", 4.25, 0.0, 0.004),
    EdgeRow("checkout", "order-worker", "messaging_system", 4.0, 0.0, 0.45),
    EdgeRow("cart", "cart-redis", "database", 16.75, 0.0, 0.0006),
    EdgeRow("payment", "stripe", "virtual_node", 4.25, 0.12, 1.35),
]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def reading() -> TenantReading:
    red = [RedRow(name, 10.0 + index, 0.02 * (index == 3), 0.02, 0.08) for index, name in enumerate(SERVICES)]
    return TenantReading(red, EDGES, SlowTrace("web-frontend", "POST /checkout", TRACE, 2.41))


def frame(phase: Phase = Phase.RUNNING, *, age_s: float = 92.0, read: TenantReading | None = None) -> Frame:
    read = read or reading()
    trends = dict.fromkeys(SERVICES, (0.08,) * (TREND_POINTS - 3) + (0.5,) * 3)
    return Frame(
        phase,
        age_s,
        "a remote write every 5 s",
        [
            TenantFrame("acme", "retail web shop", Sent(3_100, 28_457, 0), read, trends),
            TenantFrame("globex", "wholesale parts", Sent(900, 11_000, 12), read, trends),
        ],
        [("Rates", "http://127.0.0.1:9090/graph"), ("Log", "/somewhere/millrace.log")],
    )


def console(width: int = 120, height: int = 60, *, is_terminal: bool = True, encoding: str = "utf-8") -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(
        width=width,
        height=height,
        file=stream,
        record=True,
        force_terminal=is_terminal,
        color_system="truecolor",
    )


def text(drawn_on: Console) -> list[str]:
    return [line.rstrip() for line in drawn_on.export_text(clear=False).splitlines()]


def drawn(shown: Frame, width: int = 120, height: int = 60) -> list[str]:
    target = console(width, height)
    target.print(fit(shown, target))
    return text(target)


@pytest.mark.parametrize(("width", "height"), [(160, 60), (140, 45), (120, 50), (100, 60), (100, 40), (80, 60)])
def test_every_size_shows_services_edges_and_fits(width: int, height: int) -> None:
    lines = drawn(frame(), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    screen = "\n".join(lines)
    for service in SERVICES:
        assert screen.count(service) >= 2, f"{service} is missing from the table or the graph"
    for peer in ("user", "cart-redis", "stripe"):
        assert peer in screen
    assert "…" not in screen
    assert TRACE in screen


def test_a_wide_terminal_shows_both_tenants_side_by_side() -> None:
    (line,) = [line for line in drawn(frame(), 120) if "retail web shop" in line]
    assert "wholesale parts" in line


def test_a_narrow_terminal_shows_both_tenants_below_each_other() -> None:
    lines = drawn(frame(), 100, 70)
    assert [tenant for line in lines for tenant in ("acme", "globex") if f" {tenant} " in line] == [
        "acme",
        "globex",
    ]


def test_a_small_terminal_shows_the_tenants_in_turns() -> None:
    seen = [
        [tenant for tenant in ("retail", "wholesale") if any(tenant in line for line in lines)]
        for lines in (drawn(frame(age_s=turn * TURN_S + 1), 80, 30) for turn in range(3))
    ]
    assert seen == [["retail"], ["wholesale"], ["retail"]]
    assert any("one tenant at a time" in line for line in drawn(frame(), 80, 30))


def test_a_tiny_terminal_shows_one_table_in_turns_and_still_fits() -> None:
    pages = [drawn(frame(age_s=turn * TURN_S + 1), 80, 15) for turn in range(4)]
    assert all(len(page) <= 15 for page in pages)
    assert ["service graph" in "\n".join(page) for page in pages] == [False, False, True, True]


def test_the_graph_reads_as_a_tree_with_what_an_edge_is() -> None:
    graph = [line[58:].rstrip("│ ") for line in drawn(frame(), 118, 30) if "│" in line]
    screen = "\n".join(graph)
    assert "╰▶ web-frontend" in screen
    rows = {
        node: next(line for line in graph if f"▶ {node}" in line) for node in ("cart-redis", "stripe", "order-worker")
    }
    assert "db" in rows["cart-redis"].split()
    assert "ext" in rows["stripe"].split()
    assert "queue" in rows["order-worker"].split()
    assert rows["stripe"].split()[-4:] == ["4.2", "12%", "1.35", "s"]
    assert any("cart ↑" in line for line in graph)
    (web,) = [line for line in graph if "▶ web-frontend" in line]
    assert "ext" not in web.split(), "the caller is the external side"


def test_what_was_not_taken_is_said() -> None:
    lines = drawn(frame(), 120)
    assert any("28 457 spans acknowledged" in line and "12 not taken" in line for line in lines)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.WAITING])
def test_before_the_first_collection_the_state_and_where_to_look_are_shown(phase: Phase) -> None:
    empty = frame(phase)
    empty = Frame(phase, 3, "coming up", [TenantFrame("acme", "retail web shop")], empty.look_here)
    screen = "\n".join(drawn(empty))
    assert phase.value in screen
    assert "coming up" in screen
    assert "http://127.0.0.1:9090/graph" in screen


def test_an_empty_reading_says_what_is_missing() -> None:
    screen = "\n".join(drawn(frame(Phase.WAITING, read=TenantReading([], [], None))))
    assert "no spans counted yet" in screen
    assert "no edges yet" in screen


def test_an_encoding_without_line_characters_gets_ascii() -> None:
    target = console(120, 70, encoding="ascii")
    target.print(fit(frame(), target))
    assert all(line.isascii() for line in text(target))
    assert any("`> cart-redis" in line for line in text(target))


def test_more_than_fits_is_cut_at_the_quiet_end_and_counted() -> None:
    red = [RedRow(f"service-{index}", 100.0 - index, 0, None, None) for index in range(MAX_SERVICES + 3)]
    edges = [EdgeRow("user", f"node-{index}", "", 100.0 - index, 0, None) for index in range(MAX_EDGES + 5)]
    target = console(140, 60)
    target.print(everything(frame(read=TenantReading(red, edges, None)), glyphs_for(target), 140))
    screen = "\n".join(text(target))
    assert "and 3 more" in screen
    assert "and 5 more" in screen
    assert f"service-{MAX_SERVICES + 2}" not in screen


def test_names_are_text_and_never_markup() -> None:
    red = [RedRow("[bold]cart[/bold]", 1.0, 0, None, None)]
    edges = [EdgeRow("[red]a", "b[/]", "", 1.0, 0, None)]
    screen = "\n".join(drawn(frame(read=TenantReading(red, edges, None)), 160))
    assert "[bold]cart[/bold]" in screen
    assert "b[/]" in screen


def test_a_terminal_is_redrawn_and_given_back() -> None:
    target = console()
    with open_view(target) as view:
        assert isinstance(view, LiveView)
        view.show(frame())
    target.file.seek(0)
    written = target.file.read()
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
    assert "web-frontend" in written


def test_without_a_terminal_it_prints_lines_then_once_everything() -> None:
    target = console(is_terminal=False)
    with open_view(target) as view:
        assert isinstance(view, PlainView)
        for age_s in range(40):
            view.show(frame(Phase.STARTING if age_s < 4 else Phase.RUNNING, age_s=float(age_s)))
    lines = text(target)
    assert lines[0].startswith("[0:00] starting: ")
    assert sum("service graph" in line for line in lines) == 2, "one whole picture, of two tenants"
    assert 6 <= sum(line.startswith("[0:") for line in lines) <= 8
    assert not any("\x1b" in line for line in lines)


def test_a_summary_is_one_line_a_tenant() -> None:
    target = console(is_terminal=False)
    target.print(summary(frame()))
    lines = text(target)
    assert len(lines) == 3
    assert lines[1].startswith("  acme: 28 457 spans, 6 services, 9 edges; order-worker 15.0 req/s, p95 80 ms; ")
    assert lines[1].endswith("most errors checkout 2.0%")


@pytest.mark.parametrize(
    ("per_s", "expected"), [(0.034, "0.03"), (4.25, "4.2"), (51.6, "51.6"), (312.4, "312"), (1_340, "1.3k")]
)
def test_rates_are_short(per_s: float, expected: str) -> None:
    assert figures.rate(per_s).plain == expected


@pytest.mark.parametrize(
    ("part", "expected", "style"),
    [
        (0, "-", "dim"),
        (0.0001, "<0.1%", "green"),
        (0.004, "0.4%", "green"),
        (0.01, "1.0%", "yellow"),
        (0.0994, "9.9%", "bold red"),
        (0.0996, "10%", "bold red"),
        (1, "100%", "bold red"),
    ],
)
def test_shares_are_percentages_and_loud_when_high(part: float, expected: str, style: str) -> None:
    assert (figures.share(part).plain, figures.share(part).style) == (expected, style)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0.0004, "<1 ms"),
        (0.0042, "4.2 ms"),
        (0.04249, "42 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.42, "1.42 s"),
        (12.34, "12.3 s"),
        (0.00996, "10 ms"),
        (9.996, "10.0 s"),
    ],
)
def test_durations_have_three_digits_and_fit_their_column(seconds: float | None, expected: str) -> None:
    assert figures.duration(seconds).plain == expected
    assert len(expected) <= 6


def test_a_duration_is_coloured_by_what_is_usual_for_it() -> None:
    assert [figures.duration(value, 0.1).style for value in (0.15, 0.25, 0.5)] == ["", "yellow", "bold red"]


def test_a_trend_stays_low_when_quiet_and_rises_in_trouble() -> None:
    assert figures.trend([0.1, 0.11, 0.1, 0.09]).plain == "▃▃▃▂"
    assert figures.trend([0.1] * 6 + [0.9] * 3).plain == "▁▁▁▁▁▁███"
    assert figures.trend([]).plain == ""
    assert figures.trend([0.0, 0.0]).plain == ""


def test_trends_take_a_point_each_step_and_forget_services_that_are_gone() -> None:
    trends = Trends()
    for at_s in range(0, 200, 2):
        trends.record(float(at_s), [RedRow("cart", 1, 0, None, 0.1), RedRow("gone", 1, 0, None, 0.2)])
    assert trends.snapshot()["cart"] == (0.1,) * TREND_POINTS
    trends.record(300.0, [RedRow("cart", 1, 0, None, None)])
    assert trends.snapshot() == {"cart": (0.1,) * (TREND_POINTS - 1) + (0.0,)}
