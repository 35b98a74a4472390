import math
from typing import Any

import pytest

from cluster.gateway import tenant_tally
from cluster.gateway.tenant_tally import TenantTally
from cluster.measurements import Distribution, families
from tenants import _engine
from tenants.identity import TenantId
from tenants.settings.processors import ProcessorName
from tenants.settings.tenant_settings import TenantSettings
from tests.unit.tenant_work import ACME, NOW_NS, book, overrides, request, span, spans_on

PARTS = {name for name in ProcessorName if any(name.startswith(f"{other}-") for other in ProcessorName)}


def settings(*processors: str, **generator: Any) -> TenantSettings:
    entry = {"processors": list(processors), **generator}
    return book(overrides(acme=entry)).get(ACME).settings


def split(*names: str, **options: Any) -> _engine.Split:
    plan = book(overrides(acme=spans_on(**options.pop("generator", {})))).get(ACME).plan
    return _engine.split(request(*names, spans=options.pop("spans", ())), plan, 1, NOW_NS, **options)


def accept(tally: TenantTally, tenant: TenantId, body_bytes: int, accepted: _engine.Split) -> None:
    tally.count_ingress(tenant, body_bytes)
    tally.count(tenant, body_bytes, accepted)


def figures(tally: TenantTally) -> dict[tuple[str, ...], float | Distribution]:
    measured = tally.measure()
    found = {(name, *labels): value for name, labels, value in measured}
    assert len(found) == len(measured), "a series is measured twice"
    list(families({"gateway-0": measured}))
    return found


def processors(tally: TenantTally) -> dict[str, float | Distribution]:
    return {key[2]: value for key, value in figures(tally).items() if key[0] == "millrace_active_processors"}


def test_requests_of_a_tenant_add_up() -> None:
    tally = TenantTally()
    accept(tally, ACME, 100, split("a", "b"))
    accept(tally, ACME, 20, split("a", spans=[span(trace_id=b"")]))
    assert figures(tally) == {
        ("millrace_ingress_bytes_total", "acme"): 120,
        ("millrace_bytes_received_total", "acme"): 120,
        ("millrace_spans_received_total", "acme"): 3,
        ("millrace_spans_discarded_total", "acme", "gateway", "invalid_trace_id"): 1,
    }


def test_every_known_processor_is_shown_and_parts_are_never_active() -> None:
    tally = TenantTally()
    accept(tally, ACME, 1, split("a"))
    tally.use(settings("span-metrics-count", "service-graphs", "service-graphs-connection-info"))
    assert processors(tally) == {name: float(name in {"span-metrics", "service-graphs"}) for name in ProcessorName}
    assert not [name for name in PARTS if processors(tally)[name]]


@pytest.mark.parametrize(
    ("processor", "children"),
    [
        ("span-metrics", {("span_metrics", "span_metrics_filtered"), ("span_metrics", "invalid_utf8")}),
        ("service-graphs-request", {("service_graphs", "service_graphs_filtered"), ("service_graphs", "invalid_utf8")}),
        ("host-info", {("host_info", "invalid_utf8")}),
    ],
)
def test_discards_exist_at_zero_as_soon_as_their_processor_is_active(
    processor: str, children: set[tuple[str, str]]
) -> None:
    tally = TenantTally()
    accept(tally, ACME, 1, split("a"))
    tally.use(settings(processor))
    found = {key[2:]: value for key, value in figures(tally).items() if key[0] == "millrace_spans_discarded_total"}
    assert found == dict.fromkeys(children, 0)
    assert figures(tally)["millrace_metrics_generation_skipped_processor_pushes_total", "acme"] == 0
    assert figures(tally)["millrace_ignored_span_multipliers_total", "acme"] == 0


def test_discards_go_on_counting_when_their_processor_is_switched_off_and_on_again() -> None:
    tally = TenantTally()
    accept(tally, ACME, 1, split(spans=[span(name="\ufffd")]))
    tally.use(settings("span-metrics"))
    accept(tally, ACME, 1, split("a", spans=[span(span_id=b"")]))
    before = figures(tally)
    tally.use(settings())
    tally.use(settings("span-metrics"))
    assert figures(tally) == before


def test_tenant_that_never_had_a_processor_has_no_series_of_them() -> None:
    tally = TenantTally()
    accept(tally, ACME, 1, split("a"))
    tally.use(settings())
    assert {key[0] for key in figures(tally)} == {
        "millrace_ingress_bytes_total",
        "millrace_bytes_received_total",
        "millrace_spans_received_total",
    }
    tally.use(settings("host-info"))
    tally.use(settings())
    assert set(processors(tally).values()) == {0.0}


def test_tenant_that_sent_nothing_is_not_measured() -> None:
    tally = TenantTally()
    tally.use(settings("span-metrics"))
    assert tally.measure() == []
    assert tally.tenants == ()


def test_spans_whose_multiplier_cannot_be_used_are_counted() -> None:
    tally = TenantTally()
    generator = {"processor": {"span_metrics": {"span_multiplier_key": "ratio"}}}
    spans = [span("a"), span("b")]
    spans[0].attributes.add(key="ratio").value.string_value = "0.5"
    spans[1].attributes.add(key="ratio").value.double_value = 0.5
    accept(tally, ACME, 1, split(spans=spans, generator=generator))
    assert figures(tally)["millrace_ignored_span_multipliers_total", "acme"] == 1


def test_what_is_refused_was_sent_and_is_discarded() -> None:
    tally = TenantTally()
    assert tally.count_ingress(ACME, 7)
    assert not tally.count_ingress(ACME, 8)
    tally.count_refused(ACME, "rate_limited", 3)
    tally.count_refused(ACME, "rate_limited", 4)
    assert figures(tally) == {
        ("millrace_ingress_bytes_total", "acme"): 15,
        ("millrace_bytes_received_total", "acme"): 0,
        ("millrace_spans_received_total", "acme"): 0,
        ("millrace_spans_discarded_total", "acme", "gateway", "rate_limited"): 7,
    }


def test_answers_that_were_held_back_make_a_histogram() -> None:
    tally = TenantTally()
    tally.count_ingress(ACME, 1)
    for seconds in (0.0, 0.25, 0.26, 66.0):
        tally.count_added_latency(ACME, seconds)
    latency = figures(tally)["millrace_added_latency_seconds", "acme"]
    assert isinstance(latency, Distribution)
    counts = dict(latency.buckets)
    assert [counts[bound] for bound in (0.01, 0.1, 0.25, 0.5, 50.0, math.inf)] == [1, 1, 2, 3, 3, 4]
    assert latency.total == pytest.approx(66.51)


def test_tenants_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_tally, "MAX_MEASURED_TENANTS", 2)
    tally = TenantTally()
    for name in ("a", "b", "c", "d", "a"):
        accept(tally, TenantId(name), 10, split("op"))
    accept(tally, TenantId("e"), 1, split("op", skip_generation=True))
    spans = {key[1]: value for key, value in figures(tally).items() if key[0] == "millrace_spans_received_total"}
    assert spans == {"a": 2, "b": 1, "__other__": 3}
    skipped = "millrace_metrics_generation_skipped_processor_pushes_total"
    assert {key: value for key, value in figures(tally).items() if key[0] == skipped} == {(skipped, "__other__"): 1}
    assert tally.tenants == (TenantId("a"), TenantId("b"))
