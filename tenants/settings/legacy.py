"""The legacy flat format of overrides, turned into the scoped one (tenancy §2.3, D-5).

Nothing reads the flat format while the service runs: a format that is guessed hides the real fault of a file. Values
are passed on as they are, also secrets; they are checked when the new file is.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml
from pydantic import BaseModel

from tenants.settings.errors import Fault, PathPart, SettingsError, dotted
from tenants.settings.model import key_of
from tenants.settings.overrides import Overrides
from tenants.settings.service_config import OverridesConfig
from tenants.settings.yaml_document import YamlDocument

Keys = dict[str, Any]

_ROOT: Final = "overrides"
_DEFAULTS: Final = "defaults"
# It only allowed what is converted here.
_SWITCH: Final = "enable_legacy_overrides"

_SCOPES_WITH_BARE_NAMES: Final = frozenset({"read", "compaction", "global", "storage"})
_BARE_NAMES: Final = frozenset({("ingestion", "max_traces_per_user"), ("ingestion", "max_global_traces_per_user")})
# Mappings in the flat format, too.
_VALUES: Final = frozenset(
    {("cost_attribution",), ("metrics_generator", "processor", "span_metrics", "intrinsic_dimensions")}
)


def _scoped_paths(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        inner, kind = (*path, key_of(name, field)), field.annotation
        if inner not in _VALUES and isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _scoped_paths(kind, inner)
        else:
            yield inner


def _flat_name(path: tuple[str, ...]) -> str:
    is_bare = path[0] in _SCOPES_WITH_BARE_NAMES or path in _BARE_NAMES
    return path[-1] if is_bare else "_".join(path)


FLAT_NAMES: Final[Mapping[str, tuple[str, ...]]] = {_flat_name(path): path for path in _scoped_paths(Overrides, ())}
"""Every key of the flat format, and where it stands in the scoped one."""

_SCOPES: Final = frozenset(key_of(name, field) for name, field in Overrides.model_fields.items()) - FLAT_NAMES.keys()
_SERVICE_KEYS: Final = frozenset(OverridesConfig.model_fields) - {_DEFAULTS}


def convert(document: YamlDocument, source: str = "") -> Keys:
    """Return a file in the scoped format: a runtime file, or a service configuration with flat limits in ``overrides``.

    Args:
        document: the file.
        source: names it in the error.

    Raises:
        SettingsError: it has no ``overrides``, or keys there that the flat format does not have; with every fault.
    """
    value = document.value
    overrides = value.get(_ROOT) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(overrides, dict):
        raise SettingsError([Fault(_ROOT, "should be a mapping, of tenants or of limits", 1)], source)
    conversion = _Conversion(document)
    if value.keys() - {_ROOT} or overrides.keys() & (FLAT_NAMES.keys() | _SERVICE_KEYS | {_SWITCH}):
        converted = conversion.limits(overrides)
    else:
        converted = {tenant: conversion.entry(tenant, entry) for tenant, entry in overrides.items()}
    if conversion.faults:
        raise SettingsError(conversion.faults, source)
    return {**value, _ROOT: converted}


class _Conversion:
    """Converts one file and collects what is wrong with it."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self.faults: list[Fault] = []

    def limits(self, overrides: Keys) -> Keys:
        """Convert the limits that stand in a service configuration beside keys that stay."""
        stay = {key: value for key, value in overrides.items() if key in _SERVICE_KEYS}
        flat = {key: value for key, value in overrides.items() if key not in _SERVICE_KEYS and key != _SWITCH}
        return {_DEFAULTS: self._scoped(flat, (_ROOT,)), **stay}

    def entry(self, tenant: str, entry: object) -> object:
        """Convert what a runtime file says of one tenant."""
        path = (_ROOT, tenant)
        if entry is None:
            return None
        if not isinstance(entry, dict):
            self._refuse(path, "should be a mapping of keys to values")
            return entry
        return self._scoped(entry, path)

    def _scoped(self, flat: Keys, path: tuple[PathPart, ...]) -> Keys:
        scoped: Keys = {}
        for key, value in flat.items():
            if key not in FLAT_NAMES:
                self._refuse((*path, key), _not_flat(key))
                continue
            *scopes, name = FLAT_NAMES[key]
            inner = scoped
            for scope in scopes:
                inner = inner.setdefault(scope, {})
            inner[name] = value
        return scoped

    def _refuse(self, path: tuple[PathPart, ...], message: str) -> None:
        self.faults.append(Fault(dotted(path), message, self._document.line_of(path)))


def _not_flat(key: str) -> str:
    if key in _SCOPES or key == _DEFAULTS:
        return "is of the scoped format already, and a file has one format; take it out, convert the rest, put it back"
    nearest = difflib.get_close_matches(key, FLAT_NAMES, n=1)
    advice = f"; did you mean {nearest[0]}?" if nearest else "; remove it"
    return f"is not a key of the legacy flat format{advice}"


# Text that YAML 1.2, in which it is read again, takes for a number, and YAML 1.1, which the writer knows, does not.
_LOOKS_LIKE_A_NUMBER: Final = re.compile(r"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|\.?[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?)")

# Only escaped in double quotes they stay what they are.
_BREAKS_LINES: Final = re.compile("[\r\x85\u2028\u2029\ufeff]")


class _Writer(yaml.SafeDumper):
    """Writes values out where the file had aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (the parent's signature)
        return True


def _represent_text(writer: _Writer, text: str) -> yaml.ScalarNode:
    style = "'" if _LOOKS_LIKE_A_NUMBER.fullmatch(text) else '"' if _BREAKS_LINES.search(text) else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _represent_text)


def to_yaml(value: Keys) -> str:
    """Write plain values as YAML that reads back as the same."""
    text: str = yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120)
    return text
