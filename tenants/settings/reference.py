"""The reference of all settings, made from the models that check them.

``python -m tenants.settings.reference`` writes the page ``docs/settings.md``.
"""

import difflib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tenants.identity.tenant_id import TenantId
from tenants.settings.field_type import FieldType, type_of, type_of_field
from tenants.settings.in_force import OverridesInForce
from tenants.settings.model import key_of
from tenants.settings.overrides import Overrides
from tenants.settings.plain import plain
from tenants.settings.schema import About, Effect, Owner, about
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import explain

REQUIRED = "required"


class Layer(StrEnum):
    """Where a setting is written."""

    SERVICE = "service configuration"
    OVERRIDES = "overrides"


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """Everything that is known about one key.

    Attributes:
        key: dotted path from the top of its layer, such as ``remote_write[].url``.
        type: in words.
        default: as it would be written; of overrides, what is in force if no layer holds the key. Empty: there is none.
        bounds: what is allowed, if it is more than the type and less than a sentence.
        unit: of numbers, in words.
        owner: who may set it.
        effect: when a change is in force.
        description: what it does.
        layer: where it is written.
        is_number: whether it is a number, or a list of numbers.
        is_list_of_mappings: whether there are keys in its entries.
    """

    key: str
    type: str
    default: str
    bounds: str
    unit: str
    owner: Owner
    effect: Effect
    description: str
    layer: Layer
    is_number: bool
    is_list_of_mappings: bool


@cache
def all_settings() -> tuple[SettingDoc, ...]:
    """Return every key of the service configuration, then every key of the overrides, in the order of the models."""
    at_restart = _Walk(Layer.SERVICE, {})
    overrides = _Walk(Layer.OVERRIDES, _built_in())
    return (
        *at_restart.keys_of(ServiceConfig, "", Owner.OPERATOR, Effect.RESTART),
        *overrides.keys_of(Overrides, "", Owner.OPERATOR, Effect.COLLECTION),
    )


def find(key: str) -> tuple[SettingDoc, ...]:
    """Return what is known about a key, in either layer; written as in a file, so ``remote_write[0].url`` too."""
    wanted = _canonical(key)
    return tuple(setting for setting in all_settings() if setting.key == wanted)


def below(key: str) -> tuple[SettingDoc, ...]:
    """Return the keys in a mapping or list."""
    wanted = _canonical(key)
    return tuple(setting for setting in all_settings() if setting.key.startswith((f"{wanted}.", f"{wanted}[].")))


def near_misses(key: str) -> list[str]:
    """Return keys that may be meant: of a similar name, or of the same last part."""
    keys = list(dict.fromkeys(setting.key for setting in all_settings()))
    wanted = _canonical(key)
    same_name = [known for known in keys if known.rpartition(".")[2] == wanted.rpartition(".")[2]]
    similar = difflib.get_close_matches(wanted, keys, n=5)
    names = {known.rpartition(".")[2]: known for known in reversed(keys)}
    similar_name = [names[name] for name in difflib.get_close_matches(wanted.rpartition(".")[2], names, n=5)]
    return list(dict.fromkeys([*same_name, *similar, *similar_name]))[:5]


def written(value: object) -> str:
    """Write a value as in a file, on one line. Secrets are masked."""
    if isinstance(value, SecretStr) and not value.get_secret_value():
        return written("")
    text = plain(value)
    return text if isinstance(text, str) and text else json.dumps(text, ensure_ascii=False)


def page() -> str:
    """Write the reference as Markdown."""
    return "".join(_page_parts())


_INDEX = "[]"
_DEFAULTS = "overrides.defaults"


def _canonical(key: str) -> str:
    parts = [part.partition("[")[0] + (_INDEX if "[" in part else "") for part in key.strip().split(".")]
    whole = ".".join(part for part in parts if part)
    return whole.removeprefix(f"{_DEFAULTS}.")


def _built_in() -> dict[str, str]:
    """Return what is in force of overrides if no file says anything."""
    resolved = explain(ServiceConfig(), OverridesInForce(), TenantId("any"))
    return {key: written(found.value) for key, found in resolved.items()}


def _bounds(kind: FieldType, said: About) -> str:
    if said.tenant_type is None or (narrower := type_of(said.tenant_type).bounds) == kind.bounds:
        return kind.bounds
    return f"{kind.bounds}, in documents {narrower}"


@dataclass(frozen=True, slots=True)
class _Walk:
    """Goes through the models of one layer. ``defaults`` has those that the models do not know."""

    layer: Layer
    defaults: dict[str, str]

    def keys_of(self, model: type[BaseModel], prefix: str, owner: Owner, effect: Effect) -> Iterator[SettingDoc]:
        for name, field in model.model_fields.items():
            key = prefix + key_of(name, field)
            said, kind = about(field), type_of_field(field)
            own, acts = said.owner or owner, said.effect or effect
            yield SettingDoc(
                key=key,
                type=kind.words,
                default=self._default(key, field, kind),
                bounds=_bounds(kind, said),
                unit=kind.unit,
                owner=own,
                effect=acts,
                description=field.description or "",
                layer=self.layer,
                is_number=kind.is_number,
                is_list_of_mappings=kind.inside == _INDEX and kind.model is not None,
            )
            if kind.model is not None and kind.model is not Overrides:
                yield from self.keys_of(kind.model, f"{key}{kind.inside}.", own, acts)

    def _default(self, key: str, field: FieldInfo, kind: FieldType) -> str:
        if key in self.defaults:
            return self.defaults[key]
        if field.is_required():
            return REQUIRED
        value: Any = field.get_default(call_default_factory=True, validated_data={})
        is_mapping = kind.model is not None and not kind.inside
        return "" if value is None or is_mapping else written(value)


_TITLE = """# Settings

Made from the schema by `make docs`: change the schema, not this page. `millrace config explain KEY` says the same in a
terminal, and `millrace config check FILE` checks a file.

Two kinds of files hold settings. The **service configuration** is read once, at the start. **Overrides** are settings
of tenants: the same keys in `overrides.defaults` of the service configuration, in the entries of the runtime file (`*`:
all tenants), and, as far as tenants own them, in the documents of `/api/overrides`.

Durations are written `300ms`, `15s` or `1h30m`, or as whole nanoseconds. `[]` stands for every entry of a list.
"""

_SERVICE = """
## Service configuration

Operators set it; a change is in force at the next start.
"""

_OVERRIDES = """
## Overrides

The default is what is in force if no layer holds the key. A change of the runtime file or of a document is in force

* *request*: with the next request,
* *collection*: within one collection interval,
* *never*: the key is accepted so that files written for Grafana Tempo load.
"""

_SHORT_EFFECTS = {Effect.REQUEST: "request", Effect.COLLECTION: "collection", Effect.NEVER: "never"}


def _page_parts() -> Iterator[str]:
    yield _TITLE
    for layer, opening in ((Layer.SERVICE, _SERVICE), (Layer.OVERRIDES, _OVERRIDES)):
        yield opening
        settings = [setting for setting in all_settings() if setting.layer is layer]
        outside_lists = [setting for setting in settings if f"{_INDEX}." not in setting.key]
        yield from _table(outside_lists, has_owners=layer is Layer.OVERRIDES)
    yield "\n## Entries of lists\n"
    for lists, items in _lists():
        yield f"\n### {lists}\n"
        yield from _table(items, has_owners=False)


def _lists() -> Iterator[tuple[str, list[SettingDoc]]]:
    """Return the keys in the entries of lists, once for all lists that have entries of one kind."""
    names: dict[tuple[SettingDoc, ...], dict[str, None]] = {}
    for key in dict.fromkeys(setting.key for setting in all_settings() if setting.is_list_of_mappings):
        entries = tuple(dict.fromkeys(_inside(f"{key}{_INDEX}.")))
        outer, _, name = key.rpartition(f"{_INDEX}.")
        shown = f"{outer.rpartition('.')[2]}{_INDEX}.{name}" if outer else name
        names.setdefault(entries, {})[f"`{shown}{_INDEX}`"] = None
    for entries, lists in names.items():
        yield ", ".join(lists), list(entries)


def _inside(prefix: str) -> Iterator[SettingDoc]:
    """Return the keys in the entries of a list, without who sets them and when: that the list says."""
    for setting in all_settings():
        name = setting.key.removeprefix(prefix)
        if setting.key.startswith(prefix) and f"{_INDEX}." not in name:
            yield replace(setting, key=name, layer=Layer.OVERRIDES, owner=Owner.OPERATOR, effect=Effect.COLLECTION)


def _table(settings: list[SettingDoc], *, has_owners: bool) -> Iterator[str]:
    columns = ["key", "type", "default", *(["owner", "in force"] if has_owners else []), "what it does"]
    yield f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    for setting in settings:
        kind = ", ".join(part for part in (setting.type, setting.unit, setting.bounds) if part)
        default = f"`{setting.default}`" if setting.default and setting.default != REQUIRED else setting.default
        owners = [setting.owner.value, _SHORT_EFFECTS[setting.effect]] if has_owners else []
        cells = [f"`{setting.key}`", _text(kind), default, *owners, _text(setting.description)]
        yield f"| {' | '.join(cells)} |\n"


def _text(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return re.sub(r"([|<*])", r"\\\1", text)


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write(page())


if __name__ == "__main__":
    main()
