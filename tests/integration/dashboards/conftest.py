"""The two shops of the demo, counted, each at a Prometheus of its own."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from cluster.demo.acme import ACME
from cluster.demo.globex import GLOBEX
from cluster.demo.model import Flavour
from tests import otlp_raw, traces
from tests.integration.comparison import assert_has, flat
from tests.integration.dashboards.dashboard import Dashboard
from tests.integration.dashboards.demo_shop import play
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel
from tests.reference_labels import trace_id_text
from tests.reference_metrics import SeriesKey

ALERTS: Final = Path(__file__).parents[3] / "k8s" / "alerts"

PLAYED_S: Final = 20
# However busy the machine: what is sent late counts all the same.
SLACK_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class TenantSetting:
    """A tenant: its entry in the runtime file, and the same as the model's plan."""

    flavour: Flavour
    entry: Mapping[str, Any]
    plan: dict[str, Any]
    trace_id_label: str = "traceID"
    relabel: Callable[[SeriesKey], SeriesKey] = lambda key: key


def _with_old_environment(key: SeriesKey) -> SeriesKey:
    old = {re.sub("deployment_environment_name$", "deployment_environment", label): value for label, value in key}
    return frozenset((dict(key) | old).items())


_PROCESSORS: Final = ["span-metrics", "service-graphs"]
_DIMENSIONS: Final = ["service.namespace", "deployment.environment.name", "cloud.region"]
_FINE: Final = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
SETTINGS: Final = {
    setting.flavour.tenant: setting
    for setting in (
        TenantSetting(
            ACME,
            {"processors": _PROCESSORS, "processor": {"service_graphs": {"histogram_buckets": _FINE}}},
            traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan(histogram_buckets=_FINE)),
        ),
        TenantSetting(
            GLOBEX,
            {
                "processors": _PROCESSORS,
                "generate_native_histograms": "both",
                "trace_id_label_name": "trace_id",
                "processor": {
                    "span_metrics": {"dimensions": _DIMENSIONS, "enable_target_info": True},
                    "service_graphs": {"dimensions": _DIMENSIONS, "enable_client_server_prefix": True},
                },
            },
            traces.plan(
                traces.span_metrics_plan(dimensions=_DIMENSIONS, enable_target_info=True),
                traces.service_graphs_plan(dimensions=_DIMENSIONS, enable_client_server_prefix=True),
                histograms=traces.histograms_plan("both"),
                trace_id_label_name="trace_id",
            ),
            trace_id_label="trace_id",
            relabel=_with_old_environment,
        ),
    )
}
# The demo speaks newer conventions than query 20: what it calls deployment.environment.name was deployment.environment.
_OLD_ENVIRONMENT: Final = [
    {
        "action": "labelmap",
        "regex": "((client_|server_)?deployment_environment)_name",
        "replacement": "$1",
    }
]


@dataclass(frozen=True, slots=True)
class Demo:
    """Both shops' spans were sent to a real service, which writes to a Prometheus of each shop.

    Attributes:
        prometheuses: by tenant.
        operator: scrapes the service, and has its alert rules.
        sent: the requests, by tenant.
    """

    prometheuses: Mapping[str, Prometheus]
    operator: Prometheus
    sent: Mapping[str, list[bytes]]


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def demo() -> AsyncIterator[Demo]:
    async with Prometheus() as of_acme, Prometheus() as of_globex:
        endpoints = {
            "acme": {"url": of_acme.url},
            "globex": {"url": of_globex.url, "write_relabel_configs": _OLD_ENVIRONMENT},
        }
        entries = {name: {**SETTINGS[name].entry, "remote_write": [endpoints[name]]} for name in endpoints}
        generator = {
            "metrics_ingestion_time_range_slack": f"{SLACK_S:.0f}s",
            "processor": {"service_graphs": {"wait": "10s"}},
        }
        async with (
            MillraceProcess({"metrics_generator": generator}, **entries) as service,
            Prometheus(configuration=_scraping(service.http_port)) as operator,
        ):
            plays = [
                asyncio.to_thread(
                    play, SETTINGS[name].flavour, service.grpc_port, PLAYED_S, _until_scraped(operator, name)
                )
                for name in entries
            ]
            sent = dict(zip(entries, await asyncio.gather(*plays), strict=True))
            yield Demo({"acme": of_acme, "globex": of_globex}, operator, sent)


def _until_scraped(operator: Prometheus, tenant: str) -> Callable[[], object]:
    """Return what blocks a thread until some of a tenant's traffic has been seen: what comes then is an increase."""
    loop = asyncio.get_running_loop()

    async def is_seen() -> bool:
        return bool(await operator.query(f'millrace_registry_active_series{{tenant="{tenant}"}} > 0'))

    async def wait() -> None:
        await eventually(is_seen, 60, lambda: f"nothing of {tenant} is scraped")

    return lambda: asyncio.run_coroutine_threadsafe(wait(), loop).result()


def _scraping(port: int) -> str:
    job = {"job_name": "millrace", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    seconds = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    return yaml.safe_dump({"global": seconds, "scrape_configs": [job], "rule_files": [str(ALERTS / "*.rules.yaml")]})


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def dashboards(demo: Demo) -> dict[str, Dashboard]:
    """The two shops, counted: everything is collected, and nothing more comes."""
    made = [_dashboard(demo.prometheuses[name], SETTINGS[name], demo.sent[name]) for name in demo.sent]
    return dict(zip(demo.sent, await asyncio.gather(*made), strict=True))


async def _dashboard(prometheus: Prometheus, setting: TenantSetting, sent: list[bytes]) -> Dashboard:
    """Wait until what was sent is collected."""
    model = ReferenceModel(setting.plan | {"ingestion_time_range_slack_s": SLACK_S}, strict_ids=True)
    now_ns = time.time_ns()
    for request in sent:
        model.push(request, now_ns)
    model.flush(now_ns, close_edges=True)
    assert not model.rejected
    assert not model.discarded
    collected = model.collect()
    every = {setting.relabel(key): value for key, value in (collected.series | flat(collected.histograms)).items()}
    await assert_has(prometheus, setting.flavour.tenant, every)
    at_s = await _newest_collection_s(prometheus, {dict(key)["__name__"] for key in every})
    return Dashboard(
        prometheus,
        setting.flavour,
        {setting.relabel(key): value for key, value in collected.series.items()},
        frozenset(trace_id_text(span.trace_id) for request in sent for span in _spans(request)),
        setting.trace_id_label,
        at_s,
    )


def _spans(request: bytes) -> list[Any]:
    groups = otlp_raw.parse(request).resource_spans
    return [span for group in groups for scope in group.scope_spans for span in scope.spans]


async def _newest_collection_s(prometheus: Prometheus, metrics: Collection[str]) -> float:
    """Return the time of a collection that Prometheus has as a whole."""

    async def times_s(which: str) -> list[float]:
        # One by one: timestamp() drops the name, and two metrics may have the same labels.
        found = [await prometheus.query(f"{which}(timestamp({metric}))") for metric in metrics]
        return [float(element["value"][1]) for (element,) in found]

    at_s = max(await times_s("max"))

    async def is_whole() -> bool:
        return min(await times_s("min")) >= at_s

    await eventually(is_whole, 30, lambda: f"the collection of {at_s} does not come in")
    return at_s


@pytest.fixture(params=["acme", "globex"])
def shop(dashboards: dict[str, Dashboard], request: pytest.FixtureRequest) -> Dashboard:
    return dashboards[request.param]


@pytest.fixture
def globex(dashboards: dict[str, Dashboard]) -> Dashboard:
    return dashboards["globex"]
