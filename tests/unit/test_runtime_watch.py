import hashlib
import threading
from pathlib import Path

import pytest
import structlog

from cluster.errors import StartError
from cluster.measurements import families
from cluster.runtime_watch import RuntimeWatch
from tenants.settings import RuntimeFile
from tests.unit.disk import PATH, Disk

GOOD = "overrides: {acme: {metrics_generator: {shards: 2}}}"
ACME_SEARCH = "overrides.acme.read.max_search_duration"
OTHER = "overrides: {acme: {metrics_generator: {shards: 3}}}"


@pytest.fixture
def disk() -> Disk:
    return Disk(GOOD)


def watch(disk: Disk) -> RuntimeWatch:
    return RuntimeWatch(RuntimeFile(PATH, disk.read))


def shards(watched: RuntimeWatch) -> int | None:
    return watched.overrides["acme"].metrics_generator.shards


async def test_without_a_file_there_is_nothing_to_see() -> None:
    watched = RuntimeWatch(None)
    assert not await watched.look()
    assert (watched.overrides, watched.good, watched.is_good) == ({}, None, True)


async def test_file_is_in_force_from_the_first_reading(disk: Disk) -> None:
    watched = watch(disk)
    assert shards(watched) == 2
    assert not await watched.look()


@pytest.mark.parametrize("text", ["overrides: {acme: {metrics_generator: {shards: 65}}}", ": :", None])
def test_bad_file_at_the_start_is_fatal_and_named(disk: Disk, text: str | None) -> None:
    disk.text = text
    with pytest.raises(StartError, match="runtime file refused"):
        watch(disk)


async def test_new_content_is_announced_once(disk: Disk) -> None:
    watched = watch(disk)
    disk.text = OTHER
    with structlog.testing.capture_logs() as logs:
        assert await watched.look()
        assert shards(watched) == 3
        assert not await watched.look()
    assert [(line["event"], line["entries"]) for line in logs] == [("runtime file loaded", 1)]


async def test_bad_content_keeps_the_last_good_and_each_fault_is_said_once(disk: Disk) -> None:
    watched = watch(disk)
    with structlog.testing.capture_logs() as logs:
        for shards_of_acme in (65, 65, 66):
            disk.text = f"overrides: {{acme: {{metrics_generator: {{shards: {shards_of_acme}}}}}}}"
            assert not await watched.look()
        disk.text = None
        assert not await watched.look()
        assert (shards(watched), watched.is_good) == (2, False)
        measured = {(name, *labels): value for name, labels, value in watched.measure()}
        disk.text = OTHER
        assert await watched.look()
    assert measured.pop(("millrace_settings_last_reload_timestamp_seconds",)) > 0
    assert measured == {
        ("millrace_settings_hash", hashlib.sha256(GOOD.encode()).hexdigest()): 1.0,
        ("millrace_settings_last_reload_successful",): 0.0,
        ("millrace_settings_reload_failures_total", "validate"): 3,
        ("millrace_settings_reload_failures_total", "read"): 1,
    }
    assert len(list(families({"service": watched.measure()}))) == 4
    assert [line["event"] for line in logs] == [
        *["runtime file refused, the last good one stays"] * 2,  # two faults of one kind read the same
        "runtime file is good again",
        "runtime file loaded",
    ]
    assert "acme" in logs[0]["problem"]
    assert watched.is_good


async def test_return_to_the_content_in_force_is_good_and_nothing_new(disk: Disk) -> None:
    watched = watch(disk)
    disk.text = "overrides: []"
    assert not await watched.look()
    disk.text = GOOD
    assert not await watched.look()
    assert watched.is_good


async def test_file_is_read_outside_the_event_loop(disk: Disk) -> None:
    readers: list[int] = []

    def read(path: Path) -> bytes:
        readers.append(threading.get_ident())
        return disk.read(path)

    watched = RuntimeWatch(RuntimeFile(PATH, read))
    await watched.look()
    assert readers[0] == threading.get_ident() != readers[1]


async def test_keys_without_effect_are_told_once_for_every_load(disk: Disk) -> None:
    disk.text = "overrides: {acme: {read: {max_search_duration: 1d}, metrics_generator: {ring_size: 3}}}"
    with structlog.testing.capture_logs() as logs:
        watched = watch(disk)
        await watched.look()
        assert watched.without_effect == ("overrides.acme.metrics_generator.ring_size", ACME_SEARCH)
        disk.text = "overrides: {acme: {read: {max_search_duration: 2d}}}"
        await watched.look()
        await watched.look()
        disk.text = GOOD
        await watched.look()
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["count"], line["keys"]) for line in warnings] == [
        (2, ["overrides.acme.metrics_generator.ring_size", ACME_SEARCH]),
        (1, [ACME_SEARCH]),
    ]
    assert watched.without_effect == ()
