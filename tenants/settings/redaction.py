"""Settings without the tenants' ways out: what a process may know that sends nothing.

Endpoints and headers carry credentials. Only collectors get them; gateways and shard hosts, which read what strangers
send, hold none that could leak. The headers of Millrace's own traces every process has, for each sends its own.
"""

from dataclasses import replace

from tenants.settings.control_config import StoreConfig
from tenants.settings.in_force import OverridesChange
from tenants.settings.overrides import Overrides
from tenants.settings.service_config import ServiceConfig


def without_endpoints(config: ServiceConfig) -> ServiceConfig:
    """Return the service configuration without any endpoint or header."""
    defaults = _without_endpoints(config.overrides.defaults)
    overrides = config.overrides.model_copy(update={"defaults": defaults})
    return config.model_copy(update={"remote_write": (), "overrides": overrides, "store": StoreConfig()})


def change_without_endpoints(change: OverridesChange) -> OverridesChange:
    """Return a change without any endpoint or header. Documents and limits never hold one."""
    runtime = {name: entry and _without_endpoints(entry) for name, entry in change.runtime.items()}
    return replace(change, runtime=runtime)


def _without_endpoints(entry: Overrides) -> Overrides:
    if entry.metrics_generator.remote_write is None and entry.metrics_generator.remote_write_headers is None:
        return entry
    generator = entry.metrics_generator.model_copy(update={"remote_write": None, "remote_write_headers": None})
    return entry.model_copy(update={"metrics_generator": generator})
