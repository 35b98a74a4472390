"""Every metric of the service, declared once: what it counts, in which unit, and what to do when it moves.

What the reference's generator measures (processors §5.5) is here under its names with the prefix ``millrace_`` and the
label ``tenant``; every counter ends in ``_total``, also where it does not there. ``enqueue_time_seconds_total`` and
``assigned_partitions`` are missing: they belong to the consumer of a queue, and spans do not come through one here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

Unit = Literal[
    "always 1",
    "1 or 0",
    "version",
    "spans",
    "edges",
    "half edges",
    "filter markers",
    "names",
    "tokens",
    "patterns",
    "series",
    "entities",
    "label sets",
    "label values",
    "samples",
    "exemplars",
    "requests",
    "batches",
    "pushes",
    "calls",
    "pulls",
    "shards",
    "records",
    "frames",
    "entries",
    "commits",
    "tenants",
    "sessions",
    "pages",
    "updates",
    "collections",
    "resets",
    "reads",
    "bytes",
    "attributes",
    "files",
    "seconds",
    "seconds since 1970",
    "limit",
]


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric.

    Attributes:
        kind: counters only grow; gauges do what they like; histograms are measured as distributions.
        unit: of its values; of a histogram, of what is observed.
        labels: names of the labels, besides ``actor``, which every series carries.
        counts: what it counts.
        advice: what to do when it moves.
    """

    kind: Kind
    unit: Unit
    labels: tuple[str, ...]
    counts: str
    advice: str

    @property
    def text(self) -> str:
        """The help text."""
        return f"{self.counts} ({self.unit}). {self.advice}"


def _counter(labels: tuple[str, ...], unit: Unit, counts: str, advice: str) -> Declaration:
    return Declaration("counter", unit, labels, counts, advice)


def _gauge(labels: tuple[str, ...], unit: Unit, counts: str, advice: str) -> Declaration:
    return Declaration("gauge", unit, labels, counts, advice)


_NONE: Final = ()
_HOST: Final = ("host",)
_TENANT: Final = ("tenant",)
_LABEL: Final = ("tenant", "label_name")
_ENDPOINT: Final = ("tenant", "endpoint")

_SERVICE: Final[Mapping[str, Declaration]] = {
    "millrace_build_info": _gauge(
        ("version", "engine", "profile"),
        "always 1",
        "Version of the service and of its engine",
        "A profile other than release is slow: install a release build.",
    ),
    "millrace_actor_up": _gauge(
        _NONE, "1 or 0", "Whether the actor answered in time", "0: it is restarting or overloaded; see its log."
    ),
    "millrace_process_resident_bytes": _gauge(
        _NONE,
        "bytes",
        "Memory of the actor's process, what it shares with others included",
        "Near millrace_process_memory_limit_bytes: give it more, or see which tenants' …_state_bytes grow.",
    ),
    "millrace_process_memory_limit_bytes": _gauge(
        _NONE, "bytes", "Memory of the actor's container, all its processes together; 0 is no limit", "Set it there."
    ),
    "millrace_process_cpu_seconds_total": _counter(
        _NONE,
        "seconds",
        "Processor time of the actor's process",
        "Its rate near the cores that it has: add gateways or shard hosts.",
    ),
    "millrace_process_start_time_seconds": _gauge(
        _NONE,
        "seconds since 1970",
        "When the actor's process began",
        "Changes again and again: it dies; see its log, and its container for want of memory.",
    ),
    "millrace_process_open_files": _gauge(
        _NONE,
        "files",
        "Files and connections that the actor's process has open",
        "Near millrace_process_max_open_files: raise that, or have clients keep fewer connections.",
    ),
    "millrace_process_max_open_files": _gauge(
        _NONE, "files", "Files and connections that the actor's process may have open", "Raise it with ulimit -n."
    ),
    "millrace_own_spans_sent_total": _counter(
        _NONE,
        "spans",
        "Spans of Millrace's own traces that their receiver took",
        "Not growing although tracing is on: see the log.",
    ),
    "millrace_own_spans_dropped_total": _counter(
        ("reason",),
        "spans",
        "Spans of Millrace's own traces that were dropped: queue_full (the receiver does not keep up), refused",
        "Growing: see the log, and tracing in the settings; nothing else suffers.",
    ),
    "millrace_settings_version": _gauge(
        _NONE,
        "version",
        "The overrides in force",
        "Actors that differ for more than a few seconds: see their logs.",
    ),
    "millrace_settings_last_reload_successful": _gauge(
        _NONE,
        "1 or 0",
        "Whether the last look at the runtime file found it good",
        "0: the log names the fault; the last good one stays in force until the file is mended.",
    ),
    "millrace_settings_last_reload_timestamp_seconds": _gauge(
        _NONE,
        "seconds since 1970",
        "When the runtime file in force was read",
        "Long ago although it was edited: see millrace_settings_last_reload_successful.",
    ),
    "millrace_settings_hash": _gauge(
        ("sha256",),
        "always 1",
        "The content of the runtime file in force; one series",
        "Replicas that differ for long: one of them cannot read the file.",
    ),
    "millrace_settings_tenants": _gauge(
        ("layer",),
        "entities",
        "Tenants with an entry in the runtime file, a document (api), limits or a state set by operators",
        "A sudden fall: somebody removed them; see the audit.",
    ),
    "millrace_shard_hosts": _gauge(
        ("state",),
        "entities",
        "Shard hosts that tenants are spread over (running), that hand over what they have, or that have no place",
        "Missing for minutes: their node is lost or has no room; the others do their work. Add a node with shard_slot.",
    ),
    "millrace_limits_defaults": _gauge(
        ("limit_name",),
        "limit",
        "Limits of a tenant without settings of its own: bytes, seconds, series; 1 for switches that are on",
        "limits_exporter.limits says which are exported.",
    ),
    "millrace_limits_overrides": _gauge(
        ("limit_name", "tenant"),
        "limit",
        "Limits that a tenant has of its own and that differ from the default",
        "Use: override or default.",
    ),
    "millrace_limits_effective": _gauge(
        ("limit_name", "tenant", "source"),
        "limit",
        "Limits in force for tenants that have sent spans, and the layer that each came from",
        "Compare with what the tenant uses.",
    ),
    "millrace_settings_document_failures_total": _counter(
        _TENANT,
        "reads",
        "Stored documents of the tenant that could not be applied; the last good one stays in force",
        "Above 0: see problems in /api/admin/tenants/<tenant>; the tenant or an operator can replace the document.",
    ),
    "millrace_timeline_tenants": _gauge(
        _NONE,
        "tenants",
        "Tenants of which the last hour is remembered, for rates and charts",
        "At most 2000.",
    ),
    "millrace_page_tenants_left_out": _gauge(
        _NONE,
        "tenants",
        "Tenants that the last page of metrics did not name; their counts are those of tenant __other__",
        "Raise metrics_page.max_tenants if the page may take longer, or ask the API for them.",
    ),
    "millrace_timeline_tenants_left_out": _gauge(
        _NONE,
        "tenants",
        "Active tenants beyond that bound, without rates and charts in API and console",
        "Their metrics are not touched: see millrace_spans_received_total for rates.",
    ),
    "millrace_insight_tenants": _gauge(
        _NONE,
        "tenants",
        "Tenants whose edges and span names somebody looked at lately",
        "At most 32; who looks at another one drives out the one that was not looked at for longest.",
    ),
    "millrace_console_pages": _gauge(
        _NONE,
        "pages",
        "Pages of the console that somebody has open",
        "At most 50 of a tenant, 50 of operators, 400 in all: beyond it they are refused with 503.",
    ),
    "millrace_console_sessions": _gauge(
        _NONE,
        "sessions",
        "Browsers that are signed in to the console",
        "At most 20 of a token, 200 of a tenant, 10000 in all: the one that was not used for longest is signed out.",
    ),
    "millrace_settings_reload_failures_total": _counter(
        ("reason",),
        "reads",
        "Looks at the runtime file that found it bad",
        "Growing: mend the file; the log says where.",
    ),
}

_GATEWAY: Final[Mapping[str, Declaration]] = {
    "millrace_requests_total": _counter(
        ("protocol", "answer"),
        "requests",
        "Export requests answered",
        "Answers other than ok: the clients' logs say why.",
    ),
    "millrace_authentication_failures_total": _counter(
        ("reason",),
        "requests",
        "Requests whose sender was not let through; never counts anything while auth.mode is trusted_header",
        "wrong_secret or unknown: a client has a bad token, or somebody guesses. expired, revoked: its client needs a "
        "new one. lacks_scope, wrong_tenant: the client has one for something else. overloaded: many new ones at once.",
    ),
    "millrace_ingress_bytes_total": _counter(
        _TENANT,
        "bytes",
        "Requests as protobuf, decompressed, whatever became of them",
        "Far above millrace_bytes_received_total: see millrace_spans_discarded_total for what is refused.",
    ),
    "millrace_bytes_received_total": _counter(
        _TENANT,
        "bytes",
        "Accepted requests as protobuf, decompressed, before any span is discarded",
        "A jump: the tenant sends more, or larger spans; see millrace_spans_received_total.",
    ),
    "millrace_spans_received_total": _counter(
        _TENANT,
        "spans",
        "Spans accepted, before any is discarded; those refused for their ids are not among them",
        "Flat while clients send: millrace_requests_total tells how they are answered.",
    ),
    "millrace_spans_discarded_total": _counter(
        ("tenant", "stage", "reason"),
        "spans",
        "Spans received, or refused with their request, that produced nothing at this stage; for the reason "
        "invalid_utf8, edges at the stage service_graphs and resource batches at the stage host_info",
        "rate_limited: raise ingestion.rate_limit_bytes, or have the client send less. too_large: raise "
        "ingestion.burst_size_bytes. outside_metrics_ingestion_slack: clocks differ or clients send late. …_filtered: "
        "see the tenant's filter policies. max_items: raise service_graphs.max_items. invalid_…: the client is at "
        "fault.",
    ),
    "millrace_attributes_truncated_total": _counter(
        ("tenant", "scope"),
        "attributes",
        "Attributes in accepted requests with a key or text beyond ingestion.max_attribute_bytes, which were cut",
        "Growing: the client puts documents into attributes; raise the limit only if metrics need them whole.",
    ),
    "millrace_added_latency_seconds": Declaration(
        "histogram",
        "seconds",
        _TENANT,
        "How long answers were held back for ingestion.artificial_delay; 256 answers wait at most in one gateway",
        "Mostly 0 and not wanted: requests take as long by themselves, or too many wait.",
    ),
    "millrace_ignored_span_multipliers_total": _counter(
        _TENANT,
        "spans",
        "Spans with the attribute span_multiplier_key and no usable value in it; they count once",
        "Growing: the client has to write a number above 0, as a double.",
    ),
    "millrace_metrics_generation_skipped_processor_pushes_total": _counter(
        _TENANT,
        "pushes",
        "Requests with the header no-generate-metrics, once for each active processor",
        "Growing and not wanted: find the client that sends the header.",
    ),
    "millrace_active_processors": _gauge(
        ("tenant", "processor"),
        "1 or 0",
        "Whether the processor runs for the tenant; names of a processor's parts are always 0",
        "0 and not wanted: see the tenant's processors, and millrace_active_processors_update_failed_total.",
    ),
    "millrace_active_processors_update_failed_total": _counter(
        _TENANT,
        "updates",
        "Updates of the overrides that the tenant's settings were refused at; its last good ones stay",
        "Growing: the log names the setting at fault.",
    ),
    "millrace_dispatch_queued_bytes": _gauge(
        _NONE,
        "bytes",
        "Frames that wait in the gateway for a shard host",
        "Near its bound requests are refused: add shard hosts.",
    ),
    "millrace_gateway_workspace_bytes": _gauge(
        _NONE,
        "bytes",
        "What splitting requests keeps for the next requests of the same tenants",
        "At most 8 MiB for each tenant; near that for many tenants, resources differ in every request.",
    ),
    "millrace_dispatch_groups_total": _counter(
        _HOST, "calls", "Calls that carried frames to a shard host", "Flat at one host: see millrace_actor_up."
    ),
    "millrace_dispatch_failures_total": _counter(
        _HOST,
        "calls",
        "Calls to a shard host that failed; clients were told to send again",
        "Growing: see the host's log.",
    ),
    "millrace_retained_bytes": _gauge(
        _HOST,
        "bytes",
        "Frames that the shard host has counted and that are not journalled yet; they are kept to be sent again",
        "Near cluster.retained_bytes requests are refused: see millrace_journal_failures_total.",
    ),
    "millrace_retained_seconds": _gauge(
        _HOST,
        "seconds",
        "How long the oldest request that a gateway retains for a shard host waits for the journal",
        "Above a few seconds: journal or shard host do not keep up; see millrace_journal_commit_seconds_total.",
    ),
    "millrace_replayed_frames_total": _counter(
        _HOST,
        "frames",
        "Frames that the shard host lost before they were journalled, and that were sent again",
        "Growing: shard hosts die, or lose their ranges; see their log.",
    ),
}

_SHARD_HOST: Final[Mapping[str, Declaration]] = {
    "millrace_shards": _gauge(
        _NONE, "shards", "Shards in a shard host", "Far from the other hosts': its tenants have few shards each."
    ),
    "millrace_shard_entities": _gauge(
        _TENANT,
        "label sets",
        "Label sets that the tenant's shards hold",
        "Growing without end: a label has too many values; see millrace_registry_label_cardinality_demand_estimate.",
    ),
    "millrace_shard_open_edges": _gauge(
        _TENANT,
        "half edges",
        "Half edges that wait for their other half",
        "Near service_graphs.max_items: raise it, or shorten service_graphs.wait.",
    ),
    "millrace_shard_fingerprints": _gauge(
        _TENANT,
        "requests",
        "Requests that the tenant's shards would know if they came again",
        "At 1048576 for each shard the oldest are forgotten early; see millrace_shard_fingerprints_dropped_total.",
    ),
    "millrace_shard_fingerprints_dropped_total": _counter(
        _TENANT,
        "requests",
        "Requests forgotten before their time, because there were too many: should they come again, they count again",
        "Growing: send larger requests, or give the tenant more shards.",
    ),
    "millrace_shard_outbox_records": _gauge(
        _TENANT,
        "records",
        "Records that wait to be acknowledged",
        "More than one for each shard: the collector does not keep up.",
    ),
    "millrace_shard_state_bytes": _gauge(
        _TENANT, "bytes", "Memory of the tenant's shards", "Growing: see millrace_shard_entities."
    ),
}

_COLLECTOR: Final[Mapping[str, Declaration]] = {
    "millrace_pull_failures_total": _counter(
        _HOST,
        "pulls",
        "Pulls from a shard host that failed; what it counted waits there",
        "Growing: see the host's log.",
    ),
    "millrace_records_merged_total": _counter(
        _TENANT, "records", "Flush records merged by the collector", "Flat while spans arrive: see the collector's log."
    ),
    "millrace_records_fenced_total": _counter(
        _TENANT,
        "records",
        "Flush records of shards that had lost their range; gateways send again what was in them",
        "Growing: shards change hosts again and again; see the log of the shard hosts.",
    ),
    "millrace_tenant_shards": _gauge(
        _TENANT,
        "shards",
        "Parts that the tenant's traces are divided into",
        "Changes by itself if metrics_generator.shards is 0; more often than the rate: raise "
        "cluster.shard_spans_per_second.",
    ),
    "millrace_shard_ranges_owned": _gauge(
        _TENANT,
        "shards",
        "Hash ranges that a shard host counts for",
        "Below the tenant's shards while it sends little.",
    ),
    "millrace_ledger_spans_total": _counter(
        ("tenant", "stage", "outcome"),
        "spans",
        "What became of the tenant's spans since it began generating, counted with the numbers that they went into: at "
        "stage gateway received, and of these what came no further; at each processor generated or discarded. "
        "over_limit are some of the generated, offered all that service graphs took: see docs/api.md, the ledger",
        "duplicate: clients send again what they were not told is taken. The others as millrace_spans_discarded_total.",
    ),
    "millrace_ledger_waiting_spans": _gauge(
        _TENANT,
        "spans",
        "Spans that service graphs took and whose other side may still come",
        "See millrace_shard_open_edges.",
    ),
    "millrace_claims_refused_total": _counter(
        _NONE,
        "shards",
        "Hash ranges that shard hosts asked for and did not get; gateways send again what was for them",
        "A few while shards move. Growing: a gateway or the collector does not have the newest settings and routes.",
    ),
    "millrace_mirror_open_edges": _gauge(
        _TENANT,
        "half edges",
        "Half edges that are known to the collector, for the successors of shards",
        "See millrace_shard_open_edges.",
    ),
    "millrace_mirror_state_bytes": _gauge(
        _TENANT,
        "bytes",
        "Memory of what is kept for the successors of shards",
        "Growing: more half edges wait, or more requests come.",
    ),
    "millrace_journal_commits_total": _counter(
        _NONE, "commits", "Commits of the journal", "Flat while spans arrive: see millrace_journal_failures_total."
    ),
    "millrace_journal_commit_seconds_total": _counter(
        _NONE,
        "seconds",
        "Time that commits of the journal took",
        "Near one second each second: the disk or the database is too slow.",
    ),
    "millrace_journal_entries_total": _counter(
        _NONE, "entries", "Entries written to the journal", "Grows with the shards that have something to say."
    ),
    "millrace_journal_bytes_total": _counter(
        _NONE, "bytes", "Bytes written to the journal, checkpoints included", "Grows with the series that change."
    ),
    "millrace_journal_failures_total": _counter(
        _NONE,
        "commits",
        "Commits of the journal that failed and are tried again; until then nothing is collected",
        "Growing: the collector's log says whether the disk is full or the database away.",
    ),
    "millrace_journal_pending_bytes": _gauge(
        _NONE, "bytes", "Entries that wait to be written", "Growing: see millrace_journal_failures_total."
    ),
    "millrace_journal_file_bytes": _gauge(
        _NONE,
        "bytes",
        "The journal's SQLite database; not measured where it is in PostgreSQL",
        "Growing without end: backlogs grow with it, see millrace_remote_write_backlog_bytes.",
    ),
    "millrace_journal_disk_free_bytes": _gauge(
        _NONE,
        "bytes",
        "Room on the disk of the journal's SQLite database; not measured where it is in PostgreSQL",
        "Near 0: make room, or lower queue_max_bytes of endpoints that are down; without room nothing is collected.",
    ),
    "millrace_backlog_batches_total": _counter(
        _NONE,
        "batches",
        "Batches that endpoints could not be sent in time, put on disk",
        "Growing: an endpoint is down or too slow; see millrace_remote_write_lag_seconds.",
    ),
    "millrace_backlog_bytes_total": _counter(
        _NONE, "bytes", "Batches put on disk", "Growing: see millrace_backlog_batches_total."
    ),
    "millrace_backlog_failures_total": _counter(
        _NONE,
        "commits",
        "Changes of the backlog that the disk did not take; batches wait in memory, up to queue_memory_bytes",
        "Growing: the collector's log says whether the disk is full or the database away.",
    ),
    "millrace_journal_damaged_tenants": _gauge(
        _NONE,
        "tenants",
        "Tenants whose journal cannot be read: nothing is counted for them",
        "Above 0: the collector's log says what is damaged and how to mend it.",
    ),
}

_SERVICE_GRAPHS: Final[Mapping[str, Declaration]] = {
    "millrace_processor_service_graphs_edges_total": _counter(
        _TENANT,
        "edges",
        "Edges begun, those completed at once included",
        "Flat while spans arrive: no span has a kind that makes an edge, or a filter drops them.",
    ),
    "millrace_processor_service_graphs_expired_edges_total": _counter(
        ("tenant", "unmatched_span_kind"),
        "edges",
        "Edges whose other half did not come within service_graphs.wait, by the kind of the half that did",
        "Growing: the other service sends no spans, or late, or breaks the trace; raise service_graphs.wait if late.",
    ),
    "millrace_processor_service_graphs_dropped_spans_total": _counter(
        _TENANT,
        "spans",
        "Spans that found no room among the edges that wait",
        "Growing: raise service_graphs.max_items, or shorten service_graphs.wait.",
    ),
    "millrace_processor_service_graphs_dropped_edges_total": _counter(
        _TENANT,
        "edges",
        "Edges dropped because a filter policy dropped their other half",
        "Growing and not wanted: change the filter policies of service graphs.",
    ),
    "millrace_processor_service_graphs_dropped_span_side_cache_overflow_total": _counter(
        _TENANT,
        "filter markers",
        "Dropped halves that found no room to be remembered; their counterparts expire instead of being dropped",
        "Growing: raise service_graphs.max_items.",
    ),
}

_REGISTRY: Final[Mapping[str, Declaration]] = {
    "millrace_registry_collections_total": _counter(
        _TENANT,
        "collections",
        "Collections, failed ones and those while collection is disabled included",
        "Slower than the collection interval: the collector is overloaded.",
    ),
    "millrace_registry_collections_failed_total": _counter(
        ("tenant", "error_type"),
        "collections",
        "Collections that failed; nothing of them was sent",
        "Growing: a bug; the collector's log has the error.",
    ),
    "millrace_registry_collection_seconds_total": _counter(
        _TENANT,
        "seconds",
        "Time that collections took",
        "Its rate near 1: the tenant has more series than a collector can encode in an interval.",
    ),
    "millrace_registry_active_series": _gauge(
        _TENANT,
        "series",
        "Series that live, overflow series not counted",
        "Near millrace_registry_max_active_series: further series will overflow.",
    ),
    "millrace_registry_max_active_series": _gauge(
        _TENANT,
        "series",
        "max_active_series, while the limiter counts series; 0 is no limit",
        "It follows the settings; change them there.",
    ),
    "millrace_registry_series_added_total": _counter(
        _TENANT,
        "series",
        "Series that began",
        "Its rate stays high: series come and go, a label does not repeat itself.",
    ),
    "millrace_registry_series_removed_total": _counter(
        _TENANT, "series", "Series that ended", "A jump: a processor was switched off, or a service went silent."
    ),
    "millrace_registry_series_limited_total": _counter(
        _TENANT,
        "series",
        "Series turned away by max_active_series, at every attempt anew; their counts go to the overflow series",
        "Growing: raise the limit to the demand estimate, or take labels away.",
    ),
    "millrace_registry_active_entities": _gauge(
        _TENANT,
        "entities",
        "Label sets that live, overflow not counted",
        "Near millrace_registry_max_active_entities: further entities will overflow.",
    ),
    "millrace_registry_max_active_entities": _gauge(
        _TENANT,
        "entities",
        "max_active_entities, while the limiter counts entities; 0 is no limit",
        "It follows the settings; change them there.",
    ),
    "millrace_registry_entities_added_total": _counter(
        _TENANT,
        "entities",
        "Entities that began",
        "Its rate stays high: label sets come and go, a label does not repeat itself.",
    ),
    "millrace_registry_entities_removed_total": _counter(
        _TENANT, "entities", "Entities that ended", "A jump: a processor was switched off, or a service went silent."
    ),
    "millrace_registry_entities_limited_total": _counter(
        _TENANT,
        "entities",
        "Entities turned away by max_active_entities, at every attempt anew; their counts go to the overflow series",
        "Growing: raise the limit to the demand estimate, or take labels away.",
    ),
    "millrace_registry_active_series_demand_estimate": _gauge(
        _TENANT,
        "series",
        "Estimate of the series that there would be without a limit",
        "Above the limit: the difference overflows.",
    ),
    "millrace_registry_entity_demand_estimate": _gauge(
        _TENANT,
        "entities",
        "Estimate of the entities that there would be without a limit",
        "Above the limit: the difference overflows.",
    ),
    "millrace_registry_label_values_limited_total": _counter(
        _LABEL,
        "label values",
        "Values of the label replaced by __cardinality_overflow__, at every merge anew",
        "Growing: the label has more than max_cardinality_per_label values; raise that, or take the label away.",
    ),
    "millrace_registry_label_cardinality_demand_estimate": _gauge(
        _LABEL,
        "label values",
        "Estimate of the distinct values that the label was offered; frozen while the limit per label is off",
        "Above max_cardinality_per_label: all its values are replaced.",
    ),
    "millrace_registry_spans_sanitized_total": _counter(
        _TENANT,
        "label sets",
        "Label sets whose span name has a pattern that differs from it, dry runs included",
        "Growing in a dry run: so much would change with span_name_sanitization enabled.",
    ),
    "millrace_registry_post_sanitization_demand_estimate": _gauge(
        _TENANT,
        "label sets",
        "Estimate of the distinct label sets that are left with patterns for span names, dry runs included",
        "Far below the entity demand: enable span_name_sanitization.",
    ),
    "millrace_registry_drain_patterns_detected_total": _counter(
        _TENANT, "patterns", "Patterns of span names found", "Growing without end: names vary in too many places."
    ),
    "millrace_registry_drain_patterns_evicted_total": _counter(
        _TENANT,
        "patterns",
        "Patterns of span names forgotten for want of room",
        "Growing: names do not repeat themselves; mend them at the client.",
    ),
    "millrace_registry_drain_patterns_expired_total": _counter(
        _TENANT, "patterns", "Patterns of span names forgotten by age", "Stays 0: patterns have no greatest age."
    ),
    "millrace_registry_drain_lines_skipped_total": _counter(
        ("tenant", "reason"),
        "names",
        "Span names that no pattern was sought for",
        "too_many_tokens growing: names are long texts; mend them at the client. too_few_tokens is normal.",
    ),
    "millrace_registry_drain_tokens_per_line": Declaration(
        "histogram",
        "tokens",
        _TENANT,
        "Tokens of the span names that patterns are sought for",
        "Near the upper end: longer names are skipped.",
    ),
    "millrace_registry_native_histogram_resets_total": _counter(
        _TENANT,
        "resets",
        "Native histograms begun anew because they had too many buckets",
        "Growing: raise native_histogram_max_bucket_number or native_histogram_bucket_factor.",
    ),
    "millrace_registry_state_bytes": _gauge(
        _TENANT, "bytes", "Memory of the tenant's registry", "Growing: see millrace_registry_active_series."
    ),
}

_REMOTE_WRITE: Final[Mapping[str, Declaration]] = {
    "millrace_storage_remote_write_update_failed_total": _counter(
        _TENANT,
        "updates",
        "Settings of the tenant with a remote_write endpoint that cannot be used; it was left out",
        "Growing: the log names the endpoint and its fault.",
    ),
    "millrace_remote_write_relabel_left_out_total": _counter(
        ("tenant", "reason"),
        "series",
        "Series that write_relabel_configs made impossible to send, at each collection: collision (another series has "
        "become the same label set), without_name, too_large",
        "Growing: mend the rules; with collision, drop series before the label that tells them apart.",
    ),
    "millrace_remote_write_samples_total": _counter(
        ("tenant", "endpoint", "outcome"),
        "samples",
        "Samples sent, or given up: dropped (queue full), too_old, closed, http_<status>, backlog_lost (no longer on "
        "disk), no_endpoint (there is none), partial (2xx, but not stored), nothing_written (it does not know the "
        "message that is set)",
        "Outcomes other than sent: see last_error in /status.",
    ),
    "millrace_remote_write_exemplars_total": _counter(
        _ENDPOINT, "exemplars", "Exemplars sent", "Flat while samples grow: the spans carry no trace ids."
    ),
    "millrace_remote_write_exemplars_rejected_total": _counter(
        _ENDPOINT,
        "exemplars",
        "Exemplars that the endpoint did not store",
        "Growing: it keeps none (Prometheus: --enable-feature=exemplar-storage) or its bound is reached.",
    ),
    "millrace_remote_write_fallbacks_total": _counter(
        _ENDPOINT,
        "requests",
        "Requests that were sent again as 1.0, as the endpoint was found not to know Remote-Write 2.0",
        "Growing fast: its replicas are of different versions; set protobuf_message to prometheus.WriteRequest.",
    ),
    "millrace_remote_write_is_version_2": _gauge(
        _ENDPOINT,
        "1 or 0",
        "Whether the endpoint is sent Remote-Write 2.0",
        "0: receivers that know only 1.0 are sent three times the bytes; 2.0 is tried again every six hours.",
    ),
    "millrace_remote_write_bytes_total": _counter(
        _ENDPOINT, "bytes", "Compressed requests sent", "A jump: see millrace_registry_active_series."
    ),
    "millrace_remote_write_retries_total": _counter(
        _ENDPOINT,
        "requests",
        "Requests that were not the first for their batch",
        "Growing: the endpoint answers with errors; see last_error in /status.",
    ),
    "millrace_remote_write_failed_requests_total": _counter(
        ("tenant", "endpoint", "reason"),
        "requests",
        "Requests whose batch is sent again: http_429, http_500, http_502, http_503, http_504, http_5xx, timeout, "
        "network, secret (it cannot be read), backlog (the disk does not answer); divided before: http_413; when the "
        "pause ends: http_401, http_403, http_404",
        "Growing: see last_error in /status or `millrace tenants endpoints`.",
    ),
    "millrace_remote_write_state": _gauge(
        ("tenant", "endpoint", "state"),
        "always 1",
        "What the endpoint's sender is doing: idle, sending, backing_off, paused_unauthorized, paused_not_found, "
        "closed, crashed",
        "paused: mend its credentials or its URL; backing_off: see last_error in /status.",
    ),
    "millrace_remote_write_lag_seconds": _gauge(
        _ENDPOINT,
        "seconds",
        "Age of the oldest samples that wait",
        "Growing: the endpoint is down or too slow; at max_sample_age they are dropped.",
    ),
    "millrace_remote_write_pending_batches": _gauge(
        _ENDPOINT, "batches", "Requests that wait", "Growing: the endpoint is down or too slow."
    ),
    "millrace_remote_write_backlog_batches": _gauge(
        _ENDPOINT, "batches", "Of the requests that wait, those on disk alone", "See the lag."
    ),
    "millrace_remote_write_backlog_bytes": _gauge(
        _ENDPOINT, "bytes", "Of the requests that wait, those on disk alone, compressed", "See the lag."
    ),
    "millrace_remote_write_pending_samples": _gauge(
        _ENDPOINT, "samples", "Samples that wait", "Growing: the endpoint is down or too slow."
    ),
    "millrace_remote_write_pending_bytes": _gauge(
        _ENDPOINT, "bytes", "Compressed requests that wait", "Near queue_max_bytes: the oldest will be dropped."
    ),
    "millrace_remote_write_highest_sent_timestamp_seconds": _gauge(
        _ENDPOINT,
        "seconds since 1970",
        "Newest collection that the endpoint has",
        "Now minus this is its lag; growing: see last_error in /status.",
    ),
}

DECLARED: Final[Mapping[str, Declaration]] = {
    **_SERVICE,
    **_GATEWAY,
    **_SHARD_HOST,
    **_COLLECTOR,
    **_SERVICE_GRAPHS,
    **_REGISTRY,
    **_REMOTE_WRITE,
}
"""All of them, by name."""
