"""RED rows and edges from a receiver's answers."""

import math

import pytest

from cluster.demo.readings import Exemplar, Rates
from cluster.demo.red import (
    CALLS,
    CLIENT_SECONDS,
    FAILED,
    LATENCY,
    REQUESTS,
    SERVER_SECONDS,
    EdgeRow,
    SlowTrace,
    quantile,
    read_tenant,
)

Series = tuple[dict[str, str], float]


class Recorded:
    """A receiver that answers from a table: metric to series with their rates."""

    name = "recorded"
    write_url = ""

    def __init__(self, series: dict[str, list[Series]], exemplars: list[Exemplar] | None = None) -> None:
        self._series = series
        self._exemplars = exemplars or []

    def rates(self, tenant: str, metric: str, by: tuple[str, ...], window_s: float) -> Rates:
        sums: dict[tuple[str, ...], float] = {}
        for labels, rate in self._series.get(metric, []):
            key = tuple(labels.get(name, "") for name in by)
            sums[key] = sums.get(key, 0.0) + rate
        return sums

    def total(self, tenant: str, metric: str) -> float:
        return 0.0

    def exemplars(self, tenant: str, metric: str, window_s: float) -> list[Exemplar]:
        return self._exemplars if metric == LATENCY else []

    def look_here(self) -> list[tuple[str, str]]:
        return []

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def buckets(labels: dict[str, str], cumulative: dict[str, float]) -> list[Series]:
    return [({**labels, "le": le}, rate) for le, rate in cumulative.items()]


@pytest.mark.parametrize(
    ("q", "cumulative", "expected"),
    [
        (0.5, {1.0: 10, 2.0: 10, math.inf: 10}, 0.5),
        (0.95, {1.0: 50, 2.0: 100, math.inf: 100}, 1.9),
        (0.5, {1.0: 0, 2.0: 0, 4.0: 8, math.inf: 8}, 3.0),
        (0.99, {1.0: 5, 2.0: 5, math.inf: 10}, 2.0),  # beyond the last bound counts as the bound
        (0.0, {1.0: 10, math.inf: 10}, 0.0),
        (1.0, {1.0: 10, math.inf: 10}, 1.0),
        (0.5, {1.0: 0, math.inf: 0}, None),
        (0.5, {math.inf: 7}, None),
        (0.5, {}, None),
    ],
)
def test_a_quantile_is_estimated_as_promql_does(
    q: float, cumulative: dict[float, float], expected: float | None
) -> None:
    assert quantile(q, cumulative) == (None if expected is None else pytest.approx(expected))


def test_a_red_row_has_what_a_service_was_asked_not_what_it_asked() -> None:
    def call(kind: str, status: str, rate: float) -> Series:
        return {
            "service": "cart",
            "span_kind": f"SPAN_KIND_{kind}",
            "status_code": f"STATUS_CODE_{status}",
        }, rate

    incoming = {"service": "cart", "span_kind": "SPAN_KIND_SERVER"}
    outgoing = {"service": "cart", "span_kind": "SPAN_KIND_CLIENT"}
    receiver = Recorded(
        {
            CALLS: [
                call("SERVER", "UNSET", 8.0),
                call("SERVER", "ERROR", 1.0),
                call("CONSUMER", "UNSET", 1.0),
                call("CLIENT", "ERROR", 70.0),
                call("INTERNAL", "UNSET", 9.0),
            ],
            LATENCY: [
                *buckets(incoming, {"0.1": 5, "0.2": 10, "+Inf": 10}),
                *buckets(outgoing, {"0.1": 0, "0.2": 0, "+Inf": 70}),
            ],
        }
    )
    (row,) = read_tenant(receiver, "acme", 30).red
    assert (row.service, row.rate) == ("cart", 10.0)
    assert row.error_share == pytest.approx(0.1)
    assert row.p50_s == pytest.approx(0.1)
    assert row.p95_s == pytest.approx(0.19)


def test_an_edge_has_its_failures_and_the_server_sides_p95() -> None:
    edge = {"client": "cart", "server": "redis", "connection_type": "database"}
    receiver = Recorded(
        {
            REQUESTS: [(edge, 4.0)],
            FAILED: [(edge, 1.0)],
            SERVER_SECONDS: buckets(edge, {"1": 4, "+Inf": 4}),
            CLIENT_SECONDS: buckets(edge, {"1": 0, "2": 4, "+Inf": 4}),
        }
    )
    (row,) = read_tenant(receiver, "acme", 30).edges
    assert row == EdgeRow("cart", "redis", "database", 4.0, 0.25, row.p95_s)
    assert row.p95_s == pytest.approx(0.95)


def test_dimensions_of_an_edge_are_added_up() -> None:
    edges = [({"client": "a", "server": "b", "cloud_region": region}, 2.0) for region in ("east", "west")]
    (row,) = read_tenant(Recorded({REQUESTS: edges}), "globex", 30).edges
    assert row == EdgeRow("a", "b", "", 4.0, 0.0, None)


@pytest.mark.parametrize(("client_le", "server_le"), [("2", "1"), ("1", "2")])
def test_a_virtual_edge_takes_the_time_of_the_side_that_sends_spans(client_le: str, server_le: str) -> None:
    edge = {"client": "payment", "server": "stripe", "connection_type": "virtual_node"}

    def all_in(le: str) -> list[Series]:
        return buckets(edge, {bound: 5.0 * (float(bound) >= float(le)) for bound in ("1", "2", "+Inf")})

    receiver = Recorded({REQUESTS: [(edge, 5.0)], SERVER_SECONDS: all_in(server_le), CLIENT_SECONDS: all_in(client_le)})
    (row,) = read_tenant(receiver, "acme", 30).edges
    assert row.p95_s == pytest.approx(1.95)


def test_the_slowest_request_is_the_greatest_exemplar_of_a_server_span() -> None:
    def exemplar(kind: str, value: float, trace_id: str) -> Exemplar:
        labels = {"service": "cart", "span_name": "GET /", "span_kind": f"SPAN_KIND_{kind}"}
        return Exemplar(labels, trace_id, value, 0)

    seen = [exemplar("SERVER", 1.0, "a"), exemplar("SERVER", 2.0, "b"), exemplar("CLIENT", 9.0, "c")]
    reading = read_tenant(Recorded({}, [*seen, exemplar("SERVER", 5.0, "")]), "acme", 30)
    assert reading.slowest == SlowTrace("cart", "GET /", "b", 2.0)


def test_nothing_collected_gives_empty_tables() -> None:
    reading = read_tenant(Recorded({}), "acme", 30)
    assert (reading.red, reading.edges, reading.slowest) == ([], [], None)


def test_services_without_calls_in_the_window_are_left_out() -> None:
    idle = {"service": "old", "span_kind": "SPAN_KIND_SERVER", "status_code": "STATUS_CODE_UNSET"}
    edge = {"client": "a", "server": "b"}
    reading = read_tenant(Recorded({CALLS: [(idle, 0.0)], REQUESTS: [(edge, 0.0)]}), "acme", 30)
    assert (reading.red, reading.edges) == ([], [])
