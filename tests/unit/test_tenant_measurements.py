import math
from typing import Any

import pytest

from cluster.measurements import Distribution, families
from cluster.tenant_measurements import MAX_LABEL_NAMES, measure_tenant
from tenants import _engine
from tenants.endpoint import EndpointCounters, TenantEndpointSnapshot
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tests.unit.tenant_work import ACME, book

DISCARDED = "millrace_spans_discarded_total"


def snapshot(
    *endpoints: EndpointCounters,
    retiring: tuple[EndpointCounters, ...] = (),
    registry: dict[str, int] | None = None,
    **figures: Any,
) -> TenantCollectorSnapshot:
    """A snapshot with these figures; the others are those of a registry that has merged nothing."""
    stats = _engine.Registry(book().get(ACME).plan, 1).stats()
    assert (registry or {}).keys() <= stats.keys()
    way_out = TenantEndpointSnapshot(endpoints, retiring, {"no_endpoint": 4})
    return TenantCollectorSnapshot(
        {**stats, **(registry or {})}, way_out, collections=3, collection_s=0.5, records=9, **figures
    )


def counters(name: str = "main", **figures: object) -> EndpointCounters:
    return EndpointCounters(name, "http://h/", **figures)  # type: ignore[arg-type]


def figures_of(snapped: TenantCollectorSnapshot) -> dict[tuple[str, ...], float | Distribution]:
    measured = measure_tenant("acme", snapped)
    found = {(name, *values): value for name, values, value in measured}
    assert len(found) == len(measured), "a series is measured twice"
    list(families({"collector-0": measured}))
    return found


def test_samples_are_counted_by_what_became_of_them() -> None:
    figures = figures_of(
        snapshot(counters(samples_sent=10, samples_dropped=2, samples_failed={"http_400": 3, "too_old": 1}))
    )
    outcomes = {
        key[3]: v for key, v in figures.items() if key[:3] == ("millrace_remote_write_samples_total", "acme", "main")
    }
    assert outcomes == {"sent": 10, "dropped": 2, "http_400": 3, "too_old": 1}
    assert figures["millrace_remote_write_samples_total", "acme", "", "no_endpoint"] == 4


def test_endpoint_that_retires_and_its_successor_of_the_same_name_are_one_series() -> None:
    successor = counters(samples_sent=1, pending_bytes=10, highest_sent_timestamp_ms=None)
    former = counters(samples_sent=5, samples_failed={"closed": 2}, pending_bytes=7, highest_sent_timestamp_ms=9000)
    figures = figures_of(snapshot(successor, counters("other"), retiring=(former,)))
    assert figures["millrace_remote_write_samples_total", "acme", "main", "sent"] == 6
    assert figures["millrace_remote_write_samples_total", "acme", "main", "closed"] == 2
    assert figures["millrace_remote_write_pending_bytes", "acme", "main"] == 17
    assert figures["millrace_remote_write_highest_sent_timestamp_seconds", "acme", "main"] == 9.0
    assert ("millrace_remote_write_highest_sent_timestamp_seconds", "acme", "other") not in figures


@pytest.mark.parametrize(
    ("figure", "metric"),
    [
        ("edges", "processor_service_graphs_edges_total"),
        ("dropped_spans", "processor_service_graphs_dropped_spans_total"),
        ("dropped_edges", "processor_service_graphs_dropped_edges_total"),
        ("dropped_span_side_cache_overflow", "processor_service_graphs_dropped_span_side_cache_overflow_total"),
        ("active_series", "registry_active_series"),
        ("series_limited", "registry_series_limited_total"),
        ("active_entities", "registry_active_entities"),
        ("entities_removed", "registry_entities_removed_total"),
        ("entity_demand_estimate", "registry_entity_demand_estimate"),
        ("post_sanitization_demand_estimate", "registry_post_sanitization_demand_estimate"),
        ("drain_patterns_evicted", "registry_drain_patterns_evicted_total"),
        ("native_resets", "registry_native_histogram_resets_total"),
    ],
)
def test_figures_of_the_engine_keep_their_value(figure: str, metric: str) -> None:
    assert figures_of(snapshot(registry={figure: 7}))[f"millrace_{metric}", "acme"] == 7


def test_expired_edges_are_labelled_by_the_kind_of_their_span() -> None:
    name = "millrace_processor_service_graphs_expired_edges_total"
    figures = figures_of(snapshot(registry={"expired_edges_client": 3}))
    expired = {key[2]: value for key, value in figures.items() if key[0] == name}
    assert expired["SPAN_KIND_CLIENT"] == 3
    assert expired.keys() >= {f"SPAN_KIND_{kind}" for kind in ("SERVER", "CLIENT", "PRODUCER", "CONSUMER")}


def test_discards_behind_the_gateway_are_told_apart() -> None:
    figures = figures_of(snapshot(registry={"dropped_spans": 2, "invalid_utf8_edges": 5}))
    assert figures[DISCARDED, "acme", "service_graphs", "max_items"] == 2
    assert figures[DISCARDED, "acme", "service_graphs", "invalid_utf8"] == 5


def test_span_names_that_were_skipped_are_labelled_by_the_reason() -> None:
    stats = {"drain_lines_skipped_too_few_tokens": 2, "drain_lines_skipped_too_many_tokens": 1}
    figures = figures_of(snapshot(registry=stats))
    skipped = "millrace_registry_drain_lines_skipped_total"
    assert figures[skipped, "acme", "too_few_tokens"] == 2
    assert figures[skipped, "acme", "too_many_tokens"] == 1


def test_collections_and_their_failures_are_counted() -> None:
    figures = figures_of(snapshot(collections_failed={"other": 2}, endpoint_update_failures=1))
    assert figures["millrace_registry_collections_total", "acme"] == 3
    assert figures["millrace_registry_collections_failed_total", "acme", "other"] == 2
    assert figures["millrace_registry_collection_seconds_total", "acme"] == 0.5
    assert figures["millrace_storage_remote_write_update_failed_total", "acme"] == 1


def test_only_the_limit_in_force_is_shown() -> None:
    series, entities = "millrace_registry_max_active_series", "millrace_registry_max_active_entities"
    assert figures_of(snapshot(max_active_series=0)).items() >= {(series, "acme"): 0}.items()
    assert (entities, "acme") not in figures_of(snapshot(max_active_series=0))
    assert figures_of(snapshot(max_active_entities=5)).items() >= {(entities, "acme"): 5}.items()
    assert (series, "acme") not in figures_of(snapshot(max_active_entities=5))


def test_labels_are_measured_by_name_up_to_a_bound() -> None:
    labels = {f"label_{number:04}": (number, number / 2) for number in reversed(range(MAX_LABEL_NAMES + 2))}
    figures = figures_of(snapshot(labels=labels))
    limited = {key[2]: v for key, v in figures.items() if key[0] == "millrace_registry_label_values_limited_total"}
    demand = "millrace_registry_label_cardinality_demand_estimate"
    assert limited == {name: labels[name][0] for name in sorted(labels)[:MAX_LABEL_NAMES]}
    assert {key[2]: v for key, v in figures.items() if key[0] == demand} == {name: labels[name][1] for name in limited}


def test_tokens_of_span_names_are_a_distribution() -> None:
    figures = figures_of(snapshot(drain_tokens_per_line=([(5.0, 1), (math.inf, 2)], 13.0)))
    tokens = figures["millrace_registry_drain_tokens_per_line", "acme"]
    assert tokens == Distribution(((5.0, 1), (math.inf, 2)), 13.0)
    nothing = figures_of(snapshot())["millrace_registry_drain_tokens_per_line", "acme"]
    assert nothing == Distribution(((math.inf, 0),), 0.0)
