"""Host info (processors §3, cases 81 to 84)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Expected, row
from tests.conformance.driver import check
from tests.conformance.fixtures import HOST_INFO, base_span
from tests.traces import batch, host_info_plan, plan, request


def hosts_case(*resources: dict[str, Any], hosts: list[tuple[str, str]]) -> Case:
    """Expect of one push these hosts, each with the attribute that names it."""
    expected: Expected = {HOST_INFO: [({"grafana_host_id": host, "host_source": key}, 1) for host, key in hosts]}
    return Case(
        plan=plan(host_info=host_info_plan()),
        pushes=[request(*[batch(resource, base_span()) for resource in resources])],
        expected=expected,
        nothing_else=True,
    )


ROWS = [
    row(
        "81",
        "two hosts",
        hosts_case({"host.id": "test0"}, {"host.id": "test1"}, hosts=[("test0", "host.id"), ("test1", "host.id")]),
    ),
    row(
        "82",
        "node before host",
        hosts_case({"host.id": "test0", "k8s.node.name": "test0"}, hosts=[("test0", "k8s.node.name")]),
    ),
    row("83", "number and empty text are no identifiers", hosts_case({"host.id": 5, "k8s.node.name": ""}, hosts=[])),
    row(
        "84",
        "all spans are too old",
        Case(
            plan=plan(host_info=host_info_plan()),
            pushes=[request(batch({"host.id": "test0"}, *[base_span(start_ns=4, end_ns=5)] * 3))],
            expected={HOST_INFO: [({"grafana_host_id": "test0", "host_source": "host.id"}, 1)]},
            nothing_else=True,
            discarded={("gateway", "outside_metrics_ingestion_slack"): 3},
        ),
    ),
]


@pytest.mark.parametrize("case", ROWS)
def test_hosts_of_a_push(case: Case) -> None:
    check(case)
