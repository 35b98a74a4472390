"""A tenant that means harm, with its spans and with its settings, beside one that must not notice.

What each hostile request becomes is tested beside the engine; here all of them meet the running service.
"""

import asyncio
import itertools
import json
import random
import time
from typing import Any, Final

import pytest

from tests import traces
from tests.hostile_traffic import ATTACKS, DIMENSION, HOSTILE, RATIO, all_discarded
from tests.integration.comparison import assert_has
from tests.integration.load import requests
from tests.integration.otlp_client import GrpcClient, HttpClient
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

NEIGHBOUR: Final = "neighbour"
ATTACKER: Final = "attacker"
ACTORS: Final = ("ShardHost", "CollectorHost", "Gateway", "Controller")
ROUNDS: Final = 2  # one by each protocol
MAX_SERIES: Final = 500
MAX_VALUES: Final = 200
# Learned names, known label sets before the limit, and what they are called by the shards.
MAX_REGISTRY_BYTES: Final = 96 << 20
MAX_VALUE_BYTES: Final = 2048

POLICIES: Final = [
    {"exclude": {"match_type": "regex", "attributes": [{"key": f"span.{DIMENSION}", "value": pattern}]}}
    for pattern in ("(a+)+$", "(a|aa)*b", "(.*)*c")
]
ACCEPTED: Final[dict[str, Any]] = {
    "processors": ["span-metrics", "service-graphs", "host-info"],
    "shards": 3,
    "max_active_series": MAX_SERIES,
    "max_cardinality_per_label": MAX_VALUES,
    "span_name_sanitization": "enabled",
    "generate_native_histograms": "both",
    "native_histogram_bucket_factor": 1.0000000000000002,
    "processor": {
        "span_metrics": {
            "dimensions": [DIMENSION, *(f"k{number}" for number in range(63))],
            "filter_policies": POLICIES,
            "enable_target_info": True,
            "span_multiplier_key": RATIO,
            "enable_tracestate_span_multiplier": True,
            "histogram_buckets": [5e-324, 1e-300, 1e308],
        },
        "service_graphs": {"dimensions": [DIMENSION], "filter_policies": POLICIES, "span_multiplier_key": RATIO},
    },
}


def policy(key: str, value: object, match_type: str = "regex") -> dict[str, Any]:
    return {"filter_policies": [{"include": {"match_type": match_type, "attributes": [{"key": key, "value": value}]}}]}


REFUSED: Final[list[tuple[dict[str, Any], str]]] = [
    ({"processor": {"span_metrics": policy("name", "(a{1000}){1000}")}}, "filter_policies[0].include.attributes[0]"),
    ({"processor": {"span_metrics": policy("name", r"\pL{1000}")}}, "filter_policies[0].include.attributes[0]"),
    ({"processor": {"service_graphs": policy("name", "a" * 5000)}}, "filter_policies[0].include.attributes[0]"),
    ({"processor": {"service_graphs": policy("span.x", 2**64, "strict")}}, "filter_policies[0].include.attributes[0]"),
    ({"processor": {"span_metrics": {"filter_policies": [{"exclude": {"match_type": "strict"}}]}}}, "[0].exclude"),
    ({"processor": {"span_metrics": {"histogram_buckets": [0.1, 0.1]}}}, "span_metrics.histogram_buckets"),
    ({"processor": {"span_metrics": {"histogram_buckets": [float("inf")]}}}, "span_metrics.histogram_buckets"),
    ({"processor": {"service_graphs": {"histogram_buckets": [0.0]}}}, "service_graphs.histogram_buckets"),
    ({"processor": {"service_graphs": {"histogram_buckets": [*range(1, 1000)]}}}, "service_graphs.histogram_buckets"),
    ({"processor": {"span_metrics": {"dimensions": ["le"]}}}, "span_metrics.dimensions[0]"),
    ({"processor": {"span_metrics": {"dimensions": ["x"] * 1000}}}, "span_metrics.dimensions"),
    ({"processor": {"host_info": {"metric_name": "traces_spanmetrics_calls_total"}}}, "host_info.metric_name"),
    ({"native_histogram_bucket_factor": 1.0}, "native_histogram_bucket_factor"),
    ({"native_histogram_max_bucket_number": 2**32}, "native_histogram_max_bucket_number"),
    ({"max_active_series": -1}, "max_active_series"),
    ({"max_cardinality_per_label": 2**64}, "max_cardinality_per_label"),
    ({"collection_interval": "500ms"}, "collection_interval"),
    ({"collection_interval": "-1s"}, "collection_interval"),
    ({"trace_id_label_name": "x" * 100}, "trace_id_label_name"),
    ({"shards": 1000}, "shards"),
]

UNREADABLE: Final = (
    "[" * 100_000,
    "- " * 5_000 + "x",
    "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "overrides: &a {x: *a}\n",
    "overrides: [1]\n",
    r'{"overrides": {"x": {"metrics_generator": {"processor": {"span_metrics": {"dimensions": ["\ud800"]}}}}}}',
    "\x00",
)


def runtime_file(**entries: Any) -> str:
    # Python writes infinity in a way that YAML takes for text.
    text = json.dumps({"overrides": {tenant: {"metrics_generator": entry} for tenant, entry in entries.items()}})
    return text.replace("Infinity", ".inf")


async def test_hostile_tenant_harms_nobody_and_every_span_of_it_is_accounted_for(
    service: MillraceProcess, prometheus: Prometheus
) -> None:
    await service.put_tenants(
        **{ATTACKER: ACCEPTED, NEIGHBOUR: {"processors": ["span-metrics", "service-graphs"], "shards": 2}}
    )
    processes = {process.pid for name in ACTORS for process in service.actors(name)}
    model = ReferenceModel(traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan()), strict_ids=True)
    async with GrpcClient(service.grpc_port) as grpc, HttpClient(service.otlp_http_port) as http:

        async def attack(client: GrpcClient | HttpClient) -> None:
            for made in ATTACKS.values():
                body = await asyncio.to_thread(lambda made=made: made.request(time.time_ns()).SerializeToString())
                answer = await client.export(body, ATTACKER)
                assert answer.is_accepted, answer
                assert answer.rejected_spans == 0

        async def go_about_business() -> None:
            for body in requests(random.Random(6), time.time_ns(), traces=600, spans_per_request=50):
                model.push(body, time.time_ns())
                assert (await http.export(body, NEIGHBOUR)).is_accepted
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            group.create_task(go_about_business())
            group.create_task(attack(grpc))
            group.create_task(attack(http))

    model.flush(0, close_edges=True)
    await assert_has(prometheus, NEIGHBOUR, model.series())

    await assert_all_accounted_for(service)
    await assert_bounded(service, prometheus)
    assert {process.pid for name in ACTORS for process in service.actors(name)} == processes
    assert (await service.get("/ready")).status_code == 200
    for tenant in (ATTACKER, NEIGHBOUR):
        written = (await service.metrics())["millrace_remote_write_samples_total"].items()
        outcomes = {dict(labels)["outcome"] for labels, count in written if count and ("tenant", tenant) in labels}
        assert outcomes == {"sent"}
    assert [line for line in service.events if line["level"] == "error" and line.get("tenant") == ATTACKER] == []


async def assert_all_accounted_for(service: MillraceProcess) -> None:
    """See that the metrics say what became of the attacker's spans, by stage and reason."""
    sent = ROUNDS * sum(attack.spans + 3 for attack in ATTACKS.values())
    assert await service.metric("millrace_spans_received_total", tenant=ATTACKER) == sent
    metrics = (await service.metrics())["millrace_spans_discarded_total"]
    discarded = {
        (labels["stage"], labels["reason"]): count
        for key, count in metrics.items()
        if count and (labels := dict(key))["tenant"] == ATTACKER
    }
    assert discarded == {reason: ROUNDS * count for reason, count in all_discarded().items()}
    ignored = ROUNDS * sum(attack.ignored_multipliers for attack in ATTACKS.values())
    assert await service.metric("millrace_ignored_span_multipliers_total", tenant=ATTACKER) == ignored
    # Not one of the neighbour's is discarded for the attacker's sake: those are its own bad ids and times.
    neighbours = {dict(key)["stage"] for key, count in metrics.items() if count and ("tenant", NEIGHBOUR) in key}
    assert neighbours == {"gateway"}


async def assert_bounded(service: MillraceProcess, prometheus: Prometheus) -> None:
    """See that the attacker's limits hold for what is kept and for what is sent."""
    selector = f'{{tenant="{ATTACKER}"}}'

    async def has_arrived() -> bool:
        return bool(await prometheus.query(f"traces_spanmetrics_calls_total{selector}"))

    await eventually(has_arrived, 30, lambda: f"nothing of {ATTACKER} arrived:\n{service.log}")
    assert 0 < await service.metric("millrace_registry_active_series", tenant=ATTACKER) <= MAX_SERIES
    assert await service.metric("millrace_registry_series_limited_total", tenant=ATTACKER) > 0
    assert await service.metric("millrace_registry_state_bytes", tenant=ATTACKER) < MAX_REGISTRY_BYTES
    assert await service.metric("millrace_registry_spans_sanitized_total", tenant=ATTACKER) > 0
    series = await prometheus.series(selector)
    # What overflows has series of its own, beside the limit: one label set in each of the four groups of metrics.
    overflow = [labels for labels in series if labels.get("metric_overflow") == "true"]
    assert overflow
    assert len(series) - len(overflow) <= MAX_SERIES
    assert len(overflow) < 64
    assert all(len(text.encode()) <= MAX_VALUE_BYTES for labels in series for text in labels.values())
    assert HOSTILE in {labels.get("service") for labels in series}


async def test_hostile_settings_are_refused_with_every_path_and_change_nothing(
    service: MillraceProcess, prometheus: Prometheus
) -> None:
    entries = {f"hostile-{number}": entry for number, (entry, _) in enumerate(REFUSED)}
    failures = await service.metric("millrace_settings_reload_failures_total", reason="validate")
    refused = await service.break_runtime_file(runtime_file(**{NEIGHBOUR: {}}, **entries))
    for number, (_, path) in enumerate(REFUSED):
        faults = [line for line in refused["problem"].splitlines() if f"overrides.hostile-{number}." in line]
        assert faults, (number, refused["problem"])
        assert any(path in fault for fault in faults), (path, faults)
        assert all(len(fault) < 1000 for fault in faults)

    async def is_reported() -> bool:
        return await service.metric("millrace_settings_reload_failures_total", reason="validate") > failures

    await eventually(is_reported, 60, lambda: "the broken file is not counted")
    assert (await service.get("/ready")).status_code == 200
    assert not (await service.status())["tenants"].keys() & entries.keys()
    for text in UNREADABLE:
        assert (await service.break_runtime_file(text))["level"] == "error"
    await service.put_tenants(**{NEIGHBOUR: {"processors": ["span-metrics", "service-graphs"], "shards": 2}})

    async def is_good_again() -> bool:
        return await service.metric("millrace_settings_last_reload_successful") == 1

    await eventually(is_good_again, 60, lambda: f"the good file is not taken:\n{service.log}")
