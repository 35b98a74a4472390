"""Options that commands share, so that they are called and explained alike."""

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[
    str | None, typer.Option(help="Address of the service's own port; without it, listen.http of --config.")
]
ServiceConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Service configuration: where the service listens, and its store is.", dir_okay=False
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(help="Authorities (PEM) of the service's certificate; without it, the system's.", dir_okay=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Timeout = Annotated[
    float, typer.Option(min=0, help="Longest to wait until it is in force everywhere, in seconds; 0: not at all.")
]
