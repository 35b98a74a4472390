"""The layers that a tenant's settings come from, and which of them answered for each field.

Strongest first: entry of the tenant, entry ``*``, ``overrides.defaults``; then what no override holds: the service
configuration, or the built-in value. The strongest layer in which a field is present wins (tenancy §2.1, D-4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from tenants.identity.tenant_id import TenantId
from tenants.settings.overrides import WILDCARD, GeneratorOverrides, Overrides, RuntimeOverrides
from tenants.settings.service_config import ServiceConfig

T = TypeVar("T")


class Source(StrEnum):
    """The layer a value came from."""

    BUILTIN = "builtin"
    STATIC = "static"
    DEFAULTS = "defaults"
    WILDCARD = "wildcard"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Fallback(Generic[T]):
    """The value of a field that no override layer holds."""

    value: T
    source: Source


def builtin(value: T) -> Fallback[T]:
    """Return a value that is in no file."""
    return Fallback(value, Source.BUILTIN)


def static(model: BaseModel, name: str) -> Fallback[Any]:
    """Read a field of the service configuration; a default there is built in, not configured."""
    is_set = name in model.model_fields_set
    return Fallback(getattr(model, name), Source.STATIC if is_set else Source.BUILTIN)


class Layers:
    """The override layers of one tenant, and a record of which one answered.

    Attributes:
        provenance: dotted key to :class:`Source`, of every field that was asked for.
    """

    def __init__(self, config: ServiceConfig, runtime: RuntimeOverrides, tenant: TenantId) -> None:
        """Line the layers up; nothing is read yet."""
        entries: tuple[tuple[Source, Overrides | None], ...] = (
            (Source.TENANT, runtime.get(str(tenant))),
            (Source.WILDCARD, runtime.get(WILDCARD)),
            (Source.DEFAULTS, config.overrides.defaults),
        )
        self._layers = tuple((source, entry.metrics_generator) for source, entry in entries if entry is not None)
        self.provenance: dict[str, str] = {}

    def pick(self, key: str, read: Callable[[GeneratorOverrides], T | None], fallback: Fallback[T]) -> T:
        """Return the strongest value that is present; an explicit zero, false or empty list is present."""
        for source, layer in self._layers:
            value = read(layer)
            if value is not None:
                return self.take(key, Fallback(value, source))
        return self.take(key, fallback)

    def take(self, key: str, found: Fallback[T]) -> T:
        """Record where the value of ``key`` came from and return it."""
        self.provenance[f"metrics_generator.{key}"] = found.source
        return found.value
