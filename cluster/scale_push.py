"""The wish for a number of shard hosts, held in one process, and how far it has got in the others."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.errors import StartError
from cluster.placement import Layout, Scale
from cluster.ray_compat import raised_in_actor
from tenants.tracing.spans import Tracer, begun, within

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Push = Callable[[Scale], Awaitable[None]]
"""Carry a wish to the controller; returns when tenants are spread by it.

Raises StartError if that is not possible, and everything is as before; anything else if nobody knows.
"""


class ScalePush:
    """Holds the wish and carries it to the controller, until it is fulfilled or cannot be. One event loop owns it.

    The last wish that could be fulfilled is the one that a restarted controller is started with.

    Attributes:
        scale: the wish.
        problem: why the last one could not be fulfilled; empty if it could, or may be yet.
    """

    def __init__(self, push: Push, clock_ms: Callable[[], int], shard_hosts: int, tracer: Tracer | None = None) -> None:
        self.problem = ""
        self._push = push
        self._clock_ms = clock_ms
        self._tracer = tracer
        # Of a clock, so that what a later process wishes is a later wish.
        self.scale = Scale(clock_ms(), shard_hosts)
        self._fulfilled = self.scale
        self._pushing: asyncio.Task[None] | None = None

    @property
    def is_pushing(self) -> bool:
        """Whether the wish is on its way."""
        return self._pushing is not None and not self._pushing.done()

    def is_done(self, layout: Layout | None) -> bool:
        """Whether what the controller says is what was wished for, and nobody has anything to do any more."""
        if layout is None or self.is_pushing or layout.version < self.scale.version:
            return False
        return layout.is_everywhere and not (layout.leaving or layout.missing)

    def wish(self, shard_hosts: int) -> None:
        """Begin to spread tenants over so many shard hosts. The last wish counts."""
        self.problem = ""
        self.scale = self._next(shard_hosts)
        # The controller takes a wish that is under way to its end before this one.
        self._push_soon()

    def look(self, layout: Layout) -> None:
        """Carry the wish again if the controller does not know it: it died when it was told, and came back."""
        if 0 < layout.version < self.scale.version and not self.is_pushing:
            self._push_soon()

    def fulfil(self, scale: Scale) -> None:
        """Note that tenants are spread by this wish."""
        if scale.version > self._fulfilled.version:
            self._fulfilled = scale

    def refuse(self, scale: Scale, problem: str) -> None:
        """Note that this wish cannot be fulfilled: what could be before is wished for again."""
        if scale != self.scale or scale == self._fulfilled:
            return
        self.problem = problem
        # Newer, because some may have heard of the other already.
        self.scale = self._next(self._fulfilled.shard_hosts)

    def _next(self, shard_hosts: int) -> Scale:
        return Scale(max(self.scale.version + 1, self._clock_ms()), shard_hosts)

    def _push_soon(self) -> None:
        self._pushing = asyncio.get_running_loop().create_task(self._push_or_log(self.scale))

    async def _push_or_log(self, scale: Scale) -> None:
        try:
            with within(begun(self._tracer, "rescale", {"millrace.shard_hosts": scale.shard_hosts})):
                await self._push(scale)
        except Exception as error:
            cause = raised_in_actor(error)
            if isinstance(cause, StartError):
                log.error("shard hosts could not be started", problem=str(cause))  # noqa: TRY400
                self.refuse(scale, str(cause))
            else:
                log.exception("controller could not be told how many shard hosts there shall be")
        else:
            self.fulfil(scale)
