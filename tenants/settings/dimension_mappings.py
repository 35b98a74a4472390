"""Labels of span metrics that are joined from several attributes (processors §1.3).

Two dimensions may become the same label; a mapping may not become that of a dimension or of another mapping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, Strict, ValidationInfo

from tenants.settings.model import SettingsModel
from tenants.settings.names import SPAN_LABELS, AttributeNames, MappingName, ShortText, label_of


class DimensionMapping(SettingsModel):
    """One label and the attributes that it is joined from."""

    name: MappingName = Field(description="The label; characters that no label may have become underscores.")
    source_labels: Annotated[AttributeNames, Field(min_length=1)] = Field(
        description="Attributes of resource or span whose values are joined, in this order."
    )
    join: ShortText = Field(default="", description="Text between two values.")


@dataclass(frozen=True, slots=True)
class Collision:
    """A mapping that would become a label that is taken.

    Attributes:
        index: position of the mapping in its list.
        mapping: its name.
        label: what it becomes.
        other_kind: ``dimension`` or ``mapping``.
        other: the name of the one that becomes the same label.
    """

    index: int
    mapping: str
    label: str
    other_kind: str
    other: str


def find_collision(dimensions: Sequence[str], mappings: Sequence[DimensionMapping]) -> Collision | None:
    """Return the first mapping that becomes the label of a dimension or of a mapping before it; None if none does."""
    taken = {label_of(name, SPAN_LABELS): ("dimension", name) for name in dimensions}
    for index, mapping in enumerate(mappings):
        label = label_of(mapping.name, SPAN_LABELS)
        if label in taken:
            return Collision(index, mapping.name, label, *taken[label])
        taken[label] = ("mapping", mapping.name)
    return None


def _check_collisions(mappings: tuple[DimensionMapping, ...], info: ValidationInfo) -> tuple[DimensionMapping, ...]:
    # Dimensions of this layer only: those of other layers are not known yet.
    if collision := find_collision(info.data.get("dimensions") or (), mappings):
        raise ValueError(
            f'entry [{collision.index}] "{collision.mapping}" becomes the label {collision.label}, and so does '
            f'the {collision.other_kind} "{collision.other}"; rename one of them'
        )
    return mappings


DimensionMappings = Annotated[
    tuple[DimensionMapping, ...], Field(max_length=64), AfterValidator(_check_collisions), Strict(False)
]
"""Mappings of one layer. In a model this field has to come after ``dimensions``, which it is compared with."""
