"""``millrace top``: rates from two looks, and the table."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.commands.order import Order
from cluster.commands.top import Look, Row, Shown, between, ranked, read_look, top
from cluster.errors import CommandError
from cluster.measurements import Measurements
from tests.unit.served_service import Face, ServedService

SPANS = "millrace_spans_received_total"
GATEWAYS = frozenset({"gateway-0"})


def look(at_s: float, spans: Mapping[tuple[str, str], float], actors: frozenset[str] = GATEWAYS) -> Look:
    counted = {
        (SPANS, frozenset({"actor": actor, "tenant": tenant}.items())): value
        for (actor, tenant), value in spans.items()
    }
    return Look(at_s, actors, counted)


@pytest.mark.parametrize(
    ("before", "after", "rate"),
    [
        ({("gateway-0", "acme"): 100.0}, {("gateway-0", "acme"): 150.0}, 25.0),
        # Its first spans.
        ({}, {("gateway-0", "acme"): 50.0}, 25.0),
        # The actor was restarted.
        ({("gateway-0", "acme"): 100.0}, {("gateway-0", "acme"): 30.0}, 15.0),
        # An actor that did not answer before has counted since who knows when.
        ({("gateway-0", "acme"): 0.0}, {("gateway-0", "acme"): 0.0, ("gateway-1", "acme"): 10_000.0}, 0.0),
    ],
)
def test_rate_is_what_was_counted_in_between(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float], rate: float
) -> None:
    (row,) = between(look(10.0, before), look(12.0, after))
    assert row.spans_per_second == rate


def test_page_is_read_by_actor_and_tenant() -> None:
    page = """
# TYPE millrace_spans_received counter
millrace_actor_up{actor="gateway-0"} 1.0
millrace_actor_up{actor="gateway-1"} 0.0
millrace_spans_received_total{actor="gateway-0",tenant="acme"} 5.0
millrace_spans_received_total_other{actor="gateway-0",tenant="acme"} 7.0
millrace_registry_active_series{actor="collector-0",tenant="acme"} 12.0
millrace_remote_write_lag_seconds{actor="collector-0",tenant="acme",endpoint="a"} 3.0
millrace_remote_write_lag_seconds{actor="collector-0",tenant="acme",endpoint="b"} 9.0
"""
    read = read_look(page, 1.0)
    assert read.actors == {"gateway-0"}
    assert read.counted == look(0, {("gateway-0", "acme"): 5.0}).counted
    assert (read.series, read.lag_s) == ({"acme": 12}, {"acme": 9.0})


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (Order.SPANS, ["a", "b"]),
        (Order.BYTES, ["b", "a"]),
        (Order.SERIES, ["c", "b"]),
        (Order.DISCARDS, ["a", "b"]),
        (Order.LAG, ["b", "a"]),
    ],
)
def test_the_most_come_first_and_equals_by_name(order: Order, names: list[str]) -> None:
    rows = [Row("c", 0, 0, 9, 0, 0), Row("b", 1, 5, 3, 0, 2), Row("a", 2, 1, 0, 4, 1)]
    assert [row.tenant for row in ranked(rows, Shown(order, 2, 1.0))] == names


class Counting(Face):
    """Counts on between two looks."""

    looks = 0

    async def measure(self) -> Mapping[str, Measurements]:
        self.looks += 1
        return {
            "gateway-0": [
                ("millrace_actor_up", (), 1.0),
                ("millrace_spans_received_total", ("acme",), 1000.0 * self.looks),
                ("millrace_spans_received_total", ("globex",), 2000.0 * self.looks),
                ("millrace_bytes_received_total", ("acme",), 5e6 * self.looks),
                ("millrace_spans_discarded_total", ("acme", "gateway", "rate_limited"), 10.0 * self.looks),
                ("millrace_spans_discarded_total", ("acme", "gateway", "too_large"), 10.0 * self.looks),
            ],
            "collector-0": [
                ("millrace_actor_up", (), 1.0),
                ("millrace_registry_active_series", ("acme",), 1234.0),
                ("millrace_remote_write_lag_seconds", ("acme", "main"), 65.0),
            ],
        }


async def test_table_has_a_line_for_each_tenant(tmp_path: Path) -> None:
    service = ServedService(tmp_path)
    service.face = Counting(service.bench)
    async with service:
        shown = await service.run("top", "--once", "--interval", "0.1")
        assert shown.exit_code == 0, shown.output
        rows = [line.split() for line in shown.stdout.splitlines() if line.split()[:1] in (["acme"], ["globex"])]
        assert [row[0] for row in rows] == ["globex", "acme"]
        assert rows[1][-3] == "1,234"
        assert rows[1][-1] == "0:01:05"
        # Without a terminal it does not go on for ever.
        assert "acme" in (await service.run("top", "--interval", "0.1")).stdout


async def test_json_has_the_same_numbers(tmp_path: Path) -> None:
    service = ServedService(tmp_path)
    service.face = Counting(service.bench)
    async with service:
        shown = await service.run("top", "--once", "--json", "--interval", "0.1", "--sort", "series", "--limit", "1")
        (row,) = json.loads(shown.stdout)
    assert (row["tenant"], row["active_series"], row["lag_s"]) == ("acme", 1234, 65.0)
    assert row["bytes_per_second"] == pytest.approx(5000 * row["spans_per_second"])
    assert row["discards_per_second"] == pytest.approx(row["spans_per_second"] / 50)
    assert 0 < row["spans_per_second"] <= 10_000


async def test_service_without_tenants_says_so(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        assert "no tenant has sent anything yet" in (await service.run("top", "--once", "--interval", "0.1")).stdout


class Watched:
    """A service that answers as scripted, and is then left by who watches it."""

    url = "http://service"

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)

    def text(self, _path: str) -> str:
        answer = self.answers.pop(0) if self.answers else KeyboardInterrupt()
        if isinstance(answer, str):
            return answer
        raise answer


def test_live_table_outlasts_the_service_and_ends_with_ctrl_c() -> None:
    page = 'millrace_actor_up{actor="g"} 1.0\nmillrace_spans_received_total{actor="g",tenant="acme"} 5.0\n'
    service: Any = Watched(page, page, CommandError("it is away"), page, page)
    out = Console(file=io.StringIO(), force_terminal=True, width=120)
    top(service, Shown(Order.SPANS, 5, 0.001), out, once=False, as_json=False)
    assert service.answers == []
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("it is away") < text.rindex("http://service")
    assert "acme" in text
