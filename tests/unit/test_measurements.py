import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

import cluster
from cluster.measurements import DECLARED, families, per_tenant
from cluster.tenant_measurements import measure_tenant
from tenants.endpoint import EndpointCounters, TenantEndpointSnapshot
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity import TenantId

KINDS = ("server", "client", "producer", "consumer")
REGISTRY = {
    **dict.fromkeys(("active_series", "entities", "series_added", "series_removed", "series_limited", "edges"), 0),
    **dict.fromkeys(("dropped_spans", "invalid_utf8_edges", "state_bytes"), 0),
    **{f"expired_edges_{kind}": 0 for kind in KINDS},
}


def snapshot(*endpoints: EndpointCounters, retiring: tuple[EndpointCounters, ...] = ()) -> TenantCollectorSnapshot:
    way_out = TenantEndpointSnapshot(endpoints, retiring, {"no_endpoint": 4})
    return TenantCollectorSnapshot(REGISTRY, way_out, collections=3, collection_s=0.5, records=9)


def text_of(measured: dict[str, list[tuple[str, tuple[str, ...], float]]]) -> str:
    class Page(Collector):
        def collect(self) -> Iterator[object]:  # type: ignore[override]
            return families(measured)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page())
    return generate_latest(registry).decode()


# Declarations


@pytest.mark.parametrize("name", DECLARED)
def test_names_and_texts_keep_the_rules(name: str) -> None:
    declared = DECLARED[name]
    assert re.fullmatch(r"millrace(_[a-z0-9]+)+", name)
    assert (declared.kind == "counter") == name.endswith("_total")
    assert "actor" not in declared.labels
    assert len(set(declared.labels)) == len(declared.labels)
    assert declared.text.endswith(".")


def test_everything_that_is_measured_anywhere_is_declared_and_nothing_else() -> None:
    """Names appear in the code as literals, or end a literal that begins with a declared beginning."""
    package = Path(next(iter(cluster.__path__)))
    literals = {
        node.value
        for file in package.rglob("*.py")
        if "demo" not in file.parts and file.name != "measurements.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("millrace_")
    }
    beginnings = {literal for literal in literals if literal.endswith("_")}
    assert literals - beginnings <= DECLARED.keys()
    unused = {
        name for name in DECLARED if name not in literals and not any(name.startswith(start) for start in beginnings)
    }
    assert unused == set()


# The page


def test_actors_are_merged_into_one_family_for_each_metric() -> None:
    text = text_of(
        {
            "gateway-0": [("millrace_actor_up", (), 1.0), ("millrace_spans_received_total", ("acme",), 7)],
            "gateway-1": [("millrace_actor_up", (), 0.0), ("millrace_spans_received_total", ("acme",), 5)],
        }
    )
    assert text.count("# TYPE millrace_spans_received_total counter") == 1
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert {(s.labels["actor"], s.value) for s in found["millrace_actor_up"].samples} == {
        ("gateway-0", 1.0),
        ("gateway-1", 0.0),
    }
    spans = found["millrace_spans_received"]
    assert spans.type == "counter"
    assert [sample.labels for sample in spans.samples] == [
        {"tenant": "acme", "actor": "gateway-0"},
        {"tenant": "acme", "actor": "gateway-1"},
    ]


def test_every_metric_can_be_written_and_read() -> None:
    measured = [(name, tuple(f'"{label}"\n' for label in declared.labels), 1.5) for name, declared in DECLARED.items()]
    read = list(text_string_to_metric_families(text_of({"a": measured})))
    assert len(read) == len(DECLARED)
    assert {sample.name for family in read for sample in family.samples} == set(DECLARED)


def test_measurement_that_is_not_declared_or_has_other_labels_is_a_bug() -> None:
    with pytest.raises(KeyError):
        list(families({"a": [("millrace_unknown", (), 1)]}))
    for values in ((), ("acme", "more")):
        with pytest.raises(ValueError, match="millrace_spans_received_total has the labels"):
            list(families({"a": [("millrace_spans_received_total", values, 1)]}))


def test_tenant_ids_are_written_as_text() -> None:
    assert per_tenant("millrace_shard_entities", [(TenantId("acme"), 2.0)]) == [
        ("millrace_shard_entities", ("acme",), 2.0)
    ]


# One tenant at its collector


def counters(name: str = "main", **figures: object) -> EndpointCounters:
    return EndpointCounters(name, "http://h/", **figures)  # type: ignore[arg-type]


def figures_of(snapped: TenantCollectorSnapshot) -> dict[tuple[str, ...], float]:
    measured = measure_tenant("acme", snapped)
    found = {(name, *values): value for name, values, value in measured}
    assert len(found) == len(measured), "a series is measured twice"
    text_of({"collector-0": measured})
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


def test_expired_edges_are_labelled_by_the_kind_of_their_span() -> None:
    snapped = snapshot()
    snapped.registry.update(expired_edges_client=3)
    name = "millrace_service_graph_expired_edges_total"
    assert figures_of(snapped)[name, "acme", "SPAN_KIND_CLIENT"] == 3
    snapped.registry.update(expired_edges_client=0)
