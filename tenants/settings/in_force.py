"""What is in force for all tenants besides the service configuration, and how it changes.

A snapshot is immutable. A change carries only what differs from the snapshot it was made on, because with ten thousand
tenants the whole takes seconds to travel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, TypeVar

from tenants.settings.overrides import WILDCARD, Overrides, RuntimeOverrides
from tenants.settings.tenant_state import TenantState

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class OverridesInForce:
    """One consistent view of all tenants. Do not change the mappings.

    Attributes:
        version: grows with every change.
        runtime: entries of the runtime file, ``*`` included.
        documents: documents of tenants that are applied.
        states: of the tenants that the store knows.
        limits: that operators set through the API.
        sizes: shards of tenants that have more than one as their rate demands.
    """

    version: int = 0
    runtime: RuntimeOverrides = field(default_factory=dict)
    documents: Mapping[str, Overrides] = field(default_factory=dict)
    states: Mapping[str, TenantState] = field(default_factory=dict)
    limits: Mapping[str, Overrides] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OverridesChange:
    """From one version to a later one. A value of None removes the key.

    Attributes:
        base: the version that it changes; None: it is the whole.
        version: the version that it leads to.
    """

    base: int | None
    version: int
    runtime: Mapping[str, Overrides | None]
    documents: Mapping[str, Overrides | None]
    states: Mapping[str, TenantState | None]
    limits: Mapping[str, Overrides | None]
    sizes: Mapping[str, int | None]

    @property
    def tenants(self) -> frozenset[str] | None:
        """The tenants that may have other settings now; None: any."""
        if self.base is None or WILDCARD in self.runtime:
            return None
        return frozenset().union(self.runtime, self.documents, self.states, self.limits, self.sizes)


class Put(Enum):
    """What becomes of a change."""

    NEW = auto()
    """It comes in force."""

    OLD = auto()
    """It, or a later one, already is."""

    LACKS_BASE = auto()
    """The version that it changes is not here: the whole has to come."""


def judged(version: int, change: OverridesChange) -> Put:
    """Return what becomes of a change where a version is in force."""
    if change.version <= version:
        return Put.OLD
    if change.base is not None and change.base != version:
        return Put.LACKS_BASE
    return Put.NEW


def whole(overrides: OverridesInForce) -> OverridesChange:
    """Return the change that leads to a snapshot from anywhere."""
    return change_between(OverridesInForce(), overrides, is_whole=True)


def change_between(former: OverridesInForce, latter: OverridesInForce, *, is_whole: bool = False) -> OverridesChange:
    """Return what differs. Values are compared by identity first, so that what was kept costs nothing."""
    return OverridesChange(
        None if is_whole else former.version,
        latter.version,
        _difference(former.runtime, latter.runtime),
        _difference(former.documents, latter.documents),
        _difference(former.states, latter.states),
        _difference(former.limits, latter.limits),
        _difference(former.sizes, latter.sizes),
    )


def in_parts(change: OverridesChange, entries: int) -> Iterator[OverridesChange]:
    """Divide a change into changes that lead one to the other, each of a bounded number of entries.

    Reading a change keeps a process from anything else, and a process that receives spans may not be kept for long. The
    versions in between are those before the last: whoever makes a version leaves room for them (:func:`part_count`).
    """
    kinds = ("runtime", "documents", "states", "limits", "sizes")
    rows = [(kind, key, value) for kind in kinds for key, value in getattr(change, kind).items()]
    count = part_count(len(rows), entries)
    base = change.base
    for index in range(count):
        part: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
        for kind, key, value in rows[index * entries : (index + 1) * entries]:
            part[kind][key] = value
        version = change.version - (count - 1 - index)
        yield OverridesChange(base, version, **part)
        base = version


def entry_count(overrides: OverridesInForce) -> int:
    """Return how many entries a snapshot has."""
    layers = (overrides.runtime, overrides.documents, overrides.states, overrides.limits, overrides.sizes)
    return sum(map(len, layers))


def part_count(changed: int, entries: int) -> int:
    """Return how many parts a change of so many entries has."""
    return max(1, -(-changed // entries))


def applied(former: OverridesInForce, change: OverridesChange) -> OverridesInForce | None:
    """Return the snapshot that a change leads to; the former one if it is not older; None if it lacks the base."""
    put = judged(former.version, change)
    if put is not Put.NEW:
        return former if put is Put.OLD else None
    if change.base is None:
        former = OverridesInForce()
    return replace(
        former,
        version=change.version,
        runtime=merged_changes(former.runtime, change.runtime),
        documents=merged_changes(former.documents, change.documents),
        states=merged_changes(former.states, change.states),
        limits=merged_changes(former.limits, change.limits),
        sizes=merged_changes(former.sizes, change.sizes),
    )


def _difference(former: Mapping[str, V], latter: Mapping[str, V]) -> dict[str, V | None]:
    if former is latter:
        return {}
    changed: dict[str, V | None] = {
        key: value for key, value in latter.items() if (before := former.get(key)) is not value and before != value
    }
    changed.update(dict.fromkeys(former.keys() - latter.keys()))
    return changed


def merged_changes(former: Mapping[str, V], change: Mapping[str, V | None]) -> Mapping[str, V]:
    """Return the mapping with changes made; a value of None removes the key. The same object if there are none."""
    if not change:
        return former
    latter = dict(former)
    for key, value in change.items():
        if value is None:
            latter.pop(key, None)
        else:
            latter[key] = value
    return latter
