"""Looks at the runtime file now and then, says what came of it, and counts. Does not push what it found."""

import asyncio
import time
from collections import Counter

import structlog

from cluster.errors import StartError
from cluster.measurements import Measurements
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.runtime_file import Failed, Loaded, RuntimeFile

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class RuntimeWatch:
    """The runtime file in force, if there is one.

    Attributes:
        is_good: whether the last look found the file good.
    """

    def __init__(self, runtime_file: RuntimeFile | None) -> None:
        """Read the file for the first time.

        Raises:
            StartError: it cannot be read or has faults. At start there is no last good one to go on with.
        """
        self.is_good = True
        self._file = runtime_file
        self._problem = ""
        self._failures: Counter[str] = Counter()
        self._loaded_at_s = time.time()
        if runtime_file is not None and isinstance(outcome := runtime_file.poll(), Failed):
            raise StartError(str(outcome))
        self._say_what_is_without_effect()

    @property
    def good(self) -> Loaded | None:
        """What is in force; None without a file."""
        return self._file.good if self._file else None

    @property
    def overrides(self) -> RuntimeOverrides:
        """The entries in force."""
        return self.good.overrides if self.good else {}

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Paths of keys in force that change nothing here, as far as they are listed."""
        return self.good.without_effect if self.good else ()

    async def look(self) -> bool:
        """Read the file again; return whether there is something new. A fault is said once, until there is another."""
        if self._file is None:
            return False
        # In a thread: reading a big file takes seconds, and /ready must answer meanwhile.
        outcome = await asyncio.to_thread(self._file.poll)
        if isinstance(outcome, Failed):
            self._failures[outcome.reason] += 1
            self.is_good = False
            if str(outcome) != self._problem:
                self._problem = str(outcome)
                log.error("runtime file refused, the last good one stays", problem=self._problem)
            return False
        if not self.is_good:
            log.info("runtime file is good again")
        self.is_good, self._problem = True, ""
        if isinstance(outcome, Loaded):
            self._loaded_at_s = time.time()
            log.info("runtime file loaded", entries=len(outcome.overrides), sha256=outcome.sha256[:12])
            self._say_what_is_without_effect()
            return True
        return False

    def _say_what_is_without_effect(self) -> None:
        if self.good is not None and self.good.without_effect_count:
            log.warning(
                "runtime file sets keys that have no effect here",
                count=self.good.without_effect_count,
                keys=list(self.good.without_effect),
            )

    def measure(self) -> Measurements:
        """Return what became of the looks."""
        measured: Measurements = [("millrace_settings_last_reload_successful", (), float(self.is_good))]
        if (good := self.good) is not None:
            measured.append(("millrace_settings_hash", (good.sha256,), 1.0))
            measured.append(("millrace_settings_last_reload_timestamp_seconds", (), self._loaded_at_s))
        for reason, count in self._failures.items():
            measured.append(("millrace_settings_reload_failures_total", (reason,), count))
        return measured
