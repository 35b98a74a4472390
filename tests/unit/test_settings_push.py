"""What is in force in the driver gets to the controller, whatever is lost on the way."""

import asyncio

import pytest
import structlog

from cluster import settings_push
from cluster.settings_push import SettingsPush
from tenants.settings import RuntimeOverrides
from tenants.settings.in_force import OverridesChange, OverridesInForce, applied
from tenants.settings.tenant_state import TenantState
from tests.unit.conditions import until
from tests.unit.tenant_work import overrides, spans_on

NOW_MS = 1_800_000_000_000
ACME = overrides(acme=spans_on())
BOTH = overrides(acme=spans_on(), globex=spans_on())
ACME_3 = overrides(acme=spans_on(shards=3))


class Controller:
    """Takes changes, as the controller does; can be away, slow, and restarted."""

    def __init__(self) -> None:
        self.overrides = OverridesInForce()
        self.changes: list[OverridesChange] = []
        self.told: list[OverridesInForce] = []
        self.is_away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def push(self, change: OverridesChange) -> bool:
        await self._answer()
        self.changes.append(change)
        latter = applied(self.overrides, change)
        self.overrides = latter or self.overrides
        return latter is not None

    async def tell(self, overrides: OverridesInForce) -> None:
        await self._answer()
        self.told.append(overrides)
        self.overrides = overrides

    def restart(self) -> None:
        self.overrides = OverridesInForce()

    async def _answer(self) -> None:
        await self.answers.wait()
        if self.is_away:
            raise ConnectionError("the actor is restarting")


class Driver:
    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.controller = Controller()
        self.settings = SettingsPush(self.controller.push, self.controller.tell, lambda: self.now_ms)

    async def look(self, *, is_everywhere: bool = True) -> None:
        await self.settings.look(self.controller.overrides.version, is_everywhere)

    @property
    def has_arrived(self) -> bool:
        return self.controller.overrides == self.settings.overrides


@pytest.fixture
async def driver() -> Driver:
    """A driver whose controller was told everything at the start."""
    made = Driver()
    made.settings.put(runtime=ACME)
    await made.settings.tell()
    assert made.has_arrived
    made.controller.told.clear()
    return made


async def test_what_is_put_is_in_force_here_at_once_and_there_after_the_push(driver: Driver) -> None:
    driver.settings.put(runtime=BOTH)
    assert driver.settings.overrides.runtime is BOTH
    assert not driver.has_arrived
    await driver.settings.push()
    assert driver.has_arrived
    (change,) = driver.controller.changes
    assert set(change.runtime) == {"globex"}
    await driver.settings.push()
    assert (len(driver.controller.changes), driver.controller.told) == (1, [])


async def test_parts_are_put_one_by_one_and_none_takes_away(driver: Driver) -> None:
    driver.settings.put(documents=ACME_3, states={"acme": TenantState.PAUSED, "globex": TenantState.BLOCKED})
    driver.settings.put(limits=ACME_3, states={"acme": None})
    in_force = driver.settings.overrides
    assert (in_force.runtime, in_force.documents, in_force.limits) == (ACME, ACME_3, ACME_3)
    assert in_force.states == {"globex": TenantState.BLOCKED}
    driver.settings.put(documents={"acme": None}, runtime={})
    assert (driver.settings.overrides.runtime, driver.settings.overrides.documents) == ({}, {})
    await driver.settings.push()
    assert driver.has_arrived


async def test_versions_follow_the_clock_and_grow_also_when_it_does_not(driver: Driver) -> None:
    assert driver.settings.overrides.version == NOW_MS + 1
    assert driver.settings.put(runtime=BOTH) == NOW_MS + 2
    driver.now_ms += 60_000
    assert driver.settings.put(runtime=ACME) == NOW_MS + 60_000
    driver.now_ms -= 120_000
    assert driver.settings.put(runtime=BOTH) == NOW_MS + 60_001


async def test_changes_arrive_in_order_and_what_was_put_meanwhile_travels_together(driver: Driver) -> None:
    controller = driver.controller
    controller.answers.clear()
    versions = []
    pushes = []
    for shards in range(2, 6):
        versions.append(driver.settings.put(runtime=overrides(acme=spans_on(shards=shards))))
        pushes.append(asyncio.ensure_future(driver.settings.push()))
        await asyncio.sleep(0)
    controller.answers.set()
    await asyncio.gather(*pushes)
    assert driver.has_arrived
    assert [change.version for change in controller.changes] == [versions[0], versions[-1]]
    assert controller.changes[1].base == controller.changes[0].version


async def test_restarted_controller_is_told_everything_once(driver: Driver) -> None:
    driver.controller.restart()
    with structlog.testing.capture_logs() as logs:
        await driver.look()
        await driver.look()
    assert driver.has_arrived
    assert len(driver.controller.told) == 1
    assert [line["event"] for line in logs] == ["controller was restarted and is told everything again"]


async def test_controller_that_lacks_what_a_change_is_made_on_is_told_everything(driver: Driver) -> None:
    driver.controller.restart()
    driver.settings.put(runtime=BOTH)
    await driver.settings.push()
    assert driver.has_arrived
    assert driver.controller.told == [driver.settings.overrides]


async def test_change_that_did_not_arrive_is_carried_again(driver: Driver) -> None:
    driver.controller.is_away = True
    driver.settings.put(runtime=BOTH)
    with pytest.raises(ConnectionError):
        await driver.settings.push()
    driver.settings.put(states={"acme": TenantState.PAUSED})
    driver.controller.is_away = False
    await driver.look()
    assert driver.has_arrived
    assert driver.controller.told == []


async def test_change_whose_answer_was_lost_does_no_harm(driver: Driver) -> None:
    push = driver.controller.push

    async def losing(change: OverridesChange) -> bool:
        await push(change)
        raise ConnectionError("answer lost")

    driver.settings._push = losing
    driver.settings.put(runtime=BOTH)
    with pytest.raises(ConnectionError):
        await driver.settings.push()
    driver.settings._push = push
    driver.settings.put(runtime=ACME_3)
    await driver.look()
    assert driver.has_arrived
    assert driver.controller.overrides.runtime == ACME_3


async def test_telling_that_failed_is_made_up_for(driver: Driver) -> None:
    driver.controller.restart()
    driver.controller.is_away = True
    with structlog.testing.capture_logs(), pytest.raises(ConnectionError):
        await driver.look()
    driver.controller.is_away = False
    with structlog.testing.capture_logs():
        await driver.look()
    assert driver.has_arrived


async def test_look_leaves_alone_what_is_on_its_way(driver: Driver) -> None:
    driver.controller.answers.clear()
    version = driver.settings.put(runtime=BOTH)
    pushing = asyncio.ensure_future(driver.settings.push())
    await asyncio.sleep(0)
    await asyncio.wait_for(driver.look(), 1)
    driver.controller.answers.set()
    await pushing
    assert driver.has_arrived
    assert driver.controller.told == []
    assert not await driver.settings.is_everywhere(version, 0)
    await driver.look()
    assert await driver.settings.is_everywhere(version, 0)


async def test_push_that_nobody_waits_for_arrives_and_one_that_fails_is_said(driver: Driver) -> None:
    driver.settings.put(runtime=BOTH)
    driver.settings.push_soon()
    await until(lambda: driver.has_arrived)
    driver.controller.is_away = True
    driver.settings.put(runtime=ACME)
    with structlog.testing.capture_logs() as logs:
        driver.settings.push_soon()
        await until(lambda: logs)
    assert logs[0]["event"] == "settings could not be pushed; they will be again"


# In parts


def many(count: int, shards: int = 1) -> RuntimeOverrides:
    return overrides(**{f"t{number}": spans_on(shards=shards) for number in range(count)})


async def test_big_change_travels_in_parts_and_one_that_is_missed_is_made_up_for(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_push, "ENTRIES_AT_ONCE", 2)
    driver.settings.put(runtime=many(7))
    await driver.settings.push()
    assert driver.has_arrived
    versions = [change.version for change in driver.controller.changes]
    assert len(versions) == 4
    assert versions == sorted(set(versions))
    assert versions[-1] == driver.settings.overrides.version
    push = driver.controller.push
    driver.settings.put(runtime=many(7, shards=2))

    async def breaking_off(change: OverridesChange) -> bool:
        if len(driver.controller.changes) == 6:
            raise ConnectionError("the actor died")
        return await push(change)

    driver.settings._push = breaking_off
    with pytest.raises(ConnectionError):
        await driver.settings.push()
    assert not driver.has_arrived
    driver.settings._push = push
    await driver.look()
    assert driver.has_arrived


async def test_versions_leave_room_for_the_parts_of_all_that_was_put_since_the_last_push(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_push, "ENTRIES_AT_ONCE", 1)
    for shards in (1, 2, 3):
        driver.settings.put(runtime=many(9, shards), documents=many(5, shards))
        driver.settings.put(runtime=ACME)
        driver.settings.put(runtime=many(9, shards + 1))
    pushed = driver.controller.overrides.version
    await driver.settings.push()
    assert driver.has_arrived
    assert driver.controller.told == []
    assert min(change.version for change in driver.controller.changes) > pushed


# Everywhere


async def test_version_is_everywhere_once_every_actor_has_it(driver: Driver) -> None:
    version = driver.settings.put(runtime=BOTH)
    await driver.settings.push()
    await driver.look(is_everywhere=False)
    assert not await driver.settings.is_everywhere(version, 0.01)
    waiting = asyncio.ensure_future(driver.settings.is_everywhere(version, 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    await driver.look()
    assert await asyncio.wait_for(waiting, 20)


async def test_older_version_is_everywhere_too_and_a_newer_one_is_waited_for(driver: Driver) -> None:
    older = driver.settings.put(runtime=BOTH)
    newer = driver.settings.put(runtime=ACME_3)
    await driver.settings.push()
    await driver.look()
    assert await driver.settings.is_everywhere(older, 0)
    assert await driver.settings.is_everywhere(newer, 0)
    newest = driver.settings.put(runtime=ACME)
    assert not await driver.settings.is_everywhere(newest, 0.01)


async def test_restart_does_not_take_back_what_was_everywhere(driver: Driver) -> None:
    await driver.look()
    version = driver.settings.overrides.version
    driver.controller.restart()
    with structlog.testing.capture_logs():
        await driver.look()
    assert await driver.settings.is_everywhere(version, 0)
