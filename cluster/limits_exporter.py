"""Metrics of the limits in force, exported by the one process that knows all layers (tenancy §6.3, D-25).

``limits_effective`` says what holds and which layer said so; ``limits_overrides`` holds only what a tenant has of its
own and differently, so that a dashboard can write "override or default".
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from cluster.measurements import Measurements
from tenants.identity.tenant_id import TenantId
from tenants.settings.control_config import LimitName
from tenants.settings.in_force import OverridesInForce
from tenants.settings.layers import Resolved, Source
from tenants.settings.scalars import Duration
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import explain

MAX_EXPORTED_TENANTS: Final = 5_000
"""Tenants whose limits are exported, those seen first; the API has all."""

_KEYS: Final[Mapping[LimitName, str]] = {
    "ingestion_rate_limit_bytes": "ingestion.rate_limit_bytes",
    "ingestion_burst_size_bytes": "ingestion.burst_size_bytes",
    "ingestion_max_attribute_bytes": "ingestion.max_attribute_bytes",
    "metrics_generator_max_active_series": "metrics_generator.max_active_series",
    "metrics_generator_max_active_entities": "metrics_generator.max_active_entities",
    "metrics_generator_max_cardinality_per_label": "metrics_generator.max_cardinality_per_label",
    "metrics_generator_collection_interval_seconds": "metrics_generator.collection_interval",
    "metrics_generator_dry_run_enabled": "metrics_generator.disable_collection",
}

# Nobody's id, to find what holds for whoever has no layer of its own.
_NOBODY: Final = TenantId("millrace-nobody")
_OWN: Final = frozenset({Source.TENANT, Source.TENANT_UNSET, Source.OPERATOR, Source.API, Source.STATE})


class LimitsExporter:
    """Remembers what it found until the overrides change: resolving a tenant takes a tenth of a millisecond."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._version = -1
        self._found: dict[str, Measurements] = {}
        self._defaults: dict[LimitName, float] = {}

    def measure(self, overrides: OverridesInForce, tenants: Collection[str]) -> Measurements:
        """Return the defaults, and the limits of these tenants, of which those beyond a bound are left out."""
        if overrides.version != self._version:
            self._version = overrides.version
            self._found.clear()
            self._defaults = {name: value for name, (value, _) in self._limits(overrides, _NOBODY).items()}
        measured: Measurements = [
            ("millrace_limits_defaults", (name,), value) for name, value in self._defaults.items()
        ]
        for tenant in sorted(tenants)[:MAX_EXPORTED_TENANTS]:
            if tenant not in self._found:
                self._found[tenant] = self._measure_tenant(overrides, tenant)
            measured += self._found[tenant]
        return measured

    def _measure_tenant(self, overrides: OverridesInForce, tenant: str) -> Measurements:
        measured: Measurements = []
        for name, (value, source) in self._limits(overrides, TenantId(tenant)).items():
            measured.append(("millrace_limits_effective", (name, tenant, source.value), value))
            if source in _OWN and value != self._defaults[name]:
                measured.append(("millrace_limits_overrides", (name, tenant), value))
        return measured

    def _limits(self, overrides: OverridesInForce, tenant: TenantId) -> dict[LimitName, tuple[float, Source]]:
        resolved = explain(self._config, overrides, tenant)
        return {name: _number(resolved[_KEYS[name]]) for name in self._config.limits_exporter.limits}


def _number(found: Resolved[Any]) -> tuple[float, Source]:
    value = found.value
    return (value.seconds if isinstance(value, Duration) else float(value)), found.source
