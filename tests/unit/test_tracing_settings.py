import subprocess
import sys

import pytest

from tenants.settings import ServiceConfig, SettingsError, parse_service_config
from tenants.settings.tracing import TracingConfig
from tenants.tracing.opening import open_tracer

SECRET = "s3cr3t-value"


def tracing(text: str) -> TracingConfig:
    return parse_service_config(f"tracing: {text}".encode(), {}).tracing


def test_nothing_is_traced_by_default() -> None:
    config = ServiceConfig().tracing
    assert (config.is_on, config.sample_ratio) == (False, 0.01)
    assert open_tracer(config, "gateway-0", "1") is None


def test_while_tracing_is_off_no_process_imports_the_sdk() -> None:
    code = """
import sys
import cluster.service, cluster.controller, cluster.collector_host, cluster.shard_host, cluster.gateway.gateway
from tenants.settings import ServiceConfig
from tenants.tracing.opening import open_tracer
assert open_tracer(ServiceConfig().tracing, "gateway-0", "1") is None
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("[]\n", 0), ended.stderr


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://traces.example/otlp/v1/traces?key=1", "https://traces.example/otlp/v1/traces?key=1"),
    ],
)
def test_a_path_is_added_where_there_is_none(endpoint: str, url: str) -> None:
    assert tracing(f"{{endpoint: '{endpoint}'}}").url == url


@pytest.mark.parametrize(
    ("text", "path", "advice"),
    [
        ("{endpoint: 'ftp://h'}", "tracing.endpoint", "http://127.0.0.1:4318"),
        (f"{{endpoint: 'http://u:{SECRET}@h'}}", "tracing.endpoint", "use headers instead"),
        ("{sample_ratio: 1.5}", "tracing.sample_ratio", "less than or equal to 1"),
        ("{tenant: 'a b'}", "tracing.tenant", "is not a tenant id"),
        (f"{{headers: {{Host: {SECRET}}}}}", "tracing.headers.Host", "Millrace sets itself"),
        ("{headers_from: {X-Key: {}}}", "tracing.headers_from.X-Key", "either file or env"),
        ("{headers: {X-Key: a}, headers_from: {x-key: {env: A}}}", "tracing", "both in headers and in headers_from"),
        ("{tenant: own, headers: {x-scope-orgid: a}}", "tracing", "tenant is sent as X-Scope-OrgID"),
        ("{endpoint: 'http://h', tls_config: {}}", "tracing", "no effect on http"),
        ("{endpont: 'http://h'}", "tracing.endpont", "did you mean endpoint?"),
    ],
)
def test_a_fault_is_named_with_its_path_and_without_secrets(text: str, path: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tracing(text)
    assert [fault.path for fault in caught.value.faults] == [path]
    assert advice in str(caught.value)
    assert SECRET not in str(caught.value)


def test_headers_are_secret_in_every_text() -> None:
    config = tracing(f"{{endpoint: 'http://h', headers: {{Authorization: Bearer {SECRET}}}}}")
    assert config.headers["Authorization"].get_secret_value() == f"Bearer {SECRET}"
    assert SECRET not in f"{config!r}{config}{config.model_dump()}{config.model_dump_json()}"
