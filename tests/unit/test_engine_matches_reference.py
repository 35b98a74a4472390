"""Drawn traces under drawn plans, counted by the engine and by the model: every series and counter is alike.

Where the order of arrival decides (a dimension that both halves carry, a second server child), both see the same
order. What depends on the order of merges, limits and sanitized names, is in ``test_engine_matches_reference_limits``.
"""

import itertools
import random
from collections import Counter as Tally
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import otlp_raw
from tests.edge_strategies import edge_scripts
from tests.engine_driver import EngineDriver
from tests.plan_strategies import MANY, histograms_plans, plans
from tests.reference import ReferenceModel
from tests.remote_write import Sample, SeriesKey, TimeSeries
from tests.script_strategies import NOW_NS, Collect, Push, Script, Step, play, scripts
from tests.trace_strategies import MULTIPLIER_KEY, RATIOS, any_values, requests
from tests.traces import ERROR, MISSING, batch, plan, request, service_graphs_plan, span, span_metrics_plan
from tests.unit.comparing import assert_counters_alike, assert_ledger_closes, assert_same, compare
from tests.unusual_wire import unusual_encoding

# A failing example is made small for up to five minutes before it is shown.
pytestmark = pytest.mark.timeout(400 if settings.get_current_profile_name() == "quick" else 3600)

MANY_ITEMS = plans(max_items=st.just(MANY))
FEW_ITEMS = plans(max_items=st.integers(0, 3))
SHARDS = pytest.mark.parametrize("shards", [1, 2, 5])
NOW_MS = NOW_NS // 1_000_000


@SHARDS
@given(script=scripts(MANY_ITEMS), max_samples=st.sampled_from([1, 40, 2000]))
def test_series_and_counters_equal_the_models(shards: int, script: Script, max_samples: int) -> None:
    engine = EngineDriver(script.plan, shards=shards, max_samples=max_samples)
    compare(script, engine, ReferenceModel(script.plan))


@given(script=scripts(MANY_ITEMS), shards=st.sampled_from([1, 2, 5]))
def test_spans_with_bad_ids_are_rejected_and_the_others_counted(script: Script, shards: int) -> None:
    engine = EngineDriver(script.plan, shards=shards, strict_ids=True)
    compare(script, engine, ReferenceModel(script.plan, strict_ids=True))


@given(script=scripts(FEW_ITEMS))
def test_full_edge_buffer_drops_the_spans_that_the_model_drops(script: Script) -> None:
    # One shard: the limit is per shard, so with more of them fewer spans find it reached.
    compare(script, EngineDriver(script.plan), ReferenceModel(script.plan))


@given(script=edge_scripts(st.just(MANY)), shards=st.sampled_from([1, 3]))
def test_edges_live_as_the_models_do(script: Script, shards: int) -> None:
    compare(script, EngineDriver(script.plan, shards=shards), ReferenceModel(script.plan))


@given(script=edge_scripts(st.integers(0, 3)))
def test_edges_live_as_the_models_do_in_little_room(script: Script) -> None:
    compare(script, EngineDriver(script.plan), ReferenceModel(script.plan))


@given(script=scripts(MANY_ITEMS), seed=st.integers(0, 2**32))
def test_unusual_encodings_count_as_usual_ones(script: Script, seed: int) -> None:
    rng = random.Random(seed)
    engine, model = EngineDriver(script.plan, shards=2), ReferenceModel(script.plan)
    steps: list[Step] = []
    for step in script.steps:
        if isinstance(step, Push):
            body = unusual_encoding(step.request, rng)
            assert canonical(body) == canonical(step.request)
            steps.append(Push(step.now_ns, body, step.skip_generation))
        else:
            steps.append(step)
    compare(Script(script.plan, steps), engine, model)


def canonical(request: Any) -> bytes:
    """Return the one encoding of everything that is said alike."""
    return bytes(otlp_raw.parse(request).SerializeToString(deterministic=True))


@given(value=any_values, shared=st.booleans())
def test_every_attribute_value_has_the_models_text(value: Any, shared: bool) -> None:
    one = plan(span_metrics_plan(dimensions=["d"], latency=False), max_label_value_length=0)
    attributes = {"d": value}
    spans = span(end_ns=NOW_NS, attributes={} if shared else attributes)
    compare_requests(one, [request(batch(attributes if shared else {}, spans))])


@given(
    bounds=st.lists(st.floats(1e-12, 1e10), min_size=1, max_size=6, unique=True),
    offsets=st.lists(st.tuples(st.integers(0, 5), st.integers(-2, 2)), min_size=1, max_size=8),
)
def test_durations_beside_a_bound_fall_into_the_models_bucket(
    bounds: list[float], offsets: list[tuple[int, int]]
) -> None:
    durations = [round(bounds[index % len(bounds)] * 1e9) + offset for index, offset in offsets]
    spans = [span(start_ns=NOW_NS - duration, end_ns=NOW_NS) for duration in durations if 0 <= duration <= NOW_NS]
    compare_requests(plan(span_metrics_plan(histogram_buckets=bounds)), [request(batch({}, *spans))])


@given(
    observed=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 1_953_125, 2**40]) | st.integers(0, 2**36),
            st.sampled_from([b"", b"\x01" * 16, b"\x02" * 16]),
            st.sampled_from([None, ERROR]),
            st.sampled_from([{}, {}, *({MULTIPLIER_KEY: ratio} for ratio in RATIOS if ratio is not MISSING)]),
        ),
        min_size=1,
        max_size=40,
    ),
    form=histograms_plans(),
    key=st.sampled_from(["", MULTIPLIER_KEY]),
)
def test_observations_of_one_entity_make_the_models_histogram(
    observed: list[tuple[int, bytes, int | None, dict[str, Any]]], form: dict[str, Any], key: str
) -> None:
    intrinsic = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)
    spans = [
        span(trace_id=trace_id, start_ns=NOW_NS - duration, end_ns=NOW_NS, status=status, attributes=ratio)
        for duration, trace_id, status, ratio in observed
    ]
    settings_of_spans = span_metrics_plan(intrinsic_dimensions=intrinsic, span_multiplier_key=key)
    half = len(spans) // 2
    compare_requests(
        plan(settings_of_spans, histograms=form), [request(batch({}, *part)) for part in (spans[:half], spans[half:])]
    )


def compare_requests(one: dict[str, Any], drawn: list[Any]) -> None:
    """Compare the engine and the model after these requests."""
    engine, model = EngineDriver(one, shards=2), ReferenceModel(one)
    for tenant in (engine, model):
        for each in drawn:
            tenant.push(each, NOW_NS)
        tenant.flush(NOW_NS, close_edges=True)
    assert_same(engine.collect(), model.collect(), one)
    assert_counters_alike(engine, model)
    assert_ledger_closes(engine, model)


def waiting_plans() -> st.SearchStrategy[dict[str, Any]]:
    """Draw plans under which no edge expires before it is closed."""
    return MANY_ITEMS.map(
        lambda drawn: (
            drawn | {"service_graphs": drawn["service_graphs"] and {**drawn["service_graphs"], "wait_s": 600.0}}
        )
    )


@given(one=waiting_plans(), drawn=requests(), data=st.data())
def test_moments_of_flushes_and_lost_definitions_do_not_show(
    one: dict[str, Any], drawn: list[Any], data: st.DataObject
) -> None:
    whole = EngineDriver(one)
    piecewise = EngineDriver(one, shards=3)
    records: list[list[bytes]] = [[], [], []]

    def merge(source: int, *arrived: bytes) -> None:
        for record in filter(None, arrived):
            piecewise.registry.merge(source, record, NOW_NS)

    for arrive in drawn:
        whole.push(arrive(NOW_NS), NOW_NS)
        piecewise.push(arrive(NOW_NS), NOW_NS)
        for source in data.draw(st.lists(st.sampled_from([0, 1, 2]), max_size=4)):
            match data.draw(st.sampled_from(["flush", "flush", "deliver", "lose"])):
                case "flush":
                    records[source].append(piecewise.shards[source].flush(NOW_NS))
                case "deliver":
                    merge(source, *records[source])
                    records[source].clear()
                case "lose":
                    piecewise.registry.forget_source(source)
                    merge(source, piecewise.shards[source].redefine())
    for source, late in enumerate(records):
        merge(source, *late)
    for tenant in (whole, piecewise):
        tenant.flush(NOW_NS, close_edges=True)
    assert_same(piecewise.collect(), whole.collect(), one)
    assert piecewise.edges == whole.edges
    assert piecewise.expired_edges == whole.expired_edges
    assert piecewise.dropped_edges == whole.dropped_edges


GAUGES = ("traces_target_info", "traces_service_graph_connection_info")


@given(one=MANY_ITEMS, drawn=requests(), pauses_ms=st.lists(st.integers(2, 20_000), min_size=6, max_size=6))
def test_series_begin_at_zero_and_go_on_in_time(one: dict[str, Any], drawn: list[Any], pauses_ms: list[int]) -> None:
    engine = EngineDriver(one, shards=2, started_at_ms=NOW_MS)
    times = list(itertools.accumulate(pauses_ms, initial=NOW_MS))
    for index, (before_ms, now_ms) in enumerate(itertools.pairwise(times)):
        if index < len(drawn):
            engine.push(drawn[index](now_ms * 1_000_000), now_ms * 1_000_000)
        engine.flush(now_ms * 1_000_000)
        known = set().union(*engine.sent)
        for key, series in engine.collect_at(now_ms).items():
            samples = points(series)
            begins = key not in known and dict(key)["__name__"] not in GAUGES
            assert samples[:-1] == ([(before_ms + 1, 0.0)] if begins else [])
            assert samples[-1][0] == now_ms
    assert all(set(earlier) <= set(later) for earlier, later in itertools.pairwise(engine.sent))
    for history in histories(engine).values():
        assert_never_back(history)


GAUGES = {"traces_target_info", "traces_service_graph_connection_info", "hosts", "h:1"}


def points(series: TimeSeries) -> list[Sample]:
    """Return the samples of a series, of native histograms their counts."""
    return series.samples or [(sample.timestamp_ms, sample.count) for sample in series.histograms]


def histories(engine: EngineDriver) -> dict[SeriesKey, list[Sample]]:
    """Return all samples of each series that were ever sent, in the order of sending."""
    sent: dict[SeriesKey, list[Sample]] = {}
    for collected in engine.sent:
        for key, series in collected.items():
            sent.setdefault(key, []).extend(points(series))
    return sent


def assert_never_back(samples: list[Sample]) -> None:
    """Neither time nor value of a series goes back."""
    for (earlier_ms, smaller), (later_ms, greater) in itertools.pairwise(samples):
        assert earlier_ms < later_ms
        assert smaller <= greater


@given(script=scripts(MANY_ITEMS), shards=st.sampled_from([1, 2, 5]))
def test_exemplars_are_sent_once_and_collecting_again_changes_no_value(script: Script, shards: int) -> None:
    engine = EngineDriver(script.plan, shards=shards)
    *_, last = play(script, engine)
    again = engine.collect()
    assert again.series == last.series
    assert again.histograms == last.histograms
    assert again.exemplars == {}


@given(script=scripts(MANY_ITEMS))
def test_counters_carry_the_models_exemplars_if_wanted(script: Script) -> None:
    engine, model = EngineDriver(script.plan), ReferenceModel(script.plan)
    uncollected = Script(script.plan, [step for step in script.steps if not isinstance(step, Collect)])
    for tenant in (engine, model):
        assert list(play(uncollected, tenant)) == []
    sent = engine.collect_at(NOW_MS + 10_000_000, counter_exemplars=True)
    label = script.plan["trace_id_label_name"]
    exemplars = {
        key: [(each.labels[label], each.value) for each in series.exemplars]
        for key, series in sent.items()
        if series.exemplars
    }
    assert exemplars == model.collect(counter_exemplars=True).exemplars


TOTALS = [
    "traces_spanmetrics_calls_total",
    "traces_spanmetrics_latency_count",
    "traces_service_graph_request_total",
]


@SHARDS
@given(drawn=requests(), limit=st.integers(1, 60))
def test_a_series_limit_keeps_totals_right(shards: int, drawn: list[Any], limit: int) -> None:
    limited = plan(span_metrics_plan(), service_graphs_plan(), max_active_series=limit)
    engine, model = EngineDriver(limited, shards=shards), ReferenceModel(limited | {"max_active_series": 0})
    for tenant in (engine, model):
        for arrive in drawn:
            tenant.push(arrive(NOW_NS), NOW_NS)
        tenant.flush(NOW_NS, close_edges=True)
    series = engine.collect().series
    assert totals(series) == totals(model.collect().series)
    active = [key for key in series if ("metric_overflow", "true") not in key]
    assert len(active) <= limit
    assert engine.registry.stats()["active_series"] == len(active)


def totals(series: dict[SeriesKey, float]) -> dict[str, float]:
    """Return the sum over all series of some metrics."""
    sums: Tally[str] = Tally()
    for key, value in series.items():
        name = dict(key)["__name__"]
        if name in TOTALS:
            sums[name] += int(value)
    return dict(sums)
