"""``traces_target_info``, ``job``, ``instance`` and host-info: cases computed by hand, for model and engine.

Numbers beside the tests are those of the conformance cases of processors §6.1 and §6.4.
"""

from typing import Any

import pytest

from tests.traces import (
    CLIENT,
    MISSING,
    OK,
    SECOND_NS,
    Attributes,
    batch,
    filter_block,
    host_info_plan,
    plan,
    request,
    span,
    span_metrics_plan,
)

NOW_NS = 1_700_000_000 * SECOND_NS
LABELS = {"span_name": "test", "span_kind": "SPAN_KIND_CLIENT", "status_code": "STATUS_CODE_OK"}
INSTANCE = "service.instance.id"


def base(name: str = "test", **more: Any) -> Any:
    return span(name, kind=CLIENT, status=OK, end_ns=NOW_NS, **more)


def counted(implementation: Any, *batches: Any, **settings: Any) -> Any:
    """Return a tenant with target info after one push."""
    enabled = {"enable_target_info": True, "latency": False, "size": False} | settings
    tenant = implementation(plan(span_metrics_plan(**enabled)))
    tenant.push(request(*batches), NOW_NS)
    tenant.flush(NOW_NS)
    return tenant


def values(tenant: Any, metric: str) -> list[tuple[dict[str, str], float]]:
    """Return the series of a metric, sorted by their labels."""
    named = ("__name__", metric)
    series = tenant.collect().series.items()
    found = [(dict(sorted(key - {named})), value) for key, value in series if named in key]
    return sorted(found, key=lambda pair: list(pair[0].items()))


def info(tenant: Any) -> list[dict[str, str]]:
    """Return the label sets of target info, each of which has the value 1."""
    found = values(tenant, "traces_target_info")
    assert all(value == 1 for _, value in found)
    return [labels for labels, _ in found]


SERVICE = {"service.name": "test-service"}
JOB = {"job": "test-service"}
TARGET_CASES: list[tuple[Any, dict[str, Any], dict[str, str] | None]] = [
    (
        SERVICE | {"random.res.attr": "R", "job": "dummy-job", INSTANCE: "instance", "instance": "dummy-instance"},
        {"target_info_excluded_dimensions": ["random.res.attr"]},
        JOB | {"__job": "dummy-job", "instance": "instance", "__instance": "dummy-instance"},
    ),  # 2
    (
        SERVICE | {INSTANCE: "I", "cluster": "eu-west-0", "ip": "1.1.1.1"},
        {},
        JOB | {"instance": "I", "cluster": "eu-west-0", "ip": "1.1.1.1"},
    ),  # 16
    (
        SERVICE | {"cluster": "c", "container": "x", "container.id": "y", "container_id": "z"},
        {"target_info_excluded_dimensions": ["container", "container.id"]},
        JOB | {"cluster": "c", "container_id": "z"},
    ),  # 17
    (SERVICE | {"cluster-id": "a", "target.ip": "b"}, {}, JOB | {"cluster_id": "a", "target_ip": "b"}),  # 18
    (SERVICE | {INSTANCE: "I"}, {}, None),  # 19
    (SERVICE | {"": "x", "cluster": "c"}, {}, JOB | {"cluster": "c"}),  # 20
    (SERVICE | {"host.id": "", "cluster": "c"}, {}, JOB | {"cluster": "c"}),  # 21
    (SERVICE | {INSTANCE: "I", "host.id": "", "container.id": ""}, {}, None),  # 22
    (SERVICE | {"5badlabel": "x", "good_label": "y"}, {}, JOB | {"good_label": "y"}),  # 23
    ({INSTANCE: "i", "x": "y"}, {}, {"instance": "i", "x": "y"}),  # 25
    ({INSTANCE: "i", "x": "y"}, {"enable_instance_label": False}, None),
    ({"x": "y"}, {}, None),
    ({"service.namespace": "n", "x": "y"}, {}, None),
    (
        {"a.b": "1", "a_b": "2", "span.name": "z", "service": "zz", "service.name": "svc"},
        {},
        {"__service": "zz", "__span_name": "z", "a_b": "2", "job": "svc"},
    ),  # 26
    (SERVICE | {"a.b": "1", "a_b": ""}, {"keep_colliding_dimensions": True}, None),
    (SERVICE | {"le": "1", "..name__": "2", "x": "y"}, {}, JOB | {"x": "y"}),  # Q38
    (SERVICE | {"le": "1"}, {}, None),
    (SERVICE | {"service.namespace": "ns", "n": 5}, {}, {"job": "ns/test-service", "n": "5"}),
    ({"service.name": False, "service.namespace": "", "n": MISSING, "b": [1]}, {}, {"job": "false", "b": "[1]"}),
    ([("service.name", ""), ("service.name", "late"), ("x", "y")], {}, None),
    ([*SERVICE.items(), ("k", "first"), ("k", "last")], {}, JOB | {"k": "last"}),
    (SERVICE | {"k\udcff": "x"}, {}, JOB | {"k_": "x"}),
]


@pytest.mark.parametrize(("resource", "settings", "expected"), TARGET_CASES)
def test_target_info_of_a_resource(
    implementation: Any, resource: Attributes, settings: dict[str, Any], expected: dict[str, str] | None
) -> None:
    tenant = counted(implementation, batch(resource, base(), base("second")), **settings)
    assert info(tenant) == ([] if expected is None else [expected])


def test_spans_carry_job_and_instance(implementation: Any) -> None:  # 13, 14, 15
    full = SERVICE | {"service.namespace": "test-namespace", INSTANCE: "I"}
    batches = [batch(SERVICE, *[base()] * 10), batch(full, *[base()] * 10), batch(SERVICE, *[base()] * 10)]
    tenant = counted(implementation, *batches, batch({"service.namespace": "alone"}, base()))
    service = {"service": "test-service"}
    assert values(tenant, "traces_spanmetrics_calls_total") == [
        (dict(sorted((LABELS | service | {"job": "test-namespace/test-service", "instance": "I"}).items())), 10),
        (dict(sorted((LABELS | service | JOB).items())), 20),
        (dict(sorted(LABELS.items())), 1),
    ]


def test_instance_label_may_be_off(implementation: Any) -> None:  # 24
    batches = [batch(SERVICE | {INSTANCE: name, "cluster": "c"}, *[base()] * 10) for name in "ab"]
    tenant = counted(implementation, *batches, enable_instance_label=False)
    assert [value for _, value in values(tenant, "traces_spanmetrics_calls_total")] == [20]
    assert info(tenant) == [JOB | {"cluster": "c"}]


@pytest.mark.parametrize(("enabled", "job"), [(True, "test-service"), (False, "attr-job")])
def test_dimension_called_job_gives_way_to_the_resource(implementation: Any, enabled: bool, job: str) -> None:  # 39
    one = base(attributes={"job": "attr-job"})
    tenant = counted(implementation, batch(SERVICE, one), dimensions=["job"], enable_target_info=enabled)
    ((labels, _),) = values(tenant, "traces_spanmetrics_calls_total")
    assert labels["job"] == job


INVALID = ("span_metrics", "invalid_utf8")
CLUSTER = SERVICE | {"cluster": "c"}


@pytest.mark.parametrize(
    ("names", "resource", "calls", "infos", "invalid"),
    [
        (["\udcff", "\udcff"], CLUSTER, 0, 0, 2),  # 33
        (["\udcff", "test"], CLUSTER, 1, 1, 1),  # 34
        (["test", "test"], CLUSTER | {"k": "\udcff"}, 2, 0, 2),  # 35
        (["\udcff", "test"], CLUSTER | {"k": "\udcff"}, 1, 0, 2),
        (["test"], {"service.name": "\udcff", "k": "x"}, 0, 0, 1),
    ],
)
def test_text_that_is_not_utf8(
    implementation: Any, names: list[str], resource: Any, calls: int, infos: int, invalid: int
) -> None:
    tenant = counted(implementation, batch(resource, *map(base, names)))
    assert sum(value for _, value in values(tenant, "traces_spanmetrics_calls_total")) == calls
    assert len(info(tenant)) == infos
    assert tenant.discarded == {INVALID: invalid}


def test_target_info_alone(implementation: Any) -> None:  # 37
    tenant = counted(implementation, batch(CLUSTER, base()), count=False)
    assert [dict(series)["__name__"] for series in tenant.collect().series] == ["traces_target_info"]


def test_resource_of_filtered_spans_has_no_target_info(implementation: Any) -> None:
    policies = [{"exclude": filter_block("strict", {"name": "test"})}]
    assert info(counted(implementation, batch(CLUSTER, base()), filter_policies=policies)) == []
    assert info(counted(implementation, batch(CLUSTER, base(), base("b")), filter_policies=policies)) != []
    assert info(counted(implementation, batch(CLUSTER))) == []


def hosts(implementation: Any, *batches: Any, **settings: Any) -> Any:
    """Return a tenant of host-info alone after one push."""
    tenant = implementation(plan(None, None, host_info_plan(**settings)))
    tenant.push(request(*batches), NOW_NS)
    tenant.flush(NOW_NS)
    return tenant


def host(identifier: str, source: str) -> dict[str, str]:
    return {"grafana_host_id": identifier, "host_source": source}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{"host.id": "test0"}, {"host.id": "test1"}], [host("test0", "host.id"), host("test1", "host.id")]),  # 81
        ([{"host.id": "test0", "k8s.node.name": "test0"}], [host("test0", "k8s.node.name")]),  # 82
        ([{"host.id": 5, "k8s.node.name": ""}], []),  # 83
        ([{"host.id": "x", "k8s.node.name": ""}], [host("x", "host.id")]),
        ([[("host.id", ""), ("host.id", 5), ("host.id", "x"), ("host.id", "y")]], [host("x", "host.id")]),
        ([{"host.id": "same"}, {"host.id": "same"}], [host("same", "host.id")]),
        ([None, {}], []),
    ],
)
def test_hosts(implementation: Any, resources: list[Any], expected: list[dict[str, str]]) -> None:
    tenant = hosts(implementation, *[batch(resource, base()) for resource in resources])
    assert values(tenant, "traces_host_info") == [(labels, 1) for labels in expected]


def test_host_of_spans_outside_the_slack_is_seen(implementation: Any) -> None:  # 84
    tenant = hosts(implementation, batch({"host.id": "x"}, span(end_ns=5), span(end_ns=5)), batch({"host.id": "y"}))
    assert values(tenant, "traces_host_info") == [(host("x", "host.id"), 1), (host("y", "host.id"), 1)]
    assert tenant.discarded == {("gateway", "outside_metrics_ingestion_slack"): 2}


def test_host_that_is_not_utf8_is_discarded(implementation: Any) -> None:
    tenant = hosts(implementation, batch({"host.id": "\udcff"}), batch({"host.id": "\udcff"}))
    assert (tenant.collect().series, tenant.discarded) == ({}, {("host_info", "invalid_utf8"): 2})


def test_host_info_has_a_name_and_identifiers_of_its_own(implementation: Any) -> None:
    tenant = hosts(implementation, batch({"my.host": "x"}), host_identifiers=["my.host"], metric_name="hosts")
    assert values(tenant, "hosts") == [(host("x", "my.host"), 1)]


def test_skipped_push_is_received_and_generates_nothing(implementation: Any) -> None:  # 129
    tenant = implementation(plan(span_metrics_plan(), None, host_info_plan()))
    spans = [base(), span(end_ns=5), span("\udcff", end_ns=NOW_NS)]
    tenant.push(request(batch({"host.id": "x"}, *spans)), NOW_NS, skip_generation=True)
    tenant.flush(NOW_NS)
    assert tenant.collect().series == {}
    assert (tenant.received_spans, tenant.skipped_processor_pushes) == (3, 2)
    assert tenant.discarded == {("gateway", "outside_metrics_ingestion_slack"): 1}
