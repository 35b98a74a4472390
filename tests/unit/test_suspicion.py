import pytest

from tenants.endpoint.suspicion import MAX_DIVISIONS, PATIENCE_MS, Step, Suspicion

NOW_MS = 1_800_000_000_000
LATER_MS = NOW_MS + PATIENCE_MS


def test_nothing_is_done_before_patience_is_over() -> None:
    suspicion = Suspicion()
    trouble = suspicion.begin(NOW_MS)
    assert suspicion.next_step(trouble, 50, 2000, LATER_MS - 1) is Step.WAIT
    assert suspicion.next_step(trouble, 51, 2000, LATER_MS) is Step.DIVIDE
    # Its pieces are divided as soon as they fail.
    assert suspicion.next_step(trouble, 1, 1000, LATER_MS + 1) is Step.DIVIDE


def test_single_series_is_dropped_only_if_the_endpoint_takes_others() -> None:
    suspicion = Suspicion()
    trouble = suspicion.begin(NOW_MS)
    trouble.divisions = 1
    assert suspicion.next_step(trouble, 1, 1, LATER_MS) is Step.WAIT  # once may be chance
    assert suspicion.next_step(trouble, 2, 1, LATER_MS) is Step.TURN
    suspicion.delivered(LATER_MS)
    assert suspicion.is_alone(trouble)
    assert suspicion.next_step(trouble, 2, 1, LATER_MS) is Step.DROP
    assert suspicion.next_step(trouble, 2, 1, LATER_MS + 60_001) is Step.TURN  # it took something, but long ago


def test_what_was_delivered_before_says_nothing() -> None:
    suspicion = Suspicion()
    suspicion.delivered(NOW_MS)
    assert not suspicion.is_alone(suspicion.begin(NOW_MS))


def test_batch_is_not_divided_for_ever() -> None:
    suspicion = Suspicion()
    trouble = suspicion.begin(NOW_MS)
    suspicion.delivered(LATER_MS)
    steps = [suspicion.next_step(trouble, 3, 500, LATER_MS) for _ in range(MAX_DIVISIONS + 1)]
    assert steps == [Step.DIVIDE] * MAX_DIVISIONS + [Step.DROP]


@pytest.mark.parametrize(("after_ms", "step"), [(3_599_999, Step.DIVIDE), (3_600_000, Step.WAIT)])
def test_next_one_is_looked_for_at_once_for_an_hour(after_ms: int, step: Step) -> None:
    suspicion = Suspicion()
    trouble = suspicion.begin(NOW_MS)
    suspicion.delivered(LATER_MS)
    assert suspicion.next_step(trouble, 2, 1, LATER_MS) is Step.DROP
    now_ms = LATER_MS + after_ms
    following = suspicion.begin(now_ms)
    assert suspicion.next_step(following, 2, 2000, now_ms) is Step.WAIT
    assert suspicion.next_step(following, 3, 2000, now_ms) is step
