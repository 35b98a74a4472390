"""The command line. Imports what a command needs only when it runs, so that help and errors come at once."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer(
    name="millrace",
    help="Turns traces of many organisations into span metrics and service graphs.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


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


def _fail(message: str) -> None:
    # As text, in lines as they are: a message quotes paths, and a path may hold brackets.
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("millrace: ", "bold red"), message))
    raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
