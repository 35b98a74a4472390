"""What every process keeps at hand for a tenant: its settings and their compiled plan.

A book holds the layers of settings and resolves a tenant when it is first asked for. It reads no files and keeps no
time: whoever owns it puts new overrides in.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from tenants import _engine
from tenants.identity.tenant_id import TenantId
from tenants.processing.long_lived import keep_what_is_there
from tenants.processing.plan import plan_json
from tenants.settings.in_force import OverridesChange, Put, judged
from tenants.settings.packed_overrides import PackedOverrides
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import TenantSettings, resolve

MAX_PROFILES = 20_000
"""Tenants that a book remembers. Beyond it the one not asked for longest is forgotten, and resolved anew when asked."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A plan that the engine would not compile, and why."""

    plan_text: str
    fault: str


class ProfileBook:
    """Profiles by tenant, resolved on first use and again after a change. Safe to share between threads.

    A profile whose settings did not change stays the same object through any number of changes to others, so that
    ``is`` tells whether there is anything to do.

    Settings that the engine refuses harm nobody but their tenant: its last good profile stays as a whole (tenancy §10
    D-24). A tenant that never had one gets a profile in which nothing is generated.
    """

    def __init__(self, config: ServiceConfig, max_profiles: int = MAX_PROFILES) -> None:
        self._config = config
        self._max_profiles = max_profiles
        self._lock = threading.Lock()
        self._overrides = PackedOverrides()
        self._profiles: OrderedDict[TenantId, TenantProfile] = OrderedDict()
        # Profiles from before a change that may have changed them, to be resolved when they are asked for.
        self._former: dict[TenantId, TenantProfile] = {}
        self._refusals: dict[TenantId, _Refusal] = {}

    @property
    def version(self) -> int:
        """Version of the overrides in force; zero before the first."""
        return self._overrides.version

    @property
    def faults(self) -> Mapping[TenantId, str]:
        """What the engine refused, beginning with the path in the plan: by tenant, of those asked for since."""
        with self._lock:
            return {tenant: refusal.fault for tenant, refusal in self._refusals.items()}

    def put_overrides(self, change: OverridesChange) -> Put:
        """Put a change in force, unless it or a later one already is. Idempotent."""
        with self._lock:
            put = judged(self._overrides.version, change)
            if put is not Put.NEW:
                return put
            self._overrides.put(change)
            keep_what_is_there()
            if change.tenants is None:
                self._former |= self._profiles
                self._profiles.clear()
            else:
                for name in change.tenants:
                    try:
                        tenant = TenantId(name)
                    except ValueError:
                        # From a store that somebody else wrote to; nobody can ask for it.
                        continue
                    if (profile := self._profiles.pop(tenant, None)) is not None:
                        self._former[tenant] = profile
            return put

    def get(self, tenant: TenantId) -> TenantProfile:
        """Return the tenant's profile under the overrides in force."""
        with self._lock:
            profile = self._profiles.get(tenant)
            if profile is None:
                profile = self._profiles[tenant] = self._resolve(tenant, self._former.get(tenant))
                self._former.pop(tenant, None)
                self._forget()
            else:
                self._profiles.move_to_end(tenant)
            return profile

    def _forget(self) -> None:
        """Forget those not asked for longest, first those that were not asked for since the last change."""
        while len(self._profiles) + len(self._former) > self._max_profiles:
            if self._former:
                forgotten = next(iter(self._former))
                del self._former[forgotten]
            else:
                forgotten, _ = self._profiles.popitem(last=False)
            self._refusals.pop(forgotten, None)

    def _resolve(self, tenant: TenantId, former: TenantProfile | None) -> TenantProfile:
        settings = resolve(self._config, self._overrides.of(str(tenant)), tenant)
        if former and former.settings == settings:
            self._refusals.pop(tenant, None)
            return former
        text = plan_json(settings)
        refusal = self._refusals.get(tenant)
        if former and refusal and refusal.plan_text == text:
            return former
        try:
            plan = former.plan if former and former.plan_text == text else _engine.Plan(text)
        except _engine.InvalidPlan as error:
            self._refusals[tenant] = _Refusal(text, str(error))
            return self._without_refused(tenant, former or _generating_nothing(settings))
        self._refusals.pop(tenant, None)
        return TenantProfile(settings, plan, text)

    def _without_refused(self, tenant: TenantId, profile: TenantProfile) -> TenantProfile:
        log.error(
            "settings refused by the engine, the last good ones stay",
            tenant=str(tenant),
            problem=self._refusals[tenant].fault,
            generating=profile.settings.is_generating,
        )
        return profile


def _generating_nothing(settings: TenantSettings) -> TenantProfile:
    settings = replace(settings, span_metrics=None, service_graphs=None, host_info=None)
    text = plan_json(settings)
    return TenantProfile(settings, _engine.Plan(text), text)
