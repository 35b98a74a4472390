import json
import re
from typing import get_args

import pytest
import structlog

from cluster.declarations import DECLARED, Kind, Unit
from cluster.measurements import Measurements, families
from tenants.identity import TenantId
from tests.unit.disk import Disk
from tests.unit.receiver import Receiver
from tests.unit.service_without_ray import service_without_ray
from tests.unit.tenant_work import ACME, request

GLOBEX = TenantId("globex")
GENERATORS = {
    "acme": {
        "processors": ["span-metrics", "service-graphs", "host-info"],
        "max_cardinality_per_label": 10,
        "span_name_sanitization": "dry_run",
    },
    "globex": {"processors": ["span-metrics"], "shards": 2, "max_active_series": 1000},
}
# Every answer is held back a little, and every name of a service is too long.
INGESTION = {"artificial_delay": "1ms", "max_attribute_bytes": 64}
OVERRIDES = json.dumps(
    {"overrides": {name: {"metrics_generator": entry, "ingestion": INGESTION} for name, entry in GENERATORS.items()}}
)
LABELS_ARE_LOOKED_AT_EVERY_S = 15  # processors §4.8

# Spans do not come through a queue.
OF_A_QUEUE = {"millrace_enqueue_time_seconds_total", "millrace_assigned_partitions"}

# What the reference's generator measures, without its prefix, with the labels besides tenant (processors §5.5).
REFERENCE = {
    "active_processors": ("processor",),
    "active_processors_update_failed_total": (),
    "spans_received_total": (),
    "bytes_received_total": (),
    "spans_discarded_total": ("stage", "reason"),
    "metrics_generation_skipped_processor_pushes_total": (),
    "processor_service_graphs_edges_total": (),
    "processor_service_graphs_expired_edges_total": ("unmatched_span_kind",),
    "processor_service_graphs_dropped_spans_total": (),
    "processor_service_graphs_dropped_edges_total": (),
    "processor_service_graphs_dropped_span_side_cache_overflow_total": (),
    "registry_collections_total": (),
    "registry_collections_failed_total": ("error_type",),
    "registry_active_series_demand_estimate": (),
    "registry_entity_demand_estimate": (),
    "registry_active_series": (),
    "registry_max_active_series": (),
    "registry_series_added_total": (),
    "registry_series_removed_total": (),
    "registry_series_limited_total": (),
    "registry_active_entities": (),
    "registry_max_active_entities": (),
    "registry_entities_added_total": (),
    "registry_entities_removed_total": (),
    "registry_entities_limited_total": (),
    "registry_label_values_limited_total": ("label_name",),
    "registry_label_cardinality_demand_estimate": ("label_name",),
    "registry_spans_sanitized_total": (),
    "registry_post_sanitization_demand_estimate": (),
    "registry_drain_patterns_detected_total": (),
    "registry_drain_patterns_evicted_total": (),
    "registry_drain_patterns_expired_total": (),
    "registry_drain_lines_skipped_total": ("reason",),
    "registry_drain_tokens_per_line": (),
    "storage_remote_write_update_failed_total": (),
}


@pytest.mark.parametrize("name", DECLARED)
def test_names_and_texts_keep_the_rules(name: str) -> None:
    declared = DECLARED[name]
    assert re.fullmatch(r"millrace(_[a-z0-9]+)+", name)
    assert declared.kind in get_args(Kind)
    assert (declared.kind == "counter") == name.endswith("_total")
    assert not name.endswith(("_bucket", "_count", "_sum"))
    assert ("_bytes" in name) == (declared.unit == "bytes")
    assert ("_seconds" in name) == declared.unit.startswith("seconds")
    assert "actor" not in declared.labels
    assert len(set(declared.labels)) == len(declared.labels)


@pytest.mark.parametrize("name", DECLARED)
def test_text_says_what_is_counted_in_which_unit_and_what_to_do(name: str) -> None:
    declared = DECLARED[name]
    assert declared.unit in get_args(Unit)
    assert re.fullmatch(rf"\S.*[^.\s] \({declared.unit}\)\. \S.*[^.\s]\.", declared.text)


def test_every_unit_is_in_use() -> None:
    assert {declared.unit for declared in DECLARED.values()} == set(get_args(Unit))


def test_everything_that_the_reference_measures_for_a_tenant_is_declared_under_its_name() -> None:
    ours = {f"millrace_{name}": ("tenant", *labels) for name, labels in REFERENCE.items()}
    assert {name: DECLARED[name].labels for name in ours} == ours
    assert not DECLARED.keys() & OF_A_QUEUE


@pytest.fixture
def disk() -> Disk:
    return Disk(OVERRIDES)


async def measured_by_all(monkeypatch: pytest.MonkeyPatch, disk: Disk, text: str) -> dict[str, Measurements]:
    """What all actors measure after each has had something to do."""
    async with Receiver([429]) as receiver:
        text += f"remote_write: [{{url: '{receiver.url}'}}]\n"
        text += f"tracing: {{endpoint: 'http://127.0.0.1:{receiver.port}/v1/traces', sample_ratio: 1}}\n"
        async with service_without_ray(monkeypatch, disk, text) as service:
            for count in range(1, 3):
                await service.export(request("GET /a/1", service="shop" * 20), ACME)
                await service.export(request("b"), GLOBEX)
                await service.until_merged(ACME, count)
                await service.until_merged(GLOBEX, count)
                service.pass_by(LABELS_ARE_LOOKED_AT_EVERY_S)
            await service.collect()
            await service.until_sent()
            disk.text = "overrides: ["
            await service.runtime.look()
            service.store_document(ACME, {"metrics_generator": {"collection_interval": "1s"}})
            await service.service._control.documents.look()
            return dict(await service.measure())


async def test_everything_that_is_measured_is_declared_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    names: set[str] = set()
    with structlog.testing.capture_logs():
        # A service has one of the two limiters.
        for limiter in ("series", "entity"):
            disk.text = OVERRIDES
            text = f"metrics_generator: {{limiter_type: {limiter}}}\n"
            measured = await measured_by_all(monkeypatch, disk, text)
            assert {family.name for family in families(measured)}
            names |= {name for measurements in measured.values() for name, _, _ in measurements}
    assert names == DECLARED.keys()
