"""Waiting until a change is in force everywhere, and saying so: on a terminal while it lasts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.status import Status

from cluster.commands.service_access import Service
from cluster.json_output import write_json
from cluster.scale_routes import CLUSTER_PATH

_POLL_S: Final = 0.25

Look = Callable[[], tuple[bool, str]]
"""Say whether it is done, and how far it is."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How the command waits and what it says.

    Attributes:
        timeout_s: longest it waits until the change is in force everywhere; 0: it does not.
        as_json: say nothing but one line of JSON in the end.
        out: where it is said.
    """

    timeout_s: float
    as_json: bool
    out: Console

    def until(self, look: Look) -> bool:
        """Look until it is done, or time is up, and say how far it is; return whether it is done."""
        ends_at = time.monotonic() + self.timeout_s
        with self._progress() as show:
            while True:
                is_done, text = look()
                show(text)
                if is_done or time.monotonic() >= ends_at:
                    return is_done
                time.sleep(_POLL_S)

    def until_overrides(self, service: Service, what: str) -> bool:
        """Wait until every process has the overrides that the service has by now."""
        version: int = service.get(CLUSTER_PATH)["overrides"]["version"]

        def look() -> tuple[bool, str]:
            return service.get(CLUSTER_PATH)["overrides"]["everywhere"] >= version, what

        return self.until(look)

    def say(self, is_done: bool, text: str, document: dict[str, Any]) -> None:
        """Say what came of it."""
        if self.as_json:
            write_json(document, self.out, is_line=True)
        elif is_done:
            self.out.print(text, markup=False)
        elif self.timeout_s:
            self.out.print(f"not everywhere after {self.timeout_s:g} s; it goes on, ask again later")
        else:
            self.out.print("begun")

    @contextmanager
    def _progress(self) -> Iterator[Callable[[str], None]]:
        if self.as_json or not self.out.is_terminal:
            yield lambda _: None
            return
        with Status("", console=self.out) as status:
            yield status.update
