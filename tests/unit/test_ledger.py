"""The ledger, as users read it and as it comes about."""

from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tenants import _engine
from tenants.processing.ledger import Ledger, ledgers_by_service
from tests.unit.control_plane_bench import ControlPlaneBench
from tests.unit.tenant_work import ACME, NOW_NS, book, edges_on, overrides, request, span

ROWS = [
    ("cart", "gateway", "received", 10),
    ("cart", "gateway", "duplicate", 2),
    ("cart", "span_metrics", "generated", 7),
    ("cart", "span_metrics", "over_limit", 3),
    ("cart", "span_metrics", "invalid_utf8", 1),
    ("cart", "service_graphs", "no_edge", 3),
    ("cart", "service_graphs", "offered", 5),
    ("cart", "service_graphs", "generated", 2),
    ("cart", "service_graphs", "unpaired", 1),
    ("shop", "gateway", "received", 1),
    ("shop", "gateway", "rate_limited", 1),
]


def test_each_processor_accounts_for_what_reached_it() -> None:
    ledger, services = ledgers_by_service(ROWS)
    assert ledger.closes
    assert services["cart"].as_json() == {
        "received": 10,
        "discarded": {"duplicate": 2},
        "processors": {
            "span_metrics": {
                "received": 8,
                "generated": 7,
                "over_limit": 3,
                "waiting": 0,
                "discarded": {"invalid_utf8": 1},
            },
            "service_graphs": {
                "received": 8,
                "generated": 2,
                "over_limit": 0,
                "waiting": 2,
                "discarded": {"no_edge": 3, "unpaired": 1},
            },
        },
    }
    assert (ledger.received, dict(ledger.discarded)) == (11, {"duplicate": 2, "rate_limited": 1})
    assert (services["shop"].received, services["shop"].closes) == (1, True)


@pytest.mark.parametrize(
    "wrong",
    [
        ("cart", "gateway", "received", 1),
        ("cart", "span_metrics", "generated", 1),
        ("cart", "service_graphs", "no_edge", 1),
    ],
)
def test_a_span_too_many_or_too_few_does_not_close(wrong: tuple[str, str, str, int]) -> None:
    total = {(stage, outcome): spans for service, stage, outcome, spans in ROWS if service == "cart"}
    assert Ledger.of(total).closes
    _, stage, outcome, spans = wrong
    total[stage, outcome] = total.get((stage, outcome), 0) + spans
    assert not Ledger.of(total).closes


def test_ledger_of_a_shard_that_is_not_flushed_is_measured_and_bounded_and_closes() -> None:
    plan = book(overrides(acme=edges_on())).get(ACME).plan
    shard, registry = _engine.Shard(plan), _engine.Registry(plan, 0)
    names = iter(range(10_000, 100_000))

    def send(requests: int) -> int:
        for _ in range(requests):
            built = ExportTraceServiceRequest()
            for _ in range(1000):
                resource_spans = built.resource_spans.add()
                service = KeyValue(key="service.name", value=AnyValue(string_value=str(next(names))))
                resource_spans.resource.attributes.append(service)
                resource_spans.scope_spans.add().spans.append(span())
            for _, frame in _engine.split(built.SerializeToString(), plan, 1, NOW_NS).frames:
                shard.apply(frame, NOW_NS)
        return shard.stats()["state_bytes"]

    few, full = send(1), send(16)
    # A row has 28 numbers of 8 bytes.
    assert full - few > 15_000 * 224
    assert send(3) == full
    registry.merge(1, shard.flush(NOW_NS), NOW_NS)
    ledger, services = ledgers_by_service(registry.ledger())
    assert (ledger.received, ledger.closes, len(services)) == (20_000, True, 1025)
    assert shard.stats()["state_bytes"] < few


def test_services_that_limits_fold_are_told() -> None:
    plan = book(overrides(acme=edges_on(processors=["span-metrics"], max_active_series=40))).get(ACME).plan
    shard, registry = _engine.Shard(plan), _engine.Registry(plan, 0)
    body = request(*[f"op-{number}" for number in range(50)], service="cart")
    for _, frame in _engine.split(body, plan, 1, NOW_NS).frames:
        shard.apply(frame, NOW_NS)
    registry.merge(1, shard.flush(NOW_NS), NOW_NS)
    cart = ledgers_by_service(registry.ledger())[1]["cart"].processors["span_metrics"]
    assert cart.generated == 50
    assert 40 < cart.over_limit < 50


def test_edges_that_wait_are_lost_when_their_processor_is_turned_off() -> None:
    both = book(overrides(acme=edges_on(processors=["span-metrics", "service-graphs"]))).get(ACME).plan
    spans_only = book(overrides(acme=edges_on(processors=["span-metrics"]))).get(ACME).plan
    shard, registry = _engine.Shard(both), _engine.Registry(both, 0)
    body = request(spans=[span("call", kind=3)], service="cart")
    frames = _engine.split(body, both, 1, NOW_NS).frames

    def ledger() -> Ledger:
        return Ledger.of(registry.ledger_totals())

    for _, frame in frames:
        shard.apply(frame, NOW_NS)
    registry.merge(1, shard.flush(NOW_NS), NOW_NS)
    assert (ledger().waiting, ledger().closes) == (1, True)
    registry.merge(1, shard.set_plan(spans_only, NOW_NS) or shard.flush(NOW_NS), NOW_NS)
    # A gateway that does not know yet offers one more.
    for _, frame in frames:
        shard.apply(frame, NOW_NS)
    registry.merge(1, shard.flush(NOW_NS), NOW_NS)
    assert (ledger().waiting, ledger().closes) == (0, True)
    assert ledger().processors["service_graphs"].discarded["turned_off"] == 2


async def test_api_tells_the_tenant_and_says_so_if_it_cannot(tmp_path: Path) -> None:
    async with ControlPlaneBench(tmp_path) as bench:
        await check_api(bench)


async def check_api(bench: ControlPlaneBench) -> None:
    bench.ledgers = {"acme": ROWS}
    answer = await bench.ask("GET", "/api/ledger", tenant="acme")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["tenant"], told["received"], told["closes"], list(told["services"])) == (
        "acme",
        11,
        True,
        ["cart", "shop"],
    )
    nothing = (await bench.ask("GET", "/api/ledger", tenant="globex")).json()
    assert (nothing["received"], nothing["closes"], nothing["services"]) == (0, True, {})
    bench.ledgers = None
    refused = await bench.ask("GET", "/api/ledger", tenant="acme")
    assert (refused.status_code, refused.json()["detail"]) == (503, "the ledger cannot be read now; ask again")
