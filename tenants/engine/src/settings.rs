//! The JSON document a plan is compiled from; written by `tenants.processing.plan.plan_json`.

use serde::Deserialize;

use crate::error::PlanError;
use crate::filter::FilterPolicySettings;

/// Everything the engine needs to know of a tenant's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Absent: the processor is off.
    pub span_metrics: Option<SpanMetricsSettings>,
    /// Absent: the processor is off.
    pub service_graphs: Option<ServiceGraphSettings>,
    /// Absent: the processor is off.
    pub host_info: Option<HostInfoSettings>,
    /// Form of all histograms.
    pub histograms: HistogramSettings,
    /// Spans that end further than this from now, in seconds, are set aside (processors §5.3).
    pub ingestion_time_range_slack_s: f64,
    /// Label of exemplars that carries the trace id.
    pub trace_id_label_name: String,
    /// Longest label name in bytes; 0: no limit.
    pub max_label_name_length: usize,
    /// Longest label value in bytes; 0: no limit.
    pub max_label_value_length: usize,
    /// Longest key and longest string value of an attribute in bytes; 0: no limit (tenancy §4.5).
    pub max_attribute_bytes: usize,
    /// A series not updated for this many seconds ends.
    pub stale_duration_s: f64,
    /// What is limited: series or entities (processors §4.7).
    pub limiter_type: LimiterType,
    /// Most series of the tenant, overflow aside; 0: no limit. For `limiter_type: series`.
    pub max_active_series: u64,
    /// Most entities of the tenant, overflow aside; 0: no limit. For `limiter_type: entity`.
    pub max_active_entities: u64,
    /// Most values of a label; 0: no limit (processors §4.8).
    pub max_cardinality_per_label: u64,
    /// What happens to span names that look generated (processors §4.9).
    pub span_name_sanitization: SpanNameSanitization,
}

/// Which limit is in force (processors §4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimiterType {
    /// `max_active_series`.
    Series,
    /// `max_active_entities`.
    Entity,
}

/// What happens to span names that look generated (processors §4.9).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum SpanNameSanitization {
    /// Nothing is learned.
    #[default]
    #[serde(rename = "")]
    Off,
    /// Patterns are learned and counted, labels stay.
    #[serde(rename = "dry_run")]
    DryRun,
    /// Label `span_name` becomes the learned pattern.
    #[serde(rename = "enabled")]
    Enabled,
}

/// In which form histograms are kept and sent (processors §4.4).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistogramSettings {
    /// Classic buckets, native ones, or both.
    pub mode: HistogramMode,
    /// Greatest ratio of two neighbouring native bounds; decides the schema.
    pub native_bucket_factor: f64,
    /// Most native buckets of one series before its resolution is reduced.
    pub native_max_buckets: u32,
    /// A series whose resolution was reduced starts anew after this many seconds; 0: never.
    pub native_min_reset_duration_s: f64,
}

/// Which histograms are produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistogramMode {
    /// `_bucket`, `_count`, `_sum`.
    Classic,
    /// One native histogram under the bare name.
    Native,
    /// Both of them.
    Both,
}

/// Settings of the host-info processor (processors §3).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostInfoSettings {
    /// Resource attributes that name a host, the first with a text wins.
    pub host_identifiers: Vec<String>,
    /// Name of the gauge.
    pub metric_name: String,
}

/// An extra label made of several attributes (processors §1.3).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DimensionMappingSettings {
    /// Name of the label before sanitizing.
    pub name: String,
    /// Attributes whose values are joined, in this order.
    pub source_labels: Vec<String>,
    /// What stands between two values.
    pub join: String,
}

/// Settings of the span-metrics processor (processors §1).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "switches, named as in the settings")]
pub struct SpanMetricsSettings {
    /// Produce `traces_spanmetrics_calls_total`.
    pub count: bool,
    /// Produce `traces_spanmetrics_latency`.
    pub latency: bool,
    /// Produce `traces_spanmetrics_size_total`.
    pub size: bool,
    /// Upper bounds in seconds, without +Inf.
    pub histogram_buckets: Vec<f64>,
    /// Which built-in labels are present.
    pub intrinsic_dimensions: IntrinsicDimensions,
    /// Attributes that become labels.
    pub dimensions: Vec<String>,
    /// Labels joined of several attributes.
    pub dimension_mappings: Vec<DimensionMappingSettings>,
    /// Which spans are counted (processors §0.8).
    pub filter_policies: Vec<FilterPolicySettings>,
    /// Produce `traces_target_info`, and the labels `job` and `instance`.
    pub enable_target_info: bool,
    /// Label `instance`, where target info is on.
    pub enable_instance_label: bool,
    /// Resource attributes that target info leaves out.
    pub target_info_excluded_dimensions: Vec<String>,
    /// Attribute that holds a span's sampling ratio; empty: none (processors §0.7).
    pub span_multiplier_key: String,
    /// Read the sampling threshold of the W3C tracestate.
    pub enable_tracestate_span_multiplier: bool,
    /// Of dimensions that become one label the last with a value counts (Q2).
    pub keep_colliding_dimensions: bool,
    /// Filter values match only attributes of their own type (Q32).
    pub enable_strict_filter_types: bool,
}

/// Which built-in labels span metrics carry (processors §1.3).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "one switch per label, named as in the settings"
)]
pub struct IntrinsicDimensions {
    /// Label `service`.
    pub service: bool,
    /// Label `span_name`.
    pub span_name: bool,
    /// Label `span_kind`.
    pub span_kind: bool,
    /// Label `status_code`.
    pub status_code: bool,
    /// Label `status_message`.
    pub status_message: bool,
}

/// Settings of the service-graphs processor (processors §2).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "switches, named as in the settings")]
pub struct ServiceGraphSettings {
    /// Produce `traces_service_graph_request_total` and `…_failed_total`.
    pub request: bool,
    /// Produce the latency histograms.
    pub latency: bool,
    /// Produce `traces_service_graph_connection_info`.
    pub connection_info: bool,
    /// Upper bounds in seconds, without +Inf.
    pub histogram_buckets: Vec<f64>,
    /// Attributes that become labels.
    pub dimensions: Vec<String>,
    /// Which spans take part (processors §0.8).
    pub filter_policies: Vec<FilterPolicySettings>,
    /// Span attributes that name an uninstrumented peer, first present wins.
    pub peer_attributes: Vec<String>,
    /// Attributes that mark a client span as a database request, first present wins.
    pub database_name_attributes: Vec<String>,
    /// How long half an edge waits for the other, in seconds.
    pub wait_s: f64,
    /// Most half edges that wait at once in one shard.
    pub max_items: u64,
    /// Label dimensions once per side, as `client_…` and `server_…`.
    pub enable_client_server_prefix: bool,
    /// Observe the time from a producer's end to the consumer's start.
    pub enable_messaging_system_latency_histogram: bool,
    /// Tell on label `virtual_node` which side of an edge is uninstrumented.
    pub enable_virtual_node_label: bool,
    /// Attribute that holds a span's sampling ratio; empty: none (processors §0.7).
    pub span_multiplier_key: String,
    /// Read the sampling threshold of the W3C tracestate.
    pub enable_tracestate_span_multiplier: bool,
    /// Of dimensions that become one label the last with a value counts (Q2).
    pub keep_colliding_dimensions: bool,
    /// Filter values match only attributes of their own type (Q32).
    pub enable_strict_filter_types: bool,
    /// Let a database request wait for the database's own span (Q12).
    pub pair_database_spans: bool,
    /// Count an edge for every server-side span of one client-side span (Q13).
    pub count_every_receiver: bool,
    /// Observe a latency of zero for the side that a virtual edge lacks (Q14).
    pub enable_virtual_node_latency: bool,
    /// Take a parent id of zero bytes for none (Q15).
    pub zero_parent_id_is_root: bool,
}

impl Settings {
    /// Read the document; an error begins with the path of the setting.
    pub fn from_json(json: &str) -> Result<Self, PlanError> {
        let mut reader = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| PlanError {
            path: error.path().to_string(),
            message: error.into_inner().to_string(),
        })
    }
}
