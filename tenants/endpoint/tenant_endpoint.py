"""A tenant's way out: every batch to each of its endpoints. What is in a batch is none of its business."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters
from tenants.endpoint.encoding import Encoded, Encoding, batches_for, unique_encodings
from tenants.endpoint.endpoint_backlog import EndpointBacklog, endpoint_key, stored_batches
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.identity.tenant_id import TenantId
from tenants.store.errors import StoreError

Backlog = Mapping[str, Sequence[tuple[int, str]]]
"""What is on disk: sequences and facts, by key of the endpoint."""


@dataclass(frozen=True, slots=True)
class TenantEndpointSnapshot:
    """What is known about a tenant's way out.

    Attributes:
        endpoints: one entry for each endpoint in force, in the order of the settings.
        retiring: endpoints no longer in the settings that still send what waited.
        samples_discarded: samples that went nowhere, by reason: ``no_endpoint``.
    """

    endpoints: tuple[EndpointCounters, ...]
    retiring: tuple[EndpointCounters, ...]
    samples_discarded: dict[str, int]


class TenantEndpoint:
    """The senders of one tenant, none to many, each with its own queue: a slow one does not hold up another.

    State held: the senders' queues. What they have on disk is there for whoever owns the tenant next; the rest is lost
    with the process. Every method must be called from one event loop.
    """

    def __init__(
        self,
        tenant: str,
        configs: Sequence[EndpointConfig],
        around: Surroundings,
        *,
        retire_deadline_s: float = 10.0,
    ) -> None:
        """Prepare the senders.

        Args:
            tenant: for logs.
            configs: the endpoints.
            around: what the senders need from outside.
            retire_deadline_s: how long a removed endpoint may go on sending what waits.
        """
        self._tenant = tenant
        self._around = around
        self._retire_deadline_s = retire_deadline_s
        self._retiring: dict[EndpointSender, asyncio.Task[None]] = {}
        self._removing: asyncio.Task[None] | None = None
        self._removed: dict[str, asyncio.Event] = {}
        self._senders = [self._sender(config) for config in configs]
        self._no_endpoint_samples = 0
        self._has_said_no_endpoint = False
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(tenant=tenant)

    def start(self, backlog: Backlog | None = None) -> None:
        """Begin to send, with what is on disk; what is there for other endpoints goes. Does not wait; call once."""
        left = dict(backlog or {})
        for sender in self._senders:
            if (rows := left.pop(endpoint_key(sender.config), None)) is not None:
                sender.restore(stored_batches(rows))
            sender.start()
        if left:
            batches = sum(len(rows) for rows in left.values())
            self._log.warning("batches of endpoints that are gone are dropped", endpoints=len(left), batches=batches)
            self._removed = dict.fromkeys(left, asyncio.Event())
            self._removing = asyncio.get_running_loop().create_task(self._remove(self._removed))

    def encodings(self) -> list[Encoding]:
        """Return what a collection has to be encoded as, for all endpoints."""
        return unique_encodings(sender.encoding for sender in self._senders)

    def submit(self, encoded: Encoded) -> None:
        """Queue the batches of a collection, for every endpoint those with its rules. Never blocks.

        Without an endpoint they are counted as discarded, ``no_endpoint``. One whose rules have changed meanwhile has
        to wait for the next collection.
        """
        for sender in self._senders:
            sender.submit(batches_for(sender.encoding, encoded))
        batches = next(iter(encoded.values()), [])
        if not self._senders and batches:
            self._no_endpoint_samples += sum(batch.samples for batch in batches)
            if not self._has_said_no_endpoint:
                self._has_said_no_endpoint = True
                self._log.warning("tenant has no remote_write endpoint, its samples are discarded")

    async def spill(self) -> None:
        """Put everything on disk that is not sent, in all endpoints at once."""
        await asyncio.gather(*(sender.spill() for sender in (*self._senders, *self._retiring)))

    def reconfigure(self, configs: Sequence[EndpointConfig]) -> None:
        """Put other endpoints in force. Does not wait; call after :meth:`start`.

        An endpoint that is in the old and in the new settings with the same name and URL goes on with its
        queue, and uses its new settings from the next request on: a rotated token costs nothing. A new one
        starts empty. A removed one sends what waits for it until ``retire_deadline_s``, in the background; the rest is
        dropped. If it is put back until then, it goes on; under another name, it begins when the former has ended:
        the receiver must not be sent what is newer first.
        """
        former = list(self._senders)
        # Equal settings first, or of two endpoints without a name and with one URL the removal of the first
        # would hand its queue to the second.
        kept = {index: sender for index, config in enumerate(configs) if (sender := _take(former, config))}
        for index, config in enumerate(configs):
            if index not in kept and (sender := _take(former, config, by_destination=True) or self._take_back(config)):
                kept[index] = sender
        for sender in former:
            self._retire(sender)
        self._senders = [self._reconfigured(kept.get(index), config) for index, config in enumerate(configs)]
        self._has_said_no_endpoint = self._has_said_no_endpoint and not self._senders

    async def drain(self, deadline_s: float) -> bool:
        """Wait until all endpoints have sent or given up what waits, at most ``deadline_s`` seconds.

        Returns:
            Whether nothing is left.
        """
        senders = [*self._senders, *self._retiring]
        return all(await asyncio.gather(*(sender.drain(deadline_s) for sender in senders)))

    async def close(self) -> None:
        """Stop at once; what waits goes on disk, or is counted as failed. Can be repeated."""
        retirements = list(self._retiring.values())
        for retirement in retirements:
            retirement.cancel()
        if retirements:
            await asyncio.wait(retirements)
        kept = [sender.close() for sender in self._senders]
        await asyncio.gather(*kept, *(sender.close(keeps=False) for sender in self._retiring))
        self._retiring.clear()

    @property
    def oldest_volatile_ms(self) -> int | None:
        """Timestamp of the oldest batch that is not sent, and in memory alone; None if there is none."""
        volatile = (sender.oldest_volatile_ms for sender in (*self._senders, *self._retiring))
        return min((timestamp_ms for timestamp_ms in volatile if timestamp_ms is not None), default=None)

    def snapshot(self) -> TenantEndpointSnapshot:
        """Return all counters as they are now."""
        return TenantEndpointSnapshot(
            endpoints=tuple(sender.snapshot() for sender in self._senders),
            retiring=tuple(sender.snapshot() for sender in self._retiring),
            samples_discarded={"no_endpoint": self._no_endpoint_samples},
        )

    def _sender(self, config: EndpointConfig) -> EndpointSender:
        key = endpoint_key(config)
        return EndpointSender(self._tenant, config, self._around, self._backlog(key, self._is_free(key)))

    def _reconfigured(self, sender: EndpointSender | None, config: EndpointConfig) -> EndpointSender:
        if sender is not None:
            sender.reconfigure(config)
            return sender
        sender = self._sender(config)
        sender.start([former.ended for former in self._retiring if former.config.url == config.url])
        return sender

    def _backlog(self, key: str, is_free: asyncio.Event | None = None) -> EndpointBacklog | None:
        writer = self._around.backlog
        return None if writer is None else EndpointBacklog(writer, TenantId(self._tenant), key, is_free)

    def _is_free(self, key: str) -> asyncio.Event | None:
        """Return what tells that nobody removes any more what is on disk under a key; None: nobody does."""
        closing = (sender.ended for sender in self._retiring if endpoint_key(sender.config) == key)
        return next(closing, self._removed.get(key))

    async def _remove(self, removed: Mapping[str, asyncio.Event]) -> None:
        try:
            for key in removed:
                if (backlog := self._backlog(key)) is not None:
                    # They are found again after the next start.
                    with contextlib.suppress(StoreError):
                        await backlog.clear()
        finally:
            for event in removed.values():
                event.set()

    def _take_back(self, config: EndpointConfig) -> EndpointSender | None:
        """Let a removed endpoint that still sends go on, if it has this name and URL."""
        sender = _take([each for each in self._retiring if not each.is_closed], config, by_destination=True)
        if sender is not None:
            self._retiring.pop(sender).cancel()
        return sender

    def _retire(self, sender: EndpointSender) -> None:
        async def drain_and_close() -> None:
            await sender.drain(self._retire_deadline_s)
            await sender.close(keeps=False)
            self._retiring.pop(sender, None)

        self._retiring[sender] = asyncio.get_running_loop().create_task(drain_and_close())


def _take(
    senders: list[EndpointSender], config: EndpointConfig, *, by_destination: bool = False
) -> EndpointSender | None:
    """Take the first sender out of the list that has these settings, or only this name and URL."""
    for sender in senders:
        has = sender.config
        if has == config or (by_destination and (has.name, has.url) == (config.name, config.url)):
            senders.remove(sender)
            return sender
    return None
