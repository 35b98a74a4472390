"""What ``millrace tenants`` does: lists tenants, shows one, switches generating on, and changes a tenant's state."""

from collections.abc import Sequence
from typing import Any, Final

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.commands.service_access import Service
from cluster.commands.waiting import Waiting
from cluster.errors import CommandError
from cluster.json_output import write_json
from tenants.api.admin_routes import MAX_LISTED, TENANTS_PATH
from tenants.api.overrides_routes import PATH as DOCUMENT_PATH
from tenants.api.overrides_routes import REVISION_HEADER
from tenants.identity.tenant_id import TenantId
from tenants.settings.processors import ProcessorName
from tenants.settings.reference import written
from tenants.settings.tenant_state import TenantState

Json = dict[str, Any]

_USUAL: Final = (ProcessorName.SPAN_METRICS, ProcessorName.SERVICE_GRAPHS)
_BUILT_IN: Final = "builtin"
_COLORS: Final = {"active": "green", "dry_run": "yellow", "paused": "yellow", "blocked": "red"}
_SAID: Final = {
    TenantState.ACTIVE: "is active: its spans are generated from, its series are sent",
    TenantState.DRY_RUN: "runs dry: its series are counted, and none is sent",
    TenantState.PAUSED: "is paused: its spans are accepted, and nothing is generated",
    TenantState.BLOCKED: "is blocked: its spans are refused",
}


def list_tenants(service: Service, search: str, out: Console, *, as_json: bool) -> None:
    """List all tenants whose id holds ``search``.

    Raises:
        CommandError: the service does not answer, or refuses.
    """
    rows: list[Json] = []
    after: str | None = ""
    while after is not None:
        page = service.get(TENANTS_PATH, {"search": search, "after": after, "limit": MAX_LISTED})
        rows += page["tenants"]
        after = page["next_after"]
    if as_json:
        write_json(rows, out)
        return
    table = Table(box=SIMPLE_HEAD)
    table.add_column("Tenant", overflow="fold")
    table.add_column("State")
    table.add_column("Layers")
    for name in ("Spans", "Discarded", "Series", "Demand", "Samples sent"):
        table.add_column(name, justify="right")
    table.add_column("Problems", overflow="fold")
    for row in rows:
        table.add_row(
            Text(row["tenant"]),
            _state(row["state"]),
            ", ".join(row["layers"]),
            f"{row['accepted']['spans_received']:,}",
            f"{_discarded(row):,}",
            f"{row['active_series']:,}",
            f"{row['series_demand_estimate']:,}",
            f"{row['samples_sent']:,}",
            Text("; ".join(row["problems"])),
        )
    out.print(table)


def show(service: Service, tenant: TenantId, out: Console, *, as_json: bool) -> None:
    """Show one tenant: state, what it sent, what became of it, and every setting that is not built in.

    Raises:
        CommandError: the service does not answer, or refuses.
    """
    found = service.get(f"{TENANTS_PATH}/{tenant}")
    if as_json:
        write_json(found, out)
        return
    accepted = found["accepted"]
    lost = [
        f"{row['spans']:,} {row['reason']} ({row['stage']})" for row in (*accepted["refused"], *accepted["discarded"])
    ]
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, text in (
        ("tenant", Text(found["tenant"], style="bold")),
        ("state", _state(found["state"])),
        ("note", Text(found["note"])),
        ("layers", Text(", ".join(found["layers"]) or "none of its own")),
        ("received", Text(f"{accepted['spans_received']:,} spans, {accepted['bytes_received']:,} bytes")),
        ("not generated", Text(", ".join(lost) or "0")),
        ("series", Text(f"{found['active_series']:,}, demand about {found['series_demand_estimate']:,}")),
        ("samples sent", Text(f"{found['samples_sent']:,}")),
        ("problems", Text("; ".join(found["problems"]) or "none", style="red" if found["problems"] else "")),
    ):
        facts.add_row(name, text)
    out.print(facts)
    table = Table("Key", "Value", "From", box=SIMPLE_HEAD)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for key, setting in found["settings"].items():
        if setting["source"] != _BUILT_IN:
            table.add_row(Text(key), Text(written(setting["value"])), Text(setting["source"]))
    out.print(table if table.row_count else Text("every setting is the built-in one"))


def enable(service: Service, tenant: TenantId, processors: Sequence[ProcessorName], waiting: Waiting) -> bool:
    """List the processors in the tenant's document; return whether every process knows by now.

    Raises:
        CommandError: the service does not answer, or refuses: tenants may have no documents here, for example.
    """
    names = [name.value for name in processors]
    answer = service.ask("PATCH", DOCUMENT_PATH, body={"metrics_generator": {"processors": names}}, tenant=tenant)
    service.checked(answer)
    revision = answer.headers[REVISION_HEADER]

    def look() -> tuple[bool, str]:
        asked = {"min_revision": revision, "wait": "1s"} if waiting.timeout_s else {"min_revision": revision}
        answer = service.ask("GET", DOCUMENT_PATH, params=asked, tenant=tenant)
        is_done = answer.status_code != httpx.codes.GATEWAY_TIMEOUT
        if is_done:
            service.checked(answer)
        return is_done, f"{tenant}: on its way to all processes"

    is_done = waiting.until(look)
    merged = service.get(DOCUMENT_PATH, {"scope": "merged", "provenance": "true"}, tenant)
    in_force = merged["metrics_generator"]["processors"]
    text = f"{tenant} generates {', '.join(names)}"
    if is_done and in_force["source"] != "api":
        text = (
            f"{tenant} will generate {', '.join(names)} once its state lets it (millrace tenants show {tenant}; "
            f"millrace tenants activate {tenant})"
        )
    document = {"tenant": str(tenant), "processors": in_force["value"], "revision": int(revision), "is_done": is_done}
    waiting.say(is_done, text, document)
    return is_done


def processors_of(names: Sequence[str] | None) -> list[ProcessorName]:
    """Read names of processors; without any, those that most tenants want.

    Raises:
        CommandError: there is no such processor.
    """
    try:
        return [ProcessorName(name) for name in names or _USUAL]
    except ValueError as error:
        raise CommandError(f"--processor: {error}; known are {', '.join(ProcessorName)}") from None


def change_state(service: Service, tenant: TenantId, state: TenantState, note: str | None, waiting: Waiting) -> bool:
    """Change a tenant's state, and its note if there is one; return whether every process knows by now.

    Raises:
        CommandError: the service does not answer, or refuses.
    """
    body: Json = {"state": state.value} | ({} if note is None else {"note": note})
    changed = service.patch(f"{TENANTS_PATH}/{tenant}", body)
    is_done = waiting.until_overrides(service, f"{tenant}: on its way to all processes")
    waiting.say(is_done, f"{tenant} {_SAID[state]}", {**changed, "is_done": is_done})
    return is_done


def _state(state: str) -> Text:
    return Text(state, style=_COLORS.get(state, ""))


def _discarded(row: Json) -> int:
    accepted = row["accepted"]
    return sum(each["spans"] for each in (*accepted["refused"], *accepted["discarded"]))
