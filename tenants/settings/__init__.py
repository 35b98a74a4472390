"""One typed schema for every setting, the layers it comes from, and the files it is read from.

``ServiceConfig`` is read once at start; ``RuntimeFile`` is polled for the ``Overrides`` of each tenant;
``resolve`` merges both into the ``TenantSettings`` that all other packages work with.
"""

from tenants.settings.errors import Fault, SettingsError
from tenants.settings.overrides import Overrides, RuntimeOverrides
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.runtime_file import Failed, FailureReason, Loaded, RuntimeFile, Unchanged
from tenants.settings.scalars import Duration, HostPort
from tenants.settings.service_config import ServiceConfig, load_service_config, parse_service_config
from tenants.settings.tenant_settings import Source, TenantSettings, resolve

__all__ = [
    "Duration",
    "Failed",
    "FailureReason",
    "Fault",
    "HostPort",
    "Loaded",
    "Overrides",
    "RemoteWriteEndpoint",
    "RuntimeFile",
    "RuntimeOverrides",
    "ServiceConfig",
    "SettingsError",
    "Source",
    "TenantSettings",
    "Unchanged",
    "load_service_config",
    "parse_service_config",
    "resolve",
]
