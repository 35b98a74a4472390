"""Every metric of the service: declared here once, measured in the actors, exported on one page.

An actor answers :data:`Measurements`, plain tuples that any process can carry; :func:`families` turns those of all
actors into Prometheus families. The declarations say what each metric means and what to do when it moves.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Measurements = list[tuple[str, tuple[str, ...], float]]
"""Name, label values in the order of the declaration, value."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric.

    Attributes:
        kind: counters only grow; gauges do what they like.
        labels: names of the labels, besides ``actor``, which every series carries.
        text: what it counts, with its unit, and what to do when it moves.
    """

    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    text: str


DECLARED: Final[Mapping[str, Declaration]] = {
    "millrace_build_info": Declaration(
        "gauge", ("version", "engine", "profile"), "Always 1. A profile other than release is slow."
    ),
    "millrace_actor_up": Declaration(
        "gauge", (), "1 if the actor answered in time. 0: it is restarting or overloaded."
    ),
    "millrace_settings_version": Declaration(
        "gauge",
        (),
        "Version of the overrides in force. Actors that differ for more than a few seconds: see their logs.",
    ),
    "millrace_settings_last_reload_successful": Declaration(
        "gauge",
        (),
        "1 if the last look at the runtime file found it good. 0: the log names the fault; the last good one stays.",
    ),
    "millrace_settings_reload_failures_total": Declaration(
        "counter", ("reason",), "Looks at the runtime file that found it bad."
    ),
    "millrace_requests_total": Declaration(
        "counter",
        ("protocol", "answer"),
        "Export requests answered. Answers other than ok: the clients' logs say why.",
    ),
    "millrace_requests_received_bytes_total": Declaration(
        "counter", ("tenant",), "Bytes of accepted requests, decompressed."
    ),
    "millrace_spans_received_total": Declaration("counter", ("tenant",), "Spans in accepted requests."),
    "millrace_spans_discarded_total": Declaration(
        "counter",
        ("tenant", "stage", "reason"),
        "Spans (at stage service_graphs, reason invalid_utf8: edges) that were received and not generated.",
    ),
    "millrace_dispatch_queued_bytes": Declaration(
        "gauge",
        (),
        "Bytes that wait in the gateway for a shard host. Near its bound, requests are refused: add shard hosts.",
    ),
    "millrace_dispatch_groups_total": Declaration("counter", ("host",), "Calls that carried frames to a shard host."),
    "millrace_dispatch_failures_total": Declaration(
        "counter",
        ("host",),
        "Calls to a shard host that failed. Clients were told to send again; see the host's log.",
    ),
    "millrace_shards": Declaration("gauge", (), "Shards in a shard host."),
    "millrace_shard_entities": Declaration("gauge", ("tenant",), "Label sets that the tenant's shards hold."),
    "millrace_shard_open_edges": Declaration(
        "gauge",
        ("tenant",),
        "Half edges that wait for their other half. Bounded by service_graphs.max_items.",
    ),
    "millrace_shard_outbox_records": Declaration(
        "gauge",
        ("tenant",),
        "Records that wait to be acknowledged. More than one each: the collector does not keep up.",
    ),
    "millrace_shard_state_bytes": Declaration("gauge", ("tenant",), "Memory of the tenant's shards."),
    "millrace_records_merged_total": Declaration("counter", ("tenant",), "Flush records merged by the collector."),
    "millrace_pull_failures_total": Declaration(
        "counter", ("host",), "Pulls from a shard host that failed. What it counted waits there."
    ),
    "millrace_registry_active_series": Declaration("gauge", ("tenant",), "Series within the tenant's limit."),
    "millrace_registry_series_added_total": Declaration("counter", ("tenant",), "Series that began."),
    "millrace_registry_series_removed_total": Declaration("counter", ("tenant",), "Series that ended."),
    "millrace_registry_series_limited_total": Declaration(
        "counter",
        ("tenant",),
        "Series turned away by max_active_series, counted at every attempt. Growing: raise the limit.",
    ),
    "millrace_registry_state_bytes": Declaration("gauge", ("tenant",), "Memory of the tenant's registry."),
    "millrace_service_graph_edges_total": Declaration("counter", ("tenant",), "Edges begun."),
    "millrace_service_graph_expired_edges_total": Declaration(
        "counter",
        ("tenant", "unmatched_span_kind"),
        "Edges that ended without producing anything: a half is missing.",
    ),
    "millrace_collections_total": Declaration("counter", ("tenant",), "Collections: samples of every series taken."),
    "millrace_collection_seconds_total": Declaration("counter", ("tenant",), "Time that collections took."),
    "millrace_remote_write_samples_total": Declaration(
        "counter",
        ("tenant", "endpoint", "outcome"),
        "Samples sent, or given up: dropped (queue full), too_old, closed, http_<status>, no_endpoint (there is none). "
        "See last_error in /status.",
    ),
    "millrace_remote_write_exemplars_total": Declaration("counter", ("tenant", "endpoint"), "Exemplars sent."),
    "millrace_remote_write_bytes_total": Declaration("counter", ("tenant", "endpoint"), "Compressed bytes sent."),
    "millrace_remote_write_retries_total": Declaration(
        "counter", ("tenant", "endpoint"), "Requests that were not the first for their batch."
    ),
    "millrace_remote_write_pending_samples": Declaration(
        "gauge", ("tenant", "endpoint"), "Samples that wait. Growing: the endpoint is down or too slow."
    ),
    "millrace_remote_write_pending_bytes": Declaration("gauge", ("tenant", "endpoint"), "Compressed bytes that wait."),
    "millrace_remote_write_highest_sent_timestamp_seconds": Declaration(
        "gauge", ("tenant", "endpoint"), "Newest collection that the endpoint has. Now minus this is its lag."
    ),
}


def families(measured: Mapping[str, Measurements]) -> Iterator[Metric]:
    """Merge what the actors measured, by their names, into one family for each declared metric.

    Raises:
        KeyError: an actor measured what is not declared.
        ValueError: an actor measured it with other labels.
    """
    merged: dict[str, Metric] = {}
    for actor, measurements in measured.items():
        for name, values, value in measurements:
            declared = DECLARED[name]
            if len(values) != len(declared.labels):
                raise ValueError(f"{name} has the labels {declared.labels}, not {values}")
            family = merged.get(name)
            if family is None:
                family = merged[name] = _family(name, declared)
            family.add_metric((*values, actor), value)  # type: ignore[attr-defined]
    yield from merged.values()


def _family(name: str, declared: Declaration) -> Metric:
    make = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    return make(name, declared.text, labels=(*declared.labels, "actor"))


def per_tenant(name: str, values: Iterable[tuple[object, float]]) -> Measurements:
    """Measure one metric for each tenant."""
    return [(name, (str(tenant),), value) for tenant, value in values]
