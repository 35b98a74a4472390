"""Scopes of a Tempo overrides file that Millrace has no use for: there is no trace store behind it.

They are typed, so that a file written for Tempo loads and a mistake in it is found all the same; what is set here is
listed as without effect, never silently ignored (tenancy §2.3).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, Strict

from tenants.settings.model import SettingsModel
from tenants.settings.names import ShortText, label_of
from tenants.settings.scalars import CalendarDuration
from tenants.settings.schema import BYTES, COUNT, About, Effect, Owner

_Integer = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Count = Annotated[_Integer, COUNT]
_Bytes = Annotated[_Integer, BYTES]

_TRACE_STORE = "Of the trace store."
_ATTRIBUTED_BY_ITSELF = frozenset({"tenant", "tracker"})
_SCOPE = re.compile(r"(?:resource|span)\.")


class ReadOverrides(SettingsModel):
    """Limits of queries."""

    max_bytes_per_tag_values_query: _Bytes | None = Field(default=None, description=_TRACE_STORE)
    max_blocks_per_tag_values_query: _Count | None = Field(default=None, description=_TRACE_STORE)
    max_condition_groups_per_tag_query: _Count | None = Field(default=None, description=_TRACE_STORE)
    max_search_duration: CalendarDuration | None = Field(default=None, description=_TRACE_STORE)
    max_metrics_duration: CalendarDuration | None = Field(default=None, description=_TRACE_STORE)
    unsafe_query_hints: bool | None = Field(default=None, description=_TRACE_STORE)
    left_pad_trace_ids: bool | None = Field(default=None, description=_TRACE_STORE)
    metrics_spanonly_fetch: bool | None = Field(default=None, description=_TRACE_STORE)
    engine_bytes_tracking: bool | None = Field(default=None, description=_TRACE_STORE)


class CompactionOverrides(SettingsModel):
    """How long traces are kept."""

    block_retention: CalendarDuration | None = Field(default=None, description=_TRACE_STORE)
    compaction_window: CalendarDuration | None = Field(default=None, description=_TRACE_STORE)
    compaction_disabled: bool | None = Field(default=None, description=_TRACE_STORE)


class GlobalOverrides(SettingsModel):
    """Limits on whole traces."""

    max_bytes_per_trace: _Bytes | None = Field(default=None, description=_TRACE_STORE)


class StorageOverrides(SettingsModel):
    """How traces are stored."""

    parquet_dedicated_columns: Annotated[tuple[Mapping[str, Any], ...], Field(max_length=100), Strict(False)] | None = (
        Field(default=None, description=_TRACE_STORE)
    )


def _check_attribution(dimensions: Mapping[str, str]) -> Mapping[str, str]:
    seen: dict[str, str] = {}
    for name, given in dimensions.items():
        label = label_of(given or _SCOPE.sub("", name, count=1))
        if label.startswith("__") or label in _ATTRIBUTED_BY_ITSELF:
            raise ValueError(f"the label {label} of {name} is not free; choose another")
        if (first := seen.setdefault(label, name)) != name:
            raise ValueError(f"{first} and {name} become the same label {label}; name one of them differently")
    return dimensions


CostDimensions = Annotated[
    Mapping[Annotated[ShortText, Field(min_length=1)], ShortText],
    Field(max_length=64),
    AfterValidator(_check_attribution),
]
"""Attribute, perhaps with its scope, to the label it becomes; empty: the attribute's name (tenancy §3.10)."""


class CostAttributionOverrides(SettingsModel):
    """Accounting by attribute."""

    dimensions: Annotated[CostDimensions | None, About(owner=Owner.TENANT)] = Field(
        default=None, description="Attributes to account by; usage is counted by tenant and day."
    )
    max_cardinality: _Count | None = Field(default=None, description="Most combinations of those attributes.")


def _checked_once(names: Sequence[str]) -> Sequence[str]:
    if len(set(names)) != len(names):
        raise ValueError("names a forwarder twice; keep one")
    return names


def _no_forwarder(names: Sequence[str]) -> Sequence[str]:
    if names:
        raise ValueError("forwarders are not configured on this service; send an empty list, or leave it out")
    return names


_Forwarders = Annotated[tuple[ShortText, ...], Field(max_length=64), AfterValidator(_checked_once), Strict(False)]

Forwarders = Annotated[
    _Forwarders | None,
    About(
        owner=Owner.TENANT,
        effect=Effect.NEVER,
        tenant_type=Annotated[_Forwarders, AfterValidator(_no_forwarder)] | None,
    ),
]
"""Names of the reference's generic forwarders; Millrace has none. The API accepts no name that is not configured."""
