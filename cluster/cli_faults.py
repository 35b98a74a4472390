"""How a command ends that cannot do what it was asked for: one message on standard error, exit code 2, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text


@contextmanager
def faults_refused() -> Iterator[Console]:
    """Give a command its terminal; end with every fault that it finds in a file, or what else is in its way."""
    from cluster.errors import CommandError, StartError  # noqa: PLC0415
    from tenants.control.problem import ProblemError  # noqa: PLC0415
    from tenants.settings.errors import SettingsError  # noqa: PLC0415

    try:
        yield Console(highlight=False, emoji=False)
    except SettingsError as error:
        fail(error.in_full())
    except (CommandError, StartError, ProblemError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Say what is in the way, and end."""
    # As text, in lines as they are: a message quotes paths, and a path may hold brackets.
    out = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    out.print(Text.assemble(("millrace: ", "bold red"), message))
    raise typer.Exit(2)
