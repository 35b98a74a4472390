"""The overrides of ten thousand tenants in little memory: of each entry some hundred bytes, read when it is asked for.

As objects they take ten times as much, in every process, and most tenants send nothing most of the time.
"""

import pickle
import zlib
from collections.abc import Mapping
from typing import Final, TypeVar

from tenants.settings.in_force import OverridesChange, OverridesInForce
from tenants.settings.overrides import WILDCARD, Overrides
from tenants.settings.tenant_state import TenantState

V = TypeVar("V")

_WORDS: Final = pickle.dumps(Overrides(), pickle.HIGHEST_PROTOCOL)
"""What any entry is full of: the names of classes and settings."""

_LAYERS: Final = ("runtime", "documents", "limits")


class PackedOverrides:
    """What is in force for all tenants. Whoever shares it between threads locks it.

    Attributes:
        version: of the last change; zero before the first.
    """

    def __init__(self) -> None:
        self.version = 0
        self._wildcard: dict[str, Overrides] = {}
        self._runtime: dict[str, bytes] = {}
        self._documents: dict[str, bytes] = {}
        self._limits: dict[str, bytes] = {}
        self._states: dict[str, TenantState] = {}
        self._sizes: dict[str, int] = {}

    def put(self, change: OverridesChange) -> None:
        """Make a change; whether it may be made on this version is the caller's to know."""
        if change.base is None:
            for layer in (self._wildcard, self._runtime, self._documents, self._limits, self._states, self._sizes):
                layer.clear()
        self.version = change.version
        _merge(self._wildcard, {WILDCARD: change.runtime[WILDCARD]} if WILDCARD in change.runtime else {})
        _merge(self._runtime, _packed(change.runtime))
        _merge(self._documents, _packed(change.documents))
        _merge(self._limits, _packed(change.limits))
        _merge(self._states, change.states)
        _merge(self._sizes, change.sizes)

    def of(self, tenant: str) -> OverridesInForce:
        """Return what is in force for one tenant, and nothing of others."""
        return OverridesInForce(
            version=self.version,
            runtime=_entry(self._runtime, tenant) | self._wildcard,
            documents=_entry(self._documents, tenant),
            states={tenant: self._states[tenant]} if tenant in self._states else {},
            limits=_entry(self._limits, tenant),
            sizes={tenant: self._sizes[tenant]} if tenant in self._sizes else {},
        )


def _merge(layer: dict[str, V], change: Mapping[str, V | None]) -> None:
    for key, value in change.items():
        if value is None:
            layer.pop(key, None)
        else:
            # A key that came with the change would keep its surroundings in memory.
            layer[key.encode().decode()] = value


def _packed(change: Mapping[str, Overrides | None]) -> dict[str, bytes | None]:
    return {key: None if entry is None else _pack(entry) for key, entry in change.items()}


def _pack(entry: Overrides) -> bytes:
    compression = zlib.compressobj(level=1, zdict=_WORDS)
    return compression.compress(pickle.dumps(entry, pickle.HIGHEST_PROTOCOL)) + compression.flush()


def _entry(layer: Mapping[str, bytes], tenant: str) -> dict[str, Overrides]:
    if (packed := layer.get(tenant)) is None:
        return {}
    # Nobody but _pack, in this process, made it.
    entry: Overrides = pickle.loads(zlib.decompressobj(zdict=_WORDS).decompress(packed))  # noqa: S301
    return {tenant: entry}
