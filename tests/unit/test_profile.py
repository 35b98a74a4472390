import threading

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
