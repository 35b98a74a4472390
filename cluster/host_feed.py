"""What one shard host hands over to a collector: pulled, journalled, merged once, acknowledged. Keeps no series."""

import asyncio
from typing import Any

import structlog

from cluster.errors import StaleCollectorError
from cluster.ray_compat import raised_in_actor
from tenants.endpoint.collector_set import CollectorSet
from tenants.processing.flush_record import Pulled, ShardKey
from tenants.tracing.spans import Span, Tracer, part, sampled, within

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class HostFeed:
    """The pulls from one shard host. One event loop owns it, and makes one pull at a time.

    State held: which shards the host shall forget. What is acknowledged, and who owns what, the tenants know.

    Attributes:
        failures: pulls that failed.
    """

    def __init__(
        self, name: str, collector: str, incarnation: int, tenants: CollectorSet, tracer: Tracer | None = None
    ) -> None:
        """Begin.

        Args:
            name: of the shard host.
            collector: the name under which the host knows who pulls.
            incarnation: of the collector's process.
            tenants: where records go.
            tracer: of Millrace's own traces; None: none.
        """
        self.failures = 0
        self._name = name
        self._collector = collector
        self._incarnation = incarnation
        self._tenants = tenants
        self._tracer = tracer
        self._fenced: tuple[tuple[ShardKey, int], ...] = ()
        self._is_failing = False

    async def pull(self, host: Any, timeout_s: float) -> int | None:
        """Ask the host for what is not acknowledged, and put it in force.

        However long the journal takes: what waits to be written must not be pulled again.

        Args:
            host: its handle.
            timeout_s: longest the host may take to answer.

        Returns:
            How many records it answered; at 0 nothing is left there. None: it did not answer.

        Raises:
            StaleCollectorError: this process has been replaced.
            StoreError: nothing can be journalled any more.
        """
        said = {"millrace.host": self._name}
        with within(sampled(self._tracer, "flush", said)) as span:
            return await self._pull(host, timeout_s, span)

    async def _pull(self, host: Any, timeout_s: float, span: Span | None) -> int | None:
        try:
            with part("pull"):
                async with asyncio.timeout(timeout_s):
                    pulled: Pulled = await host.pull.remote(
                        self._collector, self._incarnation, self._tenants.acknowledged(self._name), self._fenced
                    )
        except TimeoutError:
            self._fail(f"no answer within {timeout_s:g} s")
            return None
        except Exception as error:
            # Whatever ails one host must not stop the others.
            cause = raised_in_actor(error)
            if isinstance(cause, StaleCollectorError):
                raise cause from error
            self._fail(f"{type(error).__name__}: {error}"[:300])
            return None
        if self._is_failing:
            log.info("shard host answers again", host=self._name, failures=self.failures)
            self._is_failing = False
        if span is not None:
            span.set({"millrace.records": len(pulled.records)})
        with part("journal and merge"):
            await self._tenants.let_go(self._name, pulled.gone)
            taken = self._tenants.take(pulled.records)
            self._fenced = taken.fenced
            if taken.futures:
                # Not cancelled with this call: an entry that was submitted stays in its order.
                await asyncio.wait(taken.futures)
                for future in taken.futures:
                    future.result()
        return len(pulled.records)

    def _fail(self, problem: str) -> None:
        self.failures += 1
        if not self._is_failing:
            log.warning("pulls from shard host fail", host=self._name, error=problem)
        self._is_failing = True
