import json

import pytest

from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.plan import plan_json
from tenants.settings import Overrides, ServiceConfig, TenantSettings, parse_service_config, resolve
from tenants.settings.in_force import OverridesInForce
from tenants.settings.model import validate
from tests.overrides_in_force import in_force


def settings(generator: dict[str, object], config: str = "") -> TenantSettings:
    entry = validate(Overrides, {"metrics_generator": generator})
    return resolve(parse_service_config(config.encode(), {}), in_force({"acme": entry}), TenantId("acme"))


BUILT_IN = {
    "span_metrics": {
        "count": True,
        "latency": True,
        "size": True,
        "histogram_buckets": [
            *(0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128),
            *(0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384),
        ],
        "intrinsic_dimensions": {
            "service": True,
            "span_name": True,
            "span_kind": True,
            "status_code": True,
            "status_message": False,
        },
        "dimensions": [],
        "dimension_mappings": [],
        "filter_policies": [],
        "enable_target_info": False,
        "enable_instance_label": True,
        "target_info_excluded_dimensions": [],
        "span_multiplier_key": "",
        "enable_tracestate_span_multiplier": False,
        "keep_colliding_dimensions": False,
        "enable_strict_filter_types": False,
    },
    "service_graphs": {
        "request": True,
        "latency": True,
        "connection_info": False,
        "histogram_buckets": [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8],
        "dimensions": [],
        "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
        "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
        "wait_s": 10.0,
        "max_items": 10000,
        "enable_client_server_prefix": False,
        "enable_messaging_system_latency_histogram": False,
        "enable_virtual_node_label": False,
        "filter_policies": [],
        "span_multiplier_key": "",
        "enable_tracestate_span_multiplier": False,
        "keep_colliding_dimensions": False,
        "enable_strict_filter_types": False,
        "pair_database_spans": False,
        "count_every_receiver": False,
        "enable_virtual_node_latency": True,
        "zero_parent_id_is_root": False,
    },
    "host_info": {"host_identifiers": ["k8s.node.name", "host.id"], "metric_name": "traces_host_info"},
    "histograms": {
        "mode": "classic",
        "native_bucket_factor": 1.1,
        "native_max_buckets": 100,
        "native_min_reset_duration_s": 900.0,
    },
    "ingestion_time_range_slack_s": 30.0,
    "trace_id_label_name": "traceID",
    "max_label_name_length": 1024,
    "max_label_value_length": 2048,
    "max_attribute_bytes": 2048,
    "stale_duration_s": 900.0,
    "limiter_type": "series",
    "max_active_series": 0,
    "max_active_entities": 0,
    "max_cardinality_per_label": 0,
    "span_name_sanitization": "",
}
ALL = ["span-metrics", "service-graphs", "host-info"]


def test_built_in_settings_give_the_documented_plan() -> None:
    assert json.loads(plan_json(settings({"processors": ALL}))) == BUILT_IN


def test_processor_that_is_not_listed_is_null() -> None:
    assert json.loads(plan_json(resolve(ServiceConfig(), OverridesInForce(), TenantId("acme")))) == BUILT_IN | {
        "span_metrics": None,
        "service_graphs": None,
        "host_info": None,
    }
    assert json.loads(plan_json(settings({"processors": ["span-metrics"]})))["service_graphs"] is None
    assert json.loads(plan_json(settings({"processors": ["service-graphs"]})))["span_metrics"] is None


POLICY = {
    "include": {
        "match_type": "strict",
        "attributes": [
            {"key": "kind", "value": "SPAN_KIND_SERVER"},
            {"key": "span.i", "value": 1},
            {"key": "span.f", "value": 1.0},
            {"key": "span.b", "value": True},
        ],
    },
    "exclude": {"match_type": "regex", "attributes": [{"key": 'span."a b"', "value": "^é$"}]},
}


STATIC = """
ingestion: {max_attribute_bytes: 300}
metrics_generator:
  limiter_type: entity
  registry: {max_label_name_length: 5, max_label_value_length: 6, stale_duration: 1m}
  processor: {service_graphs: {wait: 1500ms, database_name_attributes: [d]}}
"""
EVERY_SETTING: dict[str, object] = {
    "processors": ["span-metrics-latency", "service-graphs-request", "service-graphs-connection-info", "host-info"],
    "max_active_series": 7,
    "max_active_entities": 8,
    "max_cardinality_per_label": 2**64 - 1,
    "span_name_sanitization": "dry_run",
    "generate_native_histograms": "both",
    "native_histogram_bucket_factor": 2,
    "native_histogram_max_bucket_number": 20,
    "native_histogram_min_reset_duration": "250ms",
    "disable_collection": True,
    "trace_id_label_name": "trace_id",
    "ingestion_time_range_slack": "250ms",
    "processor": {
        "span_metrics": {
            "histogram_buckets": [1, 2],
            "dimensions": ["größe", 'a"b'],
            "intrinsic_dimensions": {"span_kind": False, "status_message": True},
            "dimension_mappings": [
                {"name": "m.n", "source_labels": ["b", "a"], "join": "/"},
                {"name": "o", "source_labels": ["c"]},
            ],
            "filter_policies": [POLICY],
            "enable_target_info": True,
            "enable_instance_label": False,
            "target_info_excluded_dimensions": ["t"],
            "span_multiplier_key": "k",
            "enable_tracestate_span_multiplier": True,
            "keep_colliding_dimensions": True,
            "enable_strict_filter_types": True,
        },
        "service_graphs": {
            "histogram_buckets": [],
            "dimensions": ["x"],
            "peer_attributes": ["p"],
            "enable_client_server_prefix": True,
            "enable_messaging_system_latency_histogram": True,
            "enable_virtual_node_label": True,
            "filter_policies": [POLICY, POLICY],
            "span_multiplier_key": "l",
            "enable_tracestate_span_multiplier": True,
            "keep_colliding_dimensions": True,
            "enable_strict_filter_types": True,
            "pair_database_spans": True,
            "count_every_receiver": True,
            "enable_virtual_node_latency": False,
            "zero_parent_id_is_root": True,
        },
        "host_info": {"host_identifiers": ["h"], "metric_name": "hosts"},
    },
}


def test_every_setting_reaches_the_plan() -> None:
    assert json.loads(plan_json(settings(EVERY_SETTING, STATIC))) == {
        "span_metrics": {
            "count": False,
            "latency": True,
            "size": False,
            "histogram_buckets": [1.0, 2.0],
            "intrinsic_dimensions": {
                "service": True,
                "span_name": True,
                "span_kind": False,
                "status_code": True,
                "status_message": True,
            },
            "dimensions": ["größe", 'a"b'],
            "dimension_mappings": [
                {"name": "m.n", "source_labels": ["b", "a"], "join": "/"},
                {"name": "o", "source_labels": ["c"], "join": ""},
            ],
            "filter_policies": [POLICY],
            "enable_target_info": True,
            "enable_instance_label": False,
            "target_info_excluded_dimensions": ["t"],
            "span_multiplier_key": "k",
            "enable_tracestate_span_multiplier": True,
            "keep_colliding_dimensions": True,
            "enable_strict_filter_types": True,
        },
        "service_graphs": {
            "request": True,
            "latency": False,
            "connection_info": True,
            "histogram_buckets": [],
            "dimensions": ["x"],
            "peer_attributes": ["p"],
            "database_name_attributes": ["d"],
            "wait_s": 1.5,
            "max_items": 10000,
            "enable_client_server_prefix": True,
            "enable_messaging_system_latency_histogram": True,
            "enable_virtual_node_label": True,
            "filter_policies": [POLICY, POLICY],
            "span_multiplier_key": "l",
            "enable_tracestate_span_multiplier": True,
            "keep_colliding_dimensions": True,
            "enable_strict_filter_types": True,
            "pair_database_spans": True,
            "count_every_receiver": True,
            "enable_virtual_node_latency": False,
            "zero_parent_id_is_root": True,
        },
        "host_info": {"host_identifiers": ["h"], "metric_name": "hosts"},
        "histograms": {
            "mode": "both",
            "native_bucket_factor": 2.0,
            "native_max_buckets": 20,
            "native_min_reset_duration_s": 0.25,
        },
        "ingestion_time_range_slack_s": 0.25,
        "trace_id_label_name": "trace_id",
        "max_label_name_length": 5,
        "max_label_value_length": 6,
        "max_attribute_bytes": 300,
        "stale_duration_s": 60.0,
        "limiter_type": "entity",
        "max_active_series": 7,
        "max_active_entities": 8,
        "max_cardinality_per_label": 2**64 - 1,
        "span_name_sanitization": "dry_run",
    }


@pytest.mark.parametrize(("shards", "expected"), [(1, 10), (2, 5), (3, 4), (10, 1), (64, 1)])
def test_room_for_half_edges_is_divided_by_shards_and_rounded_up(shards: int, expected: int) -> None:
    config = "metrics_generator: {processor: {service_graphs: {max_items: 10}}}"
    plan = json.loads(plan_json(settings({"processors": ["service-graphs"], "shards": shards}, config)))
    assert plan["service_graphs"]["max_items"] == expected


def test_seconds_and_buckets_are_written_as_floats() -> None:
    text = plan_json(
        settings({"processors": ["span-metrics"], "processor": {"span_metrics": {"histogram_buckets": [1]}}})
    )
    assert '"histogram_buckets":[1.0]' in text
    assert '"stale_duration_s":900.0' in text


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1.0"), (True, "true"), ("1", '"1"'), (0, "0"), (1e22, "1e+22")]
)
def test_filter_values_are_written_with_their_type(value: object, text: str) -> None:
    block = {"match_type": "strict", "attributes": [{"key": "span.x", "value": value}]}
    processor = {"span_metrics": {"filter_policies": [{"include": block}]}}
    plan = plan_json(settings({"processors": ["span-metrics"], "processor": processor}))
    assert (
        f'"filter_policies":[{{"include":{{"match_type":"strict","attributes":[{{"key":"span.x","value":{text}}}]}}}}]'
        in plan
    )


def test_what_is_written_or_sent_only_is_not_in_the_plan() -> None:
    generator: dict[str, object] = {"processors": ALL}
    sent = {"disable_collection": True, "collection_interval": "30s", "remote_write": [{"url": "http://h/"}]}
    assert plan_json(settings(generator | sent)) == plan_json(settings(generator))


def test_engine_takes_the_plan_of_every_setting() -> None:
    assert _engine.Plan(plan_json(settings({"processors": ALL})))
    assert _engine.Plan(plan_json(settings(EVERY_SETTING, STATIC)))


def test_plans_of_equal_settings_are_equal_text() -> None:
    generator: dict[str, object] = {"processors": ["service-graphs", "span-metrics"]}
    assert plan_json(settings(generator)) == plan_json(settings({"processors": ["span-metrics", "service-graphs"]}))


def test_no_secret_is_in_a_plan() -> None:
    generator: dict[str, object] = {
        "processors": ["span-metrics"],
        "remote_write_headers": {"Authorization": "s3cr3t"},
        "remote_write": [{"url": "http://h/", "headers": {"X-Key": "s3cr3t"}}],
    }
    assert "s3cr3t" not in plan_json(settings(generator))
