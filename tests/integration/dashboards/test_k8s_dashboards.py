"""Every query of the dashboards in k8s/dashboards is asked of a real Prometheus, as Grafana asks it.

The operator's of one that scrapes the service, the tenant's of those that the service writes to. Each has data, but for
those that are listed here: what has none while nothing is wrong, or is switched off.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
import pytest_asyncio

from cluster.declarations import DECLARED
from tests import grafana, otlp_raw
from tests.integration.dashboards.conftest import Demo
from tests.integration.dashboards.dashboard import RANGE, STEP_S, Dashboard
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

OPERATOR: Final = grafana.load("operator")
TENANT: Final = grafana.load("tenant")

EMPTY_WHILE_ALL_IS_WELL: Final = {
    "Ledger: received = generated + discarded + waiting / What became of spans: span metrics / C",
    "Endpoints / Samples given up / A",
    "Endpoints / Requests that failed / A",
    "Processes / Settings refused / A",
    "Processes / Settings refused / B",
    "Processes / Settings refused / C",
    # Without max_cardinality_per_label no label is looked at.
    "Series and limits / Values of labels / A",
    "Series and limits / Values of labels / B",
}
NOT_MEASURED_WHILE_ALL_IS_WELL: Final = {
    "millrace_remote_write_failed_requests_total",
    "millrace_settings_document_failures_total",
    "millrace_settings_reload_failures_total",
    "millrace_registry_label_values_limited_total",
    "millrace_registry_label_cardinality_demand_estimate",
    # Of the limiter that is not in use.
    "millrace_registry_max_active_entities",
}
NATIVE: Final = "Native histograms (generate_native_histograms: native or both)"
WITHOUT_NATIVE_HISTOGRAMS: Final = {f"{NATIVE} / Latency by service / A", f"{NATIVE} / Latency by edge / A"}
# Only a container has a limit; and not every Prometheus knows Remote-Write 2.0.
DEPENDS_ON_THE_MACHINE: Final = {
    "Processes / Memory against limit / A",
    "Endpoints / Remote-Write 2.0 / A",
    "Endpoints / Remote-Write 2.0 / B",
}
ALERTS_ON_THE_MACHINE: Final = {"MillraceJournalDiskFull", "MillraceJournalDiskFilling", "MillraceMemoryNearLimit"}

Values = Mapping[str, str | Sequence[str]]


async def answers(prometheus: Prometheus, query: grafana.Query, values: Values, at_s: float) -> list[dict[str, Any]]:
    expr = grafana.replaced(query.expr, values)
    if query.is_instant:
        return await prometheus.query(expr, at_s)
    return await prometheus.query_range(expr, at_s - STEP_S, at_s, STEP_S)


async def empty_ones(prometheus: Prometheus, document: Mapping[str, Any], values: Values, at_s: float) -> set[str]:
    """Return the queries without data."""
    found = [(query.name, await answers(prometheus, query, values, at_s)) for query in grafana.queries(document)]
    return {name for name, answer in found if not answer}


def all_of(document: Mapping[str, Any]) -> dict[str, str | Sequence[str]]:
    chosen: dict[str, str | Sequence[str]] = {each.name: each.all_value for each in grafana.variables(document)}
    return chosen | {"__rate_interval": RANGE, "__interval": "1m", "__range": RANGE}


async def each_by_name(prometheus: Prometheus, document: Mapping[str, Any]) -> dict[str, str | Sequence[str]]:
    """Choose every value that is offered: a label that is not there would match everything, but no name."""
    values = all_of(document)
    chosen: dict[str, str | Sequence[str]] = {}
    for each in grafana.variables(document):
        chosen[each.name] = await prometheus.label_values(each.label, grafana.replaced(each.match, values))
    return values | chosen


def spans(requests: list[bytes]) -> int:
    groups = [group for request in requests for group in otlp_raw.parse(request).resource_spans]
    return sum(len(scope.spans) for group in groups for scope in group.scope_spans)


async def now_s(prometheus: Prometheus) -> float:
    return float((await prometheus.query("vector(time())"))[0]["value"][1])


@pytest_asyncio.fixture(loop_scope="session")
async def operator(demo: Demo, dashboards: dict[str, Dashboard]) -> Prometheus:
    """The operator's Prometheus, when it has seen everything counted."""
    received = 'sum(millrace_ledger_spans_total{stage="gateway",outcome="received"})'
    sent = sum(map(spans, demo.sent.values()))

    async def has_seen_all() -> bool:
        found = await demo.operator.query(f"{received} == {sent} and on () sum(millrace_ledger_waiting_spans) == 0")
        return bool(found)

    await eventually(has_seen_all, 60, lambda: f"{received} is not {sent}, or spans wait")
    return demo.operator


async def test_every_panel_of_the_operator_has_data(operator: Prometheus) -> None:
    for values in (all_of(OPERATOR), await each_by_name(operator, OPERATOR)):
        empty = await empty_ones(operator, OPERATOR, values, await now_s(operator))
        assert empty - DEPENDS_ON_THE_MACHINE == EMPTY_WHILE_ALL_IS_WELL
        assert not empty.issuperset({"Endpoints / Remote-Write 2.0 / A", "Endpoints / Remote-Write 2.0 / B"})


async def test_operator_chooses_tenants_and_actors(operator: Prometheus) -> None:
    offered = {}
    for variable in grafana.variables(OPERATOR):
        match = grafana.replaced(variable.match, all_of(OPERATOR))
        offered[variable.name] = set(await operator.label_values(variable.label, match))
    assert offered["tenant"] == {"acme", "globex"}
    assert offered["actor"] == {"service", "gateway-0", "shard-host-0", "shard-host-1", "collector-0"}
    chosen = all_of(OPERATOR) | {"tenant": ["acme"], "actor": ["shard-host-0", "collector-0"]}
    at_s, seen = await now_s(operator), 0
    for query in grafana.queries(OPERATOR):
        for element in await answers(operator, query, chosen, at_s):
            if "$tenant" in query.expr and "tenant" in element["metric"]:
                assert element["metric"]["tenant"] == "acme", query
                seen += 1
            if "$actor" in query.expr and "actor" in element["metric"]:
                assert element["metric"]["actor"] in {"shard-host-0", "collector-0"}, query
                seen += 1
    assert seen > 20


async def test_operator_sees_that_the_ledger_closes_and_every_actor_is_up(operator: Prometheus) -> None:
    at_s = await now_s(operator)
    by_name = {query.name: query for query in grafana.queries(OPERATOR)}
    values = all_of(OPERATOR)
    for name, expected in {
        "At a glance / Ledger / A": 0.0,
        "At a glance / Actors down / A": 0.0,
        "At a glance / Actors behind / A": 0.0,
        "At a glance / Endpoints not well / A": 0.0,
        "At a glance / Discarded / A": 0.0,
        "At a glance / Refused / A": 0.0,
    }.items():
        (element,) = await answers(operator, by_name[name], values, at_s)
        assert float(element["value"][1]) == expected, name
    (spans_in,) = await answers(operator, by_name["At a glance / Spans in / A"], values, at_s)
    assert float(spans_in["value"][1]) > 0


async def test_alert_rules_are_evaluated_and_quiet_while_all_is_well(operator: Prometheus) -> None:
    async def are_evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in await operator.rules())

    await eventually(are_evaluated, 30, lambda: "a rule cannot be evaluated")
    rules = await operator.rules()
    assert len(rules) > 40
    active = {rule["name"] for rule in rules if rule["state"] != "inactive"}
    assert active - ALERTS_ON_THE_MACHINE == set()


async def test_metrics_that_the_operator_asks_for_are_on_the_page(operator: Prometheus) -> None:
    asked = set(re.findall(r"millrace_[a-z0-9_]+", " ".join(query.expr for query in grafana.queries(OPERATOR))))
    asked |= {name for rule in await operator.rules() for name in re.findall(r"millrace_[a-z0-9_]+", rule["query"])}
    there = set(await operator.label_values("__name__", '{__name__=~"millrace_.*"}'))
    assert asked <= DECLARED.keys()
    assert asked - there == NOT_MEASURED_WHILE_ALL_IS_WELL
    assert there <= {*DECLARED, *_parts_of_histograms()}


def _parts_of_histograms() -> set[str]:
    histograms = [name for name, declared in DECLARED.items() if declared.kind == "histogram"]
    return {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


async def test_every_panel_of_a_tenant_has_data(shop: Dashboard) -> None:
    expected = WITHOUT_NATIVE_HISTOGRAMS if shop.flavour.tenant == "acme" else set()
    for values in (all_of(TENANT), await each_by_name(shop.prometheus, TENANT)):
        assert await empty_ones(shop.prometheus, TENANT, values, shop.at_s) == expected


async def test_tenant_chooses_services_and_kinds(shop: Dashboard) -> None:
    chosen = all_of(TENANT)
    for variable in grafana.variables(TENANT):
        match = grafana.replaced(variable.match, chosen)
        offered = set(await shop.prometheus.label_values(variable.label, match))
        assert offered == shop.values("traces_spanmetrics_calls_total", variable.label)
    services = [service.name for service in shop.flavour.services[:2]]
    chosen |= {"service": services}
    for query in grafana.queries(TENANT):
        for element in await answers(shop.prometheus, query, chosen, shop.at_s):
            labels = element["metric"]
            if "$service" in query.expr and (
                found := {labels.get(side) for side in ("service", "client", "server")} - {None}
            ):
                assert found & set(services), query


async def test_exemplars_of_a_tenant_s_panels_lead_to_traces_that_were_sent(shop: Dashboard) -> None:
    asked = [query for query in grafana.queries(TENANT) if query.has_exemplars]
    assert len(asked) >= 6
    for query in asked:
        found = await shop.exemplars(grafana.replaced(query.expr, all_of(TENANT)))
        # Exemplars of native histograms are with the classic ones of the same name.
        assert (found > 0) is (query.row != NATIVE), query


async def test_graph_of_a_tenant_joins_its_nodes(shop: Dashboard) -> None:
    graph = {query.ref_id: query for query in grafana.queries(TENANT) if query.panel == "Service graph"}
    values = all_of(TENANT)
    ids = {
        ref: {element["metric"]["id"] for element in await answers(shop.prometheus, query, values, shop.at_s)}
        for ref, query in graph.items()
    }
    edges = await answers(shop.prometheus, graph["edges"], values, shop.at_s)
    ends = {element["metric"][side] for element in edges for side in ("source", "target")}
    assert ids["nodes"] == ends
    assert ids["p95"] | ids["failed"] <= ids["nodes"]
    assert ids["edges_failed"] <= ids["edges"] == {f"{e['metric']['source']} → {e['metric']['target']}" for e in edges}
    rates = {element["metric"]["id"]: float(element["value"][1]) for element in edges}
    expected = shop.rates("traces_service_graph_request_total", ("client", "server"))
    assert rates == pytest.approx({f"{client} → {server}": rate for (client, server), rate in expected.items()})
