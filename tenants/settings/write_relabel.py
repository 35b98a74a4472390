"""Write relabelling: rules that change, keep or drop each series on its way to one endpoint.

Keys, defaults and faults are those of Prometheus' ``relabel_config``, with legacy label names; patterns are RE2's,
anchored at both ends. The engine applies them.
"""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from tenants import _engine
from tenants.settings.model import SettingsModel
from tenants.settings.names import ShortText
from tenants.settings.schema import COUNT

MAX_RULES = 64

_DEFAULT_SEPARATOR, _DEFAULT_PATTERN, _DEFAULT_REPLACEMENT = ";", "(.*)", "$1"

_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A label name in which references may stand. Prometheus' own expression says the same, in a form that backtracks.
_REFERENCE = r"\$(?:\{\w+\}|\w)"
_TARGET = re.compile(rf"(?:[A-Za-z_]|{_REFERENCE})(?:\w|{_REFERENCE})*", re.ASCII)

_NEEDS_TARGET = frozenset({"replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"})
_WITHOUT_REPLACEMENT = frozenset({"lowercase", "uppercase", "keepequal", "dropequal"})

# A rule that every pattern can stand in.
_NOTHING = {
    "source_labels": [],
    "separator": "",
    "modulus": 0,
    "target_label": "",
    "replacement": "",
    "action": "keep",
}

Action = Literal[
    "replace",
    "keep",
    "drop",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
    "keepequal",
    "dropequal",
]


def _lowered(action: Any) -> Any:
    return action.lower() if isinstance(action, str) else action


def _check_label_name(name: str) -> str:
    if not _LABEL_NAME.fullmatch(name):
        raise ValueError("is not a valid label name")
    return name


def _check_pattern(pattern: str) -> str:
    try:
        _engine.Relabel(json.dumps([_NOTHING | {"regex": pattern}]))
    except _engine.InvalidPlan as error:
        raise ValueError(str(error).removeprefix("[0].regex: ")) from None
    return pattern


_SourceLabel = Annotated[ShortText, AfterValidator(_check_label_name)]


class RelabelRule(SettingsModel):
    """One rule. Hashable."""

    source_labels: Annotated[tuple[_SourceLabel, ...], Field(max_length=MAX_RULES), Strict(False)] = Field(
        default=(), description="Labels whose values are joined and matched."
    )
    separator: ShortText = Field(default=_DEFAULT_SEPARATOR, description="Text between the joined values.")
    regex: Annotated[str, AfterValidator(_check_pattern)] = Field(
        default=_DEFAULT_PATTERN, description="RE2 pattern that must match the whole of it."
    )
    modulus: Annotated[int, COUNT] = Field(
        default=0, ge=0, le=2**64 - 1, description="Of hashmod: what the hash is taken modulo."
    )
    target_label: ShortText = Field(
        default="", description="Label that is set; of replace it may refer to groups: ${1}."
    )
    replacement: ShortText = Field(
        default=_DEFAULT_REPLACEMENT, description="New value, or of labelmap the new name; may refer to groups: $1."
    )
    action: Annotated[Action, BeforeValidator(_lowered)] = Field(
        default="replace", description="What the rule does: replace, keep, drop, labelmap and so on."
    )

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        # In the order and words of Prometheus, of which the first is told.
        action, target = self.action, self.target_label
        if action == "hashmod" and self.modulus == 0:
            raise ValueError("relabel configuration for hashmod requires non-zero modulus")
        if action in _NEEDS_TARGET and not target:
            raise ValueError(f"relabel configuration for {action} action requires 'target_label' value")
        form = _TARGET if action == "replace" and "$" in target else _LABEL_NAME
        if action in _NEEDS_TARGET and not form.fullmatch(target):
            raise ValueError(f"'target_label' is invalid for {action} action")
        if action in _WITHOUT_REPLACEMENT and self.replacement != _DEFAULT_REPLACEMENT:
            raise ValueError(f"'replacement' can not be set for {action} action")
        if action == "labelmap" and not _TARGET.fullmatch(self.replacement):
            raise ValueError("'replacement' is invalid for labelmap action")
        if action in {"keepequal", "dropequal"} and (self._has_other_fields() or "regex" in self.model_fields_set):
            raise ValueError(f"{action} action requires only 'source_labels' and `target_label`, and no other fields")
        has_labels = "source_labels" in self.model_fields_set or target
        if action in {"labeldrop", "labelkeep"} and (has_labels or self._has_other_fields()):
            raise ValueError(f"{action} action requires only 'regex', and no other fields")
        return self

    def _has_other_fields(self) -> bool:
        others = (self.modulus, self.separator, self.replacement)
        return others != (0, _DEFAULT_SEPARATOR, _DEFAULT_REPLACEMENT)


RelabelRules = Annotated[tuple[RelabelRule, ...], Field(max_length=MAX_RULES), Strict(False)]


def rules_json(rules: Iterable[RelabelRule]) -> str:
    """Return the rules as the engine reads them; empty if there are none."""
    plain = [rule.model_dump() for rule in rules]
    return json.dumps(plain) if plain else ""
