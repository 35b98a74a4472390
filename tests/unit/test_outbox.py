from tenants.processing.flush_record import FlushRecord, Place, ShardKey
from tenants.processing.outbox import Outbox
from tests.unit.tenant_work import ACME

KEY = ShardKey(ACME, 0, 1)
EPOCH = 7


def outbox(*records: bytes) -> Outbox:
    made = Outbox(KEY, EPOCH)
    for record in records:
        made.post(record)
    return made


def record(sequence: int, data: bytes) -> FlushRecord:
    return FlushRecord(KEY, Place(EPOCH, sequence), data)


def test_records_are_numbered_upwards_and_empty_ones_left_out() -> None:
    box = outbox(b"a", b"", b"b")
    assert list(box) == [record(1, b"a"), record(2, b"b")]
    assert (box.posted, box.acknowledged) == (2, 0)
    assert len(outbox(b"")) == 0


def test_acknowledged_records_go_and_the_others_keep_their_numbers() -> None:
    box = outbox(b"a", b"b", b"c")
    box.acknowledge(2)
    assert list(box) == [record(3, b"c")]
    box.acknowledge(1)
    assert (list(box), box.acknowledged) == ([record(3, b"c")], 2)
    box.acknowledge(1000)
    assert (list(box), box.acknowledged) == ([], 3)
    box.post(b"d")
    assert list(box) == [record(4, b"d")]
