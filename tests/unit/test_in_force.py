from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.settings import Overrides
from tenants.settings.in_force import (
    OverridesInForce,
    applied,
    change_between,
    in_parts,
    merged_changes,
    part_count,
    whole,
)
from tenants.settings.packed_overrides import PackedOverrides
from tenants.settings.tenant_state import TenantState
from tests.unit.tenant_work import overrides, spans_on

NAMES = ["*", "a", "b", "c", "d"]
# Equal ones that are different objects too: what was read again is compared by value.
ENTRIES = [overrides(t=spans_on(shards=shards))["t"] for shards in (1, 1, 2, 3)]

entries: st.SearchStrategy[Mapping[str, Overrides]] = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from(ENTRIES), max_size=5
)
states = st.dictionaries(st.sampled_from(NAMES[1:]), st.sampled_from(TenantState), max_size=4)
sizes = st.dictionaries(st.sampled_from(NAMES[1:]), st.sampled_from([2, 4]), max_size=4)


@st.composite
def snapshots(draw: st.DrawFn, least: int = 1) -> OverridesInForce:
    version = draw(st.integers(least, least + 5))
    return OverridesInForce(version, draw(entries), draw(entries), draw(states), draw(entries), draw(sizes))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[OverridesInForce, OverridesInForce]:
    former = draw(snapshots())
    return former, draw(snapshots(least=former.version + 1))


def contents(overrides: OverridesInForce) -> list[Mapping[str, Any]]:
    return [overrides.runtime, overrides.documents, overrides.states, overrides.limits, overrides.sizes]


@given(pairs())
def test_change_between_two_leads_from_one_to_the_other(
    pair: tuple[OverridesInForce, OverridesInForce],
) -> None:
    former, latter = pair
    change = change_between(former, latter)
    assert applied(former, change) == latter
    assert (change.base, change.version) == (former.version, latter.version)


@given(pairs(), st.integers(1, 5))
def test_packed_overrides_say_of_a_tenant_what_the_snapshot_says(
    pair: tuple[OverridesInForce, OverridesInForce], entries: int
) -> None:
    former, latter = pair[0], replace(pair[1], version=pair[1].version + 100)
    packed = PackedOverrides()
    packed.put(whole(former))
    for part in in_parts(change_between(former, latter), entries):
        packed.put(part)
    assert packed.version == latter.version
    for tenant in NAMES[1:]:
        runtime, *others = contents(latter)
        # Only the runtime file has an entry for all.
        expected = [{key: runtime[key] for key in (tenant, "*") if key in runtime}]
        expected += [{tenant: layer[tenant]} if tenant in layer else {} for layer in others]
        assert contents(packed.of(tenant)) == expected


@given(pairs())
def test_change_holds_what_differs_and_nothing_else(pair: tuple[OverridesInForce, OverridesInForce]) -> None:
    former, latter = pair
    change = change_between(former, latter)
    carried = [change.runtime, change.documents, change.states, change.limits, change.sizes]
    for before, after, changed in zip(contents(former), contents(latter), carried, strict=True):
        differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert changed == {name: after.get(name) for name in differing}


@given(pairs())
def test_tenants_that_a_change_does_not_name_have_the_same(pair: tuple[OverridesInForce, OverridesInForce]) -> None:
    former, latter = pair
    tenants = change_between(former, latter).tenants
    if former.runtime.get("*") != latter.runtime.get("*"):
        assert tenants is None
        return
    assert tenants is not None
    for name in set(NAMES[1:]) - tenants:
        for before, after in zip(contents(former), contents(latter), strict=True):
            assert before.get(name) == after.get(name)


@given(pairs())
def test_change_that_comes_twice_or_late_changes_nothing(pair: tuple[OverridesInForce, OverridesInForce]) -> None:
    former, latter = pair
    change = change_between(former, latter)
    assert applied(latter, change) is latter
    assert applied(latter, whole(former)) is latter


@given(snapshots(), snapshots())
def test_whole_leads_from_any_older_one(former: OverridesInForce, latter: OverridesInForce) -> None:
    reached = applied(former, whole(latter))
    assert reached == (latter if latter.version > former.version else former)
    assert whole(latter).tenants is None


@given(pairs(), snapshots())
def test_change_needs_the_version_that_it_was_made_on(
    pair: tuple[OverridesInForce, OverridesInForce], other: OverridesInForce
) -> None:
    former, latter = pair
    reached = applied(other, change_between(former, latter))
    if latter.version <= other.version:
        assert reached is other
    elif former.version != other.version:
        assert reached is None


@given(st.lists(snapshots(), min_size=2, max_size=6))
def test_changes_in_order_come_to_the_last_one(steps: list[OverridesInForce]) -> None:
    chain = [
        OverridesInForce(version, *contents(step))  # type: ignore[arg-type]
        for version, step in enumerate(steps, start=1)
    ]
    reached: OverridesInForce | None = OverridesInForce()
    for former, latter in zip([OverridesInForce(), *chain], chain, strict=False):
        assert reached is not None
        reached = applied(reached, change_between(former, latter))
    assert reached == chain[-1]


@given(pairs(), st.integers(1, 4))
def test_parts_of_a_change_lead_to_where_it_leads(
    pair: tuple[OverridesInForce, OverridesInForce], entries_at_once: int
) -> None:
    former, latter = pair
    # Versions grow by more than there are parts: whoever makes them leaves that room.
    latter = replace(latter, version=former.version + 100)
    change = change_between(former, latter)
    parts = list(in_parts(change, entries_at_once))
    counts = [sum(map(len, (part.runtime, part.documents, part.states, part.limits, part.sizes))) for part in parts]
    assert len(parts) == part_count(sum(counts), entries_at_once)
    assert max(counts) <= entries_at_once
    reached: OverridesInForce | None = former
    for part in parts:
        assert reached is not None
        reached = applied(reached, part)
    assert reached == latter
    assert applied(former, parts[-1]) == (latter if len(parts) == 1 else None)


def test_nothing_in_force_is_where_everybody_begins() -> None:
    first = OverridesInForce(3, overrides(acme=spans_on()))
    assert applied(OverridesInForce(), change_between(OverridesInForce(), first)) == first


def test_former_snapshot_is_left_as_it_was() -> None:
    runtime = {"a": ENTRIES[0]}
    former = OverridesInForce(1, runtime)
    assert applied(former, change_between(former, OverridesInForce(2)))
    assert runtime == {"a": ENTRIES[0]}
    assert applied(former, whole(OverridesInForce(2, {"b": ENTRIES[2]})))
    assert runtime == {"a": ENTRIES[0]}


@pytest.mark.parametrize("change", [{}, {"x": None}, {"a": 2}, {"a": None, "b": 3}])
def test_none_removes_a_key(change: Mapping[str, int | None]) -> None:
    former = {"a": 1}
    latter = merged_changes(former, change)
    assert latter == {name: value for name, value in {**former, **change}.items() if value is not None}
    assert (latter is former) == (not change)
