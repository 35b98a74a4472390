import structlog

from tenants.endpoint.endpoint_settings import endpoint_configs
from tests.unit.tenant_work import ACME, book, overrides, spans_on


def test_unusable_endpoint_is_said_without_secrets_and_left_out() -> None:
    headers = {"Authorization": "Bearer s3cr3t"}
    endpoints = [
        {"url": "http://good.example/s3cr3t"},
        # The settings let this port pass, the sender does not.
        {"name": "bad", "url": "http://bad.example:0/s3cr3t", "headers": headers},
    ]
    settings = book(overrides(acme=spans_on(remote_write=endpoints))).get(ACME).settings
    with structlog.testing.capture_logs() as logs:
        configs = endpoint_configs(settings)
    assert [config.url for config in configs] == ["http://good.example/s3cr3t"]
    assert [(line["event"], line["tenant"], line["endpoint"], line["log_level"]) for line in logs] == [
        ("remote_write endpoint cannot be used", "acme", "bad", "error")
    ]
    assert logs[0]["problem"].startswith("url: ")
    assert "s3cr3t" not in str(logs)


def test_endpoint_settings_reach_the_sender() -> None:
    endpoint = {
        "name": "main",
        "url": "https://h/push",
        "headers": {"X-Key": "k"},
        "remote_timeout": "3s",
        "queue_max_bytes": 1 << 20,
        "queue_memory_bytes": 1 << 18,
        "max_sample_age": "90m",
        "max_lanes": 7,
        "min_backoff": "20ms",
        "max_backoff": "7s",
    }
    entry = spans_on(remote_write=[endpoint], remote_write_headers={"Authorization": "t"})
    (sender,) = endpoint_configs(book(overrides(acme=entry), "multitenancy_enabled: true").get(ACME).settings)
    assert (sender.url, sender.name) == ("https://h/push", "main")
    assert dict(sender.headers) == {"X-Key": "k", "Authorization": "t", "X-Scope-OrgID": "acme"}
    assert (sender.timeout_s, sender.max_queue_bytes, sender.max_memory_bytes) == (3.0, 1 << 20, 1 << 18)
    assert (sender.max_sample_age_s, sender.max_lanes) == (5400.0, 7)
    assert (sender.min_backoff_s, sender.max_backoff_s) == (0.02, 7.0)
