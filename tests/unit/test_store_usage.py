import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest

from tenants.store.database import Database
from tenants.store.usage import UsageDay, UsageStore

DAY = date(2026, 3, 1)


def part(tenant: str = "acme", day: date = DAY, series: int = 10, spans: int = 1) -> UsageDay:
    return UsageDay(day, tenant, spans, 2**40, 3, series, series, 1)


@pytest.fixture
def usage(database: Database) -> UsageStore:
    return UsageStore(database)


def test_parts_of_a_day_add_up_and_the_most_series_stay(usage: UsageStore) -> None:
    usage.add([part(series=10)])
    usage.add([part(series=30)])
    usage.add([part(series=20)])
    (day,) = usage.read("acme", DAY, DAY)
    assert day == UsageDay(DAY, "acme", 3, 3 * 2**40, 9, 30, 60, 3)
    assert day == part(series=10).plus(part(series=30)).plus(part(series=20))


def test_two_parts_of_one_day_may_come_together(usage: UsageStore) -> None:
    usage.add([part(series=30), part("other"), part(series=20)])
    assert usage.read("acme", DAY, DAY) == [part(series=30).plus(part(series=20))]


def test_nothing_is_nothing(usage: UsageStore) -> None:
    usage.add([])
    assert usage.read(None, date.min, date.max) == []


def test_days_are_read_by_day_and_tenant_from_the_first_to_the_last(usage: UsageStore) -> None:
    days = [DAY + timedelta(days=number) for number in range(4)]
    usage.add(part(tenant, day) for day in reversed(days) for tenant in ("b", "B", "a"))
    assert usage.read(None, days[1], days[2]) == [part(tenant, day) for day in days[1:3] for tenant in ("B", "a", "b")]
    assert usage.read("a", days[0], days[3]) == [part("a", day) for day in days]
    assert usage.read("a", days[2], days[1]) == usage.read("unknown", days[0], days[3]) == []


def test_old_days_are_forgotten(usage: UsageStore) -> None:
    usage.add([part(day=DAY), part(day=DAY + timedelta(days=1)), part("other", day=DAY)])
    assert usage.forget_before(DAY + timedelta(days=1)) == 2
    assert usage.read(None, date.min, date.max) == [part(day=DAY + timedelta(days=1))]


def test_who_adds_at_the_same_time_in_another_order_neither_waits_for_ever_nor_loses_any(usage: UsageStore) -> None:
    workers, rounds = 4, 10
    names = [f"tenant-{number:02}" for number in range(20)]
    together = threading.Barrier(workers)

    def add(worker: int) -> None:
        together.wait()
        for _ in range(rounds):
            usage.add([part(name) for name in (names if worker % 2 else reversed(names))])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(add, range(workers)))
    assert [day.spans for day in usage.read(None, DAY, DAY)] == [workers * rounds] * len(names)
