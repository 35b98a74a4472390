import threading
from dataclasses import replace
from typing import Any

import pytest
import structlog

from tenants.identity import TenantId
from tenants.processing import profile as profile_module
from tenants.processing.profile import ProfileBook
from tenants.settings import ServiceConfig, TenantSettings, resolve
from tenants.settings.in_force import OverridesInForce, Put, change_between, whole
from tenants.settings.tenant_state import TenantState
from tests.overrides_in_force import whole_of
from tests.unit.tenant_work import ACME, book, config, edges_on, overrides, spans_on

GLOBEX = TenantId("globex")


def test_tenant_without_an_entry_has_the_defaults() -> None:
    profile = ProfileBook(config()).get(ACME)
    assert profile.settings.tenant == ACME
    assert not profile.settings.is_generating


def test_newer_overrides_are_taken_and_older_or_equal_ones_are_not() -> None:
    profiles = book()
    assert profiles.put_overrides(whole_of(1, overrides(acme=spans_on(shards=9)))) is Put.OLD
    assert profiles.put_overrides(whole_of(0, {})) is Put.OLD
    assert (profiles.version, profiles.get(ACME).settings.shards) == (1, 1)
    assert profiles.put_overrides(whole_of(2, overrides(acme=spans_on(shards=9)))) is Put.NEW
    assert (profiles.version, profiles.get(ACME).settings.shards) == (2, 9)


def test_profile_stays_the_same_object_while_only_others_change() -> None:
    profiles = book(overrides(acme=spans_on(), globex=spans_on()))
    acme, globex = profiles.get(ACME), profiles.get(GLOBEX)
    profiles.put_overrides(whole_of(2, overrides(acme=spans_on(), globex=spans_on(shards=2))))
    assert profiles.get(ACME) is acme
    assert profiles.get(GLOBEX) is not globex


def test_plan_stays_the_same_object_while_the_engine_is_not_concerned() -> None:
    profiles = book()
    before = profiles.get(ACME)
    profiles.put_overrides(
        whole_of(2, overrides(acme=spans_on(collection_interval="30s", remote_write_headers={"X-A": "b"})))
    )
    after = profiles.get(ACME)
    assert after.settings != before.settings
    assert (after.plan is before.plan, after.plan_text) == (True, before.plan_text)
    profiles.put_overrides(whole_of(3, overrides(acme=spans_on(max_active_series=5))))
    assert profiles.get(ACME).plan is not after.plan


def test_tenant_not_asked_for_longest_is_forgotten_at_the_bound() -> None:
    profiles = ProfileBook(config(), max_profiles=2)
    first = profiles.get(ACME)
    other = profiles.get(GLOBEX)
    assert profiles.get(ACME) is first
    profiles.get(TenantId("initech"))  # drives out globex, which was asked for before acme
    assert profiles.get(ACME) is first
    again = profiles.get(GLOBEX)
    assert again is not other
    assert again == type(again)(other.settings, again.plan, other.plan_text)


def test_threads_that_ask_at_once_get_the_same_profile() -> None:
    profiles = book()
    barrier, found = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait()
        found.append(profiles.get(ACME))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(profile) for profile in found}) == 1


# Changes


def resolving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tenants that are resolved from now on, in order."""
    journal: list[str] = []

    def noting(settings: ServiceConfig, in_force: OverridesInForce, tenant: TenantId) -> TenantSettings:
        journal.append(str(tenant))
        return resolve(settings, in_force, tenant)

    monkeypatch.setattr(profile_module, "resolve", noting)
    return journal


def first_of_two() -> tuple[ProfileBook, OverridesInForce]:
    first = OverridesInForce(1, overrides(acme=spans_on(), globex=spans_on()))
    profiles = ProfileBook(config())
    assert profiles.put_overrides(whole(first)) is Put.NEW
    return profiles, first


@pytest.mark.parametrize(
    "changed",
    [
        {"runtime": overrides(acme=spans_on(), globex=spans_on(shards=2))},
        {"runtime": overrides(acme=spans_on())},
        {"documents": overrides(globex=edges_on())},
        {"states": {"globex": TenantState.PAUSED}},
        {"limits": overrides(globex={"max_active_series": 5})},
    ],
    ids=["entry", "entry gone", "document", "state", "limits"],
)
def test_only_tenants_that_a_change_concerns_are_resolved_again(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    profiles, first = first_of_two()
    acme, globex = profiles.get(ACME), profiles.get(GLOBEX)
    journal = resolving(monkeypatch)
    second = replace(first, version=2, **changed)
    assert profiles.put_overrides(change_between(first, second)) is Put.NEW
    assert journal == []
    for _ in range(2):
        assert profiles.get(ACME) is acme
        assert profiles.get(GLOBEX) is not globex
    assert journal == ["globex"]
    assert profiles.get(GLOBEX).settings == resolve(config(), second, GLOBEX)


def test_change_of_the_wildcard_concerns_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles, first = first_of_two()
    acme = profiles.get(ACME)
    profiles.get(GLOBEX)
    journal = resolving(monkeypatch)
    runtime = {**first.runtime, **overrides(**{"*": {"shards": 3}})}
    profiles.put_overrides(change_between(first, replace(first, version=2, runtime=runtime)))
    assert profiles.get(GLOBEX).settings.shards == profiles.get(ACME).settings.shards == 3
    assert profiles.get(ACME) is not acme
    assert sorted(journal) == ["acme", "globex"]


def test_tenant_that_is_not_asked_for_between_two_changes_is_compared_with_what_it_last_was() -> None:
    profiles, first = first_of_two()
    globex = profiles.get(GLOBEX)
    second = replace(first, version=2, states={"globex": TenantState.PAUSED})
    third = replace(first, version=3)
    profiles.put_overrides(change_between(first, second))
    profiles.put_overrides(change_between(second, third))
    assert profiles.get(GLOBEX) is globex


def test_change_without_its_base_changes_nothing_and_the_whole_makes_up_for_it() -> None:
    profiles, first = first_of_two()
    acme = profiles.get(ACME)
    second = replace(first, version=2, runtime={})
    third = replace(second, version=3, states={"acme": TenantState.PAUSED})
    assert profiles.put_overrides(change_between(second, third)) is Put.LACKS_BASE
    assert (profiles.version, profiles.get(ACME)) == (1, acme)
    assert profiles.put_overrides(whole(third)) is Put.NEW
    assert (profiles.version, profiles.get(ACME).settings.is_generating) == (3, False)
    assert profiles.put_overrides(change_between(second, third)) is Put.OLD


def test_forgotten_tenant_is_resolved_under_what_is_in_force_then(monkeypatch: pytest.MonkeyPatch) -> None:
    first = OverridesInForce(1, overrides(acme=spans_on(), globex=spans_on()))
    profiles = ProfileBook(config(), max_profiles=1)
    profiles.put_overrides(whole(first))
    profiles.get(ACME)
    journal = resolving(monkeypatch)
    profiles.get(GLOBEX)
    second = replace(first, version=2, runtime=overrides(acme=spans_on(shards=4), globex=spans_on()))
    profiles.put_overrides(change_between(first, second))
    assert profiles.get(ACME).settings.shards == 4
    assert journal == ["globex", "acme"]


def test_tenants_from_before_a_change_count_among_those_that_are_remembered() -> None:
    names = [TenantId(f"t{number}") for number in range(6)]
    profiles = ProfileBook(config(), max_profiles=3)
    for version, name in enumerate(names, start=1):
        profiles.put_overrides(whole(OverridesInForce(version)))
        profiles.get(name)
        assert len(profiles._profiles) + len(profiles._former) <= 3


def test_name_that_is_no_tenant_id_stops_nobody() -> None:
    profiles, first = first_of_two()
    globex = profiles.get(GLOBEX)
    states = {"bad/name": TenantState.PAUSED, "globex": TenantState.PAUSED}
    assert profiles.put_overrides(change_between(first, replace(first, version=2, states=states))) is Put.NEW
    assert profiles.get(GLOBEX) is not globex


# Settings that the engine refuses

# Cut to two bytes, the label of this dimension would be that of buckets: no validator of one layer sees it.
CUTTING = "metrics_generator: {registry: {max_label_name_length: 2}}"
REFUSED = "span_metrics.dimensions"


def cut(*dimensions: str, **generator: Any) -> dict[str, Any]:
    return spans_on(processor={"span_metrics": {"dimensions": list(dimensions)}}, **generator)


def test_last_good_profile_stays_while_the_engine_refuses_newer_settings() -> None:
    profiles = book(overrides(acme=cut("region"), globex=spans_on()), CUTTING)
    good, globex = profiles.get(ACME), profiles.get(GLOBEX)
    assert good.settings.is_generating
    assert profiles.faults == {}
    profiles.put_overrides(whole_of(2, overrides(acme=cut("level", shards=9), globex=spans_on(shards=3))))
    assert profiles.get(ACME) is good
    assert profiles.faults[ACME].startswith(REFUSED)
    assert profiles.get(GLOBEX).settings.shards == 3
    assert profiles.get(GLOBEX) is not globex
    assert set(profiles.faults) == {ACME}


def test_tenant_that_never_had_a_good_profile_has_nothing_generated() -> None:
    profiles = book(overrides(acme=cut("level", shards=9)), CUTTING)
    profile = profiles.get(ACME)
    assert (profile.settings.active_processors, profile.settings.shards) == ((), 9)
    assert profile.plan
    assert profiles.faults[ACME].startswith(REFUSED)
    profiles.put_overrides(whole_of(2, overrides(acme=cut("level", shards=9))))
    assert profiles.get(ACME) is profile


def test_good_settings_end_the_fault() -> None:
    profiles = book(overrides(acme=cut("level")), CUTTING)
    nothing = profiles.get(ACME)
    profiles.put_overrides(whole_of(2, overrides(acme=cut("region"))))
    good = profiles.get(ACME)
    assert (nothing.settings.is_generating, good.settings.is_generating) == (False, True)
    assert profiles.faults == {}
    profiles.put_overrides(whole_of(3, overrides(acme=cut("level"))))
    assert profiles.get(ACME) is good
    profiles.put_overrides(whole_of(4, overrides(acme=cut("region"))))
    assert profiles.get(ACME) is good
    assert profiles.faults == {}


def test_fault_is_logged_once_for_each_text_with_tenant_and_path() -> None:
    profiles = book(overrides(acme=cut("level")), CUTTING)
    with structlog.testing.capture_logs() as logs:
        profiles.get(ACME)
        for version, dimension in enumerate(("level", "level", "length", "length"), start=2):
            profiles.put_overrides(whole_of(version, overrides(acme=cut(dimension), globex=spans_on(shards=version))))
            profiles.get(ACME)
    assert [(line["log_level"], line["tenant"], line["generating"]) for line in logs] == [("error", "acme", False)] * 2
    assert all(line["problem"].startswith(REFUSED) for line in logs)


def test_fault_is_forgotten_with_its_tenant() -> None:
    profiles = ProfileBook(config(CUTTING), max_profiles=1)
    profiles.put_overrides(whole_of(1, overrides(acme=cut("level"))))
    profiles.get(ACME)
    profiles.get(GLOBEX)
    assert profiles.faults == {}
