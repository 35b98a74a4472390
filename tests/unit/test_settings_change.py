"""Settings that change while spans come: what stays goes on, what goes ends, and no span is lost on the way.

The three that work under a plan (gateway, shard, registry) hear of a change one by one, in any order.
"""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.engine_driver import EngineDriver
from tests.traces import (
    SECOND_NS,
    batch,
    filter_block,
    histograms_plan,
    host_info_plan,
    plan,
    request,
    span,
    span_metrics_plan,
)
from tests.unit.changing_tenant import STALE_S, Changing, assert_unbroken, settings

CALLS: Final = "traces_spanmetrics_calls_total"
SIZE: Final = "traces_spanmetrics_size_total"
LATENCY: Final = "traces_spanmetrics_latency"
EDGES: Final = "traces_service_graph_request_total"
FIRST: Final = settings()
CHANGES: Final[Mapping[str, tuple[dict[str, Any], frozenset[str]]]] = {
    # What it changes to, and the metrics whose series are what they were.
    "buckets": (settings({"histogram_buckets": [0.5, 1.0, 4.0]}), frozenset({CALLS, SIZE, EDGES})),
    "native": (settings(histograms=histograms_plan("native")), frozenset({CALLS, SIZE, EDGES})),
    "both": (settings(histograms=histograms_plan("both")), frozenset({CALLS, SIZE, EDGES, f"{LATENCY}_count"})),
    "latency off": (settings({"latency": False}), frozenset({CALLS, SIZE, EDGES})),
    "size off": (settings({"size": False}), frozenset({CALLS, EDGES, f"{LATENCY}_count", f"{LATENCY}_sum"})),
    "graphs off": (settings(None, {"off": True}), frozenset({CALLS, SIZE, f"{LATENCY}_count"})),
    "host info off": (settings(host_info=False), frozenset({CALLS, SIZE, EDGES, f"{LATENCY}_count"})),
    "span metrics off": (settings({"off": True}), frozenset({EDGES})),
    "edge dimension": (settings(None, {"dimensions": ["tier"]}), frozenset({CALLS, SIZE, f"{LATENCY}_count"})),
    "trace id label": (settings(trace_id_label_name="tid"), frozenset({CALLS, SIZE, EDGES, f"{LATENCY}_bucket"})),
    "sanitization": (settings(span_name_sanitization="enabled"), frozenset({CALLS, SIZE, EDGES})),
    "filter that lets all in": (
        settings({"filter_policies": [{"exclude": filter_block("strict", {"name": "none"})}]}),
        frozenset({CALLS, SIZE, EDGES, f"{LATENCY}_count"}),
    ),
    "limit": (settings(max_active_series=1000), frozenset({CALLS, SIZE, EDGES, f"{LATENCY}_count"})),
    "value length": (settings(max_label_value_length=100), frozenset({CALLS, SIZE, EDGES})),
    "longer wait": (settings(None, {"wait_s": 99.0, "max_items": 7}), frozenset({CALLS, SIZE, EDGES})),
}


@pytest.mark.parametrize("name", CHANGES)
def test_series_whose_definition_stays_go_on_through_a_change_and_back(name: str) -> None:
    changed, kept = CHANGES[name]
    tenant = Changing(FIRST)
    tenant.interval()
    before = tenant.alive()
    for document in (changed, FIRST, changed):
        tenant.change(document)
        tenant.interval()
    histories = tenant.histories(*kept)
    assert {dict(key)["__name__"] for key in histories} == kept
    for key in before & histories.keys():
        assert_unbroken(histories[key])


@pytest.mark.parametrize("name", CHANGES)
def test_change_takes_effect_at_once_and_what_is_gone_ends_with_a_marker(name: str) -> None:
    changed, _ = CHANGES[name]
    tenant = Changing(FIRST)
    tenant.interval()
    tenant.change(changed)
    tenant.interval()
    fresh = Changing(changed)
    fresh.interval()
    # What a tenant has that never had other settings.
    assert fresh.alive() <= tenant.alive()
    assert tenant.names_alive() == fresh.names_alive()
    ended = {key for key, values in tenant.histories().items() if values[-1] is None}
    assert {dict(key)["__name__"] for key in ended if "le" not in dict(key)}.isdisjoint(fresh.names_alive())
    assert not ended & tenant.alive()
    tenant.interval()
    # An end is said once.
    assert not ended & tenant.sent[-1].keys()


def test_dimension_that_comes_starts_series_and_dimension_that_goes_ends_them() -> None:
    tenant = Changing(settings())
    tenant.interval()
    plain = {key for key in tenant.alive() if dict(key)["__name__"] == CALLS}
    tenant.change(settings({"dimensions": ["region"]}))
    tenant.interval()
    with_region = {key for key in tenant.alive() if dict(key).get("region") == "r"} & tenant.histories(CALLS).keys()
    assert len(with_region) == 2
    # Spans without the attribute would still have no label: those series stay, until they are stale.
    assert plain <= tenant.alive()
    tenant.change(settings())
    tenant.interval()
    assert not with_region & tenant.alive()
    histories = tenant.histories(CALLS)
    for key in with_region:
        assert histories[key][0] == 0
        assert histories[key][-1] is None
    for key in plain:
        assert_unbroken(histories[key])
    assert tenant.total(CALLS) == tenant.sent_spans


def test_edges_end_with_the_dimension_that_they_have() -> None:
    tenant = Changing(settings(None, {"dimensions": ["tier"]}))
    tenant.interval()
    with_tier = tenant.alive() & tenant.histories(EDGES).keys()
    tenant.change(settings())
    tenant.interval()
    assert {dict(key).get("tier") for key in with_tier} == {"back"}
    assert not with_tier & tenant.alive()
    assert {dict(key).get("tier") for key in tenant.alive() & tenant.histories(EDGES).keys()} == {None}
    assert tenant.total(EDGES) == tenant.sent_spans / 2


def test_hosts_end_with_the_identifier_that_named_them() -> None:
    tenant = Changing(settings(host_info=False) | {"host_info": host_info_plan()})
    by_node = request(batch({"k8s.node.name": "node"}, span(end_ns=tenant.now_ns)))
    tenant.push(by_node, tenant.now_ns)
    tenant.interval()
    hosts = tenant.alive() & tenant.histories("traces_host_info").keys()
    assert {dict(key)["host_source"] for key in hosts} == {"host.id", "k8s.node.name"}
    tenant.change(settings(host_info=False) | {"host_info": host_info_plan(host_identifiers=["host.id"])})
    tenant.interval()
    assert {dict(key)["host_source"] for key in hosts & tenant.alive()} == {"host.id"}


def test_series_that_a_filter_keeps_out_end_when_they_are_stale() -> None:
    tenant = Changing(settings())
    tenant.interval()
    clients = {"exclude": filter_block("strict", {"kind": "SPAN_KIND_CLIENT"})}
    tenant.change(settings({"filter_policies": [clients]}))
    for _ in range(int(STALE_S)):
        tenant.interval()
    assert {dict(key)["span_kind"] for key in tenant.alive() & tenant.histories(CALLS).keys()} == {"SPAN_KIND_SERVER"}
    assert tenant.discarded[("span_metrics", "span_metrics_filtered")] + tenant.total(CALLS) == tenant.sent_spans
    for values in tenant.histories(EDGES).values():
        assert_unbroken(values)


def test_target_info_that_comes_and_goes_is_there_only_then() -> None:
    tenant = Changing(settings())
    for has_info in (False, True, False, True):
        tenant.change(settings({"enable_target_info": has_info}))
        tenant.interval()
        assert ("traces_target_info" in tenant.names_alive()) == has_info
        jobs = {dict(key).get("job") for key in tenant.alive() & tenant.histories(CALLS).keys()}
        assert jobs == ({"web", "shop"} if has_info else {None})
    assert tenant.total(CALLS) == tenant.sent_spans


def test_forms_of_histograms_come_and_go_and_each_counts_what_came_in_its_time() -> None:
    tenant = Changing(settings())
    own = {"classic": {f"{LATENCY}_count"}, "native": {LATENCY}, "both": {f"{LATENCY}_count", LATENCY}}
    for mode in ("classic", "native", "both", "classic", "both", "native", "classic"):
        tenant.change(settings(histograms=histograms_plan(mode)))
        tenant.interval()
        assert tenant.names_alive() & own["both"] == own[mode]
    # Each form was on in five of the seven seconds, three spans of two services in each.
    assert tenant.total(f"{LATENCY}_count") == 5 * 6
    assert tenant.total(LATENCY) == 4 * 6
    assert tenant.total(CALLS) == tenant.sent_spans
    for values in tenant.histories(CALLS, SIZE, EDGES).values():
        assert_unbroken(values)


def test_counts_of_classic_buckets_alone_go_to_the_native_buckets_where_theirs_end() -> None:
    tenant = Changing(settings({"histogram_buckets": [0.5, 2.0]}))
    tenant.call()
    tenant.change_registry(settings(histograms=histograms_plan("native")))
    tenant.flush(tenant.now_ns)
    collected = tenant.collect()
    found = [histogram for key, histogram in collected.histograms.items() if dict(key)["__name__"] == LATENCY]
    # A second each, of which the shard knows that it is at most two: eight native buckets above one second.
    assert [(histogram.schema, histogram.buckets, histogram.sum) for histogram in found] == [(3, {8: 3}, 3.0)] * 2


def test_exemplars_carry_the_label_of_the_settings_that_are_in_force() -> None:
    tenant = Changing(settings())
    for label in ("traceID", "tid", "trace_id"):
        tenant.change(settings(trace_id_label_name=label))
        tenant.interval()
        labels = [exemplar.labels for series in tenant.sent[-1].values() for exemplar in series.exemplars]
        assert labels
        assert all(set(each) == {label} for each in labels)


ORDERS: Final = [
    ("gateway", "shards", "registry"),
    ("gateway", "registry", "shards"),
    ("shards", "gateway", "registry"),
    ("shards", "registry", "gateway"),
    ("registry", "gateway", "shards"),
    ("registry", "shards", "gateway"),
]
ALL_COUNTED: Final = {
    name: changed for name, (changed, _) in CHANGES.items() if "off" not in name or name == "size off"
} | {
    "dimension": settings({"dimensions": ["region", "zone"]}),
    "target info": settings({"enable_target_info": True}),
    "edge prefix": settings(None, {"dimensions": ["tier"], "enable_client_server_prefix": True}),
}


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
@pytest.mark.parametrize("name", ALL_COUNTED)
@pytest.mark.parametrize("is_back", [False, True], ids=["there", "back"])
def test_every_span_is_counted_in_whatever_order_the_parts_hear_of_a_change(
    name: str, order: tuple[str, ...], is_back: bool
) -> None:
    before, after = (ALL_COUNTED[name], FIRST) if is_back else (FIRST, ALL_COUNTED[name])
    tenant = Changing(before)
    tenant.interval()
    for part in order:
        tenant.call()  # counted in the shard by the settings so far, and flushed by those to come
        getattr(tenant, f"change_{part}")(after)
        tenant.interval()
    tenant.interval()
    assert tenant.total(CALLS) == tenant.sent_spans
    assert tenant.total(EDGES) == tenant.sent_spans / 2
    observed = tenant.total(f"{LATENCY}_count") + tenant.total(LATENCY)
    assert observed == tenant.sent_spans or (name == "both" and observed > tenant.sent_spans)
    fresh = Changing(after)
    fresh.interval()
    assert tenant.names_alive() == fresh.names_alive()
    assert tenant.rejected == tenant.discarded == {}


@pytest.mark.parametrize("processor", ["span_metrics", "service_graphs"])
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_spans_counted_before_a_processor_was_switched_off_are_sent(processor: str, order: tuple[str, ...]) -> None:
    tenant = Changing(FIRST)
    tenant.interval()
    tenant.call()
    metric = {"span_metrics": CALLS, "service_graphs": EDGES}[processor]
    counted = tenant.sent_spans if processor == "span_metrics" else tenant.sent_spans / 2
    for part in order:
        getattr(tenant, f"change_{part}")(settings(**{processor: {"off": True}}))
        tenant.collect_next()
    assert tenant.total(metric) == counted
    assert all(values[-1] is None for values in tenant.histories(metric).values())


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_info_metrics_come_within_two_seconds_in_whatever_order_the_parts_hear_of_it(order: tuple[str, ...]) -> None:
    # A gateway does not tell of a resource with every request, and nobody may be ready to listen when it first does.
    stale = {"stale_duration_s": 900.0}
    tenant = Changing(settings(host_info=False, **stale))
    tenant.interval()
    for part in order:
        getattr(tenant, f"change_{part}")(settings({"enable_target_info": True}, **stale))
        tenant.interval()
    tenant.interval()
    tenant.interval()
    assert tenant.names_alive() >= {"traces_host_info", "traces_target_info"}


def test_open_edges_keep_the_dimensions_that_stay() -> None:
    tenant = Changing(settings(None, {"dimensions": ["region", "zone", "tier"]}))
    tenant.call(server=False)
    tenant.change(settings(None, {"dimensions": ["new", "tier", "zone"]}))
    tenant.call(client=False)
    tenant.collect_next()
    (labels,) = map(dict, tenant.histories(EDGES))
    # zone is only the client's, tier is also the server's, who came last; region is no dimension any more.
    expected = {"client": "web", "server": "shop", "zone": "z", "tier": "back"}
    assert labels == {"__name__": EDGES, **expected}
    assert tenant.total(EDGES) == 3


def test_open_edges_keep_their_sides_when_prefixes_stay() -> None:
    prefixed = {"enable_client_server_prefix": True}
    tenant = Changing(settings(None, prefixed | {"dimensions": ["zone", "tier"]}))
    tenant.call(server=False)
    tenant.change(settings(None, prefixed | {"dimensions": ["tier", "region"]}))
    tenant.call(client=False)
    tenant.collect_next()
    (labels,) = map(dict, tenant.histories(EDGES))
    assert labels == {
        "__name__": EDGES,
        "client": "web",
        "server": "shop",
        "client_tier": "front",
        "server_tier": "back",
        "server_region": "r",
    }


@pytest.mark.parametrize("prefixed", [True, False])
def test_open_edges_survive_prefixes_that_come_or_go(prefixed: bool) -> None:
    def graphs(is_on: bool) -> dict[str, Any]:
        return settings(None, {"dimensions": ["tier"], "enable_client_server_prefix": is_on})

    tenant = Changing(graphs(not prefixed))
    tenant.call(server=False)
    tenant.change(graphs(prefixed))
    tenant.call(client=False)
    tenant.collect_next()
    (labels,) = map(dict, tenant.histories(EDGES))
    assert labels == {"__name__": EDGES, "client": "web", "server": "shop"} | (
        {"server_tier": "back"} if prefixed else {"tier": "back"}
    )
    assert tenant.total(EDGES) == 3


def test_frames_of_the_former_settings_land_right_in_a_shard_with_the_new_ones() -> None:
    before = settings({"dimensions": ["zone"]}, {"dimensions": ["region", "zone"]})
    after = settings({"dimensions": ["tier"]}, {"dimensions": ["zone", "tier"]})
    tenant = Changing(before)
    tenant.change_shards(after)
    tenant.change_registry(after)
    tenant.call(server=False)
    tenant.change_gateway(after)
    tenant.call(client=False)
    tenant.collect_next()
    tenant.collect_next()
    # The frame's own label sets: zone, as the gateway knew it. They end, for nobody makes such any more.
    calls = {
        frozenset(dict(key).items() & {("zone", "z"), ("tier", "back")}): v
        for key, v in tenant.histories(CALLS).items()
    }
    assert calls[frozenset({("zone", "z")})] == [0, 3, None]
    assert calls[frozenset({("tier", "back")})] == [0, 3, 3]
    (labels,) = map(dict, tenant.histories(EDGES))
    assert labels == {"__name__": EDGES, "client": "web", "server": "shop", "zone": "z", "tier": "back"}


def test_shorter_wait_expires_open_edges_and_smaller_buffer_keeps_them() -> None:
    tenant = Changing(settings(None, {"wait_s": 100.0}), shards=1)
    tenant.call(10, server=False)
    tenant.change(settings(None, {"wait_s": 100.0, "max_items": 2}))
    assert tenant.shards[0].stats()["open_edges"] == 10
    tenant.call(10, client=False)
    assert tenant.shards[0].stats()["open_edges"] == 0
    tenant.collect_next()
    assert tenant.total(EDGES) == 10
    tenant.call(2, server=False)
    tenant.change(settings(None, {"wait_s": 0.5}))
    tenant.collect_next()
    tenant.collect_next()
    assert tenant.expired_edges == {"SPAN_KIND_CLIENT": 2}


def test_fifty_changes_in_a_row_leave_every_span_counted_and_no_state_behind() -> None:
    tenant = Changing(FIRST)
    documents = [*ALL_COUNTED.values(), FIRST]
    for number in range(50):
        tenant.change(documents[number * 7 % len(documents)])
        tenant.interval()
    tenant.change(FIRST)
    for _ in range(int(STALE_S) + 2):
        tenant.interval()
    assert tenant.total(CALLS) == tenant.sent_spans
    fresh = Changing(FIRST)
    fresh.interval()
    assert tenant.alive() == fresh.alive()
    assert tenant.registry.stats()["active_series"] == fresh.registry.stats()["active_series"]


def test_label_set_that_loses_its_form_and_its_label_at_once_ends_once() -> None:
    now_ns = 1_700_000_000 * SECOND_NS
    before = plan(span_metrics_plan(dimensions=["a"]), histograms=histograms_plan("both"))
    engine = EngineDriver(before, started_at_ms=now_ns // 1_000_000)
    one = span("op", start_ns=now_ns - SECOND_NS, end_ns=now_ns, attributes={"a": "1"})
    engine.push(request(batch({"service.name": "shop"}, one)), now_ns)
    engine.flush(now_ns)
    sent = engine.collect_at(now_ns // 1_000_000 + 1000)
    engine.set_plan(plan(span_metrics_plan(), histograms=histograms_plan("classic")), now_ns + 2 * SECOND_NS)
    # The decoder refuses a series that is there twice.
    ended = engine.collect_at(now_ns // 1_000_000 + 3000)
    assert ended.keys() == sent.keys()
    assert engine.registry.stats()["active_series"] == 0
