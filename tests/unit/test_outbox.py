from hypothesis import given
from hypothesis import strategies as st

from tenants.processing.flush_record import FlushRecord, ShardKey
from tenants.processing.outbox import Outbox
from tests.unit.tenant_work import ACME

KEY = ShardKey(ACME, 0, 1)


def outbox(*records: bytes) -> Outbox:
    made = Outbox(KEY, 100)
    for record in records:
        made.post(record)
    return made


def contents(box: Outbox) -> list[bytes]:
    return [record.data for record in box]


def test_records_are_numbered_upwards_and_empty_ones_left_out() -> None:
    assert list(outbox(b"a", b"", b"b")) == [FlushRecord(KEY, 101, b"a"), FlushRecord(KEY, 102, b"b")]
    assert len(outbox(b"")) == 0


def test_acknowledged_records_go_and_the_others_keep_their_numbers() -> None:
    box = outbox(b"a", b"b", b"c")
    box.acknowledge(102)
    assert list(box) == [FlushRecord(KEY, 103, b"c")]
    box.acknowledge(5)
    assert contents(box) == [b"c"]
    box.acknowledge(1000)
    assert contents(box) == []


def test_definitions_come_before_everything_that_waits_under_new_numbers() -> None:
    box = outbox(b"a", b"b")
    box.redefine(b"definitions")
    assert list(box) == [
        FlushRecord(KEY, 103, b"definitions"),
        FlushRecord(KEY, 104, b"a"),
        FlushRecord(KEY, 105, b"b"),
    ]


def test_each_numbering_has_its_own_definitions_before_its_records() -> None:
    box = outbox(b"old 1", b"old 2")
    box.end_numbering(b"old definitions")
    box.post(b"new 1")
    box.redefine(b"new definitions")
    expected = [b"old definitions", b"old 1", b"old 2", b"new definitions", b"new 1"]
    assert contents(box) == expected
    # And again, for the next collector that knows nothing, once a part is acknowledged.
    box.acknowledge(next(iter(box)).sequence)
    box.post(b"new 2")
    box.redefine(b"newest definitions")
    expected[3:4] = [b"newest definitions", b"new definitions"]
    assert contents(box) == [*expected, b"new 2"]


def test_definitions_of_a_numbering_go_with_its_last_record() -> None:
    box = outbox(b"old")
    box.end_numbering(b"old definitions")
    box.post(b"new")
    box.acknowledge(101)
    box.redefine(b"new definitions")
    assert contents(box) == [b"new definitions", b"new"]


def test_numbering_of_which_nothing_waits_needs_no_definitions() -> None:
    box = outbox()
    box.end_numbering(b"old definitions")
    box.post(b"new")
    box.redefine(b"new definitions")
    assert contents(box) == [b"new definitions", b"new"]


def test_outbox_is_self_contained_from_its_definitions_until_they_are_acknowledged() -> None:
    box = outbox(b"a")
    assert not box.is_self_contained
    box.redefine(b"definitions")
    assert box.is_self_contained
    box.post(b"b")
    assert box.is_self_contained
    box.acknowledge(102)
    assert not box.is_self_contained
    assert not outbox().is_self_contained


@given(st.lists(st.sampled_from(["post", "acknowledge", "renumber", "redefine"]), max_size=30))
def test_every_record_stands_behind_the_definitions_of_its_numbering(steps: list[str]) -> None:
    """A record is (numbering, n), definitions are (numbering,): whoever reads from a redefinition can read all."""
    box, numbering, posted = Outbox(KEY, 0), 0, 0
    waiting: list[bytes] = []
    for step in steps:
        if step == "post":
            posted += 1
            box.post(b"%d record %d" % (numbering, posted))
            waiting.append(b"%d record %d" % (numbering, posted))
        elif step == "acknowledge" and len(box):
            first = next(iter(box))
            box.acknowledge(first.sequence)
            if first.data in waiting:
                waiting.remove(first.data)
        elif step == "renumber":
            box.end_numbering(b"%d definitions" % numbering)
            numbering += 1
        elif step == "redefine":
            box.redefine(b"%d definitions" % numbering)
            known = b""
            for data in contents(box):
                number, kind = data.split(b" ")[:2]
                assert kind == b"definitions" or known == number
                known = number
        sequences = [record.sequence for record in box]
        assert sequences == sorted(set(sequences))
        assert [data for data in contents(box) if b"record" in data] == waiting
