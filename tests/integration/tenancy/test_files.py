"""Good and bad runtime files while the service runs, and at its start: cases 31 to 51."""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import pytest_asyncio
import yaml

from tests.integration.otlp_client import GrpcClient
from tests.integration.planted import MARK
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import full_request, until_counted
from tests.integration.tenancy.case import case
from tests.integration.tenancy.sized_request import sized_request
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.unit.receiver import Receiver

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

SPANS: Final = 2
"""In one request of :func:`full_request`."""
SUCCESSFUL: Final = "millrace_settings_last_reload_successful"
FAILURES: Final = "millrace_settings_reload_failures_total"
HASH: Final = "millrace_settings_hash"
INTERVAL: Final = "metrics_generator.collection_interval"
PERIOD_S: Final = 0.1
START_FAILS_WITHIN_S: Final = 30.0
TOKEN: Final = f"{MARK}-of-the-environment"


@dataclass
class Files:
    """A service, and the runtime file that is in force: entries that stay, and text that one test writes before them.

    Attributes:
        entries: by tenant. None is ever removed: the loss of many is refused.
    """

    service: MillraceProcess
    prometheus: Prometheus
    grpc: GrpcClient
    entries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _spans: dict[str, int] = field(default_factory=dict)

    def text(self, own: str = "", top: str = "") -> str:
        """Return a file; ``own`` begins on its second line, and ``top`` on its first one."""
        stay = [f"  {json.dumps(name)}: {json.dumps(entry)}\n" for name, entry in self.entries.items()]
        return "".join([top, "overrides:\n", own, *stay])

    async def put(self, own: str = "", **entries: Mapping[str, Any]) -> None:
        """Put a file in force."""
        self.entries |= entries
        await self.service.put_runtime_text(self.text(own))
        assert await self.service.metric(SUCCESSFUL) == 1

    async def generates(self, tenant: str) -> None:
        """See that spans of a tenant become metrics."""
        answer = await self.grpc.export(full_request().SerializeToString(), tenant)
        assert answer.is_accepted, answer
        self._spans[tenant] = self._spans.get(tenant, 0) + SPANS
        await until_counted(self.prometheus, self._spans[tenant], tenant=tenant)

    async def in_force(self, tenant: str, key: str) -> tuple[Any, str]:
        """Return the value of a setting and the layer that it comes from."""
        shown = await self.service.ask("GET", f"/status/overrides/{tenant}", accept="application/json")
        found = shown.raise_for_status().json()["settings"][key]
        return found["value"], found["source"]

    async def hashes(self) -> set[str]:
        """Return what the label of the hash says, in every series of the metric."""
        return {dict(labels)["sha256"] for labels in (await self.service.metrics())[HASH]}

    async def assert_refused(self, text: str, reason: str = "validate") -> str:
        """See that a file is refused and changes nothing; mend it and return what the log said."""
        before = await self._state(), await self.service.metric(FAILURES, reason=reason)
        line = await self.service.break_runtime_file(text)
        assert line["level"] == "error"
        assert await self.service.metric(SUCCESSFUL) == 0
        assert await self.service.metric(FAILURES, reason=reason) > before[1]
        assert await self._state() == before[0]
        await self.generates("keeper")
        await self.put()
        problem: str = line["problem"]
        return problem

    async def _state(self) -> tuple[set[str], Any, tuple[Any, str], list[psutil.Process]]:
        """Return what a bad file may not change, processes too."""
        version = (await self.service.status())["overrides"]["version"]
        names = ("Controller", "Gateway", "ShardHost", "CollectorHost")
        actors = [process for name in names for process in self.service.actors(name)]
        assert len(actors) >= len(names)
        return await self.hashes(), version, await self.in_force("keeper", INTERVAL), actors


COUNTING: Final = {"processors": ["span-metrics-count"]}
KEEPER: Final = {"metrics_generator": {**COUNTING, "collection_interval": "2s"}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def module_files(prometheus: Prometheus) -> AsyncIterator[Files]:
    config = {
        "remote_write": [{"url": prometheus.url}],
        "overrides": {"defaults": {"metrics_generator": COUNTING}},
    }
    async with MillraceProcess(config) as running, GrpcClient(running.grpc_port) as grpc:
        yield Files(running, prometheus, grpc)


@pytest_asyncio.fixture(loop_scope="session")
async def files(module_files: Files) -> Files:
    """A running service whose file is good."""
    await module_files.put(keeper=KEEPER)
    return module_files


# What is wrong in one entry, which begins on line 2: its number, the entry, and what the log says of it.
BAD_ENTRIES: Final = [
    (31, "t:\n    ingestion:\n      rate_limit: 5", "overrides.t.ingestion.rate_limit (line 4): unknown key"),
    (31, "t:\n    metrics_generator:\n      nope: 5", "overrides.t.metrics_generator.nope (line 4): unknown key"),
    (32, "t:\n    ingest: {}", "overrides.t.ingest (line 3): unknown key; did you mean ingestion?"),
    (
        37,
        't:\n    ingestion: {rate_limit_bytes: "10MB"}',
        "overrides.t.ingestion.rate_limit_bytes (line 3): should be a whole number",
    ),
    (
        38,
        "t:\n    metrics_generator: {max_active_series: -5}",
        "overrides.t.metrics_generator.max_active_series (line 3): should be greater than or equal to 0",
    ),
    (
        38,
        "t:\n    ingestion: {rate_limit_bytes: -5}",
        "overrides.t.ingestion.rate_limit_bytes (line 3): should be greater than or equal to 0",
    ),
    (
        39,
        "t:\n    metrics_generator: {collection_interval: -5s}",
        "overrides.t.metrics_generator.collection_interval (line 3): should be from 1s to 5m",
    ),
    (
        40,
        "t:\n    metrics_generator: {forwarder: {queue_size: -1}}",
        "overrides.t.metrics_generator.forwarder.queue_size (line 3): should be greater than or equal to 1",
    ),
    (47, "bad/name: {}", 'overrides["bad/name"] (line 2): is not a tenant id'),
    (
        48,
        "t:\n    metrics_generator: {processors: [span-metrics, local-blocks]}",
        "overrides.t.metrics_generator.processors[1] (line 3): is not a processor; known are",
    ),
]


@case(31, 32, 37, 38, 39, 40, 47, 48)
@pytest.mark.parametrize(
    ("entry", "says"),
    [pytest.param(entry, says, id=f"{number} {says.partition(' ')[0]}") for number, entry, says in BAD_ENTRIES],
)
async def test_31_48_a_bad_entry_refuses_the_file(files: Files, entry: str, says: str) -> None:
    assert says in await files.assert_refused(files.text(f"  {entry}\n"))
    # It is not the tenant that cannot be served.
    await files.generates("t")


@case(33)
async def test_33_nothing_stands_beside_the_entries(files: Files) -> None:
    problem = await files.assert_refused(files.text(top="defaults: {ingestion: {}}\n"))
    assert "defaults (line 1): unknown key" in problem
    assert "defaults belong in the service configuration" in problem


FLAT: Final = "    ingestion_rate_limit_bytes: 5000\n    metrics_generator_max_active_series: 7\n"
NO_LEGACY: Final = (
    "D-5: no switch lets the legacy format in at run time, as guessing would hide faults; a command converts"
)


@case(34, difference=NO_LEGACY)
async def test_34_the_legacy_format_is_refused_and_converted(files: Files, tmp_path: Path) -> None:
    problem = await files.assert_refused(files.text(f"  flat:\n{FLAT}"))
    assert "overrides.flat.ingestion_rate_limit_bytes (line 3)" in problem
    assert "legacy flat format" in problem
    assert "millrace config convert" in problem

    legacy = tmp_path / "legacy.yaml"
    legacy.write_text(f"overrides:\n  flat:\n{FLAT}")
    await files.put(**yaml.safe_load(await output("config", "convert", str(legacy)))["overrides"])
    assert await files.in_force("flat", "ingestion.rate_limit_bytes") == (5000, "tenant")
    assert await files.in_force("flat", "metrics_generator.max_active_series") == (7, "tenant")


async def output(*arguments: str, expected_code: int = 0) -> str:
    """Run a command of its own and return what it writes."""
    command = MillraceProcess()
    try:
        command.run(*arguments)
        assert await command.exit_code() == expected_code, command.log
        return command.log
    finally:
        await command.stop()


@case(34, difference=NO_LEGACY)
async def test_34_there_is_no_switch_for_the_legacy_format() -> None:
    problem = await start_fails(MillraceProcess({"overrides": {"enable_legacy_overrides": True}}))
    assert "overrides.enable_legacy_overrides" in problem


@case(35)
async def test_35_a_file_has_one_format(files: Files, tmp_path: Path) -> None:
    own = f"  flat-35:\n{FLAT}  scoped-35:\n    ingestion: {{rate_limit_bytes: 5000}}\n"
    problem = await files.assert_refused(files.text(own))
    assert "overrides.flat-35.ingestion_rate_limit_bytes (line 3)" in problem
    assert "scoped-35" not in problem
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(f"overrides:\n{own}")
    assert "a file has one format" in await output("config", "convert", str(mixed), expected_code=2)


@case(36)
async def test_36_one_bad_entry_among_a_hundred_changes_nothing_for_any(files: Files) -> None:
    def entries(interval: str) -> dict[str, Any]:
        return {f"of-100-{index}": {"metrics_generator": {"collection_interval": interval}} for index in range(100)}

    await files.put(**entries("20s"))
    changed = entries("30s")
    changed["of-100-50"]["metrics_generator"]["processor"] = {"span_metrics": {"histogram_buckets": [2, 1]}}
    lines = [f"  {name}: {json.dumps(entry)}\n" for name, entry in changed.items()]
    (title, *faults) = (await files.assert_refused(f"overrides:\n{''.join(lines)}")).splitlines()
    assert "1 fault" in title
    place = "overrides.of-100-50.metrics_generator.processor.span_metrics.histogram_buckets (line 52): entry [1]"
    assert place in faults[0]
    intervals = await runtime_intervals(files)
    assert {intervals[name] for name in changed} == {"20s"}
    await files.put(**entries("30s"))
    intervals = await runtime_intervals(files)
    assert {intervals[name] for name in changed} == {"30s"}


async def runtime_intervals(files: Files) -> dict[str, str | None]:
    """Return the interval in every entry that is in force."""
    shown = (await files.service.get("/status/runtime_config")).raise_for_status().text
    entries = next(yaml.safe_load_all(shown))["overrides"]
    return {name: entry["metrics_generator"].get("collection_interval") for name, entry in entries.items()}


@case(41)
async def test_41_an_entry_without_a_body_is_an_empty_one(files: Files) -> None:
    await files.put("  empty-41:\n")
    assert "empty-41" in await runtime_intervals(files)
    assert await files.in_force("empty-41", "metrics_generator.processors") == (COUNTING["processors"], "defaults")
    await files.generates("empty-41")
    await files.put("  empty-41: {}\n")
    await files.generates("empty-41")


@case(42)
@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}\n", "overrides:\n", "overrides: {}\n", "overrides: {keeper: }"]
)
async def test_42_an_empty_file_is_refused(files: Files, text: str) -> None:
    ten = {f"of-10-{index}": {"metrics_generator": {**COUNTING, "collection_interval": "1s"}} for index in range(10)}
    await files.put(**ten)
    assert "allow_mass_removal" in await files.assert_refused(text, reason="mass_removal")
    for tenant in ten:
        assert await files.in_force(tenant, INTERVAL) == ("1s", "tenant")
    await files.generates("of-10-3")


@case(43)
async def test_43_a_file_that_is_gone_stays_in_force(files: Files) -> None:
    text, before = files.service.runtime_file.read_text(), await files.hashes()
    version = (await files.service.status())["overrides"]["version"]
    files.service.runtime_file.unlink()

    async def success_is(value: float) -> bool:
        return await files.service.metric(SUCCESSFUL) == value

    await eventually(lambda: success_is(0), 60, lambda: "nobody misses the file")
    assert await files.service.metric(FAILURES, reason="read") > 0
    assert "cannot be read" in (await files.service.logged("runtime file refused, the last good one stays"))["problem"]
    await files.generates("keeper")
    assert await files.in_force("keeper", INTERVAL) == ("2s", "tenant")
    files.service.runtime_file.write_text(text)
    await eventually(lambda: success_is(1), 60, lambda: "the file is not good again")
    assert (await files.service.status())["overrides"]["version"] == version
    assert await files.hashes() == before


@case(44)
async def test_44_a_tenant_has_one_entry(files: Files) -> None:
    problem = await files.assert_refused(files.text("  twice: {}\n  once: {}\n  twice: {}\n"), reason="parse")
    assert "overrides.twice (line 4): occurs twice, first on line 2" in problem


BAD_STARTS: Final = [
    ("overrides:\n  t: {ingest: {}}\n", "overrides.t.ingest (line 2): unknown key"),
    ("overrides: [\n", "cannot be read at column 1"),
    ("overrides:\n  t: {}\n  t: {}\n", "occurs twice"),
    ("", "is empty"),
    (None, "cannot be read: No such file or directory"),
]


@case(45)
@pytest.mark.parametrize(("text", "says"), BAD_STARTS, ids=["unknown key", "no YAML", "twice", "empty", "missing"])
async def test_45_the_service_does_not_start_with_a_bad_file(text: str | None, says: str) -> None:
    service = MillraceProcess()
    if text is None:
        service.runtime_file.unlink()
    else:
        service.runtime_file.write_text(text)
    assert says in await start_fails(service)


async def start_fails(service: MillraceProcess) -> str:
    """See that a service ends soon, by itself, with a code that says so, and leaves nothing; return its log."""
    try:
        service.launch()
        assert await service.exit_code(START_FAILS_WITHIN_S) == 2, service.log
        assert service.processes() == []
        return service.log
    finally:
        await service.stop()


@case(46)
async def test_46_names_of_tenants_are_text(files: Files) -> None:
    for name in ("123", "true", "1e3"):
        await files.put(f"  {name}:\n    metrics_generator: {{collection_interval: 3s}}\n")
        assert await files.in_force(name, INTERVAL) == ("3s", "tenant")
        await files.generates(name)


def sending(receiver: Receiver, header: str) -> dict[str, Any]:
    """Return an entry of a tenant with an endpoint and a header of its own."""
    own = {"remote_write": [{"url": receiver.url}], "remote_write_headers": {"X-Own": header}}
    return {"metrics_generator": {**COUNTING, **own}}


async def sent_header(grpc: GrpcClient, receiver: Receiver, tenant: str) -> str | None:
    """Return the header that metrics of a tenant arrive with."""
    answer = await grpc.export(full_request().SerializeToString(), tenant)
    assert answer.is_accepted, answer
    await receiver.wait_for_requests(1, timeout_s=20)
    return receiver.requests[0].header("X-Own")


@case(49)
async def test_49_expansion_puts_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_TEST_TOKEN", TOKEN)
    monkeypatch.delenv("MILLRACE_TEST_UNDEFINED", raising=False)
    async with (
        Receiver() as expanded,
        Receiver() as escaped,
        MillraceProcess({"overrides": {"expand_env": True}}) as service,
        GrpcClient(service.grpc_port) as grpc,
    ):
        await service.put_entries(
            expanded=sending(expanded, "Bearer ${MILLRACE_TEST_TOKEN}"), escaped=sending(escaped, "$${MILLRACE_TEST}")
        )
        assert await sent_header(grpc, expanded, "expanded") == f"Bearer {TOKEN}"
        assert await sent_header(grpc, escaped, "escaped") == "${MILLRACE_TEST}"

        bad = {"overrides": {"expanded": sending(expanded, "${MILLRACE_TEST_UNDEFINED}")}}
        problem = (await service.break_runtime_file(json.dumps(bad)))["problem"]
        where = "overrides.expanded.metrics_generator.remote_write_headers.X-Own (line 1)"
        assert f"{where}: environment variable 'MILLRACE_TEST_UNDEFINED' is not set" in problem
        assert await service.metric(SUCCESSFUL) == 0
        seen = len(expanded.requests)
        await expanded.wait_for_requests(seen + 1)
        assert expanded.requests[-1].header("X-Own") == f"Bearer {TOKEN}"
        assert TOKEN not in service.log + (await service.get("/status/runtime_config")).text


@case(49)
async def test_49_without_expansion_the_text_stays(files: Files) -> None:
    async with Receiver() as receiver:
        await files.put(literal=sending(receiver, "Bearer ${TOK}"))
        assert await sent_header(files.grpc, receiver, "literal") == "Bearer ${TOK}"
        # Nothing may be on its way when the receiver goes.
        await files.put(literal={"metrics_generator": {"processors": []}})


@case(50)
async def test_50_the_hash_is_that_of_the_file_in_force(files: Files) -> None:
    seen = set()
    for interval in ("3s", "4s", "5s"):
        own = f"  hashed: {{metrics_generator: {{collection_interval: {interval}}}}}\n"
        await files.put(own)
        (found,) = await files.hashes()
        assert found == hashlib.sha256(files.text(own).encode()).hexdigest()
        seen.add(found)
    assert len(seen) == 3


@case(51)
async def test_51_a_lower_rate_is_soon_felt(files: Files) -> None:
    high = {"rate_limit_bytes": 10_000_000, "burst_size_bytes": 10_000}
    await files.put(slowed={"ingestion": high})
    for _ in range(20):
        assert (await files.grpc.export(sized_request(1000), "slowed")).is_accepted
    written_at = time.monotonic()
    await files.put(slowed={"ingestion": {**high, "rate_limit_bytes": 100}})

    async def is_refused() -> bool:
        return (await files.grpc.export(sized_request(1000), "slowed")).status == "RESOURCE_EXHAUSTED"

    await eventually(is_refused, written_at + PERIOD_S + 10 - time.monotonic(), lambda: "all of it is taken")
