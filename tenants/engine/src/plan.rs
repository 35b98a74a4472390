//! A tenant's settings, compiled: which attributes to look at, which labels to build, which buckets to count in.

use std::sync::Arc;

use crate::error::PlanError;
use crate::info_plan::{HostInfoPlan, TargetInfoPlan};
use crate::labels::truncate;
use crate::native_schema::{BucketFinder, Schema};
use crate::service_graph_plan::ServiceGraphPlan;
use crate::settings::{HistogramMode, HistogramSettings, LimiterType, Settings, SpanNameSanitization};
use crate::span_metrics_plan::SpanMetricsPlan;
use crate::watch::Watch;
use crate::workspace::SharedWorkspace;

/// Compiled settings; immutable, shared by all threads.
#[derive(Debug)]
pub struct Plan {
    /// `None`: the processor is off.
    pub span_metrics: Option<SpanMetricsPlan>,
    /// `None`: the processor is off.
    pub service_graphs: Option<ServiceGraphPlan>,
    /// `None`: the processor is off.
    pub host_info: Option<HostInfoPlan>,
    /// Both processors have the same filter: one decision serves both.
    pub shares_filter: bool,
    /// Form of all histograms.
    pub histograms: HistogramPlan,
    /// The attributes that any processor looks at.
    pub watch: Watch,
    /// Two-sided distance from now that a span's end may have.
    pub slack_ns: u64,
    /// Label of exemplars that carries the trace id.
    pub trace_id_label: String,
    /// Longest label value in bytes; 0: no limit.
    pub max_value_len: usize,
    /// Longest key and longest string value of an attribute in bytes; `usize::MAX`: no limit.
    pub max_attribute_len: usize,
    /// A series not updated for this long ends.
    pub stale_ms: i64,
    /// How often an info metric is passed on: once a second, and at least a hundred times within the stale duration. Whoever
    /// has not heard of new settings yet, or was restarted, misses one telling.
    pub tell_every_ns: u64,
    /// What the registry admits.
    pub limits: Limits,
    /// What the registry does to span names.
    pub sanitization: SpanNameSanitization,
    /// What requests of this plan leave for each other.
    pub workspace: SharedWorkspace,
}

/// In which form histograms are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramPlan {
    /// Classic, native or both.
    pub mode: HistogramMode,
    /// Native buckets.
    pub finder: Arc<BucketFinder>,
    /// Most native buckets of a series.
    pub max_buckets: usize,
    /// How long a native histogram keeps a reduced resolution; 0: for ever.
    pub min_reset_ms: i64,
}

impl HistogramPlan {
    /// Whether native histograms are produced.
    pub fn has_native(&self) -> bool {
        self.mode != HistogramMode::Classic
    }

    /// Whether classic histograms are produced.
    pub fn has_classic(&self) -> bool {
        self.mode != HistogramMode::Native
    }

    fn compile(settings: &HistogramSettings) -> Result<Self, PlanError> {
        let refuse = |path: &str, message: String| PlanError {
            path: format!("histograms.{path}"),
            message,
        };
        let schema = Schema::from_factor(settings.native_bucket_factor).ok_or_else(|| {
            let factor = settings.native_bucket_factor;
            refuse("native_bucket_factor", format!("must be above 1, not {factor}"))
        })?;
        if settings.native_max_buckets == 0 {
            return Err(refuse(
                "native_max_buckets",
                "must be at least 1, not 0".to_owned(),
            ));
        }
        let min_reset_s = duration_s(
            "histograms.native_min_reset_duration_s",
            settings.native_min_reset_duration_s,
        )?;
        Ok(Self {
            mode: settings.mode,
            finder: Arc::new(BucketFinder::new(schema)),
            max_buckets: settings.native_max_buckets as usize,
            min_reset_ms: (min_reset_s * 1e3).round() as i64,
        })
    }
}

/// What the registry admits (processors §4.7, §4.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Which of the two limits is in force.
    pub limiter_type: LimiterType,
    /// Most series, overflow aside; 0: no limit.
    pub max_active_series: u64,
    /// Most entities, overflow aside; 0: no limit.
    pub max_active_entities: u64,
    /// Most values of a label; 0: no limit.
    pub max_cardinality_per_label: u64,
}

/// The settings that all processors share.
#[derive(Debug, Clone, Copy)]
pub struct Common {
    /// Longest label name in bytes; 0: no limit.
    pub name_limit: usize,
    /// Longest label value in bytes; 0: no limit.
    pub value_limit: usize,
}

impl Plan {
    /// Compile `settings`; an error begins with the path of the setting.
    pub fn compile(settings: &Settings) -> Result<Self, PlanError> {
        let mut watch = Watch::default();
        let common = Common {
            name_limit: settings.max_label_name_length,
            value_limit: settings.max_label_value_length,
        };
        let span_metrics = settings
            .span_metrics
            .as_ref()
            .map(|processor| SpanMetricsPlan::compile(processor, common, &mut watch))
            .transpose()?;
        let service_graphs = settings
            .service_graphs
            .as_ref()
            .map(|processor| ServiceGraphPlan::compile(processor, common, &mut watch))
            .transpose()?;
        let host_info = settings
            .host_info
            .as_ref()
            .map(|processor| HostInfoPlan::compile(processor, common, &mut watch))
            .transpose()?;
        let slack_s = duration_s(
            "ingestion_time_range_slack_s",
            settings.ingestion_time_range_slack_s,
        )?;
        let stale_s = duration_s("stale_duration_s", settings.stale_duration_s)?;
        Ok(Self {
            span_metrics,
            service_graphs,
            host_info,
            shares_filter: shares_filter(settings),
            histograms: HistogramPlan::compile(&settings.histograms)?,
            watch,
            slack_ns: (slack_s * 1e9).round() as u64,
            trace_id_label: settings.trace_id_label_name.clone(),
            max_value_len: settings.max_label_value_length,
            max_attribute_len: match settings.max_attribute_bytes {
                0 => usize::MAX,
                limit => limit,
            },
            stale_ms: (stale_s * 1e3).round() as i64,
            tell_every_ns: (stale_s * 1e7).min(1e9).round() as u64,
            limits: Limits {
                limiter_type: settings.limiter_type,
                max_active_series: settings.max_active_series,
                max_active_entities: settings.max_active_entities,
                max_cardinality_per_label: settings.max_cardinality_per_label,
            },
            sanitization: settings.span_name_sanitization,
            workspace: SharedWorkspace::default(),
        })
    }

    /// How target info is built; `None`: it is off.
    pub fn target_info(&self) -> Option<&TargetInfoPlan> {
        self.span_metrics.as_ref()?.target_info.as_ref()
    }

    /// How many processors are on.
    pub fn active_processors(&self) -> u64 {
        u64::from(self.span_metrics.is_some())
            + u64::from(self.service_graphs.is_some())
            + u64::from(self.host_info.is_some())
    }
}

fn shares_filter(settings: &Settings) -> bool {
    let spans = settings.span_metrics.as_ref();
    let graph = settings.service_graphs.as_ref();
    spans.map(|processor| (&processor.filter_policies, processor.enable_strict_filter_types))
        == graph.map(|processor| (&processor.filter_policies, processor.enable_strict_filter_types))
}

/// A number of seconds, if it is one.
pub fn duration_s(path: &str, value: f64) -> Result<f64, PlanError> {
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(PlanError {
            path: path.to_owned(),
            message: format!("must be a number of seconds of at least 0, not {value}"),
        })
    }
}

/// A label name, cut.
pub fn label_name(name: &str, limit: usize) -> Vec<u8> {
    truncate(name.as_bytes(), limit).to_vec()
}

/// Labels that tell the series of one entity apart: an entity must not have them, or its series would be another's.
pub const SERIES_LABELS: [&[u8]; 2] = [b"__name__", b"le"];

/// The label of a dimension, cut; refused if no entity may have it.
pub fn dimension_name(path: &str, name: &str, limit: usize) -> Result<Vec<u8>, PlanError> {
    let label = label_name(name, limit);
    if label.is_empty() || SERIES_LABELS.contains(&label.as_slice()) {
        return Err(PlanError {
            path: path.to_owned(),
            message: format!("a dimension cannot become the label {name:?}"),
        });
    }
    Ok(label)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// The default settings of both processors, with a few fields replaced.
    pub fn settings(replace: &[(&str, serde_json::Value)]) -> Settings {
        let mut json = serde_json::json!({
            "span_metrics": {
                "count": true, "latency": true, "size": true,
                "histogram_buckets": [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
                                      2.048, 4.096, 8.192, 16.384],
                "intrinsic_dimensions": {"service": true, "span_name": true, "span_kind": true,
                                         "status_code": true, "status_message": false},
                "dimensions": [], "dimension_mappings": [], "filter_policies": [],
                "enable_target_info": false, "enable_instance_label": true,
                "target_info_excluded_dimensions": [],
                "span_multiplier_key": "", "enable_tracestate_span_multiplier": false,
                "keep_colliding_dimensions": false, "enable_strict_filter_types": false
            },
            "service_graphs": {
                "request": true, "latency": true, "connection_info": false,
                "histogram_buckets": [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8],
                "dimensions": [], "filter_policies": [],
                "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
                "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
                "wait_s": 10.0, "max_items": 10000,
                "enable_client_server_prefix": false,
                "enable_messaging_system_latency_histogram": false,
                "enable_virtual_node_label": false,
                "span_multiplier_key": "", "enable_tracestate_span_multiplier": false,
                "keep_colliding_dimensions": false, "enable_strict_filter_types": false,
                "pair_database_spans": false, "count_every_receiver": false,
                "enable_virtual_node_latency": true, "zero_parent_id_is_root": false
            },
            "host_info": null,
            "histograms": {"mode": "classic", "native_bucket_factor": 1.1, "native_max_buckets": 100,
                           "native_min_reset_duration_s": 900.0},
            "ingestion_time_range_slack_s": 30.0,
            "trace_id_label_name": "traceID",
            "max_label_name_length": 1024,
            "max_label_value_length": 2048,
            "max_attribute_bytes": 0,
            "stale_duration_s": 900.0,
            "limiter_type": "series",
            "max_active_series": 0,
            "max_active_entities": 0,
            "max_cardinality_per_label": 0,
            "span_name_sanitization": ""
        });
        for (path, value) in replace {
            *json.pointer_mut(path).unwrap() = value.clone();
        }
        Settings::from_json(&json.to_string()).unwrap()
    }

    #[test]
    fn a_bad_setting_is_refused_with_its_path() {
        let error = Settings::from_json(r#"{"span_metrics": {"count": 1}}"#).unwrap_err();
        assert_eq!(error.path, "span_metrics.count");
        let cases = [
            (
                "/service_graphs/histogram_buckets",
                serde_json::json!([1.0, 1.0]),
                "service_graphs.histogram_buckets",
            ),
            (
                "/service_graphs/dimensions",
                serde_json::json!(["le"]),
                "service_graphs.dimensions",
            ),
            (
                "/span_metrics/dimensions",
                serde_json::json!([""]),
                "span_metrics.dimensions",
            ),
            (
                "/histograms/native_bucket_factor",
                serde_json::json!(1.0),
                "histograms.native_bucket_factor",
            ),
            (
                "/histograms/native_max_buckets",
                serde_json::json!(0),
                "histograms.native_max_buckets",
            ),
            ("/stale_duration_s", serde_json::json!(-1.0), "stale_duration_s"),
        ];
        for (pointer, value, path) in cases {
            let error = Plan::compile(&settings(&[(pointer, value)])).unwrap_err();
            assert_eq!(error.path, path);
        }
    }
}
