"""The registry: zeros, staleness, other settings, labels (processors §0.5, §4.2 to §4.6, cases 85, 86, 95 to 101, 114).

Two collections are 15 seconds apart, and the first one is that of the contract's cases.
"""

from typing import Any

import pytest

from tenants.identity import TenantId
from tenants.settings import Overrides, ServiceConfig, parse_service_config, resolve
from tenants.settings.in_force import OverridesInForce
from tenants.settings.model import validate
from tests.conformance.case import Case, Difference, Expected, conformance, key_of, row, series_of
from tests.conformance.driver import check
from tests.conformance.fixtures import CALLS, HOST_INFO, LATENCY, TARGET_INFO
from tests.conformance.registry_driver import (
    INTERVAL_MS,
    NEW_ZERO,
    START_MS,
    Interval,
    Registered,
    bare_metrics,
    observation,
    play,
)
from tests.overrides_in_force import in_force
from tests.traces import batch, filter_block, host_info_plan, plan, request

COUNTER = plan(bare_metrics("label", count=True))
GAUGE = plan(bare_metrics(enable_target_info=True))
VALUES = [f"value-{number}" for number in range(50)]


def labelled(label: str) -> dict[str, str]:
    """Return the label set of an observation with this label."""
    return {"label": label}


def counted(**times: int) -> list[Any]:
    """Return so many spans of each label; ``_`` in it stands for ``-``."""
    return [observation(label.replace("_", "-")) for label, count in times.items() for _ in range(count)]


@conformance("85", NEW_ZERO)
def test_85_a_counter_begins_at_zero_once() -> None:
    play(
        COUNTER,
        [
            Interval(
                counted=counted(value_1=1, value_2=2),
                begin={CALLS: [(labelled("value-1"), 1), (labelled("value-2"), 2)]},
            ),
            Interval(
                counted=counted(value_2=2, value_3=3),
                report={CALLS: [(labelled("value-1"), 1), (labelled("value-2"), 4)]},
                begin={CALLS: [(labelled("value-3"), 3)]},
            ),
        ],
    )


@conformance("86")
def test_86_a_gauge_begins_with_its_value() -> None:
    """The processors' gauges are always 1, where the contract's case counts up."""
    tenant = Registered(GAUGE)
    for number, labels in enumerate([("value-1", "value-2"), ("value-2", "value-3")]):
        begins_ms = START_MS + number * INTERVAL_MS
        for label in labels:
            tenant.count(observation(), at_ms=begins_ms, resource={"service.name": "a", "label": label})
        now_ms = begins_ms + INTERVAL_MS
        known = VALUES[1 : 3 + number]
        expected = {TARGET_INFO: [({"job": "a", "label": label}, 1) for label in known]}
        assert tenant.samples_at(now_ms) == Interval(report=expected).samples(begins_ms, now_ms)


@conformance(
    "95", Difference("design §3", "a series that ends gets a staleness marker, where the reference falls silent")
)
def test_95_a_series_without_updates_ends_beside_one_with_updates() -> None:
    tenant = Registered(plan(bare_metrics(count=True), None, host_info_plan(), stale_duration_s=0.075))
    host = {"host.id": "h"}
    tenant.count(observation(), resource=host)
    tenant.count(at_ms=START_MS + 50, resource=host)  # an update of the gauge only
    host_info = {HOST_INFO: [({"grafana_host_id": "h", "host_source": "host.id"}, 1)]}
    calls: Expected = {CALLS: [({}, 1)]}
    for before_ms, now_ms, expected in [
        (0, 75, Interval(begin=calls, report=host_info)),
        (75, 76, Interval(end=series_of(calls), report=host_info)),
        (76, 125, Interval(report=host_info)),
        (125, 126, Interval(end=series_of(host_info))),
        (126, 127, Interval()),
    ]:
        samples = expected.samples(START_MS + before_ms, START_MS + now_ms)
        assert tenant.samples_at(START_MS + now_ms) == samples


@conformance(
    "96a", Difference("design §1", "P2: a change of settings that does not define a series leaves it and its count")
)
def test_96a_series_whose_definition_stays_go_on_under_other_settings() -> None:
    tenant = Registered(COUNTER)
    tenant.count(*map(observation, VALUES))
    tenant.samples_at(START_MS + INTERVAL_MS)
    no_span = [{"include": filter_block("strict", {"span.none": "none"})}]
    tenant.use(plan(bare_metrics("label", count=True, filter_policies=no_span)), START_MS + INTERVAL_MS)
    expected = Interval(report={CALLS: [(labelled(value), 1) for value in VALUES]})
    now_ms = START_MS + 2 * INTERVAL_MS
    assert tenant.samples_at(now_ms) == expected.samples(START_MS + INTERVAL_MS, now_ms)
    assert tenant.stats("active_series", "series_added", "series_removed") == (50, 50, 0)


@pytest.mark.parametrize(
    ("before", "labels", "metric", "cost"),
    [
        row(
            "96b",
            "counters",
            {"count": True},
            VALUES,
            CALLS,
            50,
            differs=Difference("Q26", "series that are no longer produced end with a staleness marker"),
        ),
        row(
            "96c",
            "histograms",
            {"latency": True, "histogram_buckets": [1.0, 2.0, 3.0]},
            VALUES[:20],
            LATENCY,
            120,
            differs=Difference("Q26", "series that are no longer produced end with a staleness marker"),
        ),
    ],
)
def test_metrics_that_are_given_up_release_the_limit(
    before: dict[str, Any], labels: list[str], metric: str, cost: int
) -> None:
    tenant = Registered(plan(bare_metrics("label", **before), max_active_series=cost))
    tenant.count(*map(observation, labels))
    sent = tenant.samples_at(START_MS + INTERVAL_MS)
    assert tenant.stats("active_series", "series_limited") == (cost, 0)
    tenant.use(plan(bare_metrics("label", size=True), max_active_series=cost), START_MS + INTERVAL_MS)
    now_ms = START_MS + 2 * INTERVAL_MS
    assert all(dict(key)["__name__"].startswith(metric) for key in sent)
    assert tenant.samples_at(now_ms) == Interval(end=sent).samples(START_MS + INTERVAL_MS, now_ms)
    assert tenant.stats("active_series", "series_removed") == (0, cost)


@conformance(
    "97",
    Difference("Q37", "there is no __metrics_gen_instance: one registry per tenant, whose series outlive hosts"),
)
def test_97_external_labels_are_on_every_series() -> None:
    config = """
metrics_generator: {registry: {external_labels: {__foo: bar}, inject_tenant_id_as: __tempo_tenant}}
"""
    external = resolve(parse_service_config(config.encode(), {}), OverridesInForce(), TenantId("test")).external_labels
    tenant = Registered(plan(bare_metrics("label", count=True, latency=True, enable_target_info=True)))
    tenant.count(observation("value-1"), resource={"service.name": "a", "cluster": "c"})
    series = tenant.samples_at(START_MS + INTERVAL_MS, external)
    assert all({("__foo", "bar"), ("__tempo_tenant", "test")} <= key for key in series)
    names = {name for key in series for name, _ in key}
    assert names == {"__name__", "le", "label", "job", "cluster", "__foo", "__tempo_tenant"}


DUPLICATES = bare_metrics("a.dup", "other", "a_dup", count=True)

LABELS = [
    row(
        "98",
        "names and values are cut",
        Case(
            plan=plan(
                bare_metrics("very_lengthy_label", count=True), max_label_name_length=8, max_label_value_length=5
            ),
            pushes=[request(batch({}, observation(attributes={"very_lengthy_label": "very_length_value"})))],
            now_ns=START_MS * 1_000_000,
            expected={CALLS: [({"very_len": "very_"}, 1)]},
            nothing_else=True,
        ),
    ),
    row(
        "99",
        "a cut within a character",
        Case(
            plan=plan(bare_metrics("label", count=True), max_label_value_length=10),
            pushes=[request(batch({}, observation("aaaaaaaaa\u00e9")))],
            now_ns=START_MS * 1_000_000,
            expected={CALLS: [(labelled("aaaaaaaaa"), 1)]},
            nothing_else=True,
        ),
        differs=Difference("Q4", "values are cut between characters, so that a long one discards no span"),
    ),
    *(
        row(
            number,
            f"the label added last is {title}",
            Case(
                plan=plan(DUPLICATES),
                pushes=[request(batch({}, observation(attributes={"a.dup": "first", "other": "v", "a_dup": last})))],
                now_ns=START_MS * 1_000_000,
                expected={CALLS: [(labels, 1)]},
                nothing_else=True,
            ),
        )
        for number, title, last, labels in [
            ("100a", "kept", "second", {"a_dup": "second", "other": "v"}),
            ("100b", "empty", "", {"other": "v"}),
        ]
    ),
]


@pytest.mark.parametrize("case", LABELS)
def test_label_sets(case: Case) -> None:
    check(case)


@conformance("101")
def test_101_without_collection_series_count_and_nothing_is_sent() -> None:
    entry = validate(Overrides, {"metrics_generator": {"disable_collection": True}})
    assert resolve(ServiceConfig(), in_force({"acme": entry}), TenantId("acme")).disable_collection
    tenant = Registered(COUNTER)
    tenant.count(observation("value-1"), observation("value-2"))
    swept_ms, now_ms = START_MS + INTERVAL_MS, START_MS + 2 * INTERVAL_MS
    tenant.registry.sweep(swept_ms)
    assert tenant.stats("active_series", "active_series_demand_estimate") == (2, 2)
    both: Expected = {CALLS: [(labelled("value-1"), 1), (labelled("value-2"), 1)]}
    assert tenant.samples_at(now_ms) == Interval(begin=both).samples(swept_ms, now_ms)
    stale_ms = START_MS + 900_001
    tenant.registry.sweep(stale_ms)
    assert tenant.stats("active_series", "series_removed") == (0, 2)
    assert tenant.samples_at(stale_ms + INTERVAL_MS) == {}


@conformance("114", Difference("Q5", "every push refreshes target_info, so that it lives as long as its resource"))
def test_114_target_info_is_refreshed() -> None:
    tenant = Registered(GAUGE | {"stale_duration_s": 100.0})
    for second in (100, 200):
        at_ms = START_MS + second * 1000
        tenant.count(observation(at_ms=at_ms), at_ms=at_ms, resource={"service.name": "a", "cluster": "c"})
    series = key_of(TARGET_INFO, {"job": "a", "cluster": "c"})
    for second, value in [(250, 1.0), (300, 1.0), (301, None)]:
        now_ms = START_MS + second * 1000
        assert tenant.samples_at(now_ms) == {series: [(now_ms, value)]}
