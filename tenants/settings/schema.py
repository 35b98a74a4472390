"""What is known about a setting besides its type: who may set it, when a change takes effect, in which unit it is.

Models carry it as annotation, beside the type it belongs to. A mapping hands its own down to every key in it that says
nothing else.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic.fields import FieldInfo


class Owner(StrEnum):
    """Who may set it. Tenants reach only what is theirs, and only through the API; operators reach everything."""

    OPERATOR = "operator"
    TENANT = "tenant"


class Effect(StrEnum):
    """When a change is in force everywhere."""

    RESTART = "at the next start of the service"
    REQUEST = "with the next request"
    COLLECTION = "within one collection interval"
    NEVER = "never: accepted so that files written for Grafana Tempo load"


@dataclass(frozen=True, slots=True)
class About:
    """Annotation of a field. None: as the mapping that the field stands in.

    Attributes:
        owner: who may set it.
        effect: when a change takes effect.
        unit: of a number, in words, such as ``bytes``; empty where the type says it.
        tenant_type: the type in documents of tenants, where it is narrower than the operator's.
    """

    owner: Owner | None = None
    effect: Effect | None = None
    unit: str = ""
    tenant_type: Any = None


BYTES = About(unit="bytes")
COUNT = About(unit="count")
RATIO = About(unit="ratio")
SECONDS = About(unit="seconds")


def about(field: FieldInfo) -> About:
    """Return what a field says of itself; where two annotations say the same, the first one counts."""
    said = [part for part in field.metadata if isinstance(part, About)]
    return About(
        owner=next((part.owner for part in said if part.owner is not None), None),
        effect=next((part.effect for part in said if part.effect is not None), None),
        unit=next((part.unit for part in said if part.unit), ""),
        tenant_type=next((part.tenant_type for part in said if part.tenant_type is not None), None),
    )
