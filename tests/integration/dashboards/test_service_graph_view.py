"""The view of the service graph with its links and table, the way from traces, exemplars (remote-write §4.1, §4.2)."""

import re

import pytest

from cluster.demo.acme import ACME
from cluster.demo.globex import GLOBEX
from tests.integration.dashboards.dashboard import RANGE, Dashboard, Where, any_of, assert_alike, selector
from tests.integration.dashboards.demo_shop import edges
from tests.integration.dashboards.query import (
    CALLS,
    EDGE,
    FAILED,
    FAILURE,
    GRAPH,
    LATENCY,
    NAMESPACES,
    SERVED,
    SERVER_SECONDS,
    TOTAL,
    asks,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]


@asks(1)
async def test_service_graph_has_every_call_of_the_shop(shop: Dashboard) -> None:
    for metric in GRAPH:
        seen = await shop.instant(f"sum by (client, server) (rate({metric}[{RANGE}]))", EDGE)
        assert_alike(seen, shop.rates(metric, EDGE))
        assert seen.keys() <= edges(shop.flavour)
    total = await shop.instant(f"sum by (client, server) (rate({TOTAL}[{RANGE}]))", EDGE)
    failed = await shop.instant(f"sum by (client, server) (rate({FAILED}[{RANGE}]))", EDGE)
    assert total.keys() == edges(shop.flavour)
    assert all(0 <= rate <= total[edge] for edge, rate in failed.items())
    assert 0 < sum(failed.values()) < sum(total.values())


@asks(1)
async def test_service_graph_of_some_services_has_their_calls_only(shop: Dashboard) -> None:
    nodes = sorted({client for client, _ in edges(shop.flavour)} - {"user"})
    for metric in GRAPH:
        both = [f'sum by (client, server) (rate({metric}{{client="{node}"}}[{RANGE}]))' for node in nodes[:2]]
        seen = await shop.instant(" OR ".join(both), EDGE)
        assert_alike(seen, shop.rates(metric, EDGE, {"client": any_of(nodes[:2])}))


@asks(1)
async def test_service_graph_with_namespaces_and_native_histograms(globex: Dashboard) -> None:
    by = (*EDGE, *NAMESPACES)
    for metric in GRAPH:
        seen = await globex.instant(f"sum by ({', '.join(by)}) (rate({metric}[{RANGE}]))", by)
        assert_alike(seen, globex.rates(metric, by))
    assert {row[2:] for row in seen} >= {("globex", "globex"), ("", "globex"), ("globex", "")}
    native = await globex.instant(f"sum by ({', '.join(by)}) (rate({SERVER_SECONDS}[{RANGE}]))", by)
    counted = globex.rates(f"{SERVER_SECONDS}_count", by)
    assert native.keys() == counted.keys()
    # Prometheus does not know that a native histogram begins at zero, and extrapolates.
    assert all(counted[edge] * 0.999 < native[edge] < counted[edge] * 1.2 for edge in counted), (native, counted)


@asks(2)
async def test_service_graph_knows_what_kind_of_connection_an_edge_is(shop: Dashboard) -> None:
    by = ("client", "connection_type", "server")
    for metric in GRAPH:
        seen = await shop.instant(f"group by ({', '.join(by)}) ({metric})", by)
        assert_alike(seen, shop.groups(metric, by))
    kinds = {kind: {(client, server) for client, is_kind, server in seen if is_kind == kind} for _, kind, _ in seen}
    assert kinds.keys() == {"", "messaging_system", "database", "virtual_node"}
    assert {server for _, server in kinds["database"]} == {database.host for database in shop.flavour.databases}
    services = {service.name for service in shop.flavour.services}
    assert {node for edge in kinds[""] | kinds["messaging_system"] for node in edge} <= services


@asks(3, 4, 6)
async def test_links_of_nodes_and_edges_show_rate_latency_and_failures(shop: Dashboard) -> None:
    links: list[Where] = [{"server": server} for server in {server for _, server in edges(shop.flavour)}]
    links += [{"client": client, "server": server} for client, server in edges(shop.flavour)]
    failing = 0
    for where in links:
        of = selector(where)
        rate = await shop.panel(f"sum by (client, server)(rate({TOTAL}{of}[{RANGE}]))", EDGE)
        assert_alike(rate, shop.rates(TOTAL, EDGE, where))
        bucket = f"{SERVER_SECONDS}_bucket"
        latency = f"histogram_quantile(0.9, sum(rate({bucket}{of}[{RANGE}])) by (le, client, server))"
        assert_alike(await shop.panel(latency, EDGE), shop.quantiles(0.9, bucket, EDGE, where))
        failed = await shop.panel(f"sum by (client, server)(rate({FAILED}{of}[{RANGE}]))", EDGE)
        if failures := shop.rates(FAILED, EDGE, where):
            assert_alike(failed, failures)
            failing += any(failed.values())
        else:
            assert failed == {}
        assert all(failed.get(edge, 0) <= rate[edge] for edge in rate)
    assert failing


@asks(5)
async def test_links_of_edges_show_latency_of_native_histograms(globex: Dashboard) -> None:
    compared = 0
    for client, server in edges(globex.flavour):
        where: Where = {"client": client, "server": server}
        rate = f"sum(rate({SERVER_SECONDS}{selector(where)}[{RANGE}])) by (le, client, server)"
        seen = await globex.panel(f"histogram_quantile(0.9, {rate})", EDGE)
        assert seen.keys() == {(client, server)}
        # Both histograms hold the same observations: a native bucket lies where the classic one does, or touches it.
        lower, upper = _bucket_of_quantile(
            globex, 0.9, f"{SERVER_SECONDS}_bucket", {"client": client, "server": server}
        )
        assert lower / 1.1 <= seen[client, server] <= upper * 1.1, (client, server, seen, lower, upper)
        compared += 1
    assert compared == len(edges(globex.flavour))


def _bucket_of_quantile(shop: Dashboard, q: float, bucket: str, where: Where) -> tuple[float, float]:
    """Return the bounds of the bucket that holds the quantile."""
    counts = sorted((float(le), count) for (le,), count in shop.rates(bucket, ("le",), where).items())
    lower = 0.0
    for bound, count in counts:
        if count >= q * counts[-1][1]:
            return lower, bound
        lower = bound
    raise AssertionError("no observations")


def table_filter(graph_filter: str) -> str:
    """Return F: what Grafana makes of the graph's selector for the table below it."""
    text = graph_filter.strip("{}").replace("client_", "").replace("server_", "")
    return text.replace("client", "service", 1).replace("server", "service", 1)


@asks(7, 8, 9, 10)
@pytest.mark.parametrize("node", ["all", "client", "server", "dimension"])
async def test_table_below_the_graph_has_rate_errors_and_duration(shop: Dashboard, node: str) -> None:
    service = {"acme": "recommendation", "globex": "accounts"}[shop.flavour.tenant]
    graph_filter, where = {
        "all": ("", {}),
        "client": (f'{{client="{service}"}}', {"service": service}),
        "server": (f'{{server="{service}"}}', {"service": service}),
        "dimension": ('{client_cloud_region="us-east-1"}', {"cloud_region": "us-east-1"}),
    }[node]
    if node == "dimension" and shop.flavour is ACME:
        # Without dimensions there is nothing to filter by.
        assert await shop.instant(f"sum(rate({CALLS}{{{table_filter(graph_filter)}}}[{RANGE}]))") == {}
        return
    of = table_filter(graph_filter)
    both = f'{of}{"," if of else ""}span_kind="SPAN_KIND_SERVER"'
    by = ("span_name",)

    top = await shop.instant(f"topk(5, sum(rate({CALLS}{{{both}}}[{RANGE}])) by (span_name))", by)
    rates = shop.rates(CALLS, by, where | SERVED)
    assert len(top) == min(5, len(rates))
    assert_alike(top, {row: rates[row] for row in top})
    assert min(top.values()) >= max((rate for row, rate in rates.items() if row not in top), default=0.0)

    names = [name for (name,) in top]
    some = f'span_name=~"{"|".join(map(_regex, names))}"'
    comma = "," if of else ""
    errors = f'{CALLS}{{status_code="STATUS_CODE_ERROR",{both},{some}}}'
    seen = await shop.instant(f"topk(5, sum(rate({errors}[{RANGE}])) by (span_name))", by)
    failures = shop.rates(CALLS, by, where | SERVED | FAILURE | {"span_name": any_of(names)})
    assert_alike(seen, failures)
    assert all(0 < rate < rates[row] for row, rate in seen.items())

    for name in names:
        one = where | {"span_name": name}
        bucket = f'{LATENCY}_bucket{{{of}{comma}span_name=~"{_regex(name)}"}}'
        duration = await shop.instant(f"histogram_quantile(.9, sum(rate({bucket}[{RANGE}])) by (le))")
        assert_alike(duration, shop.quantiles(0.9, f"{LATENCY}_bucket", (), one))

        exact = f'span_name="{name}"'
        rate = await shop.panel(f"sum(rate({CALLS}{{{both},{exact}}}[{RANGE}]))")
        assert_alike(rate, shop.rates(CALLS, (), one | SERVED))
        link = f"sum(rate({LATENCY}_bucket{{{of}{comma}{exact}}}[{RANGE}])) by (le)"
        assert_alike(await shop.panel(f"histogram_quantile(.9, {link})"), duration)
        failed = await shop.panel(f'sum(rate({CALLS}{{status_code="STATUS_CODE_ERROR",{both},{exact}}}[{RANGE}]))')
        assert failed == pytest.approx({(): failures[name,]} if (name,) in failures else {})

        native = f"{LATENCY}{{{of}{comma}{exact}}}"
        seen = await shop.instant(f"histogram_quantile(.9, sum(rate({native}[{RANGE}])) by (le))")
        if shop.flavour is ACME:
            assert seen == {}
        else:
            lower, upper = _bucket_of_quantile(shop, 0.9, f"{LATENCY}_bucket", one)
            assert lower / 1.1 <= seen[()] <= upper * 1.1


def _regex(name: str) -> str:
    # Once for the pattern, once for PromQL's text.
    return re.escape(name).replace("\\", "\\\\")


async def test_table_agrees_with_the_graph_and_with_itself(shop: Dashboard) -> None:
    of_all = await shop.instant(f"sum(rate({CALLS}[{RANGE}]))")
    by_service = await shop.instant(f"sum by (service) (rate({CALLS}[{RANGE}]))", ("service",))
    observed = await shop.instant(f"sum(rate({LATENCY}_count[{RANGE}]))")
    in_infinity = await shop.instant(f'sum(rate({LATENCY}_bucket{{le="+Inf"}}[{RANGE}]))')
    assert {service for (service,) in by_service} == {service.name for service in shop.flavour.services}
    assert of_all[()] == pytest.approx(sum(by_service.values())) == pytest.approx(observed[()])
    assert in_infinity == pytest.approx(observed)
    # Whoever is called by a service with spans of its own is counted in both.
    plain = 'connection_type=""'
    called = await shop.instant(f"sum by (server) (rate({TOTAL}{{{plain}}}[{RANGE}]))", ("server",))
    served = await shop.instant(f"sum by (service) (rate({CALLS}{selector(SERVED)}[{RANGE}]))", ("service",))
    assert called
    assert all(rate <= served[server] * (1 + 1e-9) for server, rate in called.items())


@asks(11)
async def test_filters_offer_the_labels_there_are(shop: Dashboard) -> None:
    known = f'{{__name__=~"{SERVER_SECONDS}_sum|{TOTAL}|{FAILED}"}}'
    names = await shop.prometheus.label_names(known)
    assert set(names) >= {"__name__", "client", "server", "connection_type"}
    prefixed = {f"{side}_{label}" for side in ("client", "server") for label in ("service_namespace", "cloud_region")}
    assert (set(names) >= prefixed) == (shop.flavour is GLOBEX)
    for metric, label in ((TOTAL, "client"), (TOTAL, "server"), (CALLS, "service"), (CALLS, "span_name")):
        assert label in await shop.prometheus.label_names(metric)
        assert set(await shop.prometheus.label_values(label, metric)) == shop.values(metric, label)


@asks(12)
async def test_native_histograms_are_found_where_there_are_any(shop: Dashboard) -> None:
    found = await shop.prometheus.series(SERVER_SECONDS)
    assert bool(found) == (shop.flavour is GLOBEX), "a float series by this name switches Grafana to native histograms"


async def test_trace_to_metrics_shows_the_latency_of_a_span_s_service(shop: Dashboard) -> None:
    for service in shop.flavour.services:
        where = {"service": service.name}
        bucket = f"{LATENCY}_bucket{selector(where)}"
        seen = await shop.panel(f"histogram_quantile(0.5, sum(rate({bucket}[{RANGE}])) by (le))")
        assert_alike(seen, shop.quantiles(0.5, f"{LATENCY}_bucket", (), where))
        # The sample query of its documentation, with service.name mapped to service.
        assert_alike(await shop.panel(f"sum(rate({bucket}[{RANGE}]))"), shop.rates(f"{LATENCY}_bucket", (), where))


async def test_trace_to_metrics_with_the_default_tags(globex: Dashboard) -> None:
    # service.namespace is mapped by default; it is a label because it is a dimension.
    where: Where = {"service": "orders", "service_namespace": "globex"}
    seen = await globex.panel(f"sum(rate({LATENCY}_bucket{selector(where)}[{RANGE}]))")
    assert_alike(seen, globex.rates(f"{LATENCY}_bucket", (), where))


async def test_exemplars_of_panels_lead_to_traces_that_were_sent(shop: Dashboard) -> None:
    service = shop.flavour.services[0].name
    of_edges = f"sum(rate({SERVER_SECONDS}_bucket[{RANGE}])) by (le, client, server)"
    of_spans = f'sum(rate({LATENCY}_bucket{{service="{service}"}}[{RANGE}])) by (le)'
    for panel in (f"histogram_quantile(0.9, {of_edges})", f"histogram_quantile(0.5, {of_spans})"):
        assert await shop.exemplars(panel) > 0
