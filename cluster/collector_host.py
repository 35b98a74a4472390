"""The collector: an async actor that owns tenants, each in exactly one place."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import structlog

from cluster import ray_compat
from cluster.errors import NotConfiguredError, StaleCollectorError
from cluster.host_feed import HostFeed
from cluster.log_setup import set_up_logging
from cluster.measurements import MAX_MEASURED_TENANTS, Measurements
from cluster.placement import Routes
from cluster.process_measurements import measure_journal_file, measure_process
from cluster.tenant_measurements import measure_tenant
from cluster.version import VERSION
from tenants.endpoint import HttpClients, Surroundings, SystemClock
from tenants.endpoint.collector_set import CollectorSet, TenantLook
from tenants.endpoint.errors import OwnerSilentError
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.endpoint.work_threads import WorkThreads
from tenants.identity.tenant_id import TenantId
from tenants.journal.backlog_writer import BacklogWriter
from tenants.journal.errors import Fenced
from tenants.journal.store import JournalStore
from tenants.journal.url import journal_file, journal_url
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import Claimed, FlushRecord, ShardKey
from tenants.processing.grouped import grouped
from tenants.processing.profile import ProfileBook
from tenants.settings.in_force import OverridesChange, Put
from tenants.settings.service_config import ServiceConfig
from tenants.tracing.opening import open_tracer
from tenants.tracing.spans import CLOSE_S, Attributes, Span, Tracer, begun, within

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_PULL_TIMEOUT_S = 30.0
_RELEASE_TIMEOUT_S = 5.0
"""Longest that a claim waits for the last records of who owned the range. Beyond it the claim is refused."""
_SILENCE_S = 30.0
"""A host that has not answered for this long, and is not known to be dead, is given up: its last records are void, and
gateways send again what was in them. Longer than Ray takes to notice that a node is lost."""
_CLAIM_ANSWER_S = 2.0
"""A claim is answered after so long with what has been given by then: what waits for a silent host, or for a journal
that is away, keeps nobody else waiting. Less than hosts wait, or they would hear of nothing."""
_ADOPT_TIMEOUT_S = 5.0
_PULL_AGAIN_S = 0.02
_LAST_TRIES = 3


class CollectorHost:
    """Owns its tenants' state: journals and merges the records of every shard host, and sends each tenant's series.

    State held: that of its tenants, which the journal has too, and send queues. When the process dies, Ray restarts it,
    the controller configures it anew, and it goes on from the journal with the same values. ``configure`` and
    ``put_overrides`` may be repeated. Everything runs in one event loop; every shard host is pulled by a task of its
    own, so that one that hangs holds up nobody. A process that can journal nothing any more, because another one has
    taken over or for any other reason that does not pass, ends itself: the next one reads what is there.

    Args:
        name: of the actor.
        end: ends the process at once, with an exit code.
    """

    def __init__(self, name: str, end: Callable[[int], object] = os._exit) -> None:
        self._name = name
        self._end = end
        self._incarnation = time.time_ns()
        self._configuring = asyncio.Lock()
        self._store: JournalStore | None = None
        self._journal_file: Path | None = None
        self._journal: JournalWriter | None = None
        self._backlog: BacklogWriter | None = None
        self._threads = WorkThreads()
        self._tracer: Tracer | None = None
        self._tenants: CollectorSet | None = None
        self._clients: HttpClients | None = None
        self._flush_interval_s = 1.0
        self._routes = Routes(0, (), ())
        self._claims_refused = 0
        self._claiming: dict[tuple[str, TenantId], asyncio.Task[dict[ShardKey, Claimed]]] = {}
        self._hosts: dict[str, Any] = {}
        self._feeds: dict[str, HostFeed] = {}
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._silent_since: dict[str, float] = {}
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
            StoreError: the journal cannot be used; the message says what to do. Nothing has begun.
        """
        set_up_logging(config.log, self._name)
        self._flush_interval_s = config.cluster.flush_interval.seconds
        # One call at a time: recovery takes longer than the controller has patience for.
        async with self._configuring:
            if self._tenants is None:
                if self._tracer is None:
                    self._tracer = open_tracer(config.tracing, self._name, VERSION)
                with within(begun(self._tracer, "recover journal", {})) as span:
                    try:
                        tenants = await self._recover(config, routes, overrides)
                    except BaseException as error:
                        await self._close_what_is_open()
                        if isinstance(error, Fenced):
                            self._end_for(error)
                        raise
                    if span is not None:
                        span.set({"millrace.tenants": len(tenants.tenants), "millrace.damaged": len(tenants.damaged)})
                # Nobody claims anything before the routes are here, which say who may.
                self._routes, self._tenants = routes, tenants
                self._ending = asyncio.get_running_loop().create_task(self._end_finished_for_ever(tenants))
        await self.put_overrides(overrides)
        await self.put_routes(routes, hosts)

    async def _recover(self, config: ServiceConfig, routes: Routes, overrides: OverridesChange) -> CollectorSet:
        self._clients = HttpClients(config.remote_write_targets)
        clock = SystemClock()
        url = journal_url(config)
        self._journal_file = journal_file(config)
        self._store = store = await asyncio.to_thread(JournalStore.open, url, self._name, self._incarnation)
        self._backlog = BacklogWriter(store.backlog)
        around = Surroundings(
            self._clients,
            clock,
            random.Random(),  # noqa: S311
            VERSION,
            backlog=self._backlog,
            threads=self._threads,
            tracer=self._tracer,
        )
        self._journal = JournalWriter(store, clock, around.rng, tracer=self._tracer, on_end=self._end_for)
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

    async def put_routes(self, routes: Routes, hosts: Mapping[str, Any]) -> bool:
        """Give ranges by these routes, and pull these hosts, unless the routes are older than those in force.

        Args:
            routes: where shards are.
            hosts: handles of all shard hosts, by name; also of those that are not in the routes any more, as long as
                they may have something.

        Returns:
            False if the process knows nothing.
        """
        if self._tenants is None:
            return False
        if routes.version >= self._routes.version:
            self._routes = routes
            self._connect(self._tenants, hosts)
        return True

    async def evict(self, host: str) -> None:
        """Take every range from a shard host that is to end. Call when gateways need nothing of it any more.

        Raises:
            NotConfiguredError: nothing was done.
            ValueError: it is in the routes; nothing was done.
            StoreError: nothing can be journalled any more.
        """
        if self._tenants is None:
            raise NotConfiguredError(self._name)
        if host in self._routes.shard_hosts:
            raise ValueError(f"{host} is in the routes, version {self._routes.version}")
        await self._tenants.evict(host)

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
        self._threads.close()
        await self._close_what_is_open()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close, min(CLOSE_S, max(0.0, ends_at - loop.time())))
        return all(is_empty) and is_sent

    async def _close_what_is_open(self) -> None:
        """Close what recovery has opened, as far as it came."""
        if self._clients is not None:
            await self._clients.close()
        if self._backlog is not None:
            await self._backlog.close()
        if self._journal is not None:
            await self._journal.close()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    def _end_for(self, error: Exception) -> None:
        """End this process: it can journal nothing any more, and has to take in nothing for that."""
        log.critical("nothing can be journalled any more, this process ends", problem=f"{error}"[:300])
        self._end(1)

    async def claim(self, host: str, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        """Give ranges to a shard host; those that are missing in the answer cannot be had now.

        Only to the host of the routes, so that gateways that know older ones do not make hosts take ranges from each
        other: what they send is not counted, and they send it again when they know the newer ones.

        Answers within seconds. What is given later nobody hears of: the host claims it again, and is given it anew.

        Raises:
            NotConfiguredError: none can.
        """
        if self._tenants is None or self._is_draining:
            raise NotConfiguredError(self._name)
        own = [key for key in keys if self._routes.host_of(key.tenant, key.index) == host]
        with within(self._claim_span(host, keys)) as span:
            claimed = await self._claimed_soon(self._tenants, host, own)
            if span is not None:
                span.set({"millrace.claimed": len(claimed)})
        self._claims_refused += len(keys) - len(claimed)
        return claimed

    async def _claimed_soon(
        self, tenants: CollectorSet, host: str, keys: Sequence[ShardKey]
    ) -> dict[ShardKey, Claimed]:
        begun = []
        for tenant, own in grouped(keys, lambda key: key.tenant).items():
            # One at a time: while a claim waits, those that repeat it would queue up behind it.
            if (host, tenant) not in self._claiming:
                task = asyncio.get_running_loop().create_task(tenants.claim(host, own))
                self._claiming[host, tenant] = task
                task.add_done_callback(partial(self._on_claimed, host, tenant))
                begun.append(task)
        # Not cancelled in the end: what is submitted to the journal stays in its order.
        done = (await asyncio.wait(begun, timeout=_CLAIM_ANSWER_S))[0] if begun else set()
        return {key: claimed for task in done for key, claimed in task.result().items()}

    def _on_claimed(self, host: str, tenant: TenantId, _: object) -> None:
        del self._claiming[host, tenant]

    def _claim_span(self, host: str, keys: Sequence[ShardKey]) -> Span | None:
        # Sampled like requests: whoever sends for tenants that were not here before makes claims.
        if self._tracer is None:
            return None
        tenants = {key.tenant for key in keys}
        said: Attributes = {"millrace.host": host, "millrace.shards": len(keys)}
        return self._tracer.sampled("claim", said, tenant=tenants.pop() if len(tenants) == 1 else None)

    async def _release(self, host: str, owned: Sequence[tuple[ShardKey, int]]) -> Sequence[FlushRecord]:
        """Take shards from a host; nothing if it is dead or given up: what it did not hand over comes again.

        Raises:
            OwnerSilentError: it may live, and it is too early to give it up. If it were, and a gateway died just then,
                nobody would have what it had counted.
        """
        if host not in self._hosts:
            return ()
        asked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                records: tuple[FlushRecord, ...] = await self._hosts[host].release.remote(
                    self._name, self._incarnation, owned
                )
        except Exception as error:  # noqa: BLE001  (whatever ails the host)
            await self._on_not_released(host, error, asked_at)
            return ()
        self._silent_since.pop(host, None)
        return records

    async def _on_not_released(self, host: str, error: Exception, asked_at: float) -> None:
        # A process that knows no settings has begun just now; the one before it, with all it had counted, is dead.
        is_dead = ray_compat.is_dead(error) or isinstance(ray_compat.raised_in_actor(error), NotConfiguredError)
        is_dead = is_dead or not await asyncio.to_thread(ray_compat.may_live, self._hosts.get(host))
        since = self._silent_since.setdefault(host, asked_at)
        if not is_dead and asyncio.get_running_loop().time() - since < _SILENCE_S:
            raise OwnerSilentError(host) from error
        log.warning("shard host did not release shards", host=host, error=f"{type(error).__name__}: {error}"[:300])

    async def snapshots(self) -> dict[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant."""
        return self._tenants.snapshots() if self._tenants else {}

    async def ledger(self, tenant: TenantId) -> list[tuple[str, str, str, int]]:
        """Return a tenant's ledger by service, stage and outcome; nothing of one that generates nothing.

        Raises:
            NotConfiguredError: it is not known now.
        """
        if self._tenants is None:
            raise NotConfiguredError(self._name)
        return await self._tenants.ledger(tenant)

    async def look(self, tenant: TenantId) -> TenantLook:
        """Return what is known of a tenant, for somebody who looks.

        Raises:
            NotConfiguredError: it is not known now.
        """
        if self._tenants is None:
            raise NotConfiguredError(self._name)
        return await self._tenants.look(tenant)

    async def measure(self) -> Measurements:
        """Return this actor's metrics."""
        version = self._tenants.book.version if self._tenants else 0
        measured: Measurements = [("millrace_settings_version", (), version)]
        for name, feed in self._feeds.items():
            measured.append(("millrace_pull_failures_total", (name,), feed.failures))
        if self._tracer is not None:
            measured += self._tracer.measure()
        if self._journal is not None:
            measured += _measure_journal(self._journal)
        if self._backlog is not None:
            measured += _measure_backlog(self._backlog)
        if self._journal_file is not None:
            measured += await asyncio.to_thread(measure_journal_file, self._journal_file)
        if self._tenants is not None:
            measured += measure_process()
            measured.append(("millrace_journal_damaged_tenants", (), len(self._tenants.damaged)))
            measured.append(("millrace_claims_refused_total", (), self._claims_refused))
        # In the order in which they began, so that who is shown does not change while it is here.
        for tenant, snapshot in islice((await self.snapshots()).items(), MAX_MEASURED_TENANTS):
            measured += measure_tenant(str(tenant), snapshot)
        return measured

    def _connect(self, tenants: CollectorSet, hosts: Mapping[str, Any]) -> None:
        self._hosts = dict(hosts)
        for name in self._feeds.keys() - hosts.keys():
            self._pulling.pop(name).cancel()
            del self._feeds[name]
            tenants.forget(name)
        if self._is_draining:
            return
        for name in hosts.keys() - self._feeds.keys():
            self._feeds[name] = HostFeed(name, self._name, self._incarnation, tenants, self._tracer)
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
            records = await self._feeds[name].pull(self._hosts[name], timeout_s)
        except (Fenced, StaleCollectorError):
            log.critical("another process has taken over, this one ends")
            self._end(1)
            return None
        except Exception:
            log.exception("pull failed by a bug", host=name)
            return None
        if records is not None:
            self._silent_since.pop(name, None)
        return records

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


def _measure_backlog(backlog: BacklogWriter) -> Measurements:
    return [
        ("millrace_backlog_batches_total", (), backlog.batches),
        ("millrace_backlog_bytes_total", (), backlog.written_bytes),
        ("millrace_backlog_failures_total", (), backlog.failures),
    ]
