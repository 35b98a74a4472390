"""The collector: an async actor that owns tenants, each in exactly one place."""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import structlog

from cluster.errors import NotConfiguredError, StaleCollectorError
from cluster.host_feed import HostFeed
from cluster.log_setup import set_up_logging
from cluster.measurements import MAX_MEASURED_TENANTS, Measurements
from cluster.placement import Routes
from cluster.tenant_measurements import measure_tenant
from cluster.version import VERSION
from tenants.endpoint import HttpClients, Surroundings, SystemClock
from tenants.endpoint.collector_set import CollectorSet
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.journal.errors import Fenced
from tenants.journal.store import JournalStore
from tenants.journal.url import journal_url
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import Claimed, FlushRecord, ShardKey
from tenants.processing.grouped import grouped
from tenants.processing.profile import ProfileBook, Put
from tenants.settings.in_force import OverridesChange
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_PULL_TIMEOUT_S = 30.0
_RELEASE_TIMEOUT_S = 5.0
"""Longest that a claim waits for the last records of who owned the range. Beyond it these are void, and come again."""
_ADOPT_TIMEOUT_S = 5.0
_PULL_AGAIN_S = 0.02
_LAST_TRIES = 3


class CollectorHost:
    """Owns its tenants' state: journals and merges the records of every shard host, and sends each tenant's series.

    State held: that of its tenants, which the journal has too, and send queues. When the process dies, Ray restarts it,
    the controller configures it anew, and it goes on from the journal with the same values. ``configure`` and
    ``put_overrides`` may be repeated. Everything runs in one event loop; every shard host is pulled by a task of its
    own, so that one that hangs holds up nobody. A process whose journal another one has taken over ends itself.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._incarnation = time.time_ns()
        self._configuring = asyncio.Lock()
        self._store: JournalStore | None = None
        self._journal: JournalWriter | None = None
        self._tenants: CollectorSet | None = None
        self._clients: HttpClients | None = None
        self._flush_interval_s = 1.0
        self._routes = Routes(0, (), ())
        self._hosts: dict[str, Any] = {}
        self._feeds: dict[str, HostFeed] = {}
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._ending: asyncio.Task[None] | None = None
        self._is_draining = False

    async def configure(
        self, config: ServiceConfig, routes: Routes, hosts: Mapping[str, Any], overrides: OverridesChange
    ) -> None:
        """Begin to work, from what the journal holds, or go on with other hosts and newer overrides.

        Args:
            config: the service configuration, secrets included: they are passed in a call, never to the constructor,
                whose arguments Ray keeps.
            routes: where shards are.
            hosts: handles of all shard hosts, by name.
            overrides: the whole.

        Raises:
            StoreError: the journal cannot be used; the message says what to do.
        """
        set_up_logging(config.log, self._name)
        self._flush_interval_s = config.cluster.flush_interval.seconds
        # One call at a time: recovery takes longer than the controller has patience for.
        async with self._configuring:
            if self._tenants is None:
                self._tenants = await self._recover(config, routes, overrides)
                self._ending = asyncio.get_running_loop().create_task(self._end_finished_for_ever(self._tenants))
        await self.put_overrides(overrides)
        self._routes = routes
        self._connect(self._tenants, hosts)

    async def _recover(self, config: ServiceConfig, routes: Routes, overrides: OverridesChange) -> CollectorSet:
        self._clients = HttpClients(config.remote_write_targets)
        clock = SystemClock()
        around = Surroundings(self._clients, clock, random.Random(), VERSION)  # noqa: S311
        url = journal_url(config)
        self._store = store = await asyncio.to_thread(JournalStore.open, url, self._name, self._incarnation)
        self._journal = JournalWriter(store, clock, around.rng)
        book = ProfileBook(config)
        book.put_overrides(overrides)
        tenants = CollectorSet(book, around, self._journal, self._release)
        await tenants.recover(store, lambda tenant: routes.collector_of(tenant) == self._name)
        return tenants

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
        if self._journal is not None and self._store is not None:
            await self._journal.close()
            await asyncio.to_thread(self._store.close)
        return all(is_empty) and is_sent

    async def claim(self, host: str, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        """Give ranges to a shard host; those that are missing in the answer cannot be had now.

        Raises:
            NotConfiguredError: none can.
        """
        if self._tenants is None or self._is_draining:
            raise NotConfiguredError(self._name)
        return await self._tenants.claim(host, keys)

    async def _release(self, host: str, owned: Sequence[tuple[ShardKey, int]]) -> Sequence[FlushRecord]:
        """Take shards from a host; nothing if it does not answer: what it counted and did not hand over comes again."""
        if host not in self._hosts:
            return ()
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                records: tuple[FlushRecord, ...] = await self._hosts[host].release.remote(
                    self._name, self._incarnation, owned
                )
        except Exception as error:  # noqa: BLE001  (whatever ails the host, its shards are taken from it)
            log.warning("shard host did not release shards", host=host, error=f"{type(error).__name__}: {error}"[:300])
            return ()
        return records

    async def snapshots(self) -> dict[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant."""
        return self._tenants.snapshots() if self._tenants else {}

    async def measure(self) -> Measurements:
        """Return this actor's metrics."""
        version = self._tenants.book.version if self._tenants else 0
        measured: Measurements = [("millrace_settings_version", (), version)]
        for name, feed in self._feeds.items():
            measured.append(("millrace_pull_failures_total", (name,), feed.failures))
        if self._journal is not None:
            measured += _measure_journal(self._journal)
        if self._tenants is not None:
            measured.append(("millrace_journal_damaged_tenants", (), len(self._tenants.damaged)))
        # In the order in which they began, so that who is shown does not change while it is here.
        for tenant, snapshot in islice((await self.snapshots()).items(), MAX_MEASURED_TENANTS):
            measured += measure_tenant(str(tenant), snapshot)
        return measured

    def _connect(self, tenants: CollectorSet, hosts: Mapping[str, Any]) -> None:
        self._hosts = dict(hosts)
        for name in self._feeds.keys() - hosts.keys():
            self._pulling.pop(name).cancel()
            del self._feeds[name]
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
        try:
            return await self._feeds[name].pull(self._hosts[name], timeout_s)
        except (Fenced, StaleCollectorError):
            log.critical("another process has taken over, this one ends")
            os._exit(1)
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
            await self._find_hosts(tenants.orphans())

    async def _find_hosts(self, orphans: Sequence[ShardKey]) -> None:
        """Ask the hosts of these shards to begin them; who does not answer is asked again the next time."""
        by_host = grouped(orphans, lambda key: self._routes.host_of(key.tenant, key.index))
        calls = [self._hosts[name].adopt.remote(keys) for name, keys in by_host.items() if name in self._hosts]
        if calls:
            answers = await asyncio.gather(
                *(asyncio.wait_for(call, _ADOPT_TIMEOUT_S) for call in calls), return_exceptions=True
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    log.warning("shards wait for a host", error=f"{type(answer).__name__}: {answer}"[:300])


async def _stop(*tasks: asyncio.Task[None] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _measure_journal(journal: JournalWriter) -> Measurements:
    return [
        ("millrace_journal_commits_total", (), journal.commits),
        ("millrace_journal_commit_seconds_total", (), journal.commit_s),
        ("millrace_journal_entries_total", (), journal.entries),
        ("millrace_journal_bytes_total", (), journal.written_bytes),
        ("millrace_journal_failures_total", (), journal.failures),
        ("millrace_journal_pending_bytes", (), journal.pending_bytes),
    ]
