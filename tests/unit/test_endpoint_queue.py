from collections.abc import Iterable

import pytest

from tenants.endpoint.batch import Batch
from tenants.endpoint.queue import BatchQueue, Waiting


def batch(size_bytes: int, samples: int = 1, timestamp_ms: int = 0, lane: int = 0, lanes: int = 1) -> Batch:
    return Batch(bytes(size_bytes), samples, exemplars=0, series=1, timestamp_ms=timestamp_ms, lane=lane, lanes=lanes)


def batches(found: Iterable[Waiting]) -> list[Batch]:
    return [waiting.batch for waiting in found]


def emptied(queue: BatchQueue) -> list[Batch]:
    return batches(queue.clear())


def taken(queue: BatchQueue) -> list[Batch]:
    """Take and settle everything of the lanes in use, lane by lane."""
    found = []
    for lane in queue.lanes:
        while (waiting := queue.take(lane)) is not None:
            found.append(waiting.batch)
            lane.current = None
    return found


def test_batches_leave_in_the_order_they_came() -> None:
    queue = BatchQueue(max_bytes=100)
    pushed = [batch(10, timestamp_ms=number) for number in range(5)]
    assert [queue.push(each) for each in pushed] == [[]] * 5
    assert taken(queue) == pushed
    assert (len(queue), queue.queued_bytes) == (0, 0)


def test_lane_has_one_batch_on_its_way_until_it_is_settled() -> None:
    queue = BatchQueue(max_bytes=100)
    queue.push(batch(10, timestamp_ms=1))
    queue.push(batch(10, timestamp_ms=2))
    (lane,) = queue.lanes
    first = queue.take(lane)
    assert queue.take(lane) is first
    assert (len(queue), queue.oldest_ms, queue.leave_division()) == (1, 1, [])


def test_other_division_waits_until_nothing_of_the_one_before_is_left() -> None:
    queue = BatchQueue(max_bytes=100)
    for timestamp_ms, lane, lanes in ((1, 0, 2), (1, 1, 2), (2, 0, 4), (3, 0, 2)):
        queue.push(batch(10, timestamp_ms=timestamp_ms, lane=lane, lanes=lanes))
    one, two = queue.lanes
    queue.take(one)
    one.current = None
    queue.take(two)
    assert queue.leave_division() == []
    two.current = None
    assert queue.leave_division() == [one, two]
    assert [each.timestamp_ms for each in taken(queue)] == [2]
    queue.leave_division()
    assert [each.timestamp_ms for each in taken(queue)] == [3]


def test_at_the_bound_the_oldest_go_and_only_as_many_as_needed() -> None:
    queue = BatchQueue(max_bytes=100)
    pushed = [batch(40, timestamp_ms=1, lanes=2), batch(30, timestamp_ms=2, lane=1, lanes=2), batch(30, timestamp_ms=3)]
    for each in pushed:
        assert queue.push(each) == []
    newest = batch(60, timestamp_ms=4)
    assert batches(queue.push(newest)) == pushed[:2]
    assert emptied(queue) == [pushed[2], newest]


def test_exactly_the_bound_still_fits() -> None:
    queue = BatchQueue(max_bytes=100)
    assert queue.push(batch(60)) == []
    assert queue.push(batch(40)) == []
    assert queue.queued_bytes == 100


def test_batch_over_the_bound_is_kept_only_if_nothing_else_waits() -> None:
    queue = BatchQueue(max_bytes=100)
    oversized = batch(101, timestamp_ms=1)
    assert queue.push(oversized) == []
    assert emptied(queue) == [oversized]

    fitting = batch(1, timestamp_ms=2)
    queue.push(fitting)
    assert batches(queue.push(oversized)) == [oversized]
    assert emptied(queue) == [fitting]


@pytest.mark.parametrize("size_bytes", [1, 100])
def test_batch_after_a_waiting_oversized_one_takes_its_place(size_bytes: int) -> None:
    queue = BatchQueue(max_bytes=100)
    oversized, fitting = batch(101), batch(size_bytes)
    queue.push(oversized)
    assert batches(queue.push(fitting)) == [oversized]
    assert emptied(queue) == [fitting]


def test_totals_follow_every_change() -> None:
    queue = BatchQueue(max_bytes=100)
    queue.push(batch(50, samples=7))
    queue.push(batch(40, samples=5))
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (2, 90, 12)
    queue.push(batch(20, samples=3))
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (2, 60, 8)
    queue.take(queue.lanes[0])
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (1, 20, 3)
    assert len(queue.clear()) == 1
    assert (len(queue), queue.queued_bytes, queue.queued_samples) == (0, 0, 0)


def test_smaller_bound_drops_the_oldest_but_never_the_newest() -> None:
    queue = BatchQueue(max_bytes=100)
    pushed = [batch(30, timestamp_ms=number) for number in range(3)]
    for each in pushed:
        queue.push(each)
    assert batches(queue.set_max_bytes(60)) == pushed[:1]
    assert batches(queue.set_max_bytes(10)) == pushed[1:2]
    assert emptied(queue) == pushed[2:]


def test_what_is_older_than_asked_for_goes_but_not_what_is_on_its_way() -> None:
    queue = BatchQueue(max_bytes=100)
    pushed = [batch(10, timestamp_ms=number) for number in range(4)]
    for each in pushed:
        queue.push(each)
    queue.take(queue.lanes[0])
    assert batches(queue.drop_older(3)) == pushed[1:3]
    assert (queue.oldest_ms, len(queue)) == (0, 1)


def test_bodies_on_disk_do_not_count_in_memory_and_come_back() -> None:
    queue = BatchQueue(max_bytes=100)
    for number in range(3):
        queue.push(batch(20, timestamp_ms=number))
    on_its_way = queue.take(queue.lanes[0])
    assert on_its_way is not None
    volatile = [*queue.volatile()]
    for waiting in volatile:
        waiting.is_stored = True
    queue.unload(volatile)
    assert on_its_way.batch.body == bytes(20)
    assert (queue.loaded_bytes, queue.queued_bytes, queue.unloaded_batches) == (0, 40, 2)
    queue.push(batch(30, timestamp_ms=4))
    assert (queue.loaded_bytes, [waiting.batch.timestamp_ms for waiting in queue.volatile()]) == (30, [4])
    queue.load(queue.lanes[0].waiting[0], bytes(20))
    assert (queue.loaded_bytes, queue.unloaded_batches) == (50, 1)


def test_without_a_disk_the_oldest_in_memory_go_and_those_on_disk_stay() -> None:
    queue = BatchQueue(max_bytes=1000)
    pushed = [batch(20, timestamp_ms=number, lane=number % 2, lanes=2) for number in range(6)]
    for each in pushed:
        queue.push(each)
    stored = sorted(queue.volatile(), key=lambda waiting: waiting.sequence)[:2]
    for waiting in stored:
        waiting.is_stored = True
    queue.unload(stored)
    assert batches(queue.drop_loaded(40)) == pushed[2:4]
    assert (queue.queued_bytes, queue.loaded_bytes) == (80, 40)


def test_what_was_on_disk_comes_first_and_new_batches_do_not_take_its_place_there() -> None:
    queue = BatchQueue(max_bytes=1000)
    stored = [Waiting(number, batch(0, timestamp_ms=number), 20, is_stored=True, is_loaded=False) for number in (3, 9)]
    assert queue.restore(stored) == []
    queue.push(batch(20, timestamp_ms=10))
    assert [waiting.sequence for waiting in queue.clear()] == [3, 9, 10]
