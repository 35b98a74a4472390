"""Changes of one document by many at once: whatever happens, it is as if they had come one after the other.

Revisions say in which order. Every change that was accepted has to be what it would have been after the one before it,
or to have changed nothing; one that was refused has to have had a reason.
"""

import asyncio
import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.control_plane_bench import ControlPlaneBench

PATH = "/api/overrides"

_KEYS = ("collection_interval", "trace_id_label_name", "disable_collection")
_VALUES = {
    "collection_interval": st.sampled_from(["15s", "30s", "1m"]),
    "trace_id_label_name": st.sampled_from(["trace", "trace_id"]),
    "disable_collection": st.booleans(),
}


@dataclass(frozen=True)
class Change:
    """One request. ``match``: the revision that it expects, relative to the newest when it is sent; None: any."""

    kind: str
    values: tuple[tuple[str, Any], ...] = ()
    match: int | None = None
    to: int = 1


def _values(*, nullable: bool) -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    def value(key: str) -> st.SearchStrategy[tuple[str, Any]]:
        chosen = _VALUES[key] | st.none() if nullable else _VALUES[key]
        return chosen.map(lambda v: (key, v))

    return st.lists(st.sampled_from(_KEYS), unique=True, max_size=3).flatmap(
        lambda keys: st.tuples(*(value(key) for key in keys))
    )


_MATCH = st.none() | st.sampled_from([0, 0, 0, -1])
CHANGES = st.one_of(
    st.builds(Change, st.just("PATCH"), _values(nullable=True), _MATCH),
    st.builds(Change, st.just("POST"), _values(nullable=False), st.sampled_from([0, 0, -1])),
    st.builds(Change, st.just("DELETE"), match=st.just(0)),
    st.builds(Change, st.just("ROLLBACK"), match=_MATCH, to=st.integers(1, 6)),
)


@dataclass
class Outcome:
    """What became of a change, and what it expected in the end."""

    change: Change
    expected: int | None
    answer: httpx.Response

    @property
    def revision(self) -> int:
        return int(self.answer.headers["x-overrides-revision"])


async def _send(bench: ControlPlaneBench, change: Change, newest: int, exists: bool) -> Outcome:
    expected = None if change.match is None else max(0, newest + change.match) if exists else 0
    headers = {} if expected is None else {"If_Match": str(expected)}
    body = {"metrics_generator": dict(change.values)}
    if change.kind == "ROLLBACK":
        answer = await bench.ask("POST", f"{PATH}/rollback", body={"revision": change.to}, **headers)
    elif change.kind == "DELETE":
        answer = await bench.ask("DELETE", PATH, If_Match=str(expected))
    else:
        answer = await bench.ask(change.kind, PATH, body=body, **headers)
    return Outcome(change, expected, answer)


def _pruned(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value != {}}


def _after(before: dict[str, Any] | None, outcome: Outcome, history: dict[int, dict[str, Any] | None]) -> Any:
    change = outcome.change
    if change.kind == "DELETE":
        return None
    if change.kind == "ROLLBACK":
        return history[change.to]
    values = dict(change.values)
    if change.kind == "POST":
        return _pruned({"metrics_generator": values})
    merged = copy.deepcopy((before or {}).get("metrics_generator", {})) | values
    return _pruned({"metrics_generator": {key: value for key, value in merged.items() if value is not None}})


def _check(outcomes: list[Outcome], history: dict[int, dict[str, Any] | None]) -> None:
    """Replay those that were accepted in the order of their revisions, and look at why the others were not."""
    first = max(history)
    accepted: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.answer.status_code in {200, 204}:
            accepted.setdefault(outcome.revision, []).append(outcome)
    assert all(_changes_nothing(outcome, first, history) for outcome in accepted.pop(first, []))
    assert sorted(accepted) == list(range(first + 1, first + 1 + len(accepted)))
    for revision, same in sorted(accepted.items()):
        assert any(_made(revision, outcome, same, history) for outcome in same)
        for outcome in same:
            if outcome.answer.content:
                assert outcome.answer.json() == history[revision]
    seen = [history[revision] for revision in range(first, max(history) + 1)]
    for outcome in outcomes:
        status = outcome.answer.status_code
        assert status in {200, 204, 404, 409, 412}, outcome.answer.text
        if status == 412:
            assert outcome.expected is not None
        elif status == 404 and outcome.change.kind == "DELETE":
            assert None in seen
        elif status == 404:
            assert history.get(outcome.change.to) is None or outcome.change.to > first
        elif status == 409:
            assert len(accepted) >= 5


def _expected(outcome: Outcome, revision: int, history: dict[int, dict[str, Any] | None]) -> bool:
    current = 0 if history[revision] is None else revision
    return outcome.expected is None or outcome.expected == current


def _changes_nothing(outcome: Outcome, revision: int, history: dict[int, dict[str, Any] | None]) -> bool:
    there = history[revision]
    is_same = there is not None and _after(there, outcome, history) == there
    return is_same and _expected(outcome, revision, history)


def _made(revision: int, maker: Outcome, same: list[Outcome], history: dict[int, dict[str, Any] | None]) -> bool:
    """Whether one of those that were told this revision made it, and the others then changed nothing."""
    before = history[revision - 1]
    if maker.change.kind == "ROLLBACK" and maker.change.to not in history:
        return False
    after = _after(before, maker, history)
    if after == before or not _expected(maker, revision - 1, history):
        return False
    history[revision] = after
    return all(_changes_nothing(outcome, revision, history) for outcome in same if outcome is not maker)


async def _run(rounds: list[list[Change]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with ControlPlaneBench(Path(folder)) as bench, ControlPlaneBench(Path(folder)) as other:
            history: dict[int, dict[str, Any] | None] = {0: None}
            for changes in rounds:
                newest = max(history)
                exists = history[newest] is not None
                outcomes = await asyncio.gather(
                    *(
                        _send(bench if index % 2 else other, change, newest, exists)
                        for index, change in enumerate(changes)
                    )
                )
                _check(list(outcomes), history)
                for replica in (bench, other):
                    answer = await replica.ask("GET", PATH)
                    last = history[max(history)]
                    assert answer.json() == last if last is not None else answer.status_code == 404
                    # In force is what is stored, in every replica that has looked.
                    await replica.control.documents.look()
                    assert ("acme" in replica.settings.overrides.documents) == (last is not None)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=8), min_size=1, max_size=4))
def test_concurrent_changes_are_linearisable(rounds: list[list[Change]]) -> None:
    asyncio.run(_run(rounds))
