"""The demo's shops: repeatable, and traces as instrumented services would send them."""

import random
from collections import Counter
from dataclasses import replace
from statistics import median

import pytest

from cluster.demo.acme import ACME
from cluster.demo.globex import GLOBEX
from cluster.demo.model import Call, Flavour, Incident, Latency, Operation, Query
from cluster.demo.otlp import export_request
from cluster.demo.shop import DemoSpan, Shop, SpanKind

SECOND = 1_000_000_000
OPENED = 1_700_000_000 * SECOND

ENTERING = {SpanKind.SERVER, SpanKind.CONSUMER}
both = pytest.mark.parametrize("flavour", [ACME, GLOBEX], ids=lambda flavour: flavour.tenant)


def played(flavour: Flavour, seed: int = 1, count: int = 400, gap_ns: int = SECOND // 5) -> list[list[DemoSpan]]:
    shop = Shop(flavour, seed, OPENED)
    return [shop.trace(OPENED + index * gap_ns) for index in range(count)]


def plain(traces: list[list[DemoSpan]]) -> list[tuple[object, ...]]:
    return [
        (
            *(span.trace_id, span.span_id, span.parent_id, span.name, span.kind, span.start_ns, span.end_ns),
            *(span.has_failed, tuple(span.attributes.items()), tuple(span.instance.resource.items())),
        )
        for trace in traces
        for span in trace
    ]


@both
def test_the_same_seed_and_times_give_the_same_spans(flavour: Flavour) -> None:
    assert plain(played(flavour)) == plain(played(flavour))


@both
def test_another_seed_gives_other_traces(flavour: Flavour) -> None:
    ids = [{trace[0].trace_id for trace in played(flavour, seed)} for seed in (1, 2)]
    assert not ids[0] & ids[1]


def test_two_tenants_share_no_trace_and_no_service_with_one_seed() -> None:
    acme, globex = played(ACME), played(GLOBEX)
    assert not {trace[0].trace_id for trace in acme} & {trace[0].trace_id for trace in globex}
    services = [{span.instance.service for trace in traces for span in trace} for traces in (acme, globex)]
    assert not services[0] & services[1]


@both
def test_a_trace_has_one_root_and_every_other_parent_is_in_it(flavour: Flavour) -> None:
    for trace in played(flavour):
        assert len({span.trace_id for span in trace}) == 1
        spans = {span.span_id: span for span in trace}
        assert len(spans) == len(trace)
        assert [span for span in trace if not span.parent_id] == [trace[0]]
        for span in trace[1:]:
            parent = spans[span.parent_id]
            assert span.start_ns >= parent.start_ns
            assert span.kind is SpanKind.CONSUMER or span.end_ns <= parent.end_ns


@both
def test_ids_are_as_long_as_otlp_wants_them_and_never_zero(flavour: Flavour) -> None:
    for span in (span for trace in played(flavour) for span in trace):
        assert (len(span.trace_id), len(span.span_id)) == (16, 8)
        assert any(span.trace_id)
        assert any(span.span_id)
        assert span.end_ns > span.start_ns


@both
def test_halves_pair_up_one_to_one_and_a_lone_client_names_its_peer(flavour: Flavour) -> None:
    for trace in played(flavour):
        spans = {span.span_id: span for span in trace}
        calling = {SpanKind.SERVER: SpanKind.CLIENT, SpanKind.CONSUMER: SpanKind.PRODUCER}
        answers: Counter[bytes] = Counter()
        for span in trace[1:]:
            if span.kind in ENTERING:
                caller = spans[span.parent_id]
                assert caller.kind is calling[span.kind]
                assert caller.instance.service != span.instance.service
                answers[span.parent_id] += 1
            else:
                assert spans[span.parent_id].instance is span.instance
        for span in trace:
            if span.kind is SpanKind.CLIENT and not answers[span.span_id]:
                assert {"db.system.name", "peer.service"} & set(span.attributes)
                assert answers[span.span_id] == 0
            elif span.kind not in ENTERING:
                assert answers[span.span_id] == 1


@both
def test_every_described_service_database_and_operation_is_seen(flavour: Flavour) -> None:
    spans = [span for trace in played(flavour) for span in trace]
    assert {span.instance.service for span in spans} == {service.name for service in flavour.services}
    hosts = {span.attributes["server.address"] for span in spans if "db.system.name" in span.attributes}
    assert hosts == {database.host for database in flavour.databases}
    handled = {(span.instance.service, span.name) for span in spans if span.kind in ENTERING}
    assert len(handled) == len({(each.service, each.name) for each in flavour.operations.values()})


@both
def test_a_failed_answer_fails_the_call_and_an_ok_one_does_not(flavour: Flavour) -> None:
    failures = 0
    for trace in played(flavour):
        spans = {span.span_id: span for span in trace}
        for span in trace:
            if span.kind is SpanKind.SERVER and span.parent_id:
                assert spans[span.parent_id].has_failed == span.has_failed
                failures += span.has_failed
    assert failures


def test_who_needs_a_failed_answer_fails_and_who_does_not_goes_on() -> None:
    def page(*, is_optional: bool) -> Operation:
        return Operation("front", "GET /", Latency(1), (Call("part", is_optional=is_optional),))

    part = Operation("back", "GET /part", Latency(1), failure_rate=1.0)
    for is_optional in (True, False):
        flavour = replace(
            ACME,
            services=(replace(ACME.services[0], name="front"), replace(ACME.services[1], name="back")),
            entries=(replace(ACME.entries[0], operation="page"),),
            operations={"page": page(is_optional=is_optional), "part": part},
        )
        root = Shop(flavour, 1, OPENED).trace(OPENED)[0]
        assert root.has_failed is not is_optional


@both
def test_the_incident_is_slow_while_it_lasts_and_over_afterwards(flavour: Flavour) -> None:
    incident = flavour.incident
    shop = Shop(flavour, 1, OPENED)

    def usual_ms(age_s: float) -> float:
        found = [
            (span.end_ns - span.start_ns) / 1e6
            for _ in range(600)
            for span in shop.trace(OPENED + int(age_s * SECOND))
            if incident.target in (span.attributes.get("peer.service"), span.attributes.get("server.address"))
            and span.kind is SpanKind.CLIENT
        ]
        return median(found)

    calm = usual_ms(0)
    assert usual_ms(incident.begins_after_s + 1) > 0.6 * incident.slowdown * calm
    assert usual_ms(incident.begins_after_s + incident.lasts_s + 1) < 1.5 * calm
    assert usual_ms(incident.every_s + incident.begins_after_s + 1) > 0.6 * incident.slowdown * calm


@pytest.mark.parametrize(
    ("age_s", "is_active"),
    [(-1, False), (9.9, False), (10, True), (14.9, True), (15, False), (69, False), (70, True), (75, False)],
)
def test_an_incident_comes_and_goes(age_s: float, is_active: bool) -> None:
    incident = Incident("x", every_s=60, begins_after_s=10, lasts_s=5, slowdown=2, failure_rate=0)
    assert incident.is_active(age_s) is is_active


def test_requests_come_at_the_stated_mean_rate() -> None:
    shop = Shop(ACME, 3, OPENED)
    at_ns, count = OPENED, 0
    while at_ns < OPENED + 240 * SECOND:  # one whole tide
        at_ns += shop.gap_ns(at_ns, 50.0)
        count += 1
    assert count / 240 == pytest.approx(50.0, rel=0.05)


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        ({}, "no operation 'a'"),
        ({"a": Operation("nobody", "GET /", Latency(1))}, "unknown service 'nobody'"),
        (
            {"a": Operation("cart", "GET /", Latency(1), (Query("no-db", "SELECT x", Latency(1)),))},
            "unknown database 'no-db'",
        ),
        (
            {
                "a": Operation("cart", "GET /", Latency(1), (Call("b"),)),
                "b": Operation("search", "GET /", Latency(1), (Call("a"),)),
            },
            "circle: a > b > a",
        ),
    ],
)
def test_a_description_that_cannot_be_played_is_refused(operations: dict[str, Operation], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(ACME, operations=operations, entries=(replace(ACME.entries[0], operation="a"),))


def test_a_latency_is_positive_and_half_of_it_below_its_median() -> None:
    rng = random.Random(5)
    drawn = [Latency(20.0).draw_ns(rng) for _ in range(4_000)]
    assert min(drawn) > 0
    assert median(drawn) == pytest.approx(20e6, rel=0.05)


@both
def test_a_request_groups_spans_by_resource_and_keeps_every_field(flavour: Flavour) -> None:
    spans = [span for trace in played(flavour, count=40) for span in trace]
    request = type(export_request(()))()
    request.ParseFromString(export_request(spans).SerializeToString())
    assert len(request.resource_spans) == len({span.instance for span in spans})
    sent = {span.span_id: span for span in spans}
    arrived = 0
    for resource_spans in request.resource_spans:
        resource = {pair.key: pair.value.string_value for pair in resource_spans.resource.attributes}
        for span in resource_spans.scope_spans[0].spans:
            original = sent[span.span_id]
            arrived += 1
            assert resource == original.instance.resource
            assert (span.trace_id, span.parent_span_id, span.name) == (
                original.trace_id,
                original.parent_id,
                original.name,
            )
            assert (int(span.kind), span.start_time_unix_nano, span.end_time_unix_nano) == (
                original.kind,
                original.start_ns,
                original.end_ns,
            )
            assert (span.status.code == 2) is original.has_failed
            values = {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}
            assert values == original.attributes
    assert arrived == len(spans)
