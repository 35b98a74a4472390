"""The runtime file: the settings of each tenant, re-read while the service runs (tenancy §2.6).

All or nothing: a file with any fault changes nothing for anybody, and the last good one stays in force.
Nothing here logs, waits or keeps time; the caller decides when to look and what to say.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tenants.identity.tenant_id import TenantId
from tenants.settings.errors import Fault, SettingsError, dotted
from tenants.settings.inherited_collisions import inherited_collision, inherited_layers
from tenants.settings.model import validate
from tenants.settings.overrides import WILDCARD, Overrides, RuntimeOverrides
from tenants.settings.service_config import ServiceConfig
from tenants.settings.yaml_document import YamlDocument, read_yaml

_KEY = "overrides"
_MASS_REMOVAL_ENTRIES = 5


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
    """A new file is in force."""

    overrides: RuntimeOverrides
    sha256: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The file was refused; what was in force stays. At start there is nothing in force: treat as fatal."""

    reason: FailureReason
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return str(SettingsError(self.faults, f"runtime file refused ({self.reason})"))


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
        try:
            document = read_yaml(content, self._environ)
        except SettingsError as error:
            return Failed(FailureReason.PARSE, error.faults)
        if not self._allow_mass_removal and _is_empty(document.value):
            problem = "is empty; write `overrides: {}` for no entries, or set overrides.allow_mass_removal"
            return Failed(FailureReason.MASS_REMOVAL, (Fault("", problem),))
        try:
            overrides = _checked(document, self._config)
        except SettingsError as error:
            return Failed(FailureReason.VALIDATE, error.faults)
        if not self._allow_mass_removal and (fault := self._mass_removal(overrides)):
            return Failed(FailureReason.MASS_REMOVAL, (fault,))
        return Loaded(overrides, sha256)

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


def _checked(document: YamlDocument, config: ServiceConfig) -> RuntimeOverrides:
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        raise SettingsError([Fault("", f"should be a mapping with the one key {_KEY}", document.line_of(()))])
    faults = [
        Fault(dotted([key]), f"unknown key; only {_KEY} may stand here{_advice(key)}", document.line_of((key,)))
        for key in value
        if key != _KEY
    ]
    entries = {} if value.get(_KEY) is None else value[_KEY]
    if not isinstance(entries, dict):
        faults.append(Fault(_KEY, "should be a mapping of tenant ids to settings", document.line_of((_KEY,))))
        entries = {}
    overrides: dict[str, Overrides] = {}
    for tenant, entry in entries.items():
        path = (_KEY, tenant)
        try:
            _ = tenant == WILDCARD or TenantId(tenant)
        except ValueError as error:
            faults.append(Fault(dotted(path), str(error), document.line_of(path)))
        try:
            # An entry without a body is an empty entry (tenancy D-9).
            overrides[tenant] = validate(Overrides, entry, path=path, document=document)
        except SettingsError as error:
            faults.extend(error.faults)
    faults += _collisions(overrides, config, document)
    if faults:
        raise SettingsError(faults)
    return overrides


def _collisions(overrides: RuntimeOverrides, config: ServiceConfig, document: YamlDocument) -> Iterator[Fault]:
    """Compare each entry with what it inherits: the entry ``*``, defaults and the service configuration."""
    static, defaults = config.metrics_generator.processor.span_metrics, config.overrides.defaults
    for_wildcard = inherited_layers(static, defaults)
    for_tenants = inherited_layers(static, defaults, overrides.get(WILDCARD))
    for tenant, entry in overrides.items():
        below = for_wildcard if tenant == WILDCARD else for_tenants
        if fault := inherited_collision(entry, below, (_KEY, tenant), document):
            yield fault


def _advice(key: str) -> str:
    return "; defaults belong in the service configuration" if key == "defaults" else ""
