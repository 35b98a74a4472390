"""What ``millrace config`` does: checks files, and says what a setting is and which layer a value comes from.

Nothing here talks to a running service or changes a file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cluster.json_output import write_json
from cluster.stored_layers import layers_of
from tenants.identity.tenant_id import TenantId
from tenants.settings.errors import Fault, SettingsError, dotted
from tenants.settings.in_force import OverridesInForce
from tenants.settings.legacy import convert as convert_legacy
from tenants.settings.legacy import to_yaml
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.plain import plain
from tenants.settings.reference import Layer, SettingDoc, all_settings, below, find, near_misses, written
from tenants.settings.runtime_file import Loaded, RuntimeFile
from tenants.settings.schema import Owner
from tenants.settings.service_config import (
    OverridesConfig,
    ServiceConfig,
    load_service_config,
    parse_service_config,
)
from tenants.settings.tenant_settings import Resolved, Source, explain
from tenants.settings.without_effect import keys_without_effect
from tenants.settings.yaml_document import YamlDocument, read_yaml

_ROOT = "overrides"
_WRITTEN_IN = {
    Layer.SERVICE: "the service configuration",
    Layer.OVERRIDES: "overrides.defaults of the service configuration, entries of the runtime file",
}


def check(file: Path, config: Path | None, environ: Mapping[str, str], out: Console, *, as_json: bool) -> None:
    """Check a service configuration or a runtime file, and list the keys in it that have no effect.

    Args:
        file: which of the two it is is seen from its keys.
        config: the service configuration that a runtime file inherits from; given, the file is a runtime file.
        environ: values of ``${NAME}``.
        out: says that all is well.
        as_json: say so in JSON.

    Raises:
        SettingsError: with every fault.
    """
    text = _read(file)
    if config is not None or _is_runtime_file(_document(text, file).value):
        entries = load_runtime(file, load_service_config(config, environ), environ)
        kind, counted = "runtime file", f"; {_counted(len(entries), 'entry', 'entries')}"
        idle = [
            key for name, entry in entries.items() for key in keys_without_effect(entry, path=dotted((_ROOT, name)))
        ]
    else:
        settings = parse_service_config(text, environ, source=str(file))
        kind, counted = "service configuration", ""
        idle = list(keys_without_effect(settings))
    if as_json:
        write_json({"file": str(file), "kind": kind, "without_effect": idle}, out)
        return
    _say(out, f"{file}: a {kind}, without faults{counted}")
    if idle:
        _say(out, f"without effect: {_counted(len(idle), 'key', 'keys')}")
        for key in idle:
            _say(out, f"  {key}")


def explain_keys(key: str | None, out: Console, *, as_json: bool) -> None:
    """Show all settings, or everything about one and what stands in it.

    Raises:
        SettingsError: there is no such key; it names those that may be meant.
    """
    if key is None and as_json:
        write_json([asdict(setting) for setting in all_settings()], out)
        return
    if key is None:
        for layer in Layer:
            out.print(Text(f"In {_WRITTEN_IN[layer]}:"))
            out.print(_overview(setting for setting in all_settings() if setting.layer is layer))
        return
    found = find(key)
    if not found:
        meant = ", ".join(near_misses(key))
        raise SettingsError([Fault(key, f"no such setting{f'; did you mean {meant}?' if meant else ''}")])
    if as_json:
        under = (each for setting in found for each in below(key) if each.layer is setting.layer)
        write_json([asdict(setting) for setting in (*found, *under)], out)
        return
    for setting in found:
        out.print(_in_full(setting))
        if inside := [each for each in below(key) if each.layer is setting.layer]:
            out.print(_overview(inside))


def effective(tenant: str, config: Path | None, environ: Mapping[str, str], out: Console, *, as_json: bool) -> None:
    """Show what files and store say for one tenant, and which layer each value comes from. Secrets are masked.

    Raises:
        SettingsError: a file or the store cannot be used, or there can be no such tenant.
    """
    try:
        tenant_id = TenantId(tenant)
    except ValueError as error:
        raise SettingsError([Fault(tenant, str(error))], "tenant") from None
    settings = load_service_config(config, environ)
    file = settings.overrides.per_tenant_override_config
    runtime = {} if file is None else load_runtime(file, settings, environ)
    resolved = explain(settings, layers_of(settings, runtime, tenant_id), tenant_id)
    if as_json:
        found = {key: {"value": plain(each.value), "source": each.source.value} for key, each in resolved.items()}
        write_json(found, out)
    else:
        built_in = explain(ServiceConfig(), OverridesInForce(), tenant_id)
        out.print(_differences(resolved, built_in))


def convert(file: Path, out: Console) -> None:
    """Write a file of the legacy flat format in the scoped one.

    Raises:
        SettingsError: it is not of that format; with every fault.
    """
    out.file.write(to_yaml(convert_legacy(_document(_read(file), file), str(file))))


def _say(out: Console, line: str) -> None:
    # As text, in lines as they are: paths and keys may hold brackets.
    out.print(Text(line), soft_wrap=True)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError([Fault("", f"cannot be read: {error.strerror}")], str(file)) from error


def _document(text: bytes, file: Path) -> YamlDocument:
    try:
        return read_yaml(text)
    except SettingsError as error:
        raise SettingsError(error.faults, str(file)) from None


def load_runtime(file: Path, config: ServiceConfig, environ: Mapping[str, str]) -> RuntimeOverrides:
    """Read and check a runtime file as the service does.

    Raises:
        SettingsError: with every fault.
    """
    expanded = environ if config.overrides.expand_env else None
    allowed = config.overrides.allow_mass_removal
    runtime = RuntimeFile(file, Path.read_bytes, config=config, environ=expanded, allow_mass_removal=allowed)
    outcome = runtime.poll()
    if isinstance(outcome, Loaded):
        return outcome.overrides
    raise SettingsError(getattr(outcome, "faults", ()), str(file))


def _is_runtime_file(value: object) -> bool:
    """Whether no key but ``overrides`` is known, and in it stands what can only be a tenant."""
    if not isinstance(value, dict) or _ROOT not in value:
        return False
    if value.keys() & (ServiceConfig.model_fields.keys() - {_ROOT}):
        return False
    entries = value[_ROOT]
    return not isinstance(entries, dict) or not entries or bool(entries.keys() - OverridesConfig.model_fields.keys())


def _overview(settings: Iterable[SettingDoc]) -> Table:
    table = Table("Key", "Default", "Set by", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for setting in settings:
        key = Text.assemble(setting.key, "\n", (f"  {_type(setting)}", "dim"))
        table.add_row(key, Text(setting.default), Text(setting.owner.value))
    return table


def _in_full(setting: SettingDoc) -> Group:
    by_documents = ", documents of the API" if setting.owner is Owner.TENANT else ""
    rows = {
        "type": _type(setting),
        "default": setting.default,
        "written in": f"{_WRITTEN_IN[setting.layer]}{by_documents}",
        "set by": f"{setting.owner.value}s",
        "in force": setting.effect.value,
    }
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        if text:
            table.add_row(Text(f"  {name}", style="dim"), Text(text))
    return Group(Text(setting.key, style="bold"), Text(f"  {setting.description}"), table, Text())


def _type(setting: SettingDoc) -> str:
    return ", ".join(part for part in (setting.type, setting.unit, setting.bounds) if part)


def _differences(resolved: Mapping[str, Resolved[Any]], built_in: Mapping[str, Resolved[Any]]) -> Table:
    """Show values by key; in bold those that are not the built-in ones."""
    table = Table("Key", "Value", "From", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for key, found in resolved.items():
        is_other = found.source is not Source.BUILTIN and found.value != built_in[key].value
        style = "bold" if is_other else ""
        table.add_row(Text(key), Text(written(found.value)), Text(found.source.value), style=style)
    return table


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
