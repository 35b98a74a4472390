import contextlib
import pickle
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tenants.identity import TenantId
from tenants.settings import (
    Duration,
    Fault,
    HostPort,
    ServiceConfig,
    SettingsError,
    load_service_config,
    parse_service_config,
    resolve,
)
from tenants.settings.errors import dotted
from tenants.settings.in_force import OverridesInForce
from tenants.settings.yaml_document import read_yaml

EXAMPLE = Path(__file__).parents[2] / "millrace.yaml"
SECRET = "s3cr3t-value"


def config(text: str, environ: dict[str, str] | None = None) -> ServiceConfig:
    return parse_service_config(text.encode(), environ or {})


def faults(text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        config(text, environ)
    return {fault.path: fault.message for fault in caught.value.faults}


# Defaults


@pytest.mark.parametrize("text", ["", "{}", "# nothing", "listen:\ncluster:\nremote_write:\n", "---\n"])
def test_empty_configuration_gives_the_defaults(text: str) -> None:
    assert config(text) == ServiceConfig()


def test_no_file_gives_the_defaults() -> None:
    assert load_service_config(None, {}) == ServiceConfig()


def test_defaults_are_the_documented_ones() -> None:
    defaults = ServiceConfig()
    assert defaults.data_dir == Path.cwd() / "millrace-data"
    assert [str(a) for a in (defaults.listen.otlp_grpc, defaults.listen.otlp_http, defaults.listen.http)] == [
        "127.0.0.1:4317",
        "127.0.0.1:4318",
        "127.0.0.1:8080",
    ]
    assert defaults.multitenancy_enabled is False
    assert defaults.single_tenant_id == TenantId("single-tenant")
    assert defaults.single_tenant == TenantId("single-tenant")
    assert defaults.overrides.per_tenant_override_config is None
    assert defaults.overrides.per_tenant_override_period.seconds == 10
    assert defaults.overrides.inheritance == "inherit"
    generator = defaults.metrics_generator
    assert generator.metrics_ingestion_time_range_slack.seconds == 30
    assert generator.registry.collection_interval.seconds == 15
    assert generator.registry.stale_duration.seconds == 900
    assert (generator.registry.max_label_name_length, generator.registry.max_label_value_length) == (
        1024,
        2048,
    )
    assert generator.processor.span_metrics.histogram_buckets[0] == 0.002
    assert generator.processor.span_metrics.histogram_buckets[13] == 16.384
    assert generator.processor.service_graphs.histogram_buckets == (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
    assert generator.processor.service_graphs.wait.seconds == 10
    assert generator.processor.service_graphs.max_items == 10_000
    assert generator.processor.service_graphs.workers == 10
    assert generator.limiter_type == "series"
    spans, graphs, hosts = (
        generator.processor.span_metrics,
        generator.processor.service_graphs,
        generator.processor.host_info,
    )
    for processor in (spans, graphs):
        assert (processor.filter_policies, processor.span_multiplier_key) == ((), "")
        assert processor.enable_tracestate_span_multiplier is False
        assert processor.keep_colliding_dimensions is False
        assert processor.enable_strict_filter_types is False
    assert (spans.dimension_mappings, spans.target_info_excluded_dimensions) == ((), ())
    assert (spans.enable_target_info, spans.enable_instance_label) == (False, True)
    assert (graphs.pair_database_spans, graphs.count_every_receiver, graphs.zero_parent_id_is_root) == (False,) * 3
    assert graphs.enable_virtual_node_latency is True
    assert (hosts.host_identifiers, hosts.metric_name) == (("k8s.node.name", "host.id"), "traces_host_info")
    assert defaults.remote_write == ()
    assert defaults.remote_write_add_org_id_header is True
    assert defaults.cluster.shard_hosts == 0
    assert defaults.cluster.max_request_bytes == 16 * 1024 * 1024
    assert (defaults.log.format, defaults.log.level) == ("pretty", "info")


def test_endpoint_defaults_are_the_documented_ones() -> None:
    (endpoint,) = config("remote_write: [{url: http://h/}]").remote_write
    assert endpoint.remote_timeout == Duration.parse("30s")
    assert endpoint.max_samples_per_send == 2000
    assert (endpoint.queue_max_bytes, endpoint.queue_memory_bytes) == (256 << 20, 16 << 20)
    assert (endpoint.max_sample_age, endpoint.max_lanes) == (Duration.parse("2h"), 4)
    assert (endpoint.min_backoff, endpoint.max_backoff) == (Duration.parse("30ms"), Duration.parse("5s"))
    assert endpoint.headers == {}


def test_example_file_holds_the_defaults() -> None:
    assert load_service_config(EXAMPLE, {}) == ServiceConfig()


def _uncommented_example() -> str:
    text = EXAMPLE.read_text().replace("remote_write: []\n#", "#").replace("  defaults: {}\n", "")
    return re.sub(r"^#(?! \S|$)", "", text, flags=re.MULTILINE)


def test_examples_in_the_example_file_are_valid() -> None:
    loaded = config(_uncommented_example(), {"METRICS_TOKEN": SECRET})
    assert loaded.remote_write[0].headers["Authorization"].get_secret_value() == f"Bearer {SECRET}"
    generator = loaded.overrides.defaults.metrics_generator
    assert generator.processors == ("span-metrics", "service-graphs")
    assert generator.processor.span_metrics.filter_policies
    assert generator.processor.span_metrics.dimension_mappings


def _example_values(model: BaseModel) -> dict[str, Any]:
    """What a commented example of the file gives, without the lists and mappings that it shows the form of."""
    shown = model.model_dump(exclude_none=True)
    return {key: value for key, value in shown.items() if not isinstance(value, dict | list | tuple)}


def test_scalars_in_the_example_of_defaults_are_the_built_in_values() -> None:
    defaults = config(_uncommented_example(), {"METRICS_TOKEN": SECRET}).overrides.defaults
    generator = defaults.metrics_generator
    built_in = resolve(ServiceConfig(), OverridesInForce(), TenantId("acme"))
    processors = ServiceConfig().metrics_generator.processor
    histograms = {
        "generate_native_histograms": built_in.histograms.mode,
        "native_histogram_bucket_factor": built_in.histograms.native_bucket_factor,
        "native_histogram_max_bucket_number": built_in.histograms.native_max_buckets,
        "native_histogram_min_reset_duration": built_in.histograms.native_min_reset_duration,
    }
    without_use = {"max_traces_per_user", "max_global_traces_per_user", "tenant_shard_size"}
    for key, value in _example_values(defaults.ingestion).items():
        assert key in without_use or value == getattr(built_in.ingestion, key), key
    for key, value in _example_values(generator).items():
        if key == "shards":
            # A size by the tenant's rate.
            assert (value, built_in.shards) == (0, 1)
        elif key != "ring_size":
            assert value == (histograms[key] if key in histograms else getattr(built_in, key)), key
    for name in ("span_metrics", "service_graphs", "host_info"):
        for key, value in _example_values(getattr(generator.processor, name)).items():
            assert value == getattr(getattr(processors, name), key), f"{name}.{key}"


def models(root: type[BaseModel]) -> set[type[BaseModel]]:
    found = {root}
    pending: list[Any] = [field.annotation for field in root.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in found:
                found |= models(annotation)
        else:
            pending.extend(get_args(annotation))
    return found


def test_example_file_names_every_supported_key() -> None:
    named = set(re.findall(r"([a-z_]+):", _uncommented_example()))
    missing = {
        f"{model.__name__}.{name}"
        for model in models(ServiceConfig)
        for name, field in model.model_fields.items()
        if (field.alias or name) not in named
    }
    assert not missing


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("", False),
        ("overrides: {inheritance: replace}", True),
        ("compat: tempo", True),
        ("compat: tempo\noverrides: {inheritance: inherit}", False),
        ("overrides: {inheritance: inherit}", False),
    ],
)
def test_entries_are_used_whole_when_it_is_said_or_for_the_sake_of_tempo(text: str, is_whole: bool) -> None:
    assert config(text).uses_entries_whole == is_whole


def test_every_field_is_described() -> None:
    undescribed = [
        f"{model.__name__}.{name}"
        for model in models(ServiceConfig)
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert not undescribed


# Unknown keys and wrong values


def test_all_faults_are_reported_at_once_in_file_order() -> None:
    text = """
data_dir: 3
listen: {otlp_grpc: ":4317"}
metrics_generator: {registry: {stale_duration: 10}}
nope: 1
remote_write:
  - headers: {Host: a}
cluster: []
"""
    with pytest.raises(SettingsError) as caught:
        parse_service_config(text.encode(), {}, source="millrace.yaml")
    assert [(fault.path, fault.line) for fault in caught.value.faults] == [
        ("data_dir", 2),
        ("listen.otlp_grpc", 3),
        ("metrics_generator.registry.stale_duration", 4),
        ("nope", 5),
        ("remote_write[0].url", 7),
        ("remote_write[0].headers.Host", 7),
        ("cluster", 8),
    ]
    shown = str(caught.value)
    assert shown.startswith("millrace.yaml: 7 faults\n")
    assert all(fault.path in shown and fault.message in shown for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("text", "path", "advice"),
    [
        ("listn: {}", "listn", "did you mean listen?"),
        ("nope: null", "nope", "unknown key"),
        ("cluster: {flush_intervall: 1s}", "cluster.flush_intervall", "did you mean flush_interval?"),
        ("collection_interval: 1s", "collection_interval", "belongs at"),
        ("collection_interval: 1s", "collection_interval", "metrics_generator.registry.collection_interval"),
        ("remote_write: [{url: http://h/, uri: x}]", "remote_write[0].uri", "did you mean url?"),
        ("metrics_generator_registry: {}", "metrics_generator_registry", "write metrics_generator.registry"),
        ("zzzzzz: 1", "zzzzzz", "unknown key; remove it"),
        (
            "metrics_generator: {processor: {span_metrics: {dimension: []}}}",
            "metrics_generator.processor.span_metrics.dimension",
            "did you mean dimensions?",
        ),
        (
            "overrides: {defaults: {metrics_generator: {max_series: 1}}}",
            "overrides.defaults.metrics_generator.max_series",
            "did you mean max_active_series?",
        ),
    ],
)
def test_unknown_key_is_refused_with_its_path_and_the_nearest_key(text: str, path: str, advice: str) -> None:
    assert advice in faults(text)[path]


REGISTRY = "metrics_generator.registry"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[]", "", "mapping"),
        ("text", "", "mapping"),
        ("listen: 4317", "listen", "mapping"),
        ("multitenancy_enabled: 1", "multitenancy_enabled", "true or false"),
        ("multitenancy_enabled: 'true'", "multitenancy_enabled", "true or false"),
        ("multitenancy_enabled: yes", "multitenancy_enabled", "true or false"),
        ("single_tenant_id: a/b", "single_tenant_id", "not a tenant id"),
        ("single_tenant_id: 5", "single_tenant_id", "quotes"),
        ("data_dir: ''", "data_dir", "path"),
        ("overrides: {per_tenant_override_config: [a]}", "overrides.per_tenant_override_config", "path"),
        ("overrides: {inheritance: merge}", "overrides.inheritance", "should be 'inherit' or 'replace'"),
        ("overrides: {expand_env: 'yes'}", "overrides.expand_env", "true or false"),
        ("ingestion: {max_attribute_bytes: 63}", "ingestion.max_attribute_bytes", "at least 64 bytes, or 0"),
        ("ingestion: {artificial_delay: 61s}", "ingestion.artificial_delay", "from 0s to 1m"),
        ("overrides: {inheritance: merge}", "overrides.inheritance", "'inherit'"),
        ("cluster: {max_request_bytes: 16MiB}", "cluster.max_request_bytes", "whole number"),
        ("cluster: {max_request_bytes: 1e6}", "cluster.max_request_bytes", "whole number"),
        ("cluster: {shard_hosts: -1}", "cluster.shard_hosts", "greater than or equal to 0"),
        ("cluster: {shard_hosts: true}", "cluster.shard_hosts", "whole number"),
        ("cluster: {shard_hosts: 010}", "cluster.shard_hosts", "whole number"),
        ("log: {format: xml}", "log.format", "'pretty'"),
        ("log: {level: INFO}", "log.level", "'info'"),
        ("cluster: {flush_interval: 1}", "cluster.flush_interval", "from 10ms to 1m"),
        ("cluster: {flush_interval: true}", "cluster.flush_interval", "duration"),
        ("cluster: {flush_interval: 1.5}", "cluster.flush_interval", "duration"),
        (
            "metrics_generator: {registry: {collection_interval: 999ms}}",
            f"{REGISTRY}.collection_interval",
            "1s",
        ),
        (
            "metrics_generator: {registry: {collection_interval: 5m1s}}",
            f"{REGISTRY}.collection_interval",
            "5m",
        ),
        (
            "metrics_generator: {registry: {collection_interval: 1d}}",
            f"{REGISTRY}.collection_interval",
            "duration",
        ),
        (
            "metrics_generator: {registry: {external_labels: {le: x}}}",
            f"{REGISTRY}.external_labels.le",
            "sets",
        ),
        (
            "metrics_generator: {registry: {external_labels: {1a: x}}}",
            f"{REGISTRY}.external_labels.1a",
            "label name",
        ),
        (
            "metrics_generator: {registry: {external_labels: {a: 1}}}",
            f"{REGISTRY}.external_labels.a",
            "quotes",
        ),
        (
            "metrics_generator: {registry: {inject_tenant_id_as: a-b}}",
            f"{REGISTRY}.inject_tenant_id_as",
            "label",
        ),
        (
            "metrics_generator: {registry: {inject_tenant_id_as: __name__}}",
            f"{REGISTRY}.inject_tenant_id_as",
            "sets",
        ),
        ("metrics_generator: {metrics_ingestion_time_range_slack: -1s}", None, "from 0s to 12h"),
        ("metrics_generator: {metrics_ingestion_time_range_slack: 12h1s}", None, "from 0s to 12h"),
        ("metrics_generator: {processor: {service_graphs: {wait: 0}}}", None, "from 1ms to 10m"),
        (
            "metrics_generator: {processor: {service_graphs: {max_items: 0}}}",
            None,
            "greater than or equal to 1",
        ),
        (
            "metrics_generator: {processor: {service_graphs: {workers: -1}}}",
            None,
            "greater than or equal to 0",
        ),
        ("metrics_generator: {processor: {service_graphs: {workers: 2.5}}}", None, "whole number"),
        ("metrics_generator: {limiter_type: entities}", "metrics_generator.limiter_type", "'series' or 'entity'"),
        ("metrics_generator: {limiter_type: ''}", "metrics_generator.limiter_type", "'series' or 'entity'"),
        (
            "metrics_generator: {processor: {host_info: {metric_name: ''}}}",
            "metrics_generator.processor.host_info.metric_name",
            "should be the name of a metric, not an empty text",
        ),
        (
            "metrics_generator: {processor: {host_info: {host_identifiers: []}}}",
            "metrics_generator.processor.host_info.host_identifiers",
            "should name an attribute at least",
        ),
        (
            "metrics_generator: {processor: {span_metrics: {filter_policies: [{}]}}}",
            "metrics_generator.processor.span_metrics.filter_policies[0]",
            "is empty; give it include, include_any or exclude",
        ),
        (
            "metrics_generator: {processor: {span_metrics: {dimension_mappings: [{name: a, source_labels: []}]}}}",
            "metrics_generator.processor.span_metrics.dimension_mappings[0].source_labels",
            "should not be empty",
        ),
        (
            "metrics_generator: {processor: {service_graphs: {filter_policies: {}}}}",
            "metrics_generator.processor.service_graphs.filter_policies",
            "list",
        ),
        *(
            (f"metrics_generator: {{processor: {{{processor}: {{{key}: 1}}}}}}", None, "true or false")
            for processor, key in (
                ("span_metrics", "enable_target_info"),
                ("span_metrics", "enable_instance_label"),
                ("span_metrics", "enable_tracestate_span_multiplier"),
                ("span_metrics", "keep_colliding_dimensions"),
                ("span_metrics", "enable_strict_filter_types"),
                ("service_graphs", "enable_tracestate_span_multiplier"),
                ("service_graphs", "keep_colliding_dimensions"),
                ("service_graphs", "enable_strict_filter_types"),
                ("service_graphs", "pair_database_spans"),
                ("service_graphs", "count_every_receiver"),
                ("service_graphs", "enable_virtual_node_latency"),
                ("service_graphs", "zero_parent_id_is_root"),
            )
        ),
        ("metrics_generator: {processor: {span_metrics: {histogram_buckets: 1}}}", None, "list"),
        ("metrics_generator: {processor: {span_metrics: {histogram_buckets: [a]}}}", None, "number"),
    ],
)
def test_wrong_value_is_refused_with_its_path(text: str, path: str | None, message: str) -> None:
    found = faults(text)
    assert len(found) == 1
    ((found_path, found_message),) = found.items()
    assert message in found_message
    assert path is None or found_path == path


def test_defaults_may_be_spelled_out() -> None:
    text = """
metrics_generator:
  limiter_type: series
  processor:
    service_graphs: {workers: 10, filter_policies: [], span_multiplier_key: ""}
    span_metrics: {enable_target_info: false, dimension_mappings: [], enable_instance_label: true}
    host_info: {host_identifiers: [k8s.node.name, host.id], metric_name: traces_host_info}
"""
    assert config(text) == ServiceConfig()


# Addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4317", "127.0.0.1", 4317),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("localhost:65535", "localhost", 65535),
        ("gateway-0.millrace.svc.cluster.local:80", "gateway-0.millrace.svc.cluster.local", 80),
        ("[::1]:4317", "::1", 4317),
        ("[0:0::1]:4317", "::1", 4317),
    ],
)
def test_address_is_read(text: str, host: str, port: int) -> None:
    assert HostPort.parse(text) == HostPort(host, port)
    assert HostPort.parse(str(HostPort(host, port))) == HostPort(host, port)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "host",
        ":4317",
        "::1:4317",
        "[::1]",
        "[::1",
        "[nope]:1",
        "[127.0.0.1]:1",
        "256.0.0.1:1",
        "1.2.3:4",
        "h:",
        "h:-1",
        "h:65536",
        "h:\uff11",
        "h:1 ",
        " h:1",
        "h h:1",
        "h/x:1",
        "user@h:1",
        "-h:1",
        "a..b:1",
        "a" * 300 + ":1",
        4317,
        None,
        True,
    ],
)
def test_bad_address_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        HostPort.parse(value)


def test_two_listeners_cannot_share_an_address() -> None:
    found = faults("listen: {otlp_grpc: '127.0.0.1:4318'}")
    assert "otlp_grpc and otlp_http are both 127.0.0.1:4318" in found["listen"]
    config("listen: {otlp_grpc: 'h:0', otlp_http: 'h:0', http: 'h:0'}")


# Durations


@pytest.mark.parametrize(
    ("value", "ns", "text"),
    [
        ("300ms", 300_000_000, "300ms"),
        ("15s", 15_000_000_000, "15s"),
        ("1h30m", 5_400_000_000_000, "1h30m"),
        ("1.5s", 1_500_000_000, "1s500ms"),
        (".5s", 500_000_000, "500ms"),
        ("1.s", 1_000_000_000, "1s"),
        ("90m", 5_400_000_000_000, "1h30m"),
        ("1us", 1_000, "1us"),
        ("1µs", 1_000, "1us"),
        ("1μs", 1_000, "1us"),
        ("7ns", 7, "7ns"),
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("+1s", 1_000_000_000, "1s"),
        ("-1m30s", -90_000_000_000, "-1m30s"),
        (30_000_000_000, 30_000_000_000, "30s"),
        (0, 0, "0s"),
    ],
)
def test_duration_is_read_and_written(value: object, ns: int, text: str) -> None:
    assert Duration.parse(value) == Duration(ns)
    assert str(Duration(ns)) == text
    assert Duration.parse(text) == Duration(ns)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "30",
        "1d",
        "2w",
        "s",
        "1",
        "1 s",
        " 1s",
        "1s ",
        "1S",
        "--1s",
        "1s-1s",
        "1.2.3s",
        "1e3s",
        "0.1ns",
        "\uff11s",
        "9" * 5000 + "s",
        "1mss",
        1.5,
        True,
        None,
        [],
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="should be a duration such as"):
        Duration.parse(value)


@given(st.integers(min_value=-(2**63), max_value=2**63))
def test_duration_text_reads_back(ns: int) -> None:
    assert Duration.parse(str(Duration(ns))) == Duration(ns)


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("1h", 3600), ("10000000000", 10), ("1m30s", 90)])
def test_override_period_takes_durations(text: str, seconds: float) -> None:
    assert (
        config(f"overrides: {{per_tenant_override_period: {text}}}").overrides.per_tenant_override_period.seconds
        == seconds
    )


def test_override_period_takes_calendar_units() -> None:
    assert config("overrides: {per_tenant_override_period: 1d}").overrides.per_tenant_override_period.seconds == 86400
    assert (
        "from 100ms to 24h"
        in faults("overrides: {per_tenant_override_period: 1w}")["overrides.per_tenant_override_period"]
    )
    assert Duration.parse("1y2w", calendar_units=True).seconds == (365 + 14) * 86400


# Remote write


@pytest.mark.parametrize(
    "url",
    [
        "http://h/",
        "https://metrics.example/api/v1/push?x=y",
        "http://127.0.0.1:9090/api/v1/write",
        "http://[::1]:9/w",
        "http://metrics.example.:9090/",
        f"http://{'a' * 63}.example/",
        f"http://{'.'.join(['abcd'] * 50)}.xyz/",
    ],
)
def test_good_urls_are_accepted(url: str) -> None:
    assert config(f"remote_write: [{{url: '{url}'}}]").remote_write[0].url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "metrics.example/push",
        "ftp://h/",
        "http://",
        "http:///path",
        f"http://user:{SECRET}@h/",
        "http://user@h/",
        "http://@h/",
        "http://h:99999/",
        "http://h:x/",
        "http://[::1/",
        "http://h/ x",
        "http://h/\\u000a",
        "http://h/\\u00fc",
        "http://h/#f",
        "http://h/" + "x" * 2048,
        "http://./",
        "http://foo..:80/",
    ],
)
def test_bad_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config(f'remote_write: [{{url: "{url}"}}]')
    assert [fault.path for fault in caught.value.faults] == ["remote_write[0].url"]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("a..b.example", "has a host with nothing before, behind or between its dots"),
        (".example.com", "has a host with nothing before, behind or between its dots"),
        ("a" * 64 + ".example", "has a host of which a part between dots has more than 63 characters"),
        (".".join(["abcd"] * 51), "has a host of more than 253 characters"),
    ],
)
def test_host_that_none_can_be_called_is_refused_with_its_fault(host: str, problem: str) -> None:
    assert problem in faults(f"remote_write: [{{url: 'https://{host}/push'}}]")["remote_write[0].url"]


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-type",
        "Content-Length",
        "CONTENT-ENCODING",
        "User-Agent",
        "Connection",
        "Transfer-Encoding",
        "X-Prometheus-Remote-Write-Version",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Proxy-Authorization",
        "a b",
        "",
        "ä",
    ],
)
def test_headers_that_are_not_configurable_are_refused(name: str) -> None:
    ((path, message),) = faults(f"remote_write: [{{url: http://h/, headers: {{'{name}': x}}}}]").items()
    assert path == dotted(("remote_write", 0, "headers", name))
    assert "header" in message


@pytest.mark.parametrize("value", ["a\\nb", "a\\r", "\\u0000", " a", "a ", "\\u00fc", "x" * 8193])
def test_header_values_that_cannot_be_sent_are_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config(f'remote_write: [{{url: http://h/, headers: {{X-Key: "{value}{SECRET}{value}"}}}}]')
    assert [fault.path for fault in caught.value.faults] == ["remote_write[0].headers.X-Key"]
    assert SECRET not in str(caught.value)


def test_header_value_has_to_be_text() -> None:
    assert "quotes" in faults("remote_write: [{url: http://h/, headers: {X: 5}}]")["remote_write[0].headers.X"]
    assert "quotes" in faults("remote_write: [{url: http://h/, headers: {X: null}}]")["remote_write[0].headers.X"]


def test_headers_that_differ_only_in_case_are_refused() -> None:
    found = faults("remote_write: [{url: http://h/, headers: {X-Key: a, x-key: b}}]")
    assert "X-Key and x-key are the same header" in found["remote_write[0].headers"]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[{url: http://h/, min_backoff: 10s}]", "remote_write[0]", "min_backoff (10s) should not exceed"),
        ("[{url: http://h/}, {url: http://h/}]", "remote_write", "[0] and [1]"),
        ("[{url: http://h/, name: a}, {url: http://i/, name: a}]", "remote_write", "[0] and [1]"),
        ("[{url: http://h/, name: 'a b'}]", "remote_write[0].name", "pattern"),
        ("[{url: http://h/, max_samples_per_send: 0}]", "remote_write[0].max_samples_per_send", "1"),
        ("[{url: http://h/, queue_max_bytes: 1}]", "remote_write[0].queue_max_bytes", "65536"),
        ("[{url: http://h/, remote_timeout: 0s}]", "remote_write[0].remote_timeout", "10ms"),
        ("{url: http://h/}", "remote_write", "list"),
        ("[http://h/]", "remote_write[0]", "mapping"),
        ("[{}]", "remote_write[0].url", "required"),
        (str([{"url": f"http://h/{n}"} for n in range(17)]), "remote_write", "at most 16 entries, not 17"),
    ],
)
def test_bad_endpoints_are_refused(text: str, path: str, message: str) -> None:
    assert message in faults(f"remote_write: {text}")[path]


def test_unnamed_endpoint_keeps_a_stable_name() -> None:
    first, second = config("remote_write: [{url: http://h/a}, {url: http://h/b}]").remote_write
    assert first.display_name != second.display_name
    assert first.display_name == config("remote_write: [{url: http://h/a, name: ''}]").remote_write[0].display_name
    assert config("remote_write: [{url: http://h/a, name: main}]").remote_write[0].display_name == "main"


def test_secrets_show_nowhere_but_survive_pickling() -> None:
    text = f"""
remote_write: [{{url: http://h/, headers: {{Authorization: Bearer {SECRET}}}}}]
overrides: {{defaults: {{metrics_generator: {{remote_write_headers: {{X-Key: {SECRET}}}}}}}}}
"""
    loaded = config(text)
    assert SECRET not in repr(loaded) + str(loaded) + loaded.model_dump_json() + repr(loaded.model_dump())
    copy = pickle.loads(pickle.dumps(loaded))
    assert copy == loaded
    assert copy.remote_write[0].headers["Authorization"].get_secret_value() == f"Bearer {SECRET}"


def test_refused_secrets_are_in_no_part_of_the_error() -> None:
    with pytest.raises(SettingsError) as caught:
        config(f"remote_write: [{{url: http://h/, headers: {{A: [{SECRET}], Host: {SECRET}, B: '{SECRET} '}}}}]")
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error) + str(error)
        error = error.__cause__ or error.__context__


# YAML


def only_fault(text: bytes, environ: dict[str, str] | None = None) -> Fault:
    with pytest.raises(SettingsError) as caught:
        parse_service_config(text, environ or {})
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (b"log:\n  format: [pretty\nlisten: {}\n", 3, 7),
        (b"log: {}\n\tlisten: {}\n", 2, 1),
        (b"log: {}\n---\nlog: {}\n", 2, 1),
        (b"log: *nowhere\n", 1, 6),
        (b"log: &x [*x]\n", 1, 10),
        (b"log: !!python/object:os.system {}\n", 1, 6),
        (b"log: !!set {a, b}\n", 1, 6),
        (b"log: !!int abc\n", 1, 6),
        (b"log: !!binary aGk=\n", 1, 6),
        (b"? [a, b]\n: 1\n", 1, 3),
        (b"<<: 3\n", 1, 1),
        (b"log: {}\ndata_dir: \xff\n", 2, 11),
        (b"log: {}\ndata_dir: \x07\n", 2, 11),
        (b'data_dir: "\\ud800"\n', 1, None),
        (b"[" * 100_000, 1, None),  # libyaml 0.2.6 has a limit of its own
        (b"{a: " * 100_000, 1, None),
    ],
)
def test_unreadable_yaml_is_refused_with_line_and_column(text: bytes, line: int, column: int | None) -> None:
    fault = only_fault(text)
    assert fault.line == line
    assert "cannot be read at column" in fault.message
    if column is not None:
        assert f"at column {column}:" in fault.message


def test_syntax_errors_do_not_quote_the_file() -> None:
    assert SECRET not in str(only_fault(f"a: '{SECRET}\nb: c: {SECRET}".encode()))


def test_every_duplicate_key_is_refused_with_both_lines() -> None:
    with pytest.raises(SettingsError) as caught:
        config("log: {format: json,\n  format: json}\nlog: {}\n")
    assert [(f.path, f.line) for f in caught.value.faults] == [("log.format", 2), ("log", 3)]
    assert all("first on line 1" in fault.message for fault in caught.value.faults)


def test_anchors_and_merge_keys_work() -> None:
    text = """
remote_write:
  - &first {name: a, url: http://h/, max_samples_per_send: 10, remote_timeout: 1s}
  - {<<: *first, name: b, remote_timeout: 2s}
  - {name: c, <<: [{max_samples_per_send: 20}, *first]}
"""
    endpoints = config(text).remote_write
    assert [(e.name, e.max_samples_per_send, str(e.remote_timeout)) for e in endpoints] == [
        ("a", 10, "1s"),
        ("b", 10, "2s"),
        ("c", 20, "1s"),
    ]


def test_quoted_merge_key_is_an_ordinary_key() -> None:
    assert read_yaml(b"'<<': {a: 1}").value == {"<<": {"a": 1}}


def test_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases written out" in only_fault("\n".join(lines).encode()).message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("010", "010"),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("!!float 1.5", 1.5),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert read_yaml(f"k: {text}".encode()).value == {"k": value}


@pytest.mark.parametrize("key", ["123", "true", "null", "~", "1.0", "0x10", "2024-01-01", "on"])
def test_keys_stay_text_as_written(key: str) -> None:
    assert read_yaml(f"{key}: 1".encode()).value == {key: 1}


@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!'\"|>#%~<$ \n\tab1\\", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(SettingsError):
        parse_service_config(text, {})


# Environment


def test_environment_variables_are_filled_in() -> None:
    text = """
data_dir: ${DIR}/${SUB}
cluster:
  shard_hosts: ${HOSTS}
single_tenant_id: "${HOSTS}"
metrics_generator: {registry: {external_labels: {a: "$${DIR}", b: "$DIR", c: "{x}"}}}
"""
    loaded = config(text, {"DIR": "/data", "SUB": "x", "HOSTS": "4"})
    assert loaded.data_dir == Path("/data/x")
    assert loaded.cluster.shard_hosts == 4
    assert loaded.single_tenant_id == TenantId("4")
    assert loaded.metrics_generator.registry.external_labels == {"a": "${DIR}", "b": "$DIR", "c": "{x}"}


def test_environment_variable_cannot_add_structure() -> None:
    assert faults("log: ${X}", {"X": "{format: json}"})["log"] == "should be a mapping of keys to values"


def test_every_undefined_variable_is_a_fault() -> None:
    found = faults("data_dir: ${NOPE}\nlog:\n  level: ${NEITHER}\n")
    assert "'NOPE' is not set" in found["data_dir"]
    assert "'NEITHER' is not set" in found["log.level"]


# Files and errors


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: 1 fault\n  cannot be read: No such file"):
        load_service_config(tmp_path / "absent.yaml", {})


def test_file_is_loaded_and_its_name_is_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("multitenancy_enabled: true\n")
    loaded = load_service_config(file, {})
    assert loaded.multitenancy_enabled
    assert loaded.single_tenant is None
    for bad in ("nope: 1", "a: ["):
        file.write_text(bad)
        with pytest.raises(SettingsError, match=r"c\.yaml: 1 fault"):
            load_service_config(file, {})


def test_relative_paths_become_absolute() -> None:
    loaded = config("data_dir: d\noverrides: {per_tenant_override_config: o.yaml}")
    assert loaded.data_dir == Path.cwd() / "d"
    assert loaded.overrides.per_tenant_override_config == Path.cwd() / "o.yaml"


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ServiceConfig().multitenancy_enabled = True  # type: ignore[misc]


def test_long_error_lists_some_faults_and_counts_the_rest() -> None:
    error = SettingsError([Fault(f"k{n}", "bad") for n in range(60)])
    assert "settings: 60 faults" in str(error)
    assert "k49: bad" in str(error)
    assert "k50" not in str(error)
    assert "and 10 more" in str(error)


def test_error_survives_pickling() -> None:
    error = SettingsError([Fault("a.b", "bad", 3), Fault("", "worse")], "x.yaml")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.faults, copy.source, str(copy)) == (
        SettingsError,
        error.faults,
        "x.yaml",
        str(error),
    )
    assert str(error) == "x.yaml: 2 faults\n  a.b (line 3): bad\n  worse"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("a", "b"), "a.b"),
        (("a", 0, "b"), "a[0].b"),
        (("a", "b.c", "d"), 'a["b.c"].d'),
        (("a", "\x1b[2J"), 'a["\\u001b[2J"]'),
        (("a", ""), 'a[""]'),
    ],
)
def test_paths_are_readable_and_printable(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


def test_long_keys_are_cut_in_paths() -> None:
    assert len(dotted(("overrides", "x" * 10_000))) < 200
