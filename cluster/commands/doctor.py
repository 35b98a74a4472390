"""What ``millrace doctor`` does: looks at everything that the service needs, and says how to mend what is not right.

Asks nothing of a running service but whether it is ready, and changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cluster.commands import doctor_endpoints, doctor_machine, doctor_tracing
from cluster.commands.config import load_runtime
from cluster.commands.finding import Finding, Verdict, fail, ok
from cluster.json_output import write_json
from tenants.identity.tenant_id import TenantId
from tenants.settings.errors import SettingsError
from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.service_config import load_service_config

_COLORS: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def doctor(
    config: Path | None,
    ca_file: Path | None,
    tenant: TenantId | None,
    environ: Mapping[str, str],
    out: Console,
    *,
    as_json: bool,
) -> bool:
    """Say of each thing how it is; return whether nothing fails.

    Args:
        config: the service configuration; None: the defaults.
        ca_file: authorities of the service's own certificate; None: the system's.
        tenant: whose endpoints are asked; None: those of all that the runtime file knows.
        environ: values of ``${NAME}``.
        out: the terminal.
        as_json: write a list of findings as JSON.
    """
    found: list[Finding] = []
    with _progress(out, is_quiet=as_json) as show:
        for finding in _findings(config, ca_file, tenant, environ, show):
            found.append(finding)
            if not as_json:
                out.print(_line(finding), soft_wrap=True)
    if as_json:
        write_json([asdict(finding) for finding in found], out)
    else:
        counted = Counter(finding.verdict for finding in found)
        out.print(", ".join(f"{counted[verdict]} {verdict}" for verdict in Verdict))
    return all(finding.verdict is not Verdict.FAIL for finding in found)


def _findings(
    path: Path | None,
    ca_file: Path | None,
    tenant: TenantId | None,
    environ: Mapping[str, str],
    show: Callable[[str], None],
) -> Iterator[Finding]:
    show("settings")
    yield doctor_machine.files_finding()
    try:
        config = load_service_config(path, environ)
    except SettingsError as error:
        yield fail("settings", error.in_full(), "mend the service configuration; nothing else can be looked at before")
        return
    yield ok("settings", f"{path}: without faults" if path else "the defaults; --config names a file")
    runtime: RuntimeOverrides = {}
    if (file := config.overrides.per_tenant_override_config) is not None:
        try:
            runtime = load_runtime(file, config, environ)
        except SettingsError as error:
            yield fail("runtime file", error.in_full(), "mend the file; a running service keeps the last good one")
        else:
            yield ok("runtime file", f"{file}: without faults, {len(runtime)} entries")
    show("ports")
    yield from doctor_machine.port_findings(config, ca_file)
    show("databases")
    yield doctor_machine.directory_finding(config)
    yield from doctor_machine.database_findings(config)
    show("endpoints")
    yield from doctor_endpoints.endpoint_findings(config, OverridesInForce(runtime=runtime), tenant)
    yield from doctor_tracing.tracing_findings(config.tracing, environ)


@contextmanager
def _progress(out: Console, *, is_quiet: bool) -> Iterator[Callable[[str], None]]:
    if is_quiet or not out.is_terminal:
        yield lambda _: None
        return
    with Status("", console=out) as status:
        yield lambda what: status.update(f"looking at {what}")


def _line(finding: Finding) -> Text:
    text = Text.assemble((f"{finding.verdict:<5}", _COLORS[finding.verdict]), f"{finding.check}: {finding.said}")
    return text.append(f"\n     {finding.mend}", "dim") if finding.mend else text
