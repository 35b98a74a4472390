//! The JSON document a plan is compiled from; written by `tenants.processing.plan.plan_json`.

use serde::Deserialize;

use crate::error::PlanError;

/// Everything the engine needs to know of a tenant's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Absent: the processor is off.
    pub span_metrics: Option<SpanMetricsSettings>,
    /// Absent: the processor is off.
    pub service_graphs: Option<ServiceGraphSettings>,
    /// Spans that end further than this from now, in seconds, are set aside (processors §5.3).
    pub ingestion_time_range_slack_s: f64,
    /// Label of exemplars that carries the trace id.
    pub trace_id_label_name: String,
    /// Longest label name in bytes; 0: no limit.
    pub max_label_name_length: usize,
    /// Longest label value in bytes; 0: no limit.
    pub max_label_value_length: usize,
    /// A series not updated for this many seconds ends.
    pub stale_duration_s: f64,
    /// Most series of the tenant, overflow aside; 0: no limit.
    pub max_active_series: u64,
}

/// Settings of the span-metrics processor (processors §1).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Upper bounds in seconds, without +Inf.
    pub histogram_buckets: Vec<f64>,
    /// Attributes that become labels.
    pub dimensions: Vec<String>,
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
