"""What one shard host hands over to a collector: pulled, merged once, acknowledged. Keeps no time and no series."""

from typing import Any

import structlog

from tenants import _engine
from tenants.endpoint.collector_set import CollectorSet
from tenants.processing.flush_record import Acknowledgements, FlushRecord, Pulled, ShardKey

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class HostFeed:
    """How far a collector is with one shard host. One event loop owns it, and makes one pull at a time.

    State held: the last sequence merged of every shard. Lost together with the series that it belongs to. A record that
    cannot be read is dropped, and the host asked to define every series again, so that what follows can be.

    Attributes:
        failures: pulls that failed.
    """

    def __init__(self, name: str, collector: str, incarnation: int, tenants: CollectorSet) -> None:
        """Begin with nothing merged.

        Args:
            name: of the shard host.
            collector: the name under which the host knows who pulls.
            incarnation: of the collector's process.
            tenants: where records go.
        """
        self.failures = 0
        self._name = name
        self._collector = collector
        self._incarnation = incarnation
        self._tenants = tenants
        self._epoch = 0
        self._acknowledged: Acknowledgements = {}
        self._is_failing = False
        self._lacks_definitions = False

    async def pull(self, host: Any) -> int | None:
        """Ask the host for what is not acknowledged, and merge it.

        Returns:
            How many records it answered; at 0 nothing is left there. None: it did not answer.
        """
        if self._lacks_definitions:
            # A collector that is not known to the host is sent all definitions.
            self._incarnation += 1
            self._lacks_definitions = False
        try:
            pulled: Pulled = await host.pull.remote(self._collector, self._incarnation, dict(self._acknowledged))
        except Exception as error:  # noqa: BLE001  (whatever ails one host must not stop the others)
            self.fail(f"{type(error).__name__}: {error}"[:300])
            return None
        if self._is_failing:
            log.info("shard host answers again", host=self._name, failures=self.failures)
            self._is_failing = False
        if pulled.epoch != self._epoch:
            self._begin_epoch(pulled.epoch)
        for key in pulled.gone:
            self._forget(key)
        held_back: set[ShardKey] = set()
        for record in pulled.records:
            # Records of a shard count in order: behind one that has to wait, the others wait too.
            if record.key not in held_back and not self._merge(record):
                held_back.add(record.key)
        return len(pulled.records)

    def fail(self, problem: str) -> None:
        """Count a pull that brought nothing; what the host counted waits there."""
        self.failures += 1
        if not self._is_failing:
            log.warning("pulls from shard host fail", host=self._name, error=problem)
        self._is_failing = True

    def close(self) -> None:
        """Let go of everything that is only needed to read this host's records."""
        for key in list(self._acknowledged):
            self._forget(key)

    def _begin_epoch(self, epoch: int) -> None:
        if self._epoch:
            log.warning("shard host began anew, what it had not handed over is lost", host=self._name)
        self.close()
        self._epoch = epoch

    def _forget(self, key: ShardKey) -> None:
        self._acknowledged.pop(key, None)
        self._tenants.forget_source(key.tenant, self._source(key))

    def _merge(self, record: FlushRecord) -> bool:
        key = record.key
        if record.sequence <= self._acknowledged.get(key, 0):
            return True
        try:
            if not self._tenants.merge(key.tenant, self._source(key), record.data):
                return False
        except _engine.MalformedFrame:
            # Sending it again would not make it better: it is dropped, so that what follows can pass.
            log.exception("flush record cannot be read, its counts are lost", host=self._name, shard=str(key))
            self._lacks_definitions = True
        self._acknowledged[key] = record.sequence
        return True

    def _source(self, key: ShardKey) -> tuple[str, int, ShardKey]:
        return self._name, self._epoch, key
