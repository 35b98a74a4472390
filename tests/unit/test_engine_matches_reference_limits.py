"""Limits and sanitized names, where the order of merges decides: the engine and the model see one label set at a time.

What several label sets of one record do to each other is not said by the contract, but for the order of its groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_driver import EngineDriver
from tests.reference import ReferenceModel
from tests.reference_labels import cut
from tests.script_strategies import NOW_NS
from tests.traces import (
    CLIENT,
    SECOND_NS,
    SERVER,
    batch,
    histograms_plan,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)

# A failing example is made small for up to five minutes before it is shown.
pytestmark = pytest.mark.timeout(400 if settings.get_current_profile_name() == "quick" else 3600)

MODES = st.sampled_from(["classic", "native", "both"])


@dataclass(frozen=True, slots=True)
class Visit:
    """One span, some time after the one before."""

    pause_s: int = 0
    name: str = "op"
    kind: int = SERVER
    entity: int = 0
    pod: int = 0
    is_fast: bool = False

    def request(self, now_ns: int) -> Any:
        """Return the request with the span; as a root server it is an edge too."""
        one = span(
            self.name,
            kind=self.kind,
            trace_id=bytes([self.entity + 1]) * 16,
            start_ns=now_ns - (0 if self.is_fast else self.entity * SECOND_NS),
            end_ns=now_ns,
            attributes={"e": self.entity, "method": "GET"},
        )
        return request(batch({"service.name": "s", "pod": f"pod-{self.pod}"}, one))


def tour(one: dict[str, Any], visits: list[Visit]) -> Iterator[tuple[EngineDriver, ReferenceModel]]:
    """Push, flush and close the edges of one span after another; yield engine and model after each."""
    engine, model = EngineDriver(one), ReferenceModel(one)
    now_ns = NOW_NS
    for visit in visits:
        now_ns += visit.pause_s * SECOND_NS
        for tenant in (engine, model):
            tenant.push(visit.request(now_ns), now_ns)
            tenant.flush(now_ns, close_edges=True)
        yield engine, model


def compare_tour(one: dict[str, Any], path: list[Visit]) -> tuple[EngineDriver, ReferenceModel]:
    """Compare what is collected after a tour, and the statistics that both keep.

    A label set that comes again is learned again by the engine only if something was learned since: it skips a line
    less often than the model.
    """
    *_, (engine, model) = tour(one, path)
    assert engine.collect() == model.collect()
    expected = model.registry.stats()
    found = {name: engine.registry.stats()[name] for name in expected}
    skipped = {name: expected.pop(name) for name in SKIPPED_LINES}
    for name, count in skipped.items():
        assert bool(count) <= found.pop(name) <= count
    assert found == expected
    return engine, model


SKIPPED_LINES = ("drain_lines_skipped_too_few_tokens", "drain_lines_skipped_too_many_tokens")


def visits(**of_visit: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Visit]]:
    """Draw a tour."""
    return st.lists(st.builds(Visit, **of_visit), min_size=1, max_size=20)


@given(
    # A second apart, because a resource is passed on once a second.
    path=visits(
        pause_s=st.just(1), entity=st.integers(0, 5), pod=st.integers(0, 1), kind=st.sampled_from([SERVER, CLIENT])
    ),
    limit=st.integers(1, 40),
    by_entity=st.booleans(),
    buckets=st.integers(0, 3),
    mode=MODES,
    target_info=st.booleans(),
    graphs=st.booleans(),
)
def test_one_by_one_new_entities_overflow_as_the_models_do(
    path: list[Visit], limit: int, by_entity: bool, buckets: int, mode: str, target_info: bool, graphs: bool
) -> None:
    bounds = [1.0, 2.0, 3.0][:buckets]
    spans = span_metrics_plan(histogram_buckets=bounds, dimensions=["e"], enable_target_info=target_info)
    edges = service_graphs_plan(histogram_buckets=bounds, dimensions=["e"], connection_info=True) if graphs else None
    limits = {"limiter_type": "series", "max_active_series": limit, "max_active_entities": 1}
    if by_entity:
        limits = {"limiter_type": "entity", "max_active_series": 1, "max_active_entities": 1 + limit // 5}
    compare_tour(plan(spans, edges, histograms=histograms_plan(mode), **limits), path)


PAUSES_S = st.sampled_from([0, 0, 0, 0, 1, 14, 15, 16, 100, 299, 300, 301])
LABELS = {"intrinsic_dimensions": {"span_name": False, "span_kind": False}, "dimensions": ["e", "method"]}


@given(
    path=visits(
        pause_s=PAUSES_S, entity=st.integers(0, 4), kind=st.sampled_from([SERVER, CLIENT]), is_fast=st.just(True)
    ),
    limit=st.integers(1, 4),
    target_info=st.booleans(),
    graphs=st.booleans(),
)
def test_labels_with_many_values_are_limited_as_the_models_are(
    path: list[Visit], limit: int, target_info: bool, graphs: bool
) -> None:
    spans = span_metrics_plan(**LABELS, enable_target_info=target_info, histogram_buckets=[1.0])
    edges = service_graphs_plan(dimensions=["e"], histogram_buckets=[1.0]) if graphs else None
    one = plan(spans, edges, max_cardinality_per_label=limit, stale_duration_s=1e6)
    compare_tour(one, path)
    assert_labels_alike(one, path)


@given(
    path=visits(pause_s=st.sampled_from([0, 0, 0, 15, 300, 600, 900, 1200, 2000]), entity=st.integers(0, 4)),
    limit=st.integers(1, 3),
    stale_s=st.sampled_from([900.0, 1800.0, 300.0, 60.0]),
)
def test_values_leave_the_window_as_the_models_do(path: list[Visit], limit: int, stale_s: float) -> None:
    spans = span_metrics_plan(**LABELS, latency=False, size=False)
    assert_labels_alike(plan(spans, max_cardinality_per_label=limit, stale_duration_s=stale_s), path)


def assert_labels_alike(one: dict[str, Any], path: list[Visit]) -> None:
    """Compare how often each label was limited after every single span, and the values that its window held."""
    for engine, model in tour(one, path):
        of_engine, of_model = engine.registry.label_stats(), model.registry.label_stats()
        assert set(of_engine) <= set(of_model)
        assert of_model == dict.fromkeys(of_model, (0, 0)) | of_engine


words = st.sampled_from(["GET", "users", "settings", "me", "add", "z", "é"])
data = st.sampled_from(["1", "42", "deadbeef", "a1", "v10", "v2", "%41", "%4", "½", "add-0a-", "3f-11-", "x9y8", "٣"])
separators = st.sampled_from([" ", "/", "/", "  ", "_", "-", ".", "🚀", "%", "\t ", "e\u0301"])
names = st.lists(words | data | separators, max_size=9).map("".join) | st.lists(
    st.sampled_from(["%41", "%42", "%43", "a", "-"]), min_size=1, max_size=6
).map("".join)
paths = st.builds(
    "".join, st.tuples(st.sampled_from(["GET /", "POST /", "/"]), words, st.just("/"), words | data, st.just("/"), data)
)


@given(
    path=visits(name=names | paths, kind=st.sampled_from([SERVER, CLIENT])),
    mode=st.sampled_from(["enabled", "enabled", "dry_run"]),
    graphs=st.booleans(),
    once=st.booleans(),
    has_names=st.sampled_from([True] * 9 + [False]),
    max_value_bytes=st.sampled_from([2048, 2048, 8, 0]),
)
def test_span_names_become_the_models_patterns(
    path: list[Visit], mode: str, graphs: bool, once: bool, has_names: bool, max_value_bytes: int
) -> None:
    if once:
        path = list({cut(visit.name.encode(), max_value_bytes): visit for visit in path}.values())
    spans = span_metrics_plan(latency=False, intrinsic_dimensions={"span_name": has_names})
    edges = service_graphs_plan(histogram_buckets=[]) if graphs else None
    one = plan(spans, edges, span_name_sanitization=mode, max_label_value_length=max_value_bytes)
    engine, model = compare_tour(one, path)
    cumulative, tokens = engine.registry.drain_tokens_per_line()
    lines = cumulative[-1][1]
    expected_lines, expected_tokens = model.registry.drain_tokens()
    assert lines <= expected_lines
    if once:
        assert (lines, tokens) == (expected_lines, expected_tokens)


@given(path=visits(name=paths, entity=st.integers(0, 3), pause_s=st.sampled_from([0, 15])), limit=st.integers(1, 3))
def test_patterns_are_what_the_limits_see(path: list[Visit], limit: int) -> None:
    one = plan(
        span_metrics_plan(latency=False, dimensions=["e"]),
        span_name_sanitization="enabled",
        max_cardinality_per_label=limit,
        max_active_series=2 * limit,
        stale_duration_s=1e6,
    )
    compare_tour(one, path)
