"""The layers that a tenant's settings come from, and which of them answered for each field.

Strongest first: the tenant's document, the limits that operators set through the API, the tenant's entry, the entry
``*``, ``overrides.defaults``; then what no override holds: the service configuration, or the built-in value. The
strongest layer in which a field is present wins (tenancy §2.1, D-4). With ``inheritance: replace`` the first of the
three entries is used whole, as by the reference: what it leaves out is not looked for in the others, but for the fields
of tenancy §2.2.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from tenants.identity.tenant_id import TenantId
from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import WILDCARD, Overrides
from tenants.settings.scalars import Duration
from tenants.settings.service_config import ServiceConfig

T = TypeVar("T")


class Source(StrEnum):
    """The layer a value came from. ``UNSET`` ones: an entry that is used whole does not hold the field."""

    BUILTIN = "builtin"
    STATIC = "static"
    DEFAULTS = "defaults"
    WILDCARD = "wildcard"
    TENANT = "tenant"
    OPERATOR = "operator"
    API = "api"
    STATE = "state"
    WILDCARD_UNSET = "wildcard (unset)"
    TENANT_UNSET = "tenant (unset)"


_ENTRIES = frozenset({Source.TENANT, Source.WILDCARD, Source.DEFAULTS})
# In entries that are used whole. In a tenant's document, and where entries inherit, zero is a value (tenancy §2.2).
_ZERO_IS_UNSET = frozenset(
    {
        "ingestion.max_attribute_bytes",
        "metrics_generator.ingestion_time_range_slack",
        "metrics_generator.native_histogram_min_reset_duration",
        "metrics_generator.span_name_sanitization",
        "metrics_generator.processor.span_metrics.span_multiplier_key",
        "metrics_generator.processor.service_graphs.span_multiplier_key",
    }
)
_UNSET = {Source.WILDCARD: Source.WILDCARD_UNSET, Source.TENANT: Source.TENANT_UNSET}


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """A value and the layer that it came from."""

    value: T
    source: Source


def builtin(value: T) -> Resolved[T]:
    """Return a value that is in no file."""
    return Resolved(value, Source.BUILTIN)


def static(model: BaseModel, name: str) -> Resolved[Any]:
    """Read a field of the service configuration; a default there is built in, not configured."""
    is_set = name in model.model_fields_set
    return Resolved(getattr(model, name), Source.STATIC if is_set else Source.BUILTIN)


class Layers:
    """The override layers of one tenant, and a record of which one answered.

    Attributes:
        resolved: by dotted key, every field that was asked for.
    """

    def __init__(self, config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId) -> None:
        """Line the layers up; nothing is read yet."""
        name = str(tenant)
        entries: list[tuple[Source, Overrides | None]] = [
            (Source.TENANT, overrides.runtime.get(name)),
            (Source.WILDCARD, overrides.runtime.get(WILDCARD)),
            (Source.DEFAULTS, config.overrides.defaults),
        ]
        present = [(source, entry) for source, entry in entries if entry is not None]
        self._unset: Source | None = None
        self._defaults: list[tuple[Source, Overrides]] = []
        if config.uses_entries_whole:
            self._unset = _UNSET.get(present[0][0])
            self._defaults = [present[-1]]
            present = present[:1]
        written = ((Source.API, overrides.documents.get(name)), (Source.OPERATOR, overrides.limits.get(name)))
        self._layers = [*((source, layer) for source, layer in written if layer is not None), *present]
        self.resolved: dict[str, Resolved[Any]] = {}

    def pick(self, key: str, fallback: Resolved[T], *, from_defaults: bool = False, unset: T | None = None) -> T:
        """Return the strongest value that is present; an explicit zero, false or empty list is present.

        Args:
            key: dotted path in the overrides, such as ``metrics_generator.processors``.
            fallback: the value if no layer holds the field.
            from_defaults: an entry that is used whole and does not hold the field leaves it to ``overrides.defaults``.
            unset: what the field then is instead, if that is another value than the fallback's.
        """
        read = _reader(key)
        layers = [*self._layers, *self._defaults] if from_defaults else self._layers
        for source, layer in layers:
            value: T | None = read(layer)
            if value is not None and not self._is_unset(key, value, source):
                return self.take(key, Resolved(value, source))
        if self._unset is not None and not from_defaults and fallback.source is Source.BUILTIN:
            return self.take(key, Resolved(fallback.value if unset is None else unset, self._unset))
        return self.take(key, fallback)

    def _is_unset(self, key: str, value: object, source: Source) -> bool:
        if not self._defaults or source not in _ENTRIES or key not in _ZERO_IS_UNSET:
            return False
        return value in {0, "", Duration(0)}

    def from_defaults(self, key: str, fallback: Resolved[T]) -> T:
        """Return the value of a field that is the same for all tenants, and stands in ``overrides.defaults``."""
        source, defaults = (self._defaults or self._layers)[-1]
        value: T | None = _reader(key)(defaults)
        return self.take(key, fallback if value is None else Resolved(value, source))

    def take(self, key: str, found: Resolved[T]) -> T:
        """Record where the value of ``key`` came from and return it."""
        self.resolved[key] = found
        return found.value


@cache
def _reader(key: str) -> Any:
    return attrgetter(key)
