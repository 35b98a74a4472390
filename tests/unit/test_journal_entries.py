from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenants.journal.entries import (
    BeginEntry,
    ClaimEntry,
    CollectEntry,
    Entry,
    PlanEntry,
    RecordEntry,
    ReleaseEntry,
    decode,
    encode,
)

u64 = st.integers(0, (1 << 64) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
ranges = st.integers(1, (1 << 32) - 1).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count)))

entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(BeginEntry, texts, i64, u64),
    ranges.flatmap(lambda own: st.builds(RecordEntry, st.just(own[0]), st.just(own[1]), u64, u64, i64, st.binary())),
    ranges.flatmap(lambda own: st.builds(ClaimEntry, st.just(own[0]), st.just(own[1]), texts, u64, i64)),
    ranges.flatmap(lambda own: st.builds(ReleaseEntry, st.just(own[0]), st.just(own[1]), u64)),
    st.builds(CollectEntry, i64, i64, st.booleans()),
    st.builds(PlanEntry, texts),
)

EXAMPLES = [
    (RecordEntry(1, 4, 7, 9, -1, b"data"), "01010100000004000000070000000000000009000000000000"
     "00ffffffffffffffff64617461"),
    (ClaimEntry(1, 4, "host", 7, 2), "01020100000004000000070000000000000002000000000000" "00686f7374"),
    (ReleaseEntry(1, 4, 7), "010301000000040000000700000000000000"),
    (CollectEntry(5, 3, True), "01040500000000000000030000000000000001"),
    (PlanEntry("plan"), "0105706c616e"),
    (BeginEntry("plan", 5, 9), "010605000000000000000900000000000000706c616e"),
]  # fmt: skip


@given(entries)
def test_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


@pytest.mark.parametrize(("entry", "written"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_form_is_the_one_that_journals_have(entry: Entry, written: str) -> None:
    assert encode(entry).hex() == written


def test_every_kind_has_an_example() -> None:
    assert {type(entry) for entry, _ in EXAMPLES} == set(get_args(Entry))


@given(st.binary() | st.binary(max_size=60).map(lambda rest: b"\1" + rest))
@example(b"")
def test_what_can_be_read_is_what_would_be_written(body: bytes) -> None:
    try:
        entry = decode(body)
    except ValueError:
        return
    assert encode(entry) == body


@given(entries, st.data())
def test_entry_that_was_cut_off_is_never_the_same(entry: Entry, data: st.DataObject) -> None:
    body = encode(entry)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    try:
        assert decode(cut) != entry
    except ValueError:
        return


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "0 bytes are no entry"),
        (b"\1", "1 bytes are no entry"),
        (b"\2\1", r"version 2, not 1: run the program"),
        (b"\1\0", "kind 0 is not known"),
        (b"\1\7", "kind 7 is not known"),
        (b"\1\1" + bytes(31), "ends after 33 bytes; its numbers alone need 34"),
        (b"\1\3" + bytes(16), "no range 0 of 0"),
        (b"\1\3\1\0\0\0\1\0\0\0" + bytes(8), "no range 1 of 1"),
        (b"\1\3\0\0\0\0\1\0\0\0" + bytes(9), "1 bytes follow the entry"),
        (b"\1\4" + bytes(16) + b"\2", "silent or not, and not 2"),
        (b"\1\4" + bytes(18), "1 bytes follow the entry"),
        (b"\1\5\xff", "can't decode"),
    ],
)
def test_what_is_no_entry_is_refused_with_the_reason(body: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        decode(body)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (RecordEntry(4, 4, 1, 1, 1, b""), "no range 4 of 4"),
        (RecordEntry(0, 1, -1, 1, 1, b""), "RecordEntry cannot be written"),
        (RecordEntry(0, 1, 1 << 64, 1, 1, b""), "RecordEntry cannot be written"),
        (ClaimEntry(0, 1, "\ud800", 1, 1), "surrogates"),
        (CollectEntry(1 << 63, 0, False), "CollectEntry cannot be written"),
    ],
)
def test_entry_that_could_not_be_read_again_is_not_written(entry: Entry, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        encode(entry)
