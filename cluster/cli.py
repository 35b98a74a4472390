"""The command line. Imports what a command needs only when it runs, so that help and errors come at once."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_faults import fail, faults_refused
from cluster.cli_options import AsJson, CaFile, ServiceConfigFile, Timeout, Url
from cluster.cli_tenants import tenants_app
from cluster.commands.order import Order
from tenants.identity.access import Scope

app = typer.Typer(
    name="millrace",
    help="Turns traces of many organisations into span metrics and service graphs.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
config_app = typer.Typer(help="Check settings, and ask what they are and where they come from.", no_args_is_help=True)
app.add_typer(config_app, name="config")
token_app = typer.Typer(help="Make, list and revoke API tokens, at the store itself.", no_args_is_help=True)
app.add_typer(token_app, name="tokens")
app.add_typer(tenants_app, name="tenants")

_File = Annotated[Path, typer.Argument(help="YAML file.", dir_okay=False)]


@app.callback()
def _commands() -> None:
    """Keep commands named even while there are few."""


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with the service configuration; without it, every default.", dir_okay=False),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of an existing Ray cluster; without it, an embedded one.")
    ] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C, then flush, send and exit."""
    from cluster.errors import StartError  # noqa: PLC0415
    from cluster.service import serve as run_service  # noqa: PLC0415
    from tenants.settings.errors import SettingsError  # noqa: PLC0415
    from tenants.settings.service_config import load_service_config  # noqa: PLC0415

    try:
        code = run_service(load_service_config(config, os.environ), ray_address)
    except (SettingsError, StartError) as error:
        fail(str(error))
    raise typer.Exit(code)


@app.command()
def demo(
    duration: Annotated[float | None, typer.Option(help="End after so many seconds of traffic.")] = None,
    ephemeral_ports: Annotated[bool, typer.Option(help="Take free ports instead of the usual ones.")] = False,
) -> None:
    """Run Millrace with two demo shops, a traffic generator and a receiver, and show what comes out."""
    from cluster.demo.run import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(duration, ephemeral_ports))


@app.command()
def rescale(
    tenant: Annotated[str | None, typer.Argument(help="Tenant whose shards change; without it, use --hosts.")] = None,
    *,
    hosts: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Processes that generate metrics; 0: one for every two cores.")
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="Parts that the tenant is divided into, 1 to 64; auto: by its rate.")
    ] = None,
    timeout: Timeout = 300.0,
    url: Url = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Change the shard hosts of a running service, or the shards of a tenant, under load.

    Needs an operator's token in MILLRACE_TOKEN. Ends with 1 if it is not in force everywhere in time.
    """
    from cluster.commands import rescale as command  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of, tenant_of  # noqa: PLC0415
    from cluster.commands.waiting import Waiting  # noqa: PLC0415
    from cluster.errors import CommandError  # noqa: PLC0415

    with faults_refused() as out:
        waiting = Waiting(timeout, as_json, out)
        if (tenant is None) != (shards is None) or (tenant is None) == (hosts is None):
            raise CommandError("say either --hosts N, or TENANT --shards N")
        with service_of(Reach(url, config, ca_file), os.environ, needs_token=True) as service:
            if hosts is not None:
                is_done = command.rescale_hosts(service, hosts, waiting)
            else:
                is_done = command.rescale_tenant(service, tenant_of(tenant), command.shards_of(shards), waiting)
    if not is_done and timeout:
        raise typer.Exit(1)


@app.command()
def status(url: Url = None, config: ServiceConfigFile = None, ca_file: CaFile = None, as_json: AsJson = False) -> None:
    """Show how a running service is: actors, versions, settings in force, problems. Ends with 1 if there are any."""
    from cluster.commands import status as command  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of  # noqa: PLC0415

    with faults_refused() as out, service_of(Reach(url, config, ca_file), os.environ, needs_token=False) as service:
        is_well = command.status(service, out, as_json=as_json)
    if not is_well:
        raise typer.Exit(1)


@app.command()
def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show one table and end.")] = False,
    sort: Annotated[Order, typer.Option(help="Which tenants come first.")] = Order.SPANS,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 20,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two looks.")] = 2.0,
    url: Url = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Show tenants live: spans and bytes a second, series, discards a second, lag. Ctrl-C ends it.

    With --json a line for each look.
    """
    from cluster.commands import top as command  # noqa: PLC0415
    from cluster.commands.service_access import Reach, service_of  # noqa: PLC0415

    with faults_refused() as out, service_of(Reach(url, config, ca_file), os.environ, needs_token=False) as service:
        command.top(service, command.Shown(sort, limit, interval), out, once=once, as_json=as_json)


@app.command()
def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="Export requests: OTLP/JSON lines, or messages after 4 bytes of length, as the Collector's file "
            "exporter writes them.",
            dir_okay=False,
            show_default=False,
        ),
    ],
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose they are (X-Scope-OrgID).")] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="Times as fast as it happened; 0: as fast as the service takes it.")
    ] = 1.0,
    keep_times: Annotated[
        bool,
        typer.Option(
            "--keep-times", help="Send spans with their own times; else the last of each request ends when it is sent."
        ),
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Address of a gateway's OTLP/HTTP; without it, listen.otlp_http of --config.")
    ] = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Send the spans of a file to a running gateway, as if they happened now.

    Where the gateway wants a token, MILLRACE_TOKEN has one with the scope ingest.
    """
    from cluster.commands import replay as command  # noqa: PLC0415
    from cluster.commands.service_access import Reach, tenant_of  # noqa: PLC0415

    with faults_refused() as out:
        plan = command.Plan(file, tenant_of(tenant) if tenant else None, speed, keep_times)
        command.replay(plan, Reach(url, config, ca_file), os.environ, out, as_json=as_json)


@app.command()
def doctor(
    tenant: Annotated[
        str | None, typer.Option(help="Ask the endpoints of this tenant; else of all in the runtime file.")
    ] = None,
    config: ServiceConfigFile = None,
    ca_file: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, ports, store, journal, endpoints, clock and limits here; each with how to mend it.

    Changes nothing; endpoints get an empty write. Ends with 1 if anything fails.
    """
    from cluster.commands import doctor as command  # noqa: PLC0415
    from cluster.commands.service_access import tenant_of  # noqa: PLC0415

    with faults_refused() as out:
        whose = tenant_of(tenant) if tenant else None
        is_well = command.doctor(config, ca_file, whose, os.environ, out, as_json=as_json)
    if not is_well:
        raise typer.Exit(1)


@config_app.command()
def check(
    file: _File,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Service configuration that a runtime file inherits from; given, FILE is one.", dir_okay=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a service configuration or a runtime file; list the keys in it that have no effect."""
    from cluster.commands import config as config_commands  # noqa: PLC0415

    with faults_refused() as out:
        config_commands.check(file, config, os.environ, out, as_json=as_json)


@config_app.command()
def explain(
    key: Annotated[str | None, typer.Argument(help="Such as metrics_generator.processors; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a setting is: type, bounds, default, who sets it, when it is in force."""
    from cluster.commands import config as config_commands  # noqa: PLC0415

    with faults_refused() as out:
        config_commands.explain_keys(key, out, as_json=as_json)


@config_app.command()
def effective(
    tenant: Annotated[str, typer.Argument(help="Tenant id.")],
    config: Annotated[
        Path | None, typer.Option(help="Service configuration; it names the runtime file.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what files and the store say for a tenant, and the layer of each value."""
    from cluster.commands import config as config_commands  # noqa: PLC0415

    with faults_refused() as out:
        config_commands.effective(tenant, config, os.environ, out, as_json=as_json)


@config_app.command()
def convert(file: _File) -> None:
    """Write a file of Tempo's legacy flat format in the scoped one. Comments are not kept, secrets are."""
    from cluster.commands import config as config_commands  # noqa: PLC0415

    with faults_refused() as out:
        config_commands.convert(file, out)


@token_app.command("create")
def create_token(
    scope: Annotated[list[Scope], typer.Option(help="What it may be used for; can be repeated.")],
    tenant: Annotated[str | None, typer.Option(help="Whose it is; without it, of all tenants.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days until it expires; never without it.")] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    *,
    config: ServiceConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. It is shown this once."""
    from cluster.commands import tokens as token_commands  # noqa: PLC0415

    with faults_refused():
        token = token_commands.create(config, os.environ, scope, tenant=tenant, days=days, note=note)
        # Nothing else on standard output, so that scripts can take it from there.
        typer.echo(json.dumps({"token": token}) if as_json else token)


@token_app.command("list")
def list_tokens(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    config: ServiceConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their values."""
    from cluster.commands import tokens as token_commands  # noqa: PLC0415

    with faults_refused() as out:
        token_commands.show(config, os.environ, tenant, out, as_json=as_json)


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="Its id, as in the list.")],
    config: ServiceConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a token. A running service refuses it within seconds."""
    from cluster.commands import tokens as token_commands  # noqa: PLC0415

    with faults_refused():
        token_commands.revoke(config, os.environ, token_id)
        typer.echo(json.dumps({"id": token_id, "revoked": True}) if as_json else f"{token_id} is revoked")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
