import threading
from typing import Any

import structlog

from tenants.identity import TenantId
from tenants.processing.profile import ProfileBook
from tests.unit.tenant_work import ACME, book, config, overrides, spans_on

GLOBEX = TenantId("globex")


def test_tenant_without_an_entry_has_the_defaults() -> None:
    profile = ProfileBook(config()).get(ACME)
    assert profile.settings.tenant == ACME
    assert not profile.settings.is_generating


def test_newer_overrides_are_taken_and_older_or_equal_ones_are_not() -> None:
    profiles = book()
    assert not profiles.put_overrides(1, overrides(acme=spans_on(shards=9)))
    assert not profiles.put_overrides(0, {})
    assert (profiles.version, profiles.get(ACME).settings.shards) == (1, 1)
    assert profiles.put_overrides(2, overrides(acme=spans_on(shards=9)))
    assert (profiles.version, profiles.get(ACME).settings.shards) == (2, 9)


def test_profile_stays_the_same_object_while_only_others_change() -> None:
    profiles = book(overrides(acme=spans_on(), globex=spans_on()))
    acme, globex = profiles.get(ACME), profiles.get(GLOBEX)
    profiles.put_overrides(2, overrides(acme=spans_on(), globex=spans_on(shards=2)))
    assert profiles.get(ACME) is acme
    assert profiles.get(GLOBEX) is not globex


def test_plan_stays_the_same_object_while_the_engine_is_not_concerned() -> None:
    profiles = book()
    before = profiles.get(ACME)
    profiles.put_overrides(2, overrides(acme=spans_on(collection_interval="30s", remote_write_headers={"X-A": "b"})))
    after = profiles.get(ACME)
    assert after.settings != before.settings
    assert (after.plan is before.plan, after.plan_text) == (True, before.plan_text)
    profiles.put_overrides(3, overrides(acme=spans_on(max_active_series=5)))
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
    profiles.put_overrides(2, overrides(acme=cut("level", shards=9), globex=spans_on(shards=3)))
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
    profiles.put_overrides(2, overrides(acme=cut("level", shards=9)))
    assert profiles.get(ACME) is profile


def test_good_settings_end_the_fault() -> None:
    profiles = book(overrides(acme=cut("level")), CUTTING)
    nothing = profiles.get(ACME)
    profiles.put_overrides(2, overrides(acme=cut("region")))
    good = profiles.get(ACME)
    assert (nothing.settings.is_generating, good.settings.is_generating) == (False, True)
    assert profiles.faults == {}
    profiles.put_overrides(3, overrides(acme=cut("level")))
    assert profiles.get(ACME) is good
    profiles.put_overrides(4, overrides(acme=cut("region")))
    assert profiles.get(ACME) is good
    assert profiles.faults == {}


def test_fault_is_logged_once_for_each_text_with_tenant_and_path() -> None:
    profiles = book(overrides(acme=cut("level")), CUTTING)
    with structlog.testing.capture_logs() as logs:
        profiles.get(ACME)
        for version, dimension in enumerate(("level", "level", "length", "length"), start=2):
            profiles.put_overrides(version, overrides(acme=cut(dimension), globex=spans_on(shards=version)))
            profiles.get(ACME)
    assert [(line["log_level"], line["tenant"], line["generating"]) for line in logs] == [("error", "acme", False)] * 2
    assert all(line["problem"].startswith(REFUSED) for line in logs)


def test_fault_is_forgotten_with_its_tenant() -> None:
    profiles = ProfileBook(config(CUTTING), max_profiles=1)
    profiles.put_overrides(1, overrides(acme=cut("level")))
    profiles.get(ACME)
    profiles.get(GLOBEX)
    assert profiles.faults == {}
