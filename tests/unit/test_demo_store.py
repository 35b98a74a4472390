"""The built-in receiver's memory: rates, ends of series, and its bounds."""

import pytest

from cluster.demo import store
from cluster.demo.store import SeriesStore
from cluster.demo.write_request import read_write_request
from tests.unit.demo_bodies import STALE, Written, message

NOW = 1_700_000_100_000


def calls(service: str, *samples: tuple[float, float], tenant: str = "acme") -> Written:
    """A counter; sample times in seconds before :data:`NOW`."""
    labels = {"__name__": "calls", "service": service, "tenant": tenant}
    return Written(labels, [(NOW - int(ago_s * 1000), value) for ago_s, value in samples])


def stored(*series: Written, now_ms: int = NOW) -> SeriesStore:
    memory = SeriesStore()
    assert memory.write(read_write_request(message(series)), now_ms) == 0
    return memory


def rates(memory: SeriesStore, tenant: str = "acme", window_s: float = 30) -> dict[tuple[str, ...], float]:
    return dict(memory.rates(tenant, "calls", ("service",), window_s, NOW))


def test_a_rate_is_the_increase_over_the_covered_time() -> None:
    memory = stored(calls("cart", (20, 100), (10, 150), (0, 220)))
    assert rates(memory) == {("cart",): pytest.approx(6.0)}


def test_series_are_summed_by_the_asked_labels_and_a_missing_label_is_empty() -> None:
    memory = stored(calls("cart", (10, 0), (0, 10)), calls("email", (10, 0), (0, 30)))
    assert memory.rates("acme", "calls", ("zone",), 30, NOW) == {("",): pytest.approx(4.0)}


def test_a_late_increment_is_spread_over_the_window_of_the_whole_metric() -> None:
    memory = stored(calls("cart", (20, 0), (0, 200)), calls("email", (5, 0), (0, 4)))
    assert rates(memory)[("email",)] == pytest.approx(0.2)


def test_a_counter_reset_is_healed() -> None:
    memory = stored(calls("cart", (20, 90), (10, 100), (0, 30)))
    assert rates(memory) == {("cart",): pytest.approx(2.0)}


def test_samples_before_the_window_do_not_count() -> None:
    memory = stored(calls("cart", (100, 0), (20, 1000), (10, 1010), (0, 1020)))
    assert rates(memory) == {("cart",): pytest.approx(1.0)}


def test_one_sample_has_no_rate() -> None:
    assert rates(stored(calls("cart", (0, 5)))) == {}


def test_a_repeated_or_older_sample_changes_nothing() -> None:
    series = calls("cart", (10, 0), (0, 10))
    memory = stored(series)
    memory.write(read_write_request(message([series])), NOW)
    memory.write(read_write_request(message([calls("cart", (5, 99))])), NOW)
    assert rates(memory) == {("cart",): pytest.approx(1.0)}


def test_tenants_are_told_apart() -> None:
    memory = stored(calls("cart", (10, 0), (0, 10)), calls("orders", (10, 0), (0, 50), tenant="globex"))
    assert set(rates(memory)) == {("cart",)}
    assert set(rates(memory, "globex")) == {("orders",)}
    assert (memory.total("acme", "calls"), memory.total("globex", "calls")) == (10, 50)
    assert memory.total("initech", "calls") == 0


def test_a_stale_marker_ends_a_series_and_a_new_sample_begins_it_anew() -> None:
    memory = stored(calls("cart", (20, 5), (10, 9)), calls("cart", (5, STALE)))
    assert rates(memory) == {}
    assert memory.total("acme", "calls") == 0
    memory.write(read_write_request(message([calls("cart", (0, 2))])), NOW)
    assert memory.total("acme", "calls") == 2


def test_a_stale_marker_for_an_unknown_series_leaves_nothing_behind() -> None:
    memory = stored(calls("cart", (5, STALE)))
    assert memory.newest() == []


def test_at_the_bound_new_series_are_left_out_and_known_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_SERIES", 2)
    memory = stored(calls("a", (10, 0)), calls("b", (10, 0)))
    batch = [calls("a", (0, 10)), calls("c", (0, 1)), calls("b", (0, 20)), calls("d", (0, 1))]
    assert memory.write(read_write_request(message(batch)), NOW) == 2
    assert rates(memory) == {("a",): pytest.approx(1.0), ("b",): pytest.approx(2.0)}


def test_series_without_new_samples_are_forgotten_after_the_retention() -> None:
    memory = stored(calls("cart", (0, 1)))
    later_ms = NOW + (store.RETENTION_S + 1) * 1000
    memory.write(read_write_request(message([calls("email", (-store.RETENTION_S - 1, 1))])), later_ms)
    assert [labels["service"] for labels, _ in memory.newest()] == ["email"]


def test_samples_of_a_series_are_bounded() -> None:
    points = [(float(1000 - index), float(index)) for index in range(1000)]
    memory = stored(calls("cart", *points))
    assert memory.rates("acme", "calls", (), 2000, NOW) == {(): pytest.approx(1.0)}
    assert len(next(iter(memory._series.values())).points) == store.MAX_SAMPLES


def test_exemplars_are_kept_by_metric_and_time_and_need_a_trace_id() -> None:
    labels = {"__name__": "latency_bucket", "tenant": "acme", "le": "1"}
    old, new, nameless = ("old", NOW - 60_000, 0.5), ("new", NOW - 1_000, 0.75), ("", NOW, 0.9)
    memory = stored(Written(labels, [(NOW, 1)], [old, new, nameless]))
    (found,) = memory.exemplars("acme", "latency_bucket", NOW - 30_000)
    assert (found.trace_id, found.value, found.labels["le"]) == ("new", 0.75, "1")
    assert memory.exemplars("globex", "latency_bucket", 0) == []


def test_exemplars_are_bounded() -> None:
    labels = {"__name__": "latency_bucket", "tenant": "acme"}
    many = [(f"t{index}", NOW, 0.1) for index in range(store.MAX_EXEMPLARS + 50)]
    memory = stored(Written(labels, [(NOW, 1)], many))
    found = memory.exemplars("acme", "latency_bucket", 0)
    assert len(found) == store.MAX_EXEMPLARS
    assert found[-1].trace_id == many[-1][0]
