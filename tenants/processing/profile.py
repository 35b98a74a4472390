"""What every process keeps at hand for a tenant: its settings and their compiled plan.

A book holds the layers of settings and resolves a tenant when it is first asked for. It reads no files and keeps no
time: whoever owns it puts new overrides in.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from tenants import _engine
from tenants.identity.tenant_id import TenantId
from tenants.processing.plan import plan_json
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import TenantSettings, resolve

MAX_PROFILES = 20_000
"""Tenants that a book remembers. Beyond it the one not asked for longest is forgotten, and resolved anew when asked."""


@dataclass(frozen=True, slots=True)
class TenantProfile:
    """The settings of one tenant in the form in which work is done with them.

    Attributes:
        settings: all layers resolved.
        plan: what the engine needs of them; the same object as long as its text does not change.
        plan_text: what the plan was compiled from.
    """

    settings: TenantSettings
    plan: _engine.Plan
    plan_text: str


class ProfileBook:
    """Profiles by tenant, resolved on first use and again after a change. Safe to share between threads.

    A profile whose settings did not change stays the same object through any number of changes to others, so that
    ``is`` tells whether there is anything to do.
    """

    def __init__(self, config: ServiceConfig, max_profiles: int = MAX_PROFILES) -> None:
        self._config = config
        self._max_profiles = max_profiles
        self._lock = threading.Lock()
        self._runtime: RuntimeOverrides = {}
        self._version = 0
        self._profiles: OrderedDict[TenantId, tuple[int, TenantProfile]] = OrderedDict()

    @property
    def version(self) -> int:
        """Version of the overrides in force; zero before the first."""
        return self._version

    def put_overrides(self, version: int, runtime: RuntimeOverrides) -> bool:
        """Put overrides in force, unless newer ones already are; return whether they are new. Idempotent."""
        with self._lock:
            if version <= self._version:
                return False
            self._version, self._runtime = version, runtime
            return True

    def get(self, tenant: TenantId) -> TenantProfile:
        """Return the tenant's profile under the overrides in force."""
        with self._lock:
            known = self._profiles.get(tenant)
            if known is None or known[0] != self._version:
                profile = self._resolve(tenant, known[1] if known else None)
                known = self._profiles[tenant] = (self._version, profile)
                if len(self._profiles) > self._max_profiles:
                    self._profiles.popitem(last=False)
            self._profiles.move_to_end(tenant)
            return known[1]

    def _resolve(self, tenant: TenantId, former: TenantProfile | None) -> TenantProfile:
        settings = resolve(self._config, self._runtime, tenant)
        if former and former.settings == settings:
            return former
        text = plan_json(settings)
        plan = former.plan if former and former.plan_text == text else _engine.Plan(text)
        return TenantProfile(settings, plan, text)
