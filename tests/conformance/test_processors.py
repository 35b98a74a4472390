"""Which processors a tenant's settings switch on, and what a change of them does to series (processors §5.4).

Cases 130 to 133 and 135.
"""

import itertools
import json

import pytest

from tenants.processing.plan import plan_json
from tenants.settings import SettingsError
from tests.conformance.case import Classic, Difference, Expected, conformance, row, series_of
from tests.conformance.fixtures import CALLS, CLIENT_SECONDS, LATENCY, SERVER_SECONDS, SIZE, TOTAL
from tests.conformance.registry_driver import INTERVAL_MS, START_MS, Interval, Registered, observation
from tests.conformance.resolved import BOTH_PROCESSORS, call, plan_of, settings
from tests.remote_write import SeriesKey, TimeSeries, is_stale_marker
from tests.traces import CLIENT, SERVER, request

MODES = ("native", "classic", "both", "native")
SPAN = {"span_kind": "SPAN_KIND_UNSPECIFIED", "status_code": "STATUS_CODE_UNSET"}

REFUSED = Difference(
    "design §1", "P7: the reference ignores an unknown name with a warning; a typing error should not pass unseen"
)


@pytest.mark.parametrize(
    ("names", "entry"),
    [
        row("130a", "typing error", ["span-metricsss"], "0", differs=REFUSED),
        row("130b", "removed processor", ["service-graphs", "local-blocks"], "1", differs=REFUSED),
    ],
)
def test_unknown_processors_are_refused(names: list[str], entry: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings({"processors": names})
    (fault,) = caught.value.faults
    assert fault.path == f"overrides.acme.metrics_generator.processors[{entry}]"
    assert fault.message.startswith("is not a processor")


@conformance("130c")
def test_130c_known_processors_run() -> None:
    assert settings({"processors": ["service-graphs"]}).active_processors == ("service-graphs",)


CONFIGURED_BUCKETS = "metrics_generator: {processor: {span_metrics: {histogram_buckets: [1, 2]}}}"


@conformance(
    "131", Difference("Q27", "sub-processors keep the configured buckets; without a histogram they do nothing")
)
def test_131_from_latency_to_count() -> None:
    latency, count = (
        plan_of({"processors": [f"span-metrics-{part}"]}, CONFIGURED_BUCKETS) for part in ("latency", "count")
    )
    tenant = Registered(latency)
    tenant.count(observation(seconds=1.5))
    histogram: Expected = {LATENCY: [(SPAN, Classic({"1": 0, "2": 1, "+Inf": 1}, sum=1.5))]}
    first_ms, second_ms = START_MS + INTERVAL_MS, START_MS + 2 * INTERVAL_MS
    assert tenant.samples_at(first_ms) == Interval(begin=histogram).samples(START_MS, first_ms)
    tenant.use(count, first_ms)
    tenant.count(observation(seconds=1.5), at_ms=first_ms)
    changed = Interval(begin={CALLS: [(SPAN, 1)]}, end=series_of(histogram))
    assert tenant.samples_at(second_ms) == changed.samples(first_ms, second_ms)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        row("132a", "connection info only", ["service-graphs-connection-info"], (False, False, True)),
        row("132b", "the bare name", ["service-graphs"], (True, True, False)),
        row("132c", "both", ["service-graphs", "service-graphs-connection-info"], (True, True, True)),
    ],
)
def test_parts_of_service_graphs(names: list[str], parts: tuple[bool, bool, bool]) -> None:
    graphs = plan_of({"processors": names})["service_graphs"]
    assert (graphs["request"], graphs["latency"], graphs["connection_info"]) == parts


def moded(mode: str) -> str:
    """Return the plan, as text, of a tenant with both processors and histograms of this form."""
    return plan_json(settings({"processors": BOTH_PROCESSORS, "generate_native_histograms": mode}))


@conformance("133a")
def test_133a_a_change_of_mode_is_another_plan_and_the_same_mode_is_not() -> None:
    plans = [moded(mode) for mode in MODES]
    assert all(before != after for before, after in itertools.pairwise(plans))
    assert [moded(mode) for mode in MODES] == plans


@conformance(
    "133b",
    Difference("design §1", "P2: counters go on through every change of mode; only the other form ends and begins"),
)
def test_133b_a_change_of_mode_ends_what_is_no_longer_sent() -> None:
    tenant = Registered(json.loads(moded(MODES[0])))
    calls, now_ms = 0, START_MS
    sent: set[SeriesKey] = set()
    observed = {"native": 0, "classic": 0}
    for mode in MODES:
        tenant.use(json.loads(moded(mode)), now_ms)
        observed = {form: count if mode in (form, "both") else 0 for form, count in observed.items()}
        for _ in range(2):  # the second time nothing changes
            client = call("lb", "lb-get", CLIENT, 1, 0, 2, now_ms * 1_000_000)
            server = call("app", "app-handle", SERVER, 2, 1, 1, now_ms * 1_000_000)
            tenant.push_and_merge(request(client, server), now_ms)
            calls, now_ms = calls + 1, now_ms + INTERVAL_MS
            observed = {form: count + (mode in (form, "both")) for form, count in observed.items()}
            collected = tenant.collect_at(now_ms)
            ended = {key for key, series in collected.items() if has_ended(series)}
            assert ended == sent - (collected.keys() - ended)
            sent = collected.keys() - ended
            assert {dict(key)["__name__"] for key in sent} == names_of(mode)
            for key in sent:
                check_newest(dict(key)["__name__"], collected[key], now_ms, calls, observed)


def check_newest(name: str, series: TimeSeries, now_ms: int, calls: int, observed: dict[str, int]) -> None:
    """Compare counters with all calls, and histograms with the calls since their form is sent."""
    if series.histograms:
        assert (series.histograms[-1].timestamp_ms, series.histograms[-1].count) == (now_ms, observed["native"])
    elif name in (CALLS, TOTAL):
        assert series.samples[-1] == (now_ms, calls)
    elif name.endswith("_count"):
        assert series.samples[-1] == (now_ms, observed["classic"])


def names_of(mode: str) -> set[str]:
    """Return the metrics of calls between :func:`call`'s services, with histograms of this form."""
    native = {LATENCY, CLIENT_SECONDS, SERVER_SECONDS}
    classic = {metric + suffix for metric in native for suffix in ("_bucket", "_count", "_sum")}
    return {CALLS, SIZE, TOTAL} | {"native": native, "classic": classic, "both": native | classic}[mode]


def has_ended(series: TimeSeries) -> bool:
    """Return whether the newest sample, of either form, is a staleness marker."""
    return series.histograms[-1].is_stale if series.histograms else is_stale_marker(series.samples[-1][1])


@conformance("135a")
def test_135a_intrinsic_dimensions_are_merged_one_by_one() -> None:
    config = "metrics_generator: {processor: {span_metrics: {intrinsic_dimensions: {span_kind: false}}}}"
    intrinsic = {"processor": {"span_metrics": {"intrinsic_dimensions": {"status_message": True}}}}
    plan = plan_of({"processors": ["span-metrics"]} | intrinsic, config)
    assert plan["span_metrics"]["intrinsic_dimensions"] == {
        "service": True,
        "span_name": True,
        "span_kind": False,
        "status_code": True,
        "status_message": True,
    }


@conformance("135b")
def test_135b_an_unknown_intrinsic_dimension_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        settings({"processor": {"span_metrics": {"intrinsic_dimensions": {"invalid": True}}}})
    (fault,) = caught.value.faults
    assert fault.path == "overrides.acme.metrics_generator.processor.span_metrics.intrinsic_dimensions.invalid"
