"""The journal's database goes away under load and comes back: what was accepted is kept, too much is pushed back."""

import asyncio
import contextlib
import errno
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from tests import traces
from tests.chaos.persistent_client import PersistentClient
from tests.integration.comparison import assert_has, assert_never_went_back, series_of
from tests.integration.load import requests
from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.postgres import Postgres
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

ENTRY: Final[dict[str, Any]] = {"processors": ["span-metrics", "service-graphs"], "shards": 2}
# No half of an edge has to end while this runs.
WAIT_S: Final = 240
PLAN: Final = traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan()) | {
    "ingestion_time_range_slack_s": float(WAIT_S)
}
RETAINED_BYTES: Final = 1 << 20
"""The smallest bound."""

_DISK: Final = "64m"
_TRACES: Final = 1000
_SPANS_A_REQUEST: Final = 500
_PUSHED_BACK: Final = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}


class Outage:
    """One service whose journal fails, and what its tenants' counters should be."""

    def __init__(self, service: MillraceProcess, tenant: str) -> None:
        self.service = service
        self.tenant = tenant
        self.model = ReferenceModel(PLAN, strict_ids=True)
        self._rng = random.Random(tenant)

    def load(self, spans: int) -> list[bytes]:
        """Return requests with about so many spans, new ones each time."""
        return requests(
            self._rng, time.time_ns(), traces=max(1, spans // 10), spans_per_request=min(spans, _SPANS_A_REQUEST)
        )

    def push(self, body: bytes) -> None:
        self.model.push(body, time.time_ns())

    async def send_until_pushed_back(self) -> bytes:
        """Send request after request; return the first that was not taken."""
        async with GrpcClient(self.service.grpc_port) as client:
            for _ in range(10):
                for body in self.load(10 * _TRACES):
                    answer = await client.export(body, self.tenant)
                    if not answer.is_accepted:
                        assert answer.status in _PUSHED_BACK, answer
                        assert "the journal does not keep up" in answer.message, answer
                        assert answer.retry_delay_s, answer
                        return body
                    self.push(body)
        raise AssertionError(f"nothing is pushed back:\n{self.service.log[-2000:]}")

    def insist(self, bodies: list[bytes]) -> tuple[PersistentClient, asyncio.Task[None]]:
        """Send these until they are acknowledged, some more than once."""
        for body in bodies:
            self.push(body)
        client = PersistentClient(self.service, self.tenant, random.Random(1))
        return client, asyncio.create_task(client.send_all(bodies, 0.01))


async def outage(prometheus: Prometheus, url: str, fail: Callable[[], None], mend: Callable[[], None]) -> None:
    """Let the journal at this URL fail under load, and mend it."""
    name = url.partition(":")[0]
    config: dict[str, Any] = {
        "remote_write": [{"url": prometheus.url}],
        "journal": {"url": url},
        "cluster": {"retained_bytes": RETAINED_BYTES},
        "metrics_generator": {
            "metrics_ingestion_time_range_slack": f"{WAIT_S}s",
            "processor": {"service_graphs": {"wait": f"{WAIT_S}s"}},
        },
    }
    async with MillraceProcess(config) as service:
        began = time.monotonic()
        plain, careful = Outage(service, f"{name}-plain"), Outage(service, f"{name}-careful")
        newcomers = [Outage(service, f"{name}-newcomer-{number}") for number in range(3)]
        await service.put_entries(
            **{
                plain.tenant: {"metrics_generator": ENTRY},
                careful.tenant: {"metrics_generator": ENTRY, "ingestion": {"acknowledge": "durable"}},
                **{newcomer.tenant: {"metrics_generator": ENTRY} for newcomer in newcomers},
            }
        )
        for tenant in (plain, careful):
            _, sending = tenant.insist(tenant.load(2000))
            await sending
            # So that the series have something to go back from.
            await eventually(
                partial(series_of, prometheus, tenant.tenant), 30, lambda: f"no series:\n{service.log[-2000:]}"
            )
        before = plain.model.received_spans
        await asyncio.to_thread(fail)
        careful_client, careful_sending = careful.insist(careful.load(50))
        # Nothing can be counted for them while nobody can be given their ranges: that is no other tenant's concern.
        new = [newcomer.insist(newcomer.load(500)) for newcomer in newcomers]
        await eventually(lambda: all(client.attempts > 1 for client, _ in new), 60, lambda: service.log[-2000:])
        refused = await plain.send_until_pushed_back()
        assert plain.model.received_spans > before
        assert await service.metric("millrace_retained_bytes") > RETAINED_BYTES
        await service.logged("journal cannot be written to, entries wait")
        client, sending = plain.insist([refused, *plain.load(2000)])
        await eventually(lambda: client.attempts > 2, 30, lambda: f"no attempts:\n{service.log[-2000:]}")
        assert not any(each.acknowledged for each in (client, careful_client, *(client for client, _ in new)))
        await asyncio.to_thread(mend)
        async with asyncio.timeout(120):
            await asyncio.gather(sending, careful_sending, *(new_sending for _, new_sending in new))
        await service.logged("journal is written to again")

        async def is_journalled() -> bool:
            return await service.metric("millrace_retained_bytes") == 0

        await eventually(is_journalled, 30, lambda: f"frames are left:\n{service.log[-2000:]}")
        # Whoever comes next knows all of it.
        service.actors("CollectorHost")[0].kill()
        for tenant in (plain, careful, *newcomers):
            tenant.model.flush(0, close_edges=False)
            await assert_has(prometheus, tenant.tenant, tenant.model.series())
            await assert_never_went_back(prometheus, tenant.tenant, 60 + time.monotonic() - began)


async def test_postgresql_that_stops_and_starts_again_costs_nothing(prometheus: Prometheus) -> None:
    with Postgres() as server:
        await outage(prometheus, server.new_database(), server.halt, server.resume)


async def test_disk_that_is_full_for_a_while_costs_nothing(prometheus: Prometheus) -> None:
    with small_disk() as disk:
        ballast = disk / "ballast"
        await outage(prometheus, f"sqlite:///{disk / 'journal.db'}", lambda: fill(ballast), ballast.unlink)


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A disk of its own, in memory; the test is skipped where this may not be mounted."""
    with TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder],
            check=False,
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            pytest.skip(f"a disk that can be filled has to be mounted, and may not be: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(ballast: Path) -> None:
    """Take all the room that is left."""
    with ballast.open("wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
