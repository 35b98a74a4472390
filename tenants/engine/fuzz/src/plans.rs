//! Settings that together switch everything on, off and to its limits.

use std::sync::{Arc, OnceLock};

use millrace_engine::plan::Plan;
use millrace_engine::settings::Settings;
use serde_json::{Value, json};

/// How many plans there are.
pub const PLANS: usize = 7;

/// Keys that are watched by some plan: a request that uses no others never gets to the end.
pub const KEYS: [&str; 25] = [
    "service.name",
    "service.namespace",
    "service.instance.id",
    "host.id",
    "k8s.node.uid",
    "peer.service",
    "db.name",
    "db.system",
    "db.namespace",
    "server.address",
    "network.peer.address",
    "network.peer.port",
    "sampling.ratio",
    "http.method",
    "http_method",
    "http.status",
    "region",
    "virtual_node",
    "client",
    "job",
    "instance",
    "le",
    "excluded",
    "other",
    "metric_overflow",
];

/// The settings that a service starts with: both processors, no limits.
pub fn document() -> Value {
    json!({
        "span_metrics": {
            "count": true, "latency": true, "size": true,
            "histogram_buckets": [0.002, 0.016, 0.128, 1.024, 8.192],
            "intrinsic_dimensions": {"service": true, "span_name": true, "span_kind": true, "status_code": true,
                                     "status_message": false},
            "dimensions": [], "dimension_mappings": [], "filter_policies": [],
            "enable_target_info": false, "enable_instance_label": true, "target_info_excluded_dimensions": [],
            "span_multiplier_key": "", "enable_tracestate_span_multiplier": false,
            "keep_colliding_dimensions": false, "enable_strict_filter_types": false
        },
        "service_graphs": {
            "request": true, "latency": true, "connection_info": false,
            "histogram_buckets": [0.1, 0.4, 1.6, 6.4],
            "dimensions": [], "filter_policies": [],
            "peer_attributes": ["peer.service", "db.name", "db.system"],
            "database_name_attributes": ["db.namespace", "db.name", "db.system"],
            "wait_s": 10.0, "max_items": 10000,
            "enable_client_server_prefix": false, "enable_messaging_system_latency_histogram": false,
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
        "max_attribute_bytes": 2048,
        "stale_duration_s": 900.0,
        "limiter_type": "series",
        "max_active_series": 0, "max_active_entities": 0, "max_cardinality_per_label": 0,
        "span_name_sanitization": ""
    })
}

/// [`document`] with the values at some pointers replaced.
fn replaced(replacements: &[(&str, Value)]) -> Value {
    let mut json = document();
    for (pointer, value) in replacements {
        let slot = json.pointer_mut(pointer).expect("a key of the document");
        *slot = value.clone();
    }
    json
}

fn policies() -> Value {
    json!([
        {"exclude": {"match_type": "strict", "attributes": [{"key": "resource.region", "value": "moon"}]}},
        {"include": {"match_type": "regex", "attributes": [{"key": "name", "value": "^(GET|POST|op|[^x])"}]},
         "include_any": {"match_type": "strict", "attributes": [{"key": "kind", "value": "SPAN_KIND_SERVER"},
                                                               {"key": "span.http.status", "value": 200}]}}
    ])
}

/// The settings of every plan.
pub fn documents() -> [Value; PLANS] {
    [
        document(),
        everything_on(),
        // Regular expressions, native histograms only, texts of any length.
        replaced(&[
            ("/span_metrics/filter_policies", policies()),
            ("/span_metrics/enable_strict_filter_types", json!(true)),
            ("/service_graphs/filter_policies", policies()),
            ("/histograms/mode", json!("native")),
            ("/histograms/native_max_buckets", json!(2)),
            ("/histograms/native_min_reset_duration_s", json!(0.0)),
            ("/max_label_value_length", json!(0)),
            ("/max_attribute_bytes", json!(0)),
            ("/ingestion_time_range_slack_s", json!(1e10)),
        ]),
        // Limits that are reached at once.
        replaced(&[
            ("/limiter_type", json!("entity")),
            ("/max_active_entities", json!(2)),
            ("/max_cardinality_per_label", json!(1)),
            ("/span_name_sanitization", json!("dry_run")),
            ("/span_metrics/enable_target_info", json!(true)),
            ("/service_graphs/max_items", json!(2)),
            ("/max_label_value_length", json!(5)),
            ("/max_attribute_bytes", json!(7)),
            ("/max_label_name_length", json!(4)),
        ]),
        // Every receiver counts; roots with an all-zero parent; only one side of virtual edges.
        replaced(&[
            ("/service_graphs/count_every_receiver", json!(true)),
            ("/service_graphs/zero_parent_id_is_root", json!(true)),
            ("/service_graphs/enable_virtual_node_latency", json!(false)),
            ("/service_graphs/enable_virtual_node_label", json!(true)),
            (
                "/service_graphs/dimensions",
                json!(["region", "client", "virtual_node"]),
            ),
            ("/service_graphs/wait_s", json!(0.0)),
            ("/span_metrics", json!(null)),
            (
                "/host_info",
                json!({"host_identifiers": ["host.id"], "metric_name": "traces_host_info"}),
            ),
            ("/ingestion_time_range_slack_s", json!(1e10)),
        ]),
        replaced(&[
            ("/service_graphs", json!(null)),
            (
                "/span_metrics/dimensions",
                json!(["http.method", "http_method", "region"]),
            ),
            ("/span_metrics/keep_colliding_dimensions", json!(true)),
            ("/span_metrics/intrinsic_dimensions/status_message", json!(true)),
            ("/max_active_series", json!(12)),
            ("/stale_duration_s", json!(0.0)),
        ]),
        // The label set of overflow is one that the tenant makes itself.
        replaced(&[
            ("/service_graphs", json!(null)),
            ("/span_metrics/intrinsic_dimensions/service", json!(false)),
            ("/span_metrics/intrinsic_dimensions/span_name", json!(false)),
            ("/span_metrics/intrinsic_dimensions/span_kind", json!(false)),
            ("/span_metrics/intrinsic_dimensions/status_code", json!(false)),
            ("/span_metrics/dimensions", json!(["metric_overflow", "region"])),
            ("/histograms/mode", json!("native")),
            ("/max_active_series", json!(6)),
            ("/ingestion_time_range_slack_s", json!(1e10)),
        ]),
    ]
}

fn everything_on() -> Value {
    let mapping = json!({"name": "where", "source_labels": ["region", "host.id"], "join": "/"});
    replaced(&[
        ("/span_metrics/dimensions", json!(["http.method", "client"])),
        ("/span_metrics/dimension_mappings", json!([mapping])),
        ("/span_metrics/filter_policies", policies()),
        ("/span_metrics/enable_target_info", json!(true)),
        (
            "/span_metrics/target_info_excluded_dimensions",
            json!(["excluded"]),
        ),
        ("/span_metrics/span_multiplier_key", json!("sampling.ratio")),
        ("/span_metrics/enable_tracestate_span_multiplier", json!(true)),
        ("/service_graphs/connection_info", json!(true)),
        ("/service_graphs/dimensions", json!(["region", "http.method"])),
        ("/service_graphs/filter_policies", policies()),
        ("/service_graphs/enable_client_server_prefix", json!(true)),
        (
            "/service_graphs/enable_messaging_system_latency_histogram",
            json!(true),
        ),
        ("/service_graphs/enable_virtual_node_label", json!(true)),
        ("/service_graphs/span_multiplier_key", json!("sampling.ratio")),
        ("/service_graphs/enable_tracestate_span_multiplier", json!(true)),
        ("/service_graphs/keep_colliding_dimensions", json!(true)),
        ("/service_graphs/pair_database_spans", json!(true)),
        (
            "/host_info",
            json!({"host_identifiers": ["k8s.node.uid", "host.id"], "metric_name": "hosts"}),
        ),
        ("/histograms/mode", json!("both")),
        ("/histograms/native_max_buckets", json!(4)),
        ("/histograms/native_min_reset_duration_s", json!(1.0)),
        ("/span_name_sanitization", json!("enabled")),
        ("/max_cardinality_per_label", json!(3)),
        ("/max_active_series", json!(300)),
    ])
}

/// The plan that a byte chooses. What earlier inputs left in its workspace is dropped.
pub fn plan(number: u8) -> Arc<Plan> {
    static COMPILED: OnceLock<Vec<Arc<Plan>>> = OnceLock::new();
    let plans = COMPILED.get_or_init(|| {
        let compile = |document: Value| {
            let settings = Settings::from_json(&document.to_string()).expect("a complete document");
            Arc::new(Plan::compile(&settings).expect("settings in order"))
        };
        documents().into_iter().map(compile).collect()
    });
    let plan = &plans[usize::from(number) % PLANS];
    drop(plan.workspace.take(1));
    Arc::clone(plan)
}
