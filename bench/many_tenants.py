"""What do ten thousand tenants cost that send nothing, and how soon are the pages there that list them all?

Starts ``millrace serve`` twice as an operator would, with 100 and with 10 000 tenants in the runtime file, each with
settings of its own. First nobody sends anything; then 100 of them send spans, stop, and go on having their series
collected. Printed are the memory of all processes (shares of shared pages counted once) that each further tenant
costs, the CPU time that either state takes, and how long an operator waits for the list of tenants, in the API and on
the screen of a real browser, and for ``/metrics``. The result counts only if every acknowledged span was counted, and
every tenant is listed.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from playwright.async_api import async_playwright

from bench.end_to_end import Receiver
from bench.fairness import request
from bench.report import print_result
from tests.console.chromium import launch
from tests.console.console_service import sign_in
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually

CONFIGURED = 10_000
ACTIVE = 100

INTERVAL_S = 15
SETTLE_S = 30
IDLE_S = 60
ASKED = 20
"""Times that a page is asked for; the slowest is printed."""


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one run: bytes of memory, shares of one core by kind of process, seconds and bytes of pages."""

    memory: int
    idle: Mapping[str, float]
    collecting: Mapping[str, float]
    seconds: Mapping[str, float]
    metrics_bytes: int
    listed: int
    spans: int


async def measure(configured: int) -> Found:
    """Run the service with so many tenants."""
    receiver = Receiver()
    config = {
        "remote_write": [{"url": receiver.url}],
        "metrics_generator": {"registry": {"collection_interval": f"{INTERVAL_S}s"}},
        "overrides": {
            "per_tenant_override_period": "10s",
            "user_configurable_overrides": {"enabled": True, "poll_interval": "10s"},
        },
        # As without a word of them; what tests start says otherwise.
        "cluster": {"shard_hosts": 0, "flush_interval": "1s"},
    }
    service = MillraceProcess(config, **{name(number): generator(number) for number in range(configured)})
    async with service:
        token = await service.operator_token()
        await asyncio.sleep(SETTLE_S)
        idle = await cores(service)
        spans = await send(service)

        async def is_counted() -> bool:
            return receiver.totals().get("traces_spanmetrics_calls_total") == spans

        await eventually(is_counted, 120, lambda: f"{receiver.totals()} of {spans} spans")
        await asyncio.sleep(SETTLE_S)
        collecting = await cores(service)
        memory = sum(process.memory_full_info().pss for process in service.processes())
        seconds, metrics_bytes, listed = await pages(service, token)
        return Found(memory, idle, collecting, seconds, metrics_bytes, listed, spans)


def name(number: int) -> str:
    """Return a tenant's id."""
    return f"tenant-{number:05}"


def generator(number: int) -> Mapping[str, Any]:
    """Return the settings of a tenant: some of its own, so that no two have the same."""
    return {
        "processors": ["span-metrics", "service-graphs"],
        "max_active_series": 10_000 + number,
        "processor": {"span_metrics": {"dimensions": ["region", f"attribute_{number % 50}"]}},
    }


async def send(service: MillraceProcess) -> int:
    """Send spans of every active tenant; return how many were acknowledged."""
    spans = 0
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for number in range(ACTIVE):
            body = request(random.Random(number))
            answer = await client.post(
                f"http://127.0.0.1:{service.otlp_http_port}/v1/traces",
                content=body.content,
                headers={"content-type": "application/x-protobuf", "x-scope-orgid": name(number)},
            )
            answer.raise_for_status()
            spans += body.spans
    return spans


async def cores(service: MillraceProcess) -> dict[str, float]:
    """Return the share of a core that each kind of process takes while nobody does anything."""
    before, begun = cpu_s(service), time.monotonic()
    await asyncio.sleep(IDLE_S)
    spent_s = time.monotonic() - begun
    return {kind: (spent - before.get(kind, 0.0)) / spent_s for kind, spent in cpu_s(service).items()}


def cpu_s(service: MillraceProcess) -> dict[str, float]:
    """Return user and system seconds so far, by what a process is."""
    spent: dict[str, float] = {}
    for process in service.processes():
        times, words = process.cpu_times(), process.cmdline() or [process.name()]
        kind = "service" if "serve" in words else words[0].split("/")[-1].partition(".")[0]
        spent[kind] = spent.get(kind, 0.0) + times.user + times.system
    return spent


async def pages(service: MillraceProcess, token: str) -> tuple[dict[str, float], int, int]:
    """Return the slowest of some answers of each page, the bytes of ``/metrics``, and how many tenants are listed."""
    listing = await service.ask("GET", "/api/admin/tenants?limit=50", token=token)
    metrics = await service.get("/metrics")
    seconds = {
        "list_api": await slowest(lambda: service.ask("GET", "/api/admin/tenants?limit=50", token=token)),
        "metrics": await slowest(lambda: service.get("/metrics")),
        "list_page": await on_screen(service, token),
    }
    return seconds, len(metrics.content), listing.json()["total"]


async def slowest(ask: Callable[[], Awaitable[httpx.Response]]) -> float:
    """Ask some times, one after the other; return the longest."""
    took = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        (await ask()).raise_for_status()
        took.append(time.perf_counter() - begun)
    return max(took)


async def on_screen(service: MillraceProcess, token: str) -> float:
    """Return the longest time from asking for the page of all tenants until its rows are on a browser's screen."""
    took = []
    async with async_playwright() as playwright:
        running = await launch(playwright)
        page = await running.new_page(base_url=f"http://127.0.0.1:{service.http_port}")
        await sign_in(page, token)
        await page.wait_for_selector("tbody tr")
        for _ in range(ASKED):
            begun = time.perf_counter()
            await page.goto("/console/")
            await page.wait_for_selector("tbody tr")
            took.append(time.perf_counter() - begun)
        await running.close()
    return max(took)


async def main() -> None:
    """Measure both and print what the difference costs."""
    few, many = await measure(ACTIVE), await measure(CONFIGURED)
    proof: dict[str, float | str] = {"tenants": many.listed, "active": ACTIVE, "spans": many.spans}
    assert many.listed == CONFIGURED, many.listed
    print_result(
        "many_tenants.memory",
        (many.memory - few.memory) / (CONFIGURED - ACTIVE) / 1024,
        "KiB of all processes per idle tenant",
        few_mib=round(few.memory / 2**20),
        many_mib=round(many.memory / 2**20),
        **proof,
    )
    for label, found in (("few", few), ("many", many)):
        for state, spent in (("idle", found.idle), ("collecting", found.collecting)):
            shares = {kind: round(100 * share, 2) for kind, share in sorted(spent.items()) if share > 0.0005}
            print_result(f"many_tenants.{state}_{label}", 100 * sum(spent.values()), "percent of one core", **shares)
    for page, took_s in many.seconds.items():
        print_result(f"many_tenants.{page}", took_s, f"s, the slowest of {ASKED}", **proof)
    print_result("many_tenants.metrics_size", many.metrics_bytes / 1024, "KiB", **proof)


if __name__ == "__main__":
    asyncio.run(main())
