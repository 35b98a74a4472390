"""Whatever process dies or hangs: every acknowledged span is counted once, and no counter goes back.

A load of traces, sent by clients that retry, flows while a monkey does its work; in the end every series that a real
Prometheus has is what the reference model makes of what was sent. ``MILLRACE_CHAOS_KILLS`` makes it longer.
"""

import asyncio
import os
import random
import time
from typing import Any, Final

import pytest

from tests import traces
from tests.chaos.monkey import Monkey
from tests.chaos.persistent_client import PersistentClient
from tests.integration.comparison import assert_has, assert_never_went_back
from tests.integration.load import requests
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.lasting_ports import lasting_port
from tests.postgres import Postgres
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel

KILLS: Final = int(os.environ.get("MILLRACE_CHAOS_KILLS", "10"))
SEED: Final = int(os.environ.get("MILLRACE_CHAOS_SEED", "20260711"))
_SECONDS_A_KILL: Final = 60

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300 + KILLS * _SECONDS_A_KILL),
]

# Longer than any half of an edge can be late here; edges without a second half end after it.
WAIT_S: Final = 100
# More than wait at any time, with one shard too: what finds no room is lost, and the model knows no room.
MAX_ITEMS: Final = 1_000_000
TENANTS: Final = ("steady", "spread")
CLIENTS: Final = 3
ENTRY: Final[dict[str, Any]] = {
    "processors": ["span-metrics", "service-graphs"],
    "processor": {"span_metrics": {"dimensions": ["region"]}},
}
PLAN: Final = traces.plan(traces.span_metrics_plan(dimensions=["region"]), traces.service_graphs_plan())
_TRACES_A_WAVE: Final = 60
_SPANS_A_REQUEST: Final = 40
_PAUSE_S: Final = 0.05
_HARM_PAUSE_S: Final = 3.0


class Load:
    """Waves of traces for one tenant, until it is told that it is enough; what they should become is in the model."""

    def __init__(self, service: MillraceProcess, tenant: str, seed: int) -> None:
        self.tenant = tenant
        self.model = ReferenceModel(PLAN, strict_ids=True)
        self.acknowledged = 0
        self.attempts = 0
        self.longest_s = 0.0
        self._service = service
        self._rng = random.Random(f"{seed}/{tenant}")

    async def flow(self, is_enough: asyncio.Event) -> None:
        """Send wave after wave, each by a few clients at once."""
        while not is_enough.is_set():
            now_ns = time.time_ns()
            bodies = requests(self._rng, now_ns, traces=_TRACES_A_WAVE, spans_per_request=_SPANS_A_REQUEST)
            for body in bodies:
                self.model.push(body, now_ns)
            clients = [
                PersistentClient(self._service, self.tenant, random.Random(self._rng.random())) for _ in range(CLIENTS)
            ]
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(clients):
                    group.create_task(client.send_all(bodies[number::CLIENTS], _PAUSE_S))
            self.acknowledged += sum(client.acknowledged for client in clients)
            self.attempts += sum(client.attempts for client in clients)
            self.longest_s = max(self.longest_s, *(client.longest_s for client in clients))


async def chaos(url: str) -> None:
    """Let the monkey loose on a service whose store and journal are there; empty: in files of its own."""
    grpc, http = lasting_port(), lasting_port()
    async with Prometheus() as prometheus:
        config: dict[str, Any] = {
            # A gateway that is killed has to come back where the clients look for it.
            "listen": {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}"},
            "remote_write": [{"url": prometheus.url}],
            "store": {"url": url},
            "metrics_generator": {
                "metrics_ingestion_time_range_slack": "25m",
                "registry": {"stale_duration": "24h"},
                "processor": {"service_graphs": {"wait": f"{WAIT_S}s", "max_items": MAX_ITEMS}},
            },
        }
        async with MillraceProcess(config, **dict.fromkeys(TENANTS, ENTRY)) as service:
            began = time.monotonic()
            loads = [Load(service, tenant, SEED) for tenant in TENANTS]
            operator = await service.operator_token()
            monkey = Monkey(service, random.Random(SEED), TENANTS, ENTRY, operator=operator)
            is_enough = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for load in loads:
                    group.create_task(load.flow(is_enough))
                try:
                    await monkey.harm(KILLS, _HARM_PAUSE_S)
                finally:
                    is_enough.set()
            assert monkey.kills >= KILLS
            done = monkey.done
            assert done["cut"] > 0, done
            assert done["rescale"] > 0, done
            assert any(harm.startswith("stop") for harm in done), done
            await all_edges_ended(service)
            for load in loads:
                assert load.attempts > load.acknowledged
                await assert_counted(service, prometheus, load, began)
            # A collector that died did not know what Prometheus has: it has sent nothing that is refused.
            assert prometheus.refusals == []
            assert [status for status in await prometheus.write_answers() if status.startswith("4")] == []
            print(
                f"seed {SEED}: {dict(monkey.done)}, {[(load.acknowledged, load.attempts) for load in loads]} requests"
            )


async def assert_counted(service: MillraceProcess, prometheus: Prometheus, load: Load, began_s: float) -> None:
    """Check that every number is the model's, and none went back since then, by the monotonic clock."""
    load.model.flush(0, close_edges=True)
    # First: it says what is missing, and why.
    await assert_ledger_closes(service, load)
    await assert_has(prometheus, load.tenant, load.model.series())
    await assert_never_went_back(prometheus, load.tenant, 60 + time.monotonic() - began_s)


async def assert_ledger_closes(service: MillraceProcess, load: Load) -> None:
    """Check that every span that ever came is accounted for, and those of the model as generated."""
    ledger = (await service.ask("GET", "/api/ledger", tenant=load.tenant)).json()
    metrics, graph = ledger["processors"]["span_metrics"], ledger["processors"]["service_graphs"]
    assert ledger["closes"], ledger
    model = load.model
    assert (metrics["generated"], graph["waiting"]) == (model.generated, 0), ledger
    assert graph["discarded"].get("unpaired", 0) == sum(model.expired_edges.values()), ledger
    set_aside = sum(model.rejected.values()) + model.discarded.get(("gateway", "outside_metrics_ingestion_slack"), 0)
    assert ledger["received"] - sum(ledger["discarded"].values()) == model.received_spans - set_aside, ledger
    assert ledger["discarded"]["duplicate"] > 0
    for service_ledger in ledger["services"].values():
        assert all(processor["waiting"] == 0 for processor in service_ledger["processors"].values()), ledger


async def all_edges_ended(service: MillraceProcess) -> None:
    """Wait until every half edge has found its other half, or has waited its time."""

    async def are_ended() -> bool:
        # In shards, and in ranges that wait for a host to begin them.
        metrics, names = await service.metrics(), ("millrace_shard_open_edges", "millrace_mirror_open_edges")
        return all(name in metrics and not sum(metrics[name].values()) for name in names)

    await eventually(are_ended, WAIT_S + 60, lambda: f"half edges are left:\n{service.log[-2000:]}")


async def test_nothing_is_lost_doubled_or_going_back_with_a_file_as_journal() -> None:
    await chaos("")


async def test_nothing_is_lost_doubled_or_going_back_with_postgresql_as_journal() -> None:
    with Postgres() as server:
        await chaos(server.new_database())
