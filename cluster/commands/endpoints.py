"""What ``millrace tenants endpoints`` does: shows where samples go, as the running service says on ``/status``."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.commands.service_access import Service
from cluster.errors import CommandError
from cluster.json_output import write_json

_MEBIBYTE: Final = 1 << 20

_COLORS: Final = {"idle": "green", "sending": "green", "backing_off": "yellow"}


def endpoints(service: Service, tenant: str | None, out: Console, *, as_json: bool) -> None:
    """Show where each tenant's samples go, and how that works out.

    Args:
        service: is asked.
        tenant: only this one.
        out: the terminal.
        as_json: write everything that is known, as JSON.

    Raises:
        CommandError: the service does not answer, or not this; or it does not know the tenant.
    """
    tenants = service.get("/status")["tenants"]
    if tenant is not None:
        if tenant not in tenants:
            raise CommandError(f"the service has no series of tenant {tenant!r}; without a name all tenants are shown")
        tenants = {tenant: tenants[tenant]}
    known = {name: status["endpoints"] + status["retiring_endpoints"] for name, status in tenants.items()}
    if as_json:
        write_json(known, out)
    else:
        out.print(_table(known))


def _table(known: Mapping[str, list[dict[str, Any]]]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("Tenant", "Endpoint", "State", "Message"):
        table.add_column(name)
    for name in ("Lag", "Waiting", "On disk", "Sent", "Given up"):
        table.add_column(name, justify="right")
    table.add_column("Last error", overflow="fold")
    for tenant, senders in known.items():
        for sender in senders:
            table.add_row(*map(_cell, _cells(tenant, sender)))
    return table


def _cells(tenant: str, sender: dict[str, Any]) -> list[str | Text]:
    given_up = dict(sender["samples_failed"])
    if sender["samples_dropped"]:
        given_up["dropped"] = sender["samples_dropped"]
    state = sender["state"]
    return [
        tenant,
        sender["endpoint"],
        Text(state, style=_COLORS.get(state, "red")),
        sender["message"],
        str(timedelta(seconds=round(sender["lag_s"]))),
        f"{sender['pending_samples']:,}",
        f"{sender['stored_bytes'] / _MEBIBYTE:,.1f} MiB",
        f"{sender['samples_sent']:,}",
        ", ".join(f"{count:,} {reason}" for reason, count in given_up.items()) or "0",
        sender["last_error"],
    ]


def _cell(value: str | Text) -> Text:
    # Never as markup: names and messages are others' words.
    return value if isinstance(value, Text) else Text(value)
