"""The runtime file: the settings of each tenant, re-read while the service runs (tenancy §2.6).

All or nothing: a file with any fault changes nothing for anybody, and the last good one stays in force. An entry that
did not change stays the same object, so that it costs little to find what did.
Nothing here logs, waits or keeps time; the caller decides when to look and what to say.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tenants.identity.tenant_id import TenantId
from tenants.settings.entry_texts import EntryTexts, entry_texts
from tenants.settings.errors import Fault, SettingsError, dotted
from tenants.settings.inherited_collisions import inherited_collision, inherited_layers
from tenants.settings.model import validate
from tenants.settings.overrides import WILDCARD, Overrides, RuntimeOverrides
from tenants.settings.remote_write_targets import target_faults
from tenants.settings.service_config import ServiceConfig
from tenants.settings.without_effect import keys_without_effect
from tenants.settings.yaml_document import MAX_NODES, YamlDocument, read_yaml

_KEY = "overrides"
_MASS_REMOVAL_ENTRIES = 5
_LISTED_WITHOUT_EFFECT = 50


class FailureReason(StrEnum):
    """Why a file was refused. The texts are labels of a counter and never change."""

    READ = "read"
    PARSE = "parse"
    VALIDATE = "validate"
    MASS_REMOVAL = "mass_removal"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The file is the one in force (again): a successful reload."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A new file is in force.

    Attributes:
        overrides: the entries.
        sha256: of the file.
        without_effect: paths of keys that are set and change nothing here, the first 50.
        without_effect_count: all of them.
    """

    overrides: RuntimeOverrides
    sha256: str
    without_effect: tuple[str, ...] = ()
    without_effect_count: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The file was refused; what was in force stays. At start there is nothing in force: treat as fatal."""

    reason: FailureReason
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return str(SettingsError(self.faults, f"runtime file refused ({self.reason})"))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry without faults.

    Attributes:
        overrides: what it says; None: it counts as no entry.
        nodes: values in its text.
        without_effect: paths of its keys that change nothing.
    """

    overrides: Overrides | None
    nodes: int
    without_effect: tuple[str, ...]


class RuntimeFile:
    """One runtime file and what was last good in it. Not safe to share between threads."""

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], bytes],
        *,
        config: ServiceConfig | None = None,
        environ: Mapping[str, str] | None = None,
        allow_mass_removal: bool = False,
    ) -> None:
        """Remember where to look; nothing is read yet.

        Args:
            path: the file.
            read: returns its content or raises OSError; normally ``Path.read_bytes``.
            config: what the entries inherit from; they are checked together with it. None: the built-in values.
            environ: values of ``${NAME}``; None leaves the text as it is.
            allow_mass_removal: accept an empty file and the loss of most entries (tenancy D-8).
        """
        self._path = path
        self._read = read
        self._config = config or ServiceConfig()
        self._environ = environ
        self._allow_mass_removal = allow_mass_removal
        self._good: Loaded | None = None
        # Of the last good file. Without texts every entry is read again.
        self._entries: Mapping[str, _Entry] = {}
        self._texts: EntryTexts | None = None

    @property
    def good(self) -> Loaded | None:
        """What is in force; None before the first good load."""
        return self._good

    def poll(self) -> Unchanged | Loaded | Failed:
        """Read the file once (blocking) and put it in force if it differs and is good. Safe to repeat."""
        try:
            content = self._read(self._path)
        except OSError as error:
            problem = f"{self._path} cannot be read: {error.strerror or error}; restore it"
            return Failed(FailureReason.READ, (Fault("", problem),))
        sha256 = hashlib.sha256(content).hexdigest()
        if self._good and self._good.sha256 == sha256:
            return Unchanged()
        loaded = self._load(content, sha256)
        if isinstance(loaded, Loaded):
            self._good = loaded
        return loaded

    def _load(self, content: bytes, sha256: str) -> Loaded | Failed:
        texts = entry_texts(content)
        entries = self._read_changed(texts) if texts else None
        if entries is None:
            # Also if there may be a fault in what changed: only the whole file tells all of them.
            try:
                document = read_yaml(content, self._environ)
            except SettingsError as error:
                return Failed(FailureReason.PARSE, error.faults)
            if not self._allow_mass_removal and _is_empty(document.value):
                problem = "is empty; write `overrides: {}` for no entries, or set overrides.allow_mass_removal"
                return Failed(FailureReason.MASS_REMOVAL, (Fault("", problem),))
            entries, faults = self._check(document)
            if faults:
                return Failed(FailureReason.VALIDATE, tuple(faults))
            if texts and list(texts.texts) != list(entries):
                texts = None
        overrides = {tenant: entry.overrides for tenant, entry in entries.items() if entry.overrides is not None}
        if not self._allow_mass_removal and (fault := self._mass_removal(overrides)):
            return Failed(FailureReason.MASS_REMOVAL, (fault,))
        self._entries, self._texts = entries, texts
        without_effect = [path for entry in entries.values() for path in entry.without_effect]
        return Loaded(overrides, sha256, tuple(without_effect[:_LISTED_WITHOUT_EFFECT]), len(without_effect))

    def _read_changed(self, texts: EntryTexts) -> Mapping[str, _Entry] | None:
        """Read the entries whose text changed; None if they have a fault, or this file cannot be read in parts."""
        if self._texts is None:
            return None
        known = {
            tenant: self._entries[tenant]
            for tenant, text in texts.texts.items()
            if self._texts.texts.get(tenant) == text and (self._environ is None or "${" not in text)
        }
        if not known:
            return None
        part = texts.without(known)
        nodes = sum(entry.nodes for entry in known.values())
        try:
            document = read_yaml(part.content, self._environ, max_nodes=MAX_NODES - nodes)
        except SettingsError:
            return None
        changed, faults = self._check(document, known)
        if faults or tuple(changed) != part.names:
            return None
        return {tenant: known.get(tenant) or changed[tenant] for tenant in texts.texts}

    def _check(
        self, document: YamlDocument, known: Mapping[str, _Entry] | None = None
    ) -> tuple[dict[str, _Entry], list[Fault]]:
        """Check a document, of which the bodies of the entries ``known`` were left out; return all that is wrong."""
        known = known or {}
        values, faults = _values(document)
        entries: dict[str, _Entry] = {}
        for tenant, value in values.items():
            if tenant in known:
                entries[tenant] = known[tenant]
                continue
            path = (_KEY, tenant)
            try:
                _ = tenant == WILDCARD or TenantId(tenant)
            except ValueError as error:
                faults.append(Fault(dotted(path), str(error), document.line_of(path)))
            try:
                entry = validate(Overrides, value, path=path, document=document)
            except SettingsError as error:
                faults.extend(error.faults)
                continue
            faults.extend(self._faults(entry, path, document))
            entries[tenant] = self._entry(tenant, None if value is None and self._is_whole else entry, document)
        overrides = {
            tenant: each.overrides for tenant, each in {**known, **entries}.items() if each.overrides is not None
        }
        faults.extend(_collisions(overrides, self._config, document, is_whole=self._is_whole))
        return entries, faults

    @property
    def _is_whole(self) -> bool:
        # Then an entry without a body is none; else it is an empty one (tenancy D-9).
        return self._config.uses_entries_whole

    def _faults(self, entry: Overrides, path: tuple[str, ...], document: YamlDocument) -> Iterator[Fault]:
        """Find what is wrong with an entry by itself, given the service configuration."""
        yield from target_faults(entry, self._config.remote_write_targets, path, document)
        strategy, common = entry.ingestion.rate_strategy, self._config.overrides.defaults.ingestion.rate_strategy
        # Used whole, as by the reference, it is accepted and ignored (tenancy §2.2).
        if strategy is not None and strategy != (common or "local") and not self._is_whole:
            where = (*path, "ingestion", "rate_strategy")
            problem = "is one for all tenants; set it in overrides.defaults of the service configuration"
            yield Fault(dotted(where), problem, document.line_of(where))

    def _entry(self, tenant: str, overrides: Overrides | None, document: YamlDocument) -> _Entry:
        nodes = document.sizes.get((_KEY, tenant), 1)
        former = self._entries.get(tenant)
        if former is not None and former.overrides == overrides:
            return replace(former, nodes=nodes)
        path = dotted((_KEY, tenant))
        return _Entry(overrides, nodes, tuple(keys_without_effect(overrides, path=path)) if overrides else ())

    def _mass_removal(self, overrides: RuntimeOverrides) -> Fault | None:
        before = self._good.overrides if self._good else {}
        removed = len(before.keys() - overrides.keys())
        lost_most = removed >= _MASS_REMOVAL_ENTRIES and 2 * removed > len(before)
        if lost_most or (before and not overrides):
            lost = f"would remove {removed} of {len(before)} entries"
            return Fault(_KEY, f"{lost}; set overrides.allow_mass_removal if it should")
        return None


def _is_empty(value: object) -> bool:
    """Whether a document looks like a truncated write: nothing, or ``overrides:`` and nothing under it."""
    return value is None or (isinstance(value, dict) and all(key == _KEY and value[key] is None for key in value))


def _values(document: YamlDocument) -> tuple[dict[str, object], list[Fault]]:
    """Return the entries of a document as plain data, and what is wrong around them."""
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        return {}, [Fault("", f"should be a mapping with the one key {_KEY}", document.line_of(()))]
    faults = [
        Fault(dotted([key]), f"unknown key; only {_KEY} may stand here{_advice(key)}", document.line_of((key,)))
        for key in value
        if key != _KEY
    ]
    entries = {} if value.get(_KEY) is None else value[_KEY]
    if not isinstance(entries, dict):
        faults.append(Fault(_KEY, "should be a mapping of tenant ids to settings", document.line_of((_KEY,))))
        entries = {}
    return entries, faults


def _collisions(
    overrides: RuntimeOverrides, config: ServiceConfig, document: YamlDocument, *, is_whole: bool
) -> Iterator[Fault]:
    """Compare each entry with what it inherits: the entry ``*``, defaults and the service configuration.

    An entry that is used whole inherits from the service configuration alone.
    """
    static, defaults = config.metrics_generator.processor.span_metrics, config.overrides.defaults
    for_wildcard = inherited_layers(static) if is_whole else inherited_layers(static, defaults)
    for_tenants = for_wildcard if is_whole else inherited_layers(static, defaults, overrides.get(WILDCARD))
    for tenant, entry in overrides.items():
        below = for_wildcard if tenant == WILDCARD else for_tenants
        if fault := inherited_collision(entry, below, (_KEY, tenant), document):
            yield fault


def _advice(key: str) -> str:
    return "; defaults belong in the service configuration" if key == "defaults" else ""
