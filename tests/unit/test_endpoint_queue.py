from collections.abc import Iterator

import pytest

from tenants.endpoint.batch import Batch
from tenants.endpoint.queue import BatchQueue


def batch(size_bytes: int, samples: int = 1, timestamp_ms: int = 0) -> Batch:
    return Batch(bytes(size_bytes), samples=samples, exemplars=0, series=1, timestamp_ms=timestamp_ms)


def emptied(queue: BatchQueue) -> Iterator[Batch]:
    while (oldest := queue.pop()) is not None:
        yield oldest


def test_batches_leave_in_the_order_they_came() -> None:
    queue = BatchQueue(max_bytes=100)
    batches = [batch(10, timestamp_ms=number) for number in range(5)]
    assert [queue.push(each) for each in batches] == [[]] * 5
    assert list(emptied(queue)) == batches
    assert queue.pop() is None


def test_at_the_bound_the_oldest_go_and_only_as_many_as_needed() -> None:
    queue = BatchQueue(max_bytes=100)
    batches = [batch(40, timestamp_ms=1), batch(30, timestamp_ms=2), batch(30, timestamp_ms=3)]
    for each in batches:
        assert queue.push(each) == []
    newest = batch(60, timestamp_ms=4)
    assert queue.push(newest) == batches[:2]
    assert list(emptied(queue)) == [batches[2], newest]


def test_exactly_the_bound_still_fits() -> None:
    queue = BatchQueue(max_bytes=100)
    assert queue.push(batch(60)) == []
    assert queue.push(batch(40)) == []
    assert queue.queued_bytes == 100


def test_batch_over_the_bound_is_kept_only_if_nothing_else_waits() -> None:
    queue = BatchQueue(max_bytes=100)
    oversized = batch(101, timestamp_ms=1)
    assert queue.push(oversized) == []
    assert list(emptied(queue)) == [oversized]

    fitting = batch(1, timestamp_ms=2)
    queue.push(fitting)
    assert queue.push(oversized) == [oversized]
    assert list(emptied(queue)) == [fitting]


@pytest.mark.parametrize("size_bytes", [1, 100])
def test_batch_after_a_waiting_oversized_one_takes_its_place(size_bytes: int) -> None:
    queue = BatchQueue(max_bytes=100)
    oversized, fitting = batch(101), batch(size_bytes)
    queue.push(oversized)
    assert queue.push(fitting) == [oversized]
    assert list(emptied(queue)) == [fitting]


def test_totals_follow_every_change() -> None:
    queue = BatchQueue(max_bytes=100)
    queue.push(batch(50, samples=7))
    queue.push(batch(40, samples=5))
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (2, 90, 12)
    queue.push(batch(20, samples=3))
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (2, 60, 8)
    queue.pop()
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (1, 20, 3)
    assert len(queue.clear()) == 1
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (0, 0, 0)


def test_smaller_bound_drops_the_oldest_but_never_the_newest() -> None:
    queue = BatchQueue(max_bytes=100)
    batches = [batch(30, timestamp_ms=number) for number in range(3)]
    for each in batches:
        queue.push(each)
    assert queue.set_max_bytes(70) == batches[:1]
    assert queue.set_max_bytes(10) == batches[1:2]
    assert list(emptied(queue)) == batches[2:]
