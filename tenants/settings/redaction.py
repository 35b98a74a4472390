"""Settings without the tenants' ways out: what a process may know that sends nothing.

Endpoints and headers carry credentials. Only collectors get them; gateways and shard hosts, which read what strangers
send, hold none that could leak.
"""

from tenants.settings.overrides import Overrides, RuntimeOverrides
from tenants.settings.service_config import ServiceConfig


def without_endpoints(config: ServiceConfig) -> ServiceConfig:
    """Return the service configuration without any endpoint or header."""
    defaults = _without_endpoints(config.overrides.defaults)
    overrides = config.overrides.model_copy(update={"defaults": defaults})
    return config.model_copy(update={"remote_write": (), "overrides": overrides})


def overrides_without_endpoints(runtime: RuntimeOverrides) -> RuntimeOverrides:
    """Return the overrides of all tenants without any endpoint or header."""
    return {name: _without_endpoints(entry) for name, entry in runtime.items()}


def _without_endpoints(entry: Overrides) -> Overrides:
    generator = entry.metrics_generator.model_copy(update={"remote_write": None, "remote_write_headers": None})
    return entry.model_copy(update={"metrics_generator": generator})
