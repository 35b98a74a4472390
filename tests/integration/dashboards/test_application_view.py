"""The views of services and their maps (remote-write §4.4)."""

import re

import pytest

from cluster.demo.globex import GLOBEX
from tests.integration.dashboards.dashboard import RANGE, Dashboard, Where, assert_alike, selector
from tests.integration.dashboards.demo_shop import edges
from tests.integration.dashboards.query import (
    ASKED,
    CALLS,
    CLIENT_SECONDS,
    EDGE,
    ENVIRONMENT,
    FAILED,
    FAILURE,
    INFO,
    LATENCY,
    NOT_OURS,
    SERVER_SECONDS,
    TOTAL,
    asks,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]


@asks(13)
async def test_inventory_has_every_service_with_its_resource(globex: Dashboard) -> None:
    by = (
        *("telemetry_sdk_language", "job", "deployment_environment", "deployment_environment_name"),
        *("k8s_namespace_name", "k8s_cluster_name", "cloud_region", "service_version"),
    )
    for service in globex.flavour.services:
        for where in ({"job": f"globex/{service.name}"}, {"job": re.compile(f"(.+/)?{service.name}")}):
            seen = await globex.instant(f"group by ({', '.join(by)}) ({INFO}{selector(where)})", by)
            described = service.language, f"globex/{service.name}", ENVIRONMENT, ENVIRONMENT, "", ""
            assert_alike(seen, {(*described, region, service.version): 1.0 for region in globex.flavour.regions})


@asks(14)
async def test_peers_without_spans_are_found(globex: Dashboard) -> None:
    by = ("server", "server_service_namespace")
    seen = await globex.instant(f'group by ({", ".join(by)}) ({TOTAL}{{connection_type!=""}})', by)
    expected = globex.groups(TOTAL, by, {"connection_type": re.compile(".+")})
    assert_alike(seen, expected)
    peers = {database.host for database in globex.flavour.databases} | {"tax-office", "sms-gateway"}
    assert {server for server, namespace in seen if not namespace} == peers


@asks(15)
async def test_first_family_of_metrics_with_data_is_ours(globex: Dashboard) -> None:
    where: Where = {"job": "globex/orders"}
    seen = await globex.instant(f"count({CALLS}{selector(where)})")
    assert seen == {(): len(globex.selected(CALLS, where))}
    for suffix in ("bucket", "count", "sum"):
        metric = f"{LATENCY}_{suffix}"
        assert await globex.instant(f"count({metric}{selector(where)})") == {(): len(globex.selected(metric, where))}


async def test_metrics_that_are_not_ours_have_no_data(shop: Dashboard) -> None:
    for metric, why in NOT_OURS.items():
        assert await shop.prometheus.series(metric) == [], why


@asks(16, 17, 18)
async def test_service_page_has_rate_errors_latency_and_operations(globex: Dashboard) -> None:
    failing = 0
    for service in globex.flavour.services:
        where: Where = {"job": f"globex/{service.name}", **ASKED}
        of = selector(where)
        rate = await globex.instant(f"sum(rate({CALLS}{of}[{RANGE}]))")
        assert_alike(rate, globex.rates(CALLS, (), where))
        failed = await globex.instant(f"sum(rate({CALLS}{selector({**where, **FAILURE})}[{RANGE}]))")
        if failures := globex.rates(CALLS, (), {**where, **FAILURE}):
            assert_alike(failed, failures)
            assert failed[()] < rate[()]
            failing += 1

        bucket = f"{LATENCY}_bucket"
        latencies = []
        for q in (0.5, 0.95, 0.99):
            seen = await globex.instant(f"histogram_quantile({q}, sum by (le) (rate({bucket}{of}[{RANGE}])))")
            assert_alike(seen, globex.quantiles(q, bucket, (), where))
            latencies.append(seen[()])
            by = ("span_name",)
            seen = await globex.instant(
                f"histogram_quantile({q}, sum by (le, span_name) (rate({bucket}{of}[{RANGE}])))", by
            )
            assert_alike(seen, globex.quantiles(q, bucket, by, where))
        assert latencies == sorted(latencies)

        names = await globex.instant(f"sum by (span_name) (rate({CALLS}{of}[{RANGE}]))", by)
        assert_alike(names, globex.rates(CALLS, by, where))
        assert sum(names.values()) == pytest.approx(rate[()])
        sums, counts = (f"sum by (span_name)(rate({LATENCY}_{part}{of}[{RANGE}]))" for part in ("sum", "count"))
        taken, calls = (globex.rates(f"{LATENCY}_{part}", by, where) for part in ("sum", "count"))
        assert_alike(await globex.instant(f"{sums} / {counts}", by), {row: taken[row] / calls[row] for row in calls})
    assert failing


@asks(19)
async def test_map_of_a_service_has_its_callers_and_those_it_calls(globex: Dashboard) -> None:
    sides = (("client", "server", SERVER_SECONDS), ("server", "client", CLIENT_SECONDS))
    shown = set()
    for service in globex.flavour.services:
        for others, own, seconds in sides:
            by = (others, f"{others}_service_namespace", "connection_type")
            where: Where = {own: service.name, f"{own}_service_namespace": "globex"}
            expected = globex.rates(TOTAL, by, where)
            if not expected:
                assert own == "client", "everybody is called"
                continue
            of = selector(where)
            rate = await globex.instant(f"sum by ({', '.join(by)}) (rate({TOTAL}{of}[{RANGE}]))", by)
            assert_alike(rate, expected)
            failed = await globex.instant(f"sum by ({', '.join(by)}) (rate({FAILED}{of}[{RANGE}]))", by)
            assert failed == pytest.approx(globex.rates(FAILED, by, where))
            p95 = f"histogram_quantile(0.95, sum by (le, {', '.join(by)})(rate({seconds}_bucket{of}[{RANGE}])))"
            assert_alike(await globex.instant(p95, by), globex.quantiles(0.95, f"{seconds}_bucket", by, where))
            shown |= {(row[0], service.name) if own == "server" else (service.name, row[0]) for row in rate}
    assert shown == edges(globex.flavour)


@asks(20)
async def test_knowledge_graph_finds_the_environment(globex: Dashboard) -> None:
    where: Where = {"deployment_environment": ENVIRONMENT}
    instances = len(globex.selected(INFO, where))
    assert await globex.instant(f"count({INFO}{selector(where)})") == {(): instances}
    replicas = sum(service.replicas for service in globex.flavour.services)
    assert instances == replicas * len(globex.flavour.regions)
    for where in (
        {"client_deployment_environment": ENVIRONMENT, "server_deployment_environment": ENVIRONMENT},
        {"client_service_namespace": "globex", "server_deployment_environment": ENVIRONMENT},
        {"client": "user", "server_deployment_environment": ENVIRONMENT},
    ):
        seen = await globex.instant(f"sum by (client, server) (rate({TOTAL}{selector(where)}[{RANGE}]))", EDGE)
        assert_alike(seen, globex.rates(TOTAL, EDGE, where))


async def test_job_and_instance_are_on_span_metrics_with_target_info_alone(shop: Dashboard) -> None:
    names = await shop.prometheus.label_names(CALLS)
    assert ({"job", "instance"} <= set(names)) == (shop.flavour is GLOBEX)
    if shop.flavour is GLOBEX:
        without = await shop.prometheus.query(f'count({CALLS}{{job=""}})')
        assert without == []
