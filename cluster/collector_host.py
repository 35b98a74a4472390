"""The collector: an async actor that owns tenants, each in exactly one place."""

import asyncio
import random
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import structlog

from cluster.errors import NotConfiguredError
from cluster.host_feed import HostFeed
from cluster.log_setup import set_up_logging
from cluster.measurements import MAX_MEASURED_TENANTS, Measurements
from cluster.tenant_measurements import measure_tenant
from cluster.version import VERSION
from tenants.endpoint import HttpClients, Surroundings, SystemClock
from tenants.endpoint.collector_set import CollectorSet
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.processing.profile import ProfileBook, Put
from tenants.settings.in_force import OverridesChange
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_PULL_TIMEOUT_S = 30.0
_PULL_AGAIN_S = 0.02
_LAST_TRIES = 3


class CollectorHost:
    """Pulls the records of its tenants from every shard host, merges them, and sends each tenant's series.

    State held: registries and send queues of its tenants, in memory. When the process dies they are lost; Ray restarts
    it empty, the controller configures it anew, and the shard hosts, seeing another incarnation, define their series
    again. ``configure`` and ``put_overrides`` may be repeated. Everything runs in one event loop; every shard host is
    pulled by a task of its own, so that one that hangs holds up nobody.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._incarnation = time.time_ns()
        self._tenants: CollectorSet | None = None
        self._clients: HttpClients | None = None
        self._flush_interval_s = 1.0
        self._hosts: dict[str, Any] = {}
        self._feeds: dict[str, HostFeed] = {}
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._ending: asyncio.Task[None] | None = None
        self._is_draining = False

    async def configure(self, config: ServiceConfig, hosts: Mapping[str, Any], overrides: OverridesChange) -> None:
        """Begin to work, or go on with other hosts and newer overrides.

        Args:
            config: the service configuration, secrets included: they are passed in a call, never to the constructor,
                whose arguments Ray keeps.
            hosts: handles of all shard hosts, by name.
            overrides: the whole.
        """
        set_up_logging(config.log, self._name)
        self._flush_interval_s = config.cluster.flush_interval.seconds
        if self._tenants is None:
            self._clients = HttpClients(config.remote_write_targets)
            around = Surroundings(self._clients, SystemClock(), random.Random(), VERSION)  # noqa: S311
            self._tenants = CollectorSet(ProfileBook(config), around)
            self._ending = asyncio.get_running_loop().create_task(self._end_finished_for_ever(self._tenants))
        await self.put_overrides(overrides)
        self._connect(self._tenants, hosts)

    async def put_overrides(self, change: OverridesChange) -> bool:
        """Put newer overrides in force for every tenant that is here; false if the version they change is not here."""
        if self._tenants is None:
            raise NotConfiguredError(self._name)
        put = self._tenants.book.put_overrides(change)
        if put is Put.NEW:
            await self._tenants.use_overrides(change.tenants)
        return put is not Put.LACKS_BASE

    async def is_configured(self) -> bool:
        """Whether the process knows its settings: not so right after a restart."""
        return self._tenants is not None

    async def drain(self, deadline_s: float) -> bool:
        """Pull what is left, collect every tenant, send what waits; at most ``deadline_s`` seconds.

        Returns:
            Whether everything was sent.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        self._is_draining = True
        if self._tenants is None or self._clients is None:
            return True
        await _stop(*self._pulling.values(), self._ending)
        # Half of the time at most: what is here already has to be sent in any case.
        is_empty = await asyncio.gather(*(self._pull_the_rest(name, deadline_s / 2) for name in self._feeds))
        is_sent = await self._tenants.drain(max(0.0, ends_at - loop.time()))
        await self._clients.close()
        return all(is_empty) and is_sent

    async def snapshots(self) -> dict[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant."""
        return self._tenants.snapshots() if self._tenants else {}

    async def measure(self) -> Measurements:
        """Return this actor's metrics."""
        version = self._tenants.book.version if self._tenants else 0
        measured: Measurements = [("millrace_settings_version", (), version)]
        for name, feed in self._feeds.items():
            measured.append(("millrace_pull_failures_total", (name,), feed.failures))
        # In the order in which they began, so that who is shown does not change while it is here.
        for tenant, snapshot in islice((await self.snapshots()).items(), MAX_MEASURED_TENANTS):
            measured += measure_tenant(str(tenant), snapshot)
        return measured

    def _connect(self, tenants: CollectorSet, hosts: Mapping[str, Any]) -> None:
        self._hosts = dict(hosts)
        for name in self._feeds.keys() - hosts.keys():
            self._pulling.pop(name).cancel()
            self._feeds.pop(name).close()
        if self._is_draining:
            return
        for name in hosts.keys() - self._feeds.keys():
            self._feeds[name] = HostFeed(name, self._name, self._incarnation, tenants)
            self._pulling[name] = asyncio.get_running_loop().create_task(self._pull_for_ever(name))

    async def _pull_for_ever(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await self._pull(name, _PULL_TIMEOUT_S)
            await asyncio.sleep(max(0.0, self._flush_interval_s - (loop.time() - started)))

    async def _pull(self, name: str, timeout_s: float) -> int | None:
        """Pull one host once; return how many records it answered, None if it did not."""
        feed = self._feeds[name]
        try:
            async with asyncio.timeout(timeout_s):
                return await feed.pull(self._hosts[name])
        except TimeoutError:
            feed.fail(f"no answer within {timeout_s:g} s")
        except Exception:
            log.exception("pull failed by a bug", host=name)
        return None

    async def _pull_the_rest(self, name: str, timeout_s: float) -> bool:
        """Pull until the host has nothing to say: the answer to one pull is acknowledged by the next."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        failures = 0
        while (left_s := ends_at - loop.time()) > 0 and failures < _LAST_TRIES:
            records = await self._pull(name, left_s)
            if records == 0:
                return True
            failures += records is None
            await asyncio.sleep(_PULL_AGAIN_S)
        log.error("shard host did not hand over everything", host=name)
        return False

    async def _end_finished_for_ever(self, tenants: CollectorSet) -> None:
        while True:
            await asyncio.sleep(self._flush_interval_s)
            await tenants.end_finished()


async def _stop(*tasks: asyncio.Task[None] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
