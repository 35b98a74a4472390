"""The limits exporter: defaults, what tenants have of their own, and what holds."""

from typing import Any

from cluster.limits_exporter import LimitsExporter
from cluster.measurements import Measurements, families
from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import Overrides
from tenants.settings.service_config import ServiceConfig, parse_service_config
from tenants.settings.tenant_state import TenantState

CONFIG = parse_service_config(
    b"""
limits_exporter:
  limits:
    - ingestion_rate_limit_bytes
    - metrics_generator_max_active_series
    - metrics_generator_collection_interval_seconds
    - metrics_generator_dry_run_enabled
overrides: {defaults: {metrics_generator: {max_active_series: 100}}}
""",
    {},
)


def entry(**generator: Any) -> Overrides:
    return Overrides.model_validate({"metrics_generator": generator})


def measured(found: Measurements, name: str) -> dict[tuple[str, ...], Any]:
    return {labels: value for metric, labels, value in found if metric == name}


def test_defaults_overrides_and_what_holds() -> None:
    overrides = OverridesInForce(
        1,
        runtime={"acme": entry(max_active_series=5, collection_interval="30s"), "same": entry(max_active_series=100)},
        limits={"slow": Overrides.model_validate({"ingestion": {"rate_limit_bytes": 7}})},
        states={"sized": TenantState.DRY_RUN},
    )
    found = LimitsExporter(CONFIG).measure(overrides, ["acme", "same", "slow", "sized", "plain"])
    list(families({"service": found}))
    assert measured(found, "millrace_limits_defaults") == {
        ("ingestion_rate_limit_bytes",): 30_000_000,
        ("metrics_generator_max_active_series",): 100,
        ("metrics_generator_collection_interval_seconds",): 15.0,
        ("metrics_generator_dry_run_enabled",): 0.0,
    }
    # Only what differs.
    assert measured(found, "millrace_limits_overrides") == {
        ("metrics_generator_max_active_series", "acme"): 5,
        ("metrics_generator_collection_interval_seconds", "acme"): 30.0,
        ("ingestion_rate_limit_bytes", "slow"): 7,
        ("metrics_generator_dry_run_enabled", "sized"): 1.0,
    }
    effective = measured(found, "millrace_limits_effective")
    assert effective["metrics_generator_max_active_series", "acme", "tenant"] == 5
    assert effective["metrics_generator_max_active_series", "plain", "defaults"] == 100
    assert effective["ingestion_rate_limit_bytes", "slow", "operator"] == 7
    assert effective["metrics_generator_dry_run_enabled", "sized", "state"] == 1
    assert len(effective) == 5 * 4


def test_a_change_is_seen() -> None:
    exporter = LimitsExporter(CONFIG)
    for version, series in ((1, 5), (2, 6)):
        overrides = OverridesInForce(version, runtime={"acme": entry(max_active_series=series)})
        found = exporter.measure(overrides, ["acme"])
        assert measured(found, "millrace_limits_overrides")["metrics_generator_max_active_series", "acme"] == series


def test_entries_used_whole_show_the_zeros_they_leave() -> None:
    config = parse_service_config(b"overrides: {inheritance: replace}", {})
    overrides = OverridesInForce(1, runtime={"acme": entry(processors=["span-metrics"])})
    found = LimitsExporter(config).measure(overrides, ["acme"])
    effective = measured(found, "millrace_limits_effective")
    assert effective["ingestion_rate_limit_bytes", "acme", "tenant (unset)"] == 0
    assert measured(found, "millrace_limits_overrides")["ingestion_rate_limit_bytes", "acme"] == 0


def test_the_wildcard_is_nobody() -> None:
    overrides = OverridesInForce(1, runtime={"*": entry(max_active_series=9)})
    found = LimitsExporter(ServiceConfig()).measure(overrides, ["acme"])
    assert measured(found, "millrace_limits_defaults")[("metrics_generator_max_active_series",)] == 9
    assert measured(found, "millrace_limits_overrides") == {}
