"""``millrace tenants``: what an operator sees of tenants and decides about them, at a running service."""

import os
from typing import Annotated

import typer

from cluster.cli_faults import faults_refused
from cluster.cli_options import AsJson, CaFile, ServiceConfigFile, Timeout, Url

tenants_app = typer.Typer(
    help="See how tenants are doing, and change what is done with their spans, at the running service.",
    no_args_is_help=True,
)

_Tenant = Annotated[str, typer.Argument(help="Tenant id.", show_default=False)]
_Note = Annotated[str | None, typer.Option(help="Why, for other operators; without it, the note stays.")]


def _processors(incomplete: str) -> list[str]:
    """Complete the name of a processor."""
    from tenants.settings.processors import ProcessorName  # noqa: PLC0415

    return [name.value for name in ProcessorName if name.startswith(incomplete)]


@tenants_app.command("list")
def list_tenants(
    search: Annotated[str, typer.Option(help="Only those whose id holds this.")] = "",
    url: Url = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """List tenants: state, layers of settings, spans, series, problems. Needs an operator's token in MILLRACE_TOKEN."""
    from cluster.commands import tenants  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of  # noqa: PLC0415

    with faults_refused() as out, service_of(Reach(url, config, ca_file), os.environ, needs_token=True) as service:
        tenants.list_tenants(service, search, out, as_json=as_json)


@tenants_app.command("show")
def show_tenant(
    tenant: _Tenant,
    url: Url = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one tenant: what it sent, what became of it, and every setting that is not the built-in one."""
    from cluster.commands import tenants  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of, tenant_of  # noqa: PLC0415

    with faults_refused() as out:
        whose = tenant_of(tenant)
        with service_of(Reach(url, config, ca_file), os.environ, needs_token=True) as service:
            tenants.show(service, whose, out, as_json=as_json)


@tenants_app.command("enable")
def enable_tenant(
    tenant: _Tenant,
    *,
    processor: Annotated[
        list[str] | None,
        typer.Option(
            help="What is generated, instead of before; can be repeated. Without it, span-metrics and service-graphs.",
            autocompletion=_processors,
        ),
    ] = None,
    timeout: Timeout = 30.0,
    url: Url = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Have metrics generated for a tenant, by its document. The rest of the document stays.

    Ends with 1 if it is not in force everywhere in time.
    """
    from cluster.commands import tenants  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of, tenant_of  # noqa: PLC0415
    from cluster.commands.waiting import Waiting  # noqa: PLC0415

    with faults_refused() as out:
        whose, names = tenant_of(tenant), tenants.processors_of(processor)
        with service_of(Reach(url, config, ca_file), os.environ, needs_token=False) as service:
            is_done = tenants.enable(service, whose, names, Waiting(timeout, as_json, out))
    if not is_done and timeout:
        raise typer.Exit(1)


def _add_state(name: str, state: str, explanation: str) -> None:
    """Add the command that puts a tenant into a state; it ends with 1 if that is not in force everywhere in time."""

    @tenants_app.command(name, help=explanation)
    def change(
        tenant: _Tenant,
        *,
        note: _Note = None,
        timeout: Timeout = 30.0,
        url: Url = None,
        config: ServiceConfigFile = None,
        ca_file: CaFile = None,
        as_json: AsJson = False,
    ) -> None:
        from cluster.commands import tenants  # noqa: PLC0415
        from cluster.commands.service_access import Reach, service_of, tenant_of  # noqa: PLC0415
        from cluster.commands.waiting import Waiting  # noqa: PLC0415
        from tenants.settings.tenant_state import TenantState  # noqa: PLC0415

        with faults_refused() as out:
            whose = tenant_of(tenant)
            with service_of(Reach(url, config, ca_file), os.environ, needs_token=True) as service:
                is_done = tenants.change_state(service, whose, TenantState(state), note, Waiting(timeout, as_json, out))
        if not is_done and timeout:
            raise typer.Exit(1)


_add_state("activate", "active", "Generate from a tenant's spans again, and send its series.")
_add_state("dry-run", "dry_run", "Count a tenant's series, and send none.")
_add_state("pause", "paused", "Accept a tenant's spans, and generate nothing.")
_add_state("block", "blocked", "Refuse a tenant's spans.")


@tenants_app.command("endpoints")
def show_endpoints(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant.")] = None,
    url: Url = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Show where samples go: state, lag, what waits, what was sent, what was given up and why."""
    from cluster.commands import endpoints  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of  # noqa: PLC0415

    with faults_refused() as out, service_of(Reach(url, config, ca_file), os.environ, needs_token=False) as service:
        endpoints.endpoints(service, tenant, out, as_json=as_json)
