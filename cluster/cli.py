"""The command line. Imports what a command needs only when it runs, so that help and errors come at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

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
app.add_typer(token_app, name="token")

_ServiceConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Service configuration: where the store is.", dir_okay=False)
]
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
        _fail(str(error))
    raise typer.Exit(code)


@app.command()
def demo(
    duration: Annotated[float | None, typer.Option(help="End after so many seconds of traffic.")] = None,
    ephemeral_ports: Annotated[bool, typer.Option(help="Take free ports instead of the usual ones.")] = False,
) -> None:
    """Run Millrace with two demo shops, a traffic generator and a receiver, and show what comes out."""
    from cluster.demo.run import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(duration, ephemeral_ports))


@config_app.command()
def check(
    file: _File,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Service configuration that a runtime file inherits from; given, FILE is one.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Check a service configuration or a runtime file; list the keys in it that have no effect."""
    from cluster import config_commands  # noqa: PLC0415

    with _faults_refused() as out:
        config_commands.check(file, config, os.environ, out)


@config_app.command()
def explain(
    key: Annotated[str | None, typer.Argument(help="Such as metrics_generator.processors; without it, all.")] = None,
) -> None:
    """Say what a setting is: type, bounds, default, who sets it, when it is in force."""
    from cluster import config_commands  # noqa: PLC0415

    with _faults_refused() as out:
        config_commands.explain_keys(key, out)


@config_app.command()
def effective(
    tenant: Annotated[str, typer.Argument(help="Tenant id.")],
    config: Annotated[
        Path | None, typer.Option(help="Service configuration; it names the runtime file.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show what files and the store say for a tenant, and the layer of each value."""
    from cluster import config_commands  # noqa: PLC0415

    with _faults_refused() as out:
        config_commands.effective(tenant, config, os.environ, out, as_json=as_json)


@config_app.command()
def convert(file: _File) -> None:
    """Write a file of Tempo's legacy flat format in the scoped one. Comments are not kept, secrets are."""
    from cluster import config_commands  # noqa: PLC0415

    with _faults_refused() as out:
        config_commands.convert(file, out)


@token_app.command("create")
def create_token(
    scope: Annotated[list[Scope], typer.Option(help="What it may be used for; can be repeated.")],
    tenant: Annotated[str | None, typer.Option(help="Whose it is; without it, of all tenants.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days until it expires; never without it.")] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    config: _ServiceConfigFile = None,
) -> None:
    """Make a token and print it. It is shown this once."""
    from cluster import token_commands  # noqa: PLC0415

    with _faults_refused():
        # Nothing else on standard output, so that scripts can take it from there.
        typer.echo(token_commands.create(config, os.environ, scope, tenant=tenant, days=days, note=note))


@token_app.command("list")
def list_tokens(
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    config: _ServiceConfigFile = None,
) -> None:
    """List tokens, without their values."""
    from cluster import token_commands  # noqa: PLC0415

    with _faults_refused() as out:
        token_commands.show(config, os.environ, tenant, out)


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="Its id, as in the list.")], config: _ServiceConfigFile = None
) -> None:
    """End a token. A running service refuses it within seconds."""
    from cluster import token_commands  # noqa: PLC0415

    with _faults_refused() as out:
        token_commands.revoke(config, os.environ, token_id)
        out.print(f"{token_id} is revoked")


@contextmanager
def _faults_refused() -> Iterator[Console]:
    """Give a command its terminal; end with every fault that it finds in a file, or what else is in its way."""
    from cluster.errors import StartError  # noqa: PLC0415
    from tenants.control.problem import ProblemError  # noqa: PLC0415
    from tenants.settings.errors import SettingsError  # noqa: PLC0415

    try:
        yield Console(highlight=False)
    except SettingsError as error:
        _fail(error.in_full())
    except (StartError, ProblemError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    # As text, in lines as they are: a message quotes paths, and a path may hold brackets.
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("millrace: ", "bold red"), message))
    raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
