from collections.abc import Sequence

from cluster.measurements import OTHER_TENANTS, Measurements
from cluster.page_tenants import PageTenants

RECEIVED = "millrace_spans_received_total"
SERIES = "millrace_registry_active_series"
VERSION = "millrace_settings_version"


def of(tenants: Sequence[str], received: float = 1.0) -> Measurements:
    counters: Measurements = [(RECEIVED, (tenant,), received) for tenant in tenants]
    return [*counters, *((SERIES, (tenant,), 5.0) for tenant in tenants), (VERSION, (), 7.0)]


def test_all_are_named_while_there_is_room() -> None:
    page = PageTenants(3)
    measured = {"gateway-0": of(["a", "b"]), "gateway-1": of(["b", "c"])}
    assert page.bounded(measured) == measured
    assert page.left_out == 0


def test_counts_of_the_others_are_added_up_by_actor_and_their_gauges_missing() -> None:
    page = PageTenants(1)
    bounded = page.bounded({"gateway-0": of(["a", "b", "c"]), "gateway-1": of(["c", OTHER_TENANTS], 2.0)})
    assert bounded == {
        "gateway-0": [
            (RECEIVED, ("a",), 1.0),
            (SERIES, ("a",), 5.0),
            (VERSION, (), 7.0),
            (RECEIVED, (OTHER_TENANTS,), 2.0),
        ],
        "gateway-1": [(VERSION, (), 7.0), (RECEIVED, (OTHER_TENANTS,), 4.0)],
    }
    assert page.left_out == 2


def test_who_was_named_once_stays_named() -> None:
    page = PageTenants(2)
    page.bounded({"gateway-0": of(["b", "c"])})
    bounded = page.bounded({"gateway-0": of(["a", "c"])})["gateway-0"]
    assert [labels for name, labels, _ in bounded if name == RECEIVED] == [("c",), (OTHER_TENANTS,)]
    assert page.left_out == 1
