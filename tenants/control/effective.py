"""What is in force for a tenant, key by key, as JSON, with the layer that each value came from (tenancy D-12, §6.4)."""

from typing import Any

from tenants import _engine
from tenants.control.in_force import SettingsInForce
from tenants.identity.tenant_id import TenantId
from tenants.processing.plan import plan_json
from tenants.settings.api_document import is_tenant_owned
from tenants.settings.plain import plain
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import explain, resolve

Json = dict[str, Any]


class EffectiveSettings:
    """Answers from what is in force in this process. Secrets are masked."""

    def __init__(self, config: ServiceConfig, in_force: SettingsInForce) -> None:
        self._config = config
        self._in_force = in_force

    def for_tenant(self, tenant: TenantId, *, with_sources: bool) -> Json:
        """Return the keys that a tenant's document may hold, nested as in it."""
        nested: Json = {}
        for key, (value, source) in self._resolved(tenant).items():
            if not is_tenant_owned(key):
                continue
            *parents, name = key.split(".")
            inner = nested
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = {"value": value, "source": source} if with_sources else value
        return nested

    def for_operator(self, tenant: TenantId) -> Json:
        """Return every key, dotted, with its value and source."""
        return {key: {"value": value, "source": source} for key, (value, source) in self._resolved(tenant).items()}

    def problem(self, tenant: TenantId) -> str | None:
        """Return why the engine refuses a tenant's settings, so that former ones stay (D-24); None: it does not.

        Layers are checked one by one, and some faults are only between them.
        """
        try:
            _engine.Plan(plan_json(resolve(self._config, self._in_force.overrides, tenant)))
        except _engine.InvalidPlan as error:
            return f"the settings are refused, the last good ones stay: {error}"
        return None

    def _resolved(self, tenant: TenantId) -> dict[str, tuple[Any, str]]:
        resolved = explain(self._config, self._in_force.overrides, tenant)
        return {key: (plain(found.value), found.source.value) for key, found in resolved.items()}
