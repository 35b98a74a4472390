"""target_info, job and instance, and spans that are discarded (processors §1.5, §1.6, cases 2, 13 to 26, 33 to 37)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Difference, Labels, row
from tests.conformance.driver import check
from tests.conformance.fixtures import (
    BASE_RESOURCE,
    CALLS,
    L0,
    LATENCY,
    SIZE,
    TARGET_INFO,
    base_batch,
    base_request,
    base_span,
)
from tests.traces import batch, plan, request, span_metrics_plan

R = {"random_res_attr": "R"}
I_BOTH = {"job": "test-service", "instance": "I"}
SERVICE_I = {"service.name": "test-service", "service.instance.id": "I"}
NAMESPACED = {"service.namespace": "test-namespace", "service.instance.id": "I"}
NAMESPACED_BOTH = {"job": "test-namespace/test-service", "instance": "I"}
CLUSTER = {"cluster": "eu-west-0", "ip": "1.1.1.1"}
WITHOUT_SERVICE = {name: value for name, value in L0.items() if name != "service"}
OVERFLOW = {"metric_overflow": "true"}
NOT_UTF8 = "\udcff"
INVALID_UTF8 = ("span_metrics", "invalid_utf8")


def info_plan(**settings: Any) -> dict[str, Any]:
    """Return a plan with target_info on."""
    return plan(span_metrics_plan(enable_target_info=True, **settings))


def resource_case(
    resource: dict[str, Any], calls: Labels, info: Labels | None, *, count: int = 1, **settings: Any
) -> Case:
    """Expect of ``count`` spans of a resource their labels, and those of its target_info; None is none."""
    return Case(
        plan=info_plan(**settings),
        pushes=[request(batch(resource, *[base_span()] * count))],
        expected={CALLS: [(calls, count)], TARGET_INFO: [] if info is None else [(info, 1)]},
    )


RESOURCES = [
    row(
        "2",
        "attributes named job and instance",
        resource_case(
            {
                "random.res.attr": "R",
                "service.name": "test-service",
                "job": "dummy-job",
                "service.instance.id": "instance",
                "instance": "dummy-instance",
            },
            L0 | {"job": "test-service", "instance": "instance"},
            {
                "job": "test-service",
                "__job": "dummy-job",
                "instance": "instance",
                "__instance": "dummy-instance",
            },
            count=10,
            target_info_excluded_dimensions=["random.res.attr"],
        ),
    ),
    row(
        "13",
        "namespace and instance",
        resource_case(BASE_RESOURCE | NAMESPACED, L0 | NAMESPACED_BOTH, NAMESPACED_BOTH | R, count=10),
    ),
    row(
        "14",
        "namespace without service",
        resource_case({"random.res.attr": "R", "service.namespace": "test-namespace"}, WITHOUT_SERVICE, None, count=10),
    ),
    row("16", "attributes of the resource", resource_case(SERVICE_I | CLUSTER, L0 | I_BOTH, I_BOTH | CLUSTER)),
    row(
        "17",
        "excluded attributes",
        resource_case(
            SERVICE_I | CLUSTER | {"container": "c", "container.id": "1"},
            L0 | I_BOTH,
            I_BOTH | CLUSTER,
            target_info_excluded_dimensions=["container", "container.id"],
        ),
    ),
    row(
        "18",
        "names that are sanitized",
        resource_case(
            SERVICE_I | {"cluster-id": "eu-west-0", "target.ip": "1.1.1.1"},
            L0 | I_BOTH,
            I_BOTH | {"cluster_id": "eu-west-0", "target_ip": "1.1.1.1"},
        ),
    ),
    row("19", "nothing but service and instance", resource_case(SERVICE_I, L0 | I_BOTH, None)),
    row(
        "20",
        "empty key",
        resource_case(SERVICE_I | {"": "x", "cluster": "eu-west-0"}, L0 | I_BOTH, I_BOTH | {"cluster": "eu-west-0"}),
    ),
    row(
        "21",
        "empty value",
        resource_case(
            {"service.name": "test-service", "host.id": "", "cluster": "c"},
            L0 | {"job": "test-service"},
            {"job": "test-service", "cluster": "c"},
        ),
    ),
    row(
        "22",
        "nothing but empty values",
        resource_case(SERVICE_I | {"host.id": "", "container.id": ""}, L0 | I_BOTH, None),
    ),
    row(
        "23",
        "key that begins with a digit",
        resource_case(
            {"service.name": "test-service", "5badlabel": "x", "good_label": "y"},
            L0 | {"job": "test-service"},
            {"job": "test-service", "good_label": "y"},
        ),
    ),
    row(
        "25",
        "instance without service",
        resource_case(
            {"service.instance.id": "i", "x": "y"},
            WITHOUT_SERVICE | {"instance": "i"},
            {"instance": "i", "x": "y"},
        ),
    ),
    row(
        "26",
        "attributes named like intrinsics, and two of one label",
        resource_case(
            {"a.b": "1", "a_b": "2", "span.name": "z", "service": "zz", "service.name": "svc"},
            L0 | {"service": "svc", "job": "svc"},
            {"__service": "zz", "__span_name": "z", "a_b": "2", "job": "svc"},
        ),
    ),
]

BATCHES = [
    row(
        "15",
        "three resources in one push",
        Case(
            plan=info_plan(),
            pushes=[request(base_batch(10), base_batch(10, NAMESPACED), base_batch(10))],
            expected={
                CALLS: [(L0 | {"job": "test-service"}, 20), (L0 | NAMESPACED_BOTH, 10)],
                TARGET_INFO: [({"job": "test-service"} | R, 1), (NAMESPACED_BOTH | R, 1)],
            },
        ),
    ),
    row(
        "24",
        "without the label instance",
        Case(
            plan=info_plan(enable_instance_label=False),
            pushes=[
                request(
                    *[
                        batch(SERVICE_I | {"service.instance.id": instance, "cluster": "c"}, *[base_span()] * 10)
                        for instance in ("1", "2")
                    ]
                )
            ],
            expected={
                CALLS: [(L0 | {"job": "test-service"}, 20)],
                TARGET_INFO: [({"job": "test-service", "cluster": "c"}, 1)],
            },
        ),
    ),
    row(
        "33",
        "both spans have a name that is not UTF-8",
        Case(
            plan=info_plan(),
            pushes=[request(batch(BASE_RESOURCE, *[base_span(name=NOT_UTF8)] * 2))],
            expected={},
            nothing_else=True,
            discarded={INVALID_UTF8: 2},
        ),
    ),
    row(
        "34",
        "the first of two spans has a name that is not UTF-8",
        Case(
            plan=info_plan(),
            pushes=[request(batch(BASE_RESOURCE, base_span(name=NOT_UTF8), base_span()))],
            expected={
                CALLS: [(L0 | {"job": "test-service"}, 1)],
                TARGET_INFO: [({"job": "test-service"} | R, 1)],
            },
            discarded={INVALID_UTF8: 1},
        ),
    ),
    row(
        "35",
        "an attribute of the resource is not UTF-8",
        Case(
            plan=info_plan(),
            pushes=[base_request(2, {"cluster": NOT_UTF8})],
            expected={CALLS: [(L0 | {"job": "test-service"}, 2)], TARGET_INFO: []},
            discarded={INVALID_UTF8: 2},
        ),
    ),
    row(
        "37",
        "nothing but target_info",
        Case(
            plan=info_plan(count=False, latency=False, size=False),
            pushes=[base_request()],
            expected={TARGET_INFO: [({"job": "test-service"} | R, 1)]},
            nothing_else=True,
        ),
    ),
]


@pytest.mark.parametrize("case", RESOURCES)
def test_labels_of_one_resource(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", BATCHES)
def test_series_of_a_push(case: Case) -> None:
    check(case)


def room_case(limit: int, names: str, *, calls: str, latency: str, size: str, has_info: bool = False) -> Case:
    """Expect that of two spans with these names the metrics keep some apart, and ``-`` in their overflow series."""

    def entities(shown: str, each: int = 1) -> list[tuple[Labels, float]]:
        return [
            (OVERFLOW if name == "-" else L0 | {"job": "test-service", "span_name": name}, shown.count(name) * each)
            for name in sorted(set(shown))
        ]

    return Case(
        plan=plan(span_metrics_plan(enable_target_info=True), max_active_series=limit),
        pushes=[request(batch(BASE_RESOURCE, *[base_span(name=name) for name in names]))],
        expected={
            CALLS: entities(calls),
            f"{LATENCY}_count": entities(latency),
            SIZE: entities(size, base_span(name="x").ByteSize()),
            TARGET_INFO: [({"job": "test-service"} | R if has_info else OVERFLOW, 1)],
        },
    )


GROUP_BY_GROUP = Difference(
    "processors §4.7",
    "the contract claims room span by span, target_info before the second name: x would have all four and y none; a "
    "flush record is merged group by group, so the span series of every name claim room before target_info does",
)


@pytest.mark.parametrize(
    "case",
    [
        row("36a", "calls claim room first", room_case(1, "xx", calls="xx", latency="--", size="--")),
        row("36b", "then latency", room_case(18, "xx", calls="xx", latency="xx", size="--")),
        row("36c", "then size", room_case(19, "xx", calls="xx", latency="xx", size="xx")),
        row("36d", "then target_info", room_case(20, "xx", calls="xx", latency="xx", size="xx", has_info=True)),
        row(
            "36e",
            "after the span series of the second name",
            room_case(20, "xy", calls="xy", latency="x-", size="x-"),
            differs=GROUP_BY_GROUP,
        ),
    ],
)
def test_order_of_updates_shows_in_what_finds_room(case: Case) -> None:
    check(case)
