//! A tenant's settings, compiled: which attributes to look at, which labels to build, which buckets to count in.

use crate::any_value::float_text;
use crate::error::PlanError;
use crate::labels::{
    SERVICE_GRAPH_RESERVED, SPAN_METRICS_RESERVED, put_label, sanitize, sanitize_protected, truncate,
};
use crate::settings::{ServiceGraphSettings, Settings, SpanMetricsSettings};
use crate::span::{KINDS, STATUS_CODES};
use crate::wire::put_varint;

/// Most buckets of a histogram: an exemplar's bucket must fit a byte.
const MAX_BUCKETS: usize = 100;

/// Compiled settings; immutable, shared by all threads.
#[derive(Debug)]
pub struct Plan {
    /// `None`: the processor is off.
    pub span_metrics: Option<SpanMetricsPlan>,
    /// `None`: the processor is off.
    pub service_graphs: Option<ServiceGraphPlan>,
    /// The attributes that any processor looks at.
    pub watch: Watch,
    /// Two-sided distance from now that a span's end may have.
    pub slack_ns: u64,
    /// Label of exemplars that carries the trace id.
    pub trace_id_label: String,
    /// Longest label value in bytes; 0: no limit.
    pub max_value_len: usize,
    /// A series not updated for this long ends.
    pub stale_ms: i64,
    /// Most series, overflow aside; 0: no limit.
    pub max_active_series: u64,
}

/// The attribute keys that a plan looks at, numbered in order of first mention.
#[derive(Debug)]
pub struct Watch {
    /// Keys by their length and outer bytes: most attributes meet an empty list and are passed over.
    by_outline: [Vec<(Vec<u8>, usize)>; OUTLINES],
    len: usize,
}

const OUTLINES: usize = 256;

/// How span metrics build a label set.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "one switch per metric")]
pub struct SpanMetricsPlan {
    /// Labels in ascending order of name; of equal names only the last configured is here.
    pub labels: Vec<SpanLabel>,
    /// Produce the calls counter.
    pub count: bool,
    /// Produce the latency histogram.
    pub latency: bool,
    /// Produce the size counter.
    pub size: bool,
    /// Latency buckets.
    pub bounds: Bounds,
}

/// One label of span metrics.
#[derive(Debug)]
pub struct SpanLabel {
    /// Sanitized, truncated name.
    pub name: Vec<u8>,
    /// Where its value comes from.
    pub source: LabelSource,
    /// The name as it begins the label in a canonical label set.
    pub encoded_name: Vec<u8>,
    /// The whole label for each value that is known beforehand: of kinds and status codes, by their number.
    pub encoded: Vec<Vec<u8>>,
}

impl SpanLabel {
    fn new(name: Vec<u8>, source: LabelSource, value_limit: usize) -> Self {
        let mut encoded_name = Vec::new();
        put_varint(&mut encoded_name, name.len() as u64);
        encoded_name.extend_from_slice(&name);
        let known: &[&str] = match source {
            LabelSource::SpanKind => &KINDS,
            LabelSource::StatusCode => &STATUS_CODES,
            _ => &[],
        };
        let encode = |text: &&str| {
            let mut label = Vec::new();
            put_label(&mut label, &name, truncate(text.as_bytes(), value_limit));
            label
        };
        Self {
            encoded: known.iter().map(encode).collect(),
            name,
            source,
            encoded_name,
        }
    }
}

/// Where a label's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelSource {
    /// `service.name` of the resource.
    Service,
    /// The span's name.
    SpanName,
    /// The span's kind.
    SpanKind,
    /// The span's status code.
    StatusCode,
    /// The span's status message.
    StatusMessage,
    /// The watched attribute of this number, resource first.
    Attribute(usize),
}

/// How service graphs read spans and build label sets.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "switches, named as in the settings")]
pub struct ServiceGraphPlan {
    /// Watched attributes that fill the dimension slots; without prefixes `virtual_node` is the last, when enabled.
    pub dimensions: Vec<usize>,
    /// Label names of the dimension slots; with prefixes first all client slots, then all server slots.
    pub dimension_labels: Vec<Vec<u8>>,
    /// Whether each side has dimension slots of its own.
    pub prefixed: bool,
    /// Label `virtual_node`, when enabled.
    pub virtual_node_label: Option<Vec<u8>>,
    /// Label names `client`, `server`, `connection_type`.
    pub side_labels: [Vec<u8>; 3],
    /// Watched attributes that name a peer.
    pub peers: Vec<usize>,
    /// Watched attributes that mark a database request.
    pub databases: Vec<usize>,
    /// `peer.service`, `server.address`, `network.peer.address`, `network.peer.port`.
    pub database_servers: [usize; 4],
    /// How long half an edge waits.
    pub wait_ns: u64,
    /// Most half edges that wait at once.
    pub max_items: usize,
    /// Produce the request counters.
    pub request: bool,
    /// Produce the latency histograms.
    pub latency: bool,
    /// Produce the messaging latency histogram.
    pub messaging: bool,
    /// Latency buckets.
    pub bounds: Bounds,
    /// Longest label value in bytes; 0: no limit.
    pub max_value_len: usize,
}

/// The upper bounds of a classic histogram, +Inf left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bounds {
    /// Seconds, ascending.
    pub seconds: Vec<f64>,
    /// The greatest number of nanoseconds that is still inside each bucket.
    nanoseconds: Vec<u64>,
}

/// `service.name` is the first watched attribute of every plan.
pub const SERVICE_NAME: usize = 0;

impl Plan {
    /// Compile `settings`; an error begins with the path of the setting.
    pub fn compile(settings: &Settings) -> Result<Self, PlanError> {
        let mut watch = Watch::default();
        watch.number("service.name");
        let (name_limit, value_limit) = (settings.max_label_name_length, settings.max_label_value_length);
        let span_metrics = settings
            .span_metrics
            .as_ref()
            .map(|processor| SpanMetricsPlan::compile(processor, name_limit, value_limit, &mut watch))
            .transpose()?;
        let service_graphs = settings
            .service_graphs
            .as_ref()
            .map(|processor| ServiceGraphPlan::compile(processor, name_limit, value_limit, &mut watch))
            .transpose()?;
        let slack_s = duration_s(
            "ingestion_time_range_slack_s",
            settings.ingestion_time_range_slack_s,
        )?;
        let stale_s = duration_s("stale_duration_s", settings.stale_duration_s)?;
        Ok(Self {
            span_metrics,
            service_graphs,
            watch,
            slack_ns: (slack_s * 1e9).round() as u64,
            trace_id_label: settings.trace_id_label_name.clone(),
            max_value_len: settings.max_label_value_length,
            stale_ms: (stale_s * 1e3).round() as i64,
            max_active_series: settings.max_active_series,
        })
    }
}

fn duration_s(path: &str, value: f64) -> Result<f64, PlanError> {
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(PlanError {
            path: path.to_owned(),
            message: format!("must be a number of seconds of at least 0, not {value}"),
        })
    }
}

impl Watch {
    fn number(&mut self, key: &str) -> usize {
        let key = key.as_bytes();
        if let Some(number) = self.find(key) {
            return number;
        }
        let number = self.len;
        self.len += 1;
        if let Some(keys) = self.by_outline.get_mut(outline(key)) {
            keys.push((key.to_vec(), number));
        }
        number
    }

    /// How many keys are watched.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is watched; never so for a compiled plan.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of `key`, if it is watched.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let keys = self.by_outline.get(outline(key))?;
        let (_, number) = keys.iter().find(|(watched, _)| watched == key)?;
        Some(*number)
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            by_outline: [const { Vec::new() }; OUTLINES],
            len: 0,
        }
    }
}

#[inline]
fn outline(key: &[u8]) -> usize {
    let outer = |byte: Option<&u8>| usize::from(byte.copied().unwrap_or_default());
    (key.len() * 37 + outer(key.first()) * 5 + outer(key.last())) % OUTLINES
}

fn label_name(name: &str, limit: usize) -> Vec<u8> {
    truncate(name.as_bytes(), limit).to_vec()
}

/// Labels that tell the series of one entity apart: an entity must not have them, or its series would be another's.
const SERIES_LABELS: [&[u8]; 2] = [b"__name__", b"le"];

fn dimension_name(path: &str, name: &str, limit: usize) -> Result<Vec<u8>, PlanError> {
    let label = label_name(name, limit);
    if label.is_empty() || SERIES_LABELS.contains(&label.as_slice()) {
        return Err(PlanError {
            path: path.to_owned(),
            message: format!("a dimension cannot become the label {name:?}"),
        });
    }
    Ok(label)
}

impl SpanMetricsPlan {
    fn compile(
        settings: &SpanMetricsSettings,
        name_limit: usize,
        value_limit: usize,
        watch: &mut Watch,
    ) -> Result<Self, PlanError> {
        let intrinsic = &settings.intrinsic_dimensions;
        let intrinsics = [
            (intrinsic.service, "service", LabelSource::Service),
            (intrinsic.span_name, "span_name", LabelSource::SpanName),
            (intrinsic.span_kind, "span_kind", LabelSource::SpanKind),
            (intrinsic.status_code, "status_code", LabelSource::StatusCode),
            (
                intrinsic.status_message,
                "status_message",
                LabelSource::StatusMessage,
            ),
        ];
        let mut added: Vec<SpanLabel> = Vec::new();
        let enabled = intrinsics.iter().filter(|(enabled, ..)| *enabled);
        for (_, name, source) in enabled {
            added.push(SpanLabel::new(label_name(name, name_limit), *source, value_limit));
        }
        for dimension in &settings.dimensions {
            let name = sanitize_protected(dimension, &SPAN_METRICS_RESERVED);
            let source = LabelSource::Attribute(watch.number(dimension));
            let name = dimension_name("span_metrics.dimensions", &name, name_limit)?;
            added.push(SpanLabel::new(name, source, value_limit));
        }
        // A stable sort by name, then the last of equal names: processors §0.5 step 2.
        let mut labels: Vec<SpanLabel> = Vec::new();
        added.sort_by(|a, b| a.name.cmp(&b.name));
        for label in added {
            match labels.last_mut() {
                Some(last) if last.name == label.name => *last = label,
                _ => labels.push(label),
            }
        }
        Ok(Self {
            labels,
            count: settings.count,
            latency: settings.latency,
            size: settings.size,
            bounds: Bounds::new("span_metrics.histogram_buckets", &settings.histogram_buckets)?,
        })
    }
}

impl ServiceGraphPlan {
    fn compile(
        settings: &ServiceGraphSettings,
        name_limit: usize,
        value_limit: usize,
        watch: &mut Watch,
    ) -> Result<Self, PlanError> {
        let prefixed = settings.enable_client_server_prefix;
        let prefixes: &[&str] = if prefixed { &["client_", "server_"] } else { &[""] };
        let mut dimension_labels = Vec::new();
        for prefix in prefixes {
            for dimension in &settings.dimensions {
                let name = sanitize(&format!("{prefix}{dimension}"));
                let name = sanitize_protected(&name, &SERVICE_GRAPH_RESERVED);
                dimension_labels.push(dimension_name("service_graphs.dimensions", &name, name_limit)?);
            }
        }
        let mut numbers =
            |keys: &[String]| -> Vec<usize> { keys.iter().map(|key| watch.number(key)).collect() };
        let mut dimensions = numbers(&settings.dimensions);
        if settings.enable_virtual_node_label && !prefixed {
            // Without prefixes the label is a dimension like any other: an attribute of its name fills it too.
            dimensions.extend(numbers(&["virtual_node".to_owned()]));
        }
        let peers = numbers(&settings.peer_attributes);
        let databases = numbers(&settings.database_name_attributes);
        let database_servers = [
            "peer.service",
            "server.address",
            "network.peer.address",
            "network.peer.port",
        ]
        .map(|key| watch.number(key));
        let wait_s = duration_s("service_graphs.wait_s", settings.wait_s)?;
        Ok(Self {
            dimensions,
            dimension_labels,
            prefixed,
            virtual_node_label: settings
                .enable_virtual_node_label
                .then(|| label_name("virtual_node", name_limit)),
            side_labels: ["client", "server", "connection_type"].map(|name| label_name(name, name_limit)),
            peers,
            databases,
            database_servers,
            wait_ns: (wait_s * 1e9).round() as u64,
            max_items: usize::try_from(settings.max_items).unwrap_or(usize::MAX),
            request: settings.request,
            latency: settings.latency,
            messaging: settings.enable_messaging_system_latency_histogram,
            bounds: Bounds::new("service_graphs.histogram_buckets", &settings.histogram_buckets)?,
            max_value_len: value_limit,
        })
    }
}

impl Bounds {
    /// Sort and check `seconds`; `path` names the setting in errors.
    pub fn new(path: &str, seconds: &[f64]) -> Result<Self, PlanError> {
        let refuse = |message: String| PlanError {
            path: path.to_owned(),
            message,
        };
        if seconds.len() > MAX_BUCKETS {
            return Err(refuse(format!(
                "at most {MAX_BUCKETS} buckets, not {}",
                seconds.len()
            )));
        }
        if let Some(bound) = seconds.iter().find(|bound| !bound.is_finite() || **bound <= 0.0) {
            return Err(refuse(format!("a bound must be finite and above 0, not {bound}")));
        }
        let mut seconds = seconds.to_vec();
        seconds.sort_by(f64::total_cmp);
        if let Some(pair) = seconds.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(refuse(format!("bounds must differ, {pair:?} repeat")));
        }
        let nanoseconds = seconds.iter().map(|bound| greatest_ns_within(*bound)).collect();
        Ok(Self { seconds, nanoseconds })
    }

    /// The bucket of an observation: the first whose bound is not below it, `seconds.len()` for +Inf.
    #[inline]
    pub fn bucket(&self, duration_ns: u64) -> usize {
        // Bounds are few: counting all of them costs less than a search that branches.
        self.nanoseconds
            .iter()
            .filter(|bound| duration_ns > **bound)
            .count()
    }

    /// How many buckets there are, +Inf included.
    pub fn buckets(&self) -> usize {
        self.seconds.len() + 1
    }

    /// The `le` text of each bucket, +Inf included.
    pub fn le_texts(&self) -> Vec<String> {
        let finite = self.seconds.iter().map(|bound| float_text(*bound));
        finite.chain(["+Inf".to_owned()]).collect()
    }
}

/// The greatest n with `n / 1e9 <= bound` in double arithmetic: what comparing seconds would let in.
fn greatest_ns_within(bound: f64) -> u64 {
    let fits = |ns: u64| ns as f64 / 1e9 <= bound;
    let (mut low, mut high) = (0u64, u64::MAX);
    if fits(high) {
        return high;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// The default settings of both processors, with a few fields replaced.
    fn settings(replace: &[(&str, serde_json::Value)]) -> Settings {
        let mut json = serde_json::json!({
            "span_metrics": {
                "count": true, "latency": true, "size": true,
                "histogram_buckets": [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
                                      2.048, 4.096, 8.192, 16.384],
                "intrinsic_dimensions": {"service": true, "span_name": true, "span_kind": true,
                                         "status_code": true, "status_message": false},
                "dimensions": []
            },
            "service_graphs": {
                "request": true, "latency": true,
                "histogram_buckets": [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8],
                "dimensions": [],
                "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
                "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
                "wait_s": 10.0, "max_items": 10000,
                "enable_client_server_prefix": false,
                "enable_messaging_system_latency_histogram": false,
                "enable_virtual_node_label": false
            },
            "ingestion_time_range_slack_s": 30.0,
            "trace_id_label_name": "traceID",
            "max_label_name_length": 1024,
            "max_label_value_length": 2048,
            "stale_duration_s": 900.0,
            "max_active_series": 0
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
        let bad = settings(&[("/service_graphs/histogram_buckets", serde_json::json!([1.0, 1.0]))]);
        assert_eq!(
            Plan::compile(&bad).unwrap_err().path,
            "service_graphs.histogram_buckets"
        );
    }

    #[test]
    fn of_equal_label_names_the_last_configured_is_kept() {
        let settings = settings(&[(
            "/span_metrics/dimensions",
            serde_json::json!(["a.b", "a_b", "span.kind"]),
        )]);
        let plan = Plan::compile(&settings).unwrap();
        let labels = &plan.span_metrics.as_ref().unwrap().labels;
        let names: Vec<_> = labels
            .iter()
            .map(|label| String::from_utf8_lossy(&label.name))
            .collect();
        assert_eq!(
            names,
            [
                "__span_kind",
                "a_b",
                "service",
                "span_kind",
                "span_name",
                "status_code"
            ]
        );
        assert_eq!(
            labels[1].source,
            LabelSource::Attribute(plan.watch.find(b"a_b").unwrap())
        );
    }

    #[test]
    fn buckets_include_their_upper_bound() {
        let bounds = Bounds::new("", &[1.0, 0.002, 0.1]).unwrap();
        assert_eq!(bounds.le_texts(), ["0.002", "0.1", "1", "+Inf"]);
        let cases = [
            (0, 0),
            (2_000_000, 0),
            (2_000_001, 1),
            (100_000_000, 1),
            (1_000_000_000, 2),
            (1_000_000_001, 3),
            (u64::MAX, 3),
        ];
        for (ns, bucket) in cases {
            assert_eq!(bounds.bucket(ns), bucket, "{ns}");
        }
    }
}
