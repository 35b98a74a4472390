import json

import pytest

from tenants.identity import TenantId
from tenants.processing.plan import plan_json
from tenants.settings import Overrides, ServiceConfig, TenantSettings, parse_service_config, resolve
from tenants.settings.model import validate


def settings(generator: dict[str, object], config: str = "") -> TenantSettings:
    entry = validate(Overrides, {"metrics_generator": generator})
    return resolve(parse_service_config(config.encode(), {}), {"acme": entry}, TenantId("acme"))


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
    },
    "service_graphs": {
        "request": True,
        "latency": True,
        "histogram_buckets": [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8],
        "dimensions": [],
        "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
        "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
        "wait_s": 10.0,
        "max_items": 10000,
        "enable_client_server_prefix": False,
        "enable_messaging_system_latency_histogram": False,
        "enable_virtual_node_label": False,
    },
    "ingestion_time_range_slack_s": 30.0,
    "trace_id_label_name": "traceID",
    "max_label_name_length": 1024,
    "max_label_value_length": 2048,
    "stale_duration_s": 900.0,
    "max_active_series": 0,
}


def test_built_in_settings_give_the_documented_plan() -> None:
    assert json.loads(plan_json(settings({"processors": ["span-metrics", "service-graphs"]}))) == BUILT_IN


def test_processor_that_is_not_listed_is_null() -> None:
    assert json.loads(plan_json(resolve(ServiceConfig(), {}, TenantId("acme")))) == BUILT_IN | {
        "span_metrics": None,
        "service_graphs": None,
    }
    assert json.loads(plan_json(settings({"processors": ["span-metrics"]})))["service_graphs"] is None
    assert json.loads(plan_json(settings({"processors": ["service-graphs"]})))["span_metrics"] is None


def test_every_setting_reaches_the_plan() -> None:
    config = """
metrics_generator:
  registry: {max_label_name_length: 5, max_label_value_length: 6, stale_duration: 1m}
  processor: {service_graphs: {wait: 1500ms, database_name_attributes: [d]}}
"""
    generator: dict[str, object] = {
        "processors": ["span-metrics-latency", "service-graphs-request"],
        "max_active_series": 7,
        "trace_id_label_name": "trace_id",
        "ingestion_time_range_slack": "250ms",
        "processor": {
            "span_metrics": {
                "histogram_buckets": [1, 2],
                "dimensions": ["größe", 'a"b'],
                "intrinsic_dimensions": {"span_kind": False, "status_message": True},
            },
            "service_graphs": {
                "histogram_buckets": [],
                "dimensions": ["x"],
                "peer_attributes": ["p"],
                "enable_client_server_prefix": True,
                "enable_messaging_system_latency_histogram": True,
                "enable_virtual_node_label": True,
            },
        },
    }
    assert json.loads(plan_json(settings(generator, config))) == {
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
        },
        "service_graphs": {
            "request": True,
            "latency": False,
            "histogram_buckets": [],
            "dimensions": ["x"],
            "peer_attributes": ["p"],
            "database_name_attributes": ["d"],
            "wait_s": 1.5,
            "max_items": 10000,
            "enable_client_server_prefix": True,
            "enable_messaging_system_latency_histogram": True,
            "enable_virtual_node_label": True,
        },
        "ingestion_time_range_slack_s": 0.25,
        "trace_id_label_name": "trace_id",
        "max_label_name_length": 5,
        "max_label_value_length": 6,
        "stale_duration_s": 60.0,
        "max_active_series": 7,
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
