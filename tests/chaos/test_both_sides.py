"""Whichever side of remote write ends and comes back, in turns or both at once: the receiver refuses nothing.

A real Prometheus is terminated or killed and started again on its data, the collector is killed, the whole service is
restarted, while a load flows. In the end Prometheus has exactly what the reference model makes of what was sent,
nothing went back, no sample was given up by the one side or refused by the other, and what was collected while
Prometheus was away is there. ``MILLRACE_SOAK_SECONDS`` makes it longer.
"""

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from typing import Any, Final

import pytest

from tests.chaos.monkey import Monkey
from tests.chaos.test_chaos import (
    ENTRY,
    MAX_ITEMS,
    SEED,
    TENANTS,
    WAIT_S,
    Load,
    all_edges_ended,
    assert_counted,
)
from tests.integration.service import MillraceProcess
from tests.lasting_ports import lasting_port
from tests.prometheus import Prometheus

SECONDS: Final = float(os.environ.get("MILLRACE_SOAK_SECONDS", "60"))

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900 + 2 * SECONDS),
]

# An endpoint that is down makes the service take all of its time to end; what it could not send it keeps on disk.
_DRAIN_TIMEOUT_S: Final = 5.0
_LONGEST_OUTAGE_S: Final = 6.0
_LONGEST_PAUSE_S: Final = 4.0
_INTERVAL_S: Final = 1.0


class Restarts:
    """Ends one side or both, and brings them back.

    Attributes:
        done: how often each kind of restart was done.
        outages: when Prometheus alone was away, from and to, in seconds since the epoch.
        given_up: samples that the service says it could not deliver, by outcome, as far as it could be asked.
    """

    def __init__(self, service: MillraceProcess, prometheus: Prometheus, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.outages: list[tuple[float, float]] = []
        self.given_up: Counter[str] = Counter()
        self._service = service
        self._prometheus = prometheus
        self._rng = rng
        self._monkey = Monkey(service, rng, TENANTS, ENTRY, operator="")

    async def go_on_for(self, seconds: float) -> None:
        """Restart in rounds, each with every kind of restart in another order, until so many seconds are over."""
        began = time.monotonic()
        while not self.done or time.monotonic() - began < seconds:
            round_ = [
                *(lambda: self._prometheus_alone(kill=False), lambda: self._prometheus_alone(kill=True)),
                *(self._kill_collector, self._restart_service),
                *(self._kill_both, self._restart_both),
            ]
            self._rng.shuffle(round_)
            for restart in round_:
                # One death at a time is what is promised of the service.
                await self._monkey.until_whole()
                await restart()
                await asyncio.sleep(self._rng.uniform(0.5, _LONGEST_PAUSE_S))
        await self._monkey.until_whole()
        await self.ask_what_was_given_up()

    async def ask_what_was_given_up(self) -> None:
        """Read what the processes know now, and forget when they end."""
        for labels, samples in (await self._service.metrics())["millrace_remote_write_samples_total"].items():
            outcome = dict(labels)["outcome"]
            if outcome != "sent" and samples:
                self.given_up[outcome] += round(samples)

    async def _prometheus_alone(self, *, kill: bool) -> None:
        await self._prometheus.end(kill=kill)
        began = time.time()
        await self._sleep()
        self.outages.append((began, time.time()))
        await self._prometheus.start_again()
        self.done["Prometheus killed" if kill else "Prometheus restarted"] += 1

    async def _kill_collector(self) -> None:
        await self.ask_what_was_given_up()
        for process in self._service.actors("CollectorHost"):
            process.kill()
            await asyncio.to_thread(process.wait, 30)
        self.done["collector killed"] += 1

    async def _restart_service(self) -> None:
        await self.ask_what_was_given_up()
        self._service.terminate()
        # 1: not everything could be sent in time.
        assert await self._service.exit_code() in {0, 1}, self._service.log[-4000:]
        await self._service.start()
        self.done["service restarted"] += 1

    async def _kill_both(self) -> None:
        await self._prometheus.end(kill=True)
        await self._kill_collector()
        await self._sleep()
        await self._prometheus.start_again()
        self.done["Prometheus killed"] += 1

    async def _restart_both(self) -> None:
        await self._prometheus.end()
        await self._restart_service()
        await self._prometheus.start_again()
        self.done["Prometheus restarted"] += 1

    async def _sleep(self) -> None:
        await asyncio.sleep(self._rng.uniform(3 * _INTERVAL_S, _LONGEST_OUTAGE_S))


async def test_restarts_of_both_sides_make_the_receiver_refuse_nothing() -> None:
    grpc, http = lasting_port(), lasting_port()
    async with Prometheus() as prometheus:
        config: dict[str, Any] = {
            "listen": {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}"},
            "remote_write": [{"url": prometheus.url}],
            "cluster": {"drain_timeout": f"{_DRAIN_TIMEOUT_S:.0f}s"},
            "metrics_generator": {
                "metrics_ingestion_time_range_slack": "25m",
                "registry": {"stale_duration": "24h", "collection_interval": f"{_INTERVAL_S:.0f}s"},
                "processor": {"service_graphs": {"wait": f"{WAIT_S}s", "max_items": MAX_ITEMS}},
            },
        }
        async with MillraceProcess(config, **dict.fromkeys(TENANTS, ENTRY)) as service:
            began = time.monotonic()
            loads = [Load(service, tenant, SEED) for tenant in TENANTS]
            restarts = Restarts(service, prometheus, random.Random(SEED))
            is_enough = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for load in loads:
                    group.create_task(load.flow(is_enough))
                try:
                    await restarts.go_on_for(SECONDS)
                finally:
                    is_enough.set()
            assert len(restarts.done) == 4, restarts.done
            assert min(restarts.done.values()) >= 2, restarts.done
            await all_edges_ended(service)
            for load in loads:
                await assert_counted(service, prometheus, load, began)
                await assert_times_increase_and_outages_are_there(prometheus, load.tenant, restarts.outages)
            await restarts.ask_what_was_given_up()
            answers = await prometheus.write_answers()
            print(
                f"seed {SEED}: {dict(restarts.done)}, Prometheus answered {dict(answers)}, "
                f"{prometheus.cut_requests} requests cut by a kill, given up: {dict(restarts.given_up)}"
            )
            assert prometheus.refusals == []
            assert [line for line in service.events if line["level"] == "error" and "samples" in line] == []
            assert restarts.given_up == Counter()
            # 503 while it comes and goes: that is sent again.
            assert answers["204"] > 0
            # A collector that is killed while it sends leaves a request without its end.
            refused = {status: count for status, count in answers.items() if status.startswith("4")}
            assert sum(refused.values()) <= prometheus.cut_requests, refused
            assert refused.keys() <= {"400"}


async def assert_times_increase_and_outages_are_there(
    prometheus: Prometheus, tenant: str, outages: list[tuple[float, float]]
) -> None:
    """See that Prometheus has, once and in order, what was collected while it was away."""
    assert outages
    for began, ended in outages:
        # A range vector is the samples as they are stored, not as they are looked up.
        query = f'traces_spanmetrics_calls_total{{tenant="{tenant}"}}[{ended - began + 10:.0f}s]'
        found = await prometheus.query(query, time=ended + 5)
        assert found, (began, ended)
        for element in found:
            times = [time_s for time_s, _ in element["values"]]
            assert all(one < other for one, other in itertools.pairwise(times)), (element["metric"], times)
        away = max(sum(began < time_s < ended for time_s, _ in element["values"]) for element in found)
        assert away >= (ended - began) / (2 * _INTERVAL_S), (began, ended, away)
