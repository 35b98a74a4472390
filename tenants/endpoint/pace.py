"""Whether an endpoint may be sent to, and when again if it fails or keeps us out. Sends nothing and counts nothing."""

import asyncio
from dataclasses import replace
from typing import Final

import structlog

from tenants.endpoint.backoff import Backoff
from tenants.endpoint.cancelling import cancel
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointState
from tenants.endpoint.exchange import Outcome
from tenants.endpoint.log_limit import LogLimit
from tenants.endpoint.surroundings import Surroundings

PROBE_S: Final = 60.0
"""So often a paused endpoint is asked again: nothing but new settings, or its owner, will mend it."""

_PROBE_JITTER_S: Final = 6.0

PAUSES: Final = {
    401: EndpointState.PAUSED_UNAUTHORIZED,
    403: EndpointState.PAUSED_UNAUTHORIZED,
    404: EndpointState.PAUSED_NOT_FOUND,
}
"""Answers that are about the door, and not about what was sent."""


class Pace:
    """One back-off for all lanes of an endpoint, and its log.

    While it is *held*, one request at a time may be made, each after :meth:`wait`. It is let go by the answer to a
    request that was begun after the last reason to hold it.
    """

    def __init__(
        self, config: EndpointConfig, around: Surroundings, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self._around = around
        self._log = log
        self._backoff = Backoff(config.min_backoff_s, config.max_backoff_s, around.rng)
        self._failure: Outcome | None = None
        self._pause: EndpointState | None = None
        self._holds = 0
        self._held_at_ms = 0
        self._has_new_settings = asyncio.Event()
        self._held_log = LogLimit()
        self._is_reported = False

    @property
    def is_held(self) -> bool:
        """Whether the endpoint fails or keeps us out."""
        return self.state is not None

    @property
    def state(self) -> EndpointState | None:
        """What it is while it is held."""
        return self._pause or (EndpointState.BACKING_OFF if self._failure is not None else None)

    @property
    def holds(self) -> int:
        """How often there was a reason to hold it: note it before a request, for :meth:`answered`."""
        return self._holds

    def use(self, config: EndpointConfig, log: structlog.typing.FilteringBoundLogger) -> None:
        """Go on with other settings; a pause ends, and who waits does not wait any longer."""
        self._log = log
        self._backoff.set_bounds(config.min_backoff_s, config.max_backoff_s)
        self._pause = None
        self._has_new_settings.set()

    def failed(self, outcome: Outcome) -> None:
        """Hold it because a request failed; of several before one pause the one that asks for the longest counts."""
        self._hold()
        self._pause = None
        if self._failure is None or (outcome.retry_after_s or 0) >= (self._failure.retry_after_s or 0):
            self._failure = outcome

    def kept_out(self, outcome: Outcome, state: EndpointState) -> None:
        """Hold it because it does not let us in."""
        self._hold()
        self._failure, self._pause = None, state
        withheld = self._held_log.admit(self._around.clock.now_ms())
        if withheld is not None:
            self._is_reported = True
            self._log.error(
                "endpoint is paused until its settings change or it lets us in",
                state=str(state),
                status=outcome.status,
                message=outcome.message,
                probed_every_s=PROBE_S,
                withheld_lines=withheld,
            )

    def answered(self, holds: int, pending_batches: int) -> None:
        """Let it go: it works, whatever it says of a batch. Not if it has failed since that was sent."""
        if holds != self._holds:
            return
        self._failure = self._pause = None
        self._backoff.reset()
        if self._is_reported:
            self._is_reported = False
            self._log.info("endpoint takes samples again", pending_batches=pending_batches)

    async def wait(self, pending_batches: int) -> None:
        """Return when the next request may be made, or when the settings have changed."""
        if self._pause is not None:
            await self._sleep(PROBE_S + self._around.rng.uniform(-_PROBE_JITTER_S, _PROBE_JITTER_S))
        elif self._failure is not None:
            pause_s = self._backoff.next_pause_s(self._failure.retry_after_s)
            self._report(self._failure, pause_s, pending_batches)
            # It was asked for once: what fails after this pause has its own word.
            self._failure = replace(self._failure, retry_after_s=None)
            await self._sleep(pause_s)

    def _hold(self) -> None:
        self._holds += 1
        self._held_at_ms = self._around.clock.now_ms()

    def _report(self, outcome: Outcome, pause_s: float, pending_batches: int) -> None:
        withheld = self._held_log.admit(self._around.clock.now_ms())
        if withheld is not None:
            self._is_reported = True
            self._log.warning(
                "endpoint failing, will retry",
                reason=outcome.reason,
                message=outcome.message,
                pause_s=round(pause_s, 3),
                pending_batches=pending_batches,
                withheld_lines=withheld,
            )

    async def _sleep(self, pause_s: float) -> None:
        self._has_new_settings.clear()
        # Something to send may have come only now. A clock that is set back must not make it longer.
        seconds = pause_s - max(0, self._around.clock.now_ms() - self._held_at_ms) / 1000
        if seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        asleep = loop.create_task(self._around.clock.sleep(seconds))
        changed = loop.create_task(self._has_new_settings.wait())
        try:
            await asyncio.wait([asleep, changed], return_when=asyncio.FIRST_COMPLETED)
            if asleep.done():
                asleep.result()
        finally:
            await cancel(asleep, changed)
