"""How what the engine says is compared with what the model says.

Everything is equal, with one exception: where spans have weights, the engine adds doubles, and its counts may differ
from the exact ones by a few roundings. Sums never do (they are whole multiples of 2^-20 ns).
"""

import math
from collections.abc import Mapping
from typing import Any

from tenants.processing.ledger import Ledger, ledgers_by_service
from tests.engine_driver import EngineDriver
from tests.reference import Collection, ReferenceModel
from tests.reference_metrics import SeriesKey
from tests.reference_native import NativeHistogram
from tests.script_strategies import Script, play

RELATIVE_TOLERANCE = 1e-12


def compare(script: Script, engine: EngineDriver, model: ReferenceModel) -> None:
    """Play a script to both; every collection and every counter must be alike."""
    for of_engine, of_model in zip(play(script, engine), play(script, model), strict=True):
        assert_same(of_engine, of_model, script.plan)
    assert_counters_alike(engine, model)
    assert_ledger_closes(engine, model)


def assert_counters_alike(engine: EngineDriver, model: ReferenceModel) -> None:
    """Compare everything that is counted beside the series."""
    for counter in (
        *("received_spans", "rejected", "discarded", "ignored_multipliers", "skipped_processor_pushes", "edges"),
        *("expired_edges", "dropped_spans", "dropped_edges", "dropped_span_side_cache_overflow", "invalid_edges"),
        "attributes_truncated",
    ):
        assert (counter, getattr(engine, counter)) == (counter, getattr(model, counter))


def assert_ledger_closes(engine: EngineDriver, model: ReferenceModel) -> None:
    """Check that every span is accounted for, once at each processor, and as the model has it."""
    ledger, services = ledgers_by_service(engine.registry.ledger())
    assert ledger == engine.ledger
    assert ledger.closes
    assert ledger.waiting >= 0
    metrics, graph = ledger.processors["span_metrics"], ledger.processors["service_graphs"]
    if ledger.received:
        assert ledger.received == model.received_spans
        assert {reason: ledger.discarded.get(reason, 0) for reason in model.rejected} == dict(model.rejected)
    assert (metrics.generated, metrics.waiting) == (model.generated, 0)
    assert graph.discarded.get("unpaired", 0) == sum(model.expired_edges.values())
    engine.flush(engine.now_ns)
    assert {name: service for name, service in services.items() if not service.closes} == {}
    if not engine.counts_every_receiver:
        assert engine.ledger.waiting == sum(shard.stats()["open_edges"] for shard in engine.shards)
        if not has_nameless_services(services):
            assert {name: service for name, service in services.items() if service.waiting < 0} == {}


def has_nameless_services(services: Mapping[str, Ledger]) -> bool:
    """Return whether some service may stand in for another: where one half of an edge has no name."""
    return "" in services


def assert_same(one: Collection, other: Collection, plan: dict[str, Any]) -> None:
    """Compare two collections under a plan."""
    assert one.exemplars == other.exemplars
    if not is_weighted(plan):
        assert one.series == other.series
        assert one.histograms == other.histograms
        return
    assert one.series.keys() == other.series.keys()
    differing = {key: (value, other.series[key]) for key, value in one.series.items() if value != other.series[key]}
    assert {key: pair for key, pair in differing.items() if _is_sum(key) or not _is_close(*pair)} == {}
    assert one.histograms.keys() == other.histograms.keys()
    for key, histogram in one.histograms.items():
        assert_histograms_close(histogram, other.histograms[key])


def assert_histograms_close(one: NativeHistogram, other: NativeHistogram) -> None:
    """Compare two native histograms of weighted observations."""
    assert (one.schema, one.sum, one.buckets.keys()) == (other.schema, other.sum, other.buckets.keys())
    assert isinstance(one.count, float) == isinstance(other.count, float)
    pairs = [(one.zero_count, other.zero_count), (one.count, other.count)]
    pairs += [(count, other.buckets[index]) for index, count in one.buckets.items()]
    assert [pair for pair in pairs if not _is_close(*pair)] == []


def is_weighted(plan: dict[str, Any]) -> bool:
    """Return whether spans may count as anything but one under a plan."""
    processors = (plan["span_metrics"], plan["service_graphs"])
    return any(
        settings["span_multiplier_key"] or settings["enable_tracestate_span_multiplier"]
        for settings in processors
        if settings
    )


def _is_sum(key: SeriesKey) -> bool:
    return dict(key)["__name__"].endswith("_sum")


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE)
