"""Who is let in, and what the others and the warned are told (tenancy §4.2, §4.4, §5.1)."""

from dataclasses import replace
from typing import Any

import pytest

from tenants.identity import TenantId
from tenants.limits import Admission, AdmissionReason, AdmissionRefused, admission
from tenants.settings.scalars import Duration
from tenants.settings.tenant_settings import TenantSettings
from tenants.settings.tenant_state import TenantState
from tests.unit.tenant_work import ACME, SECOND_NS, book

MINUTE_NS = 60 * SECOND_NS
ACME_SETTINGS = book().get(ACME).settings


def settings(state: TenantState = TenantState.ACTIVE, tenant: TenantId = ACME, **ingestion: Any) -> TenantSettings:
    limits = {"rate_limit_bytes": 2000, "burst_size_bytes": 2000, "artificial_delay": Duration(0), **ingestion}
    return replace(ACME_SETTINGS, tenant=tenant, state=state, ingestion=replace(ACME_SETTINGS.ingestion, **limits))


def idle(**changes: Any) -> TenantSettings:
    return replace(settings(**changes), span_metrics=None)


def door(gateways: int = 1) -> Admission:
    return Admission(lambda: 0.5, gateways)


def refused(by: Admission, one: TenantSettings, size: int, now_ns: int = 0) -> AdmissionRefused:
    found = by.admit(one, size, now_ns)
    assert isinstance(found, AdmissionRefused)
    return found


def test_defaults_let_in_what_a_tenant_sends() -> None:
    assert door().admit(ACME_SETTINGS, 30_000_000, 0) is None


def test_over_its_rate_a_tenant_is_told_the_limit_and_when_to_come_back() -> None:  # case 93
    gate = door()
    assert gate.admit(settings(), 1000, 0) is None
    assert gate.admit(settings(), 1000, 0) is None
    assert refused(gate, settings(), 1000) == AdmissionRefused(
        AdmissionReason.RATE_LIMITED,
        "RATE_LIMITED: ingestion rate limit (local: 2000 bytes/s, global: none, burst: 2000 bytes) exceeded while "
        "adding 1000 bytes for tenant acme; send less, or have ingestion.rate_limit_bytes raised",
        1.0,
    )
    assert gate.admit(settings(), 1000, SECOND_NS) is None


def test_time_to_retry_can_be_kept_back() -> None:  # case 95
    gate = door()
    assert gate.admit(settings(), 2000, 0) is None
    silent = refused(gate, settings(retry_info_enabled=False), 1000)
    assert (silent.reason, silent.retry_after_s) == (AdmissionReason.RATE_LIMITED, None)


def test_request_beyond_the_burst_is_too_large_and_never_worth_another_try() -> None:  # case 96
    gate = door()
    found = refused(gate, settings(), 2001)
    assert (found.reason, found.retry_after_s) == (AdmissionReason.TOO_LARGE, None)
    assert "2001 bytes of tenant acme" in found.message
    assert "ingestion.burst_size_bytes" in found.message
    assert gate.admit(settings(), 2000, 0) is None


def test_global_rate_is_shared_by_the_gateways_and_the_burst_is_not() -> None:  # case 97
    gate, one = door(gateways=4), settings(rate_strategy="global", rate_limit_bytes=8000)
    assert gate.admit(one, 2000, 0) is None
    assert "(local: 2000 bytes/s, global: 8000 bytes/s, burst: 2000 bytes)" in refused(gate, one, 2000).message
    assert refused(gate, one, 2000, SECOND_NS - 1)
    assert gate.admit(one, 2000, SECOND_NS) is None
    gate.put_gateways(8)
    assert refused(gate, one, 1, SECOND_NS)
    assert refused(gate, one, 2000, 2 * SECOND_NS)
    assert gate.admit(one, 2000, 3 * SECOND_NS) is None


@pytest.mark.parametrize(("strategy", "gateways"), [("local", 4), ("global", 0)])
def test_rate_is_whole_where_it_is_local_or_nobody_knows_the_gateways(strategy: str, gateways: int) -> None:
    gate, one = door(gateways), settings(rate_strategy=strategy)
    assert gate.admit(one, 2000, 0) is None
    assert gate.admit(one, 2000, SECOND_NS) is None


@pytest.mark.parametrize("zero", ["rate_limit_bytes", "burst_size_bytes"])
def test_limit_of_zero_refuses_everything_for_good(zero: str) -> None:  # case 17
    found = refused(door(), settings(**{zero: 0}), 1)
    assert (found.reason, found.retry_after_s) == (AdmissionReason.RATE_LIMITED, None)
    assert found.message.startswith("RATE_LIMITED: ")
    shown = {"rate_limit_bytes": "local: 0 bytes/s", "burst_size_bytes": "burst: 0 bytes"}[zero]
    assert shown in found.message


def test_blocked_tenant_is_refused_whatever_its_rate() -> None:
    gate = door()
    found = refused(gate, settings(TenantState.BLOCKED), 1)
    assert (found.reason, found.retry_after_s) == (AdmissionReason.BLOCKED, None)
    assert gate.admit(settings(), 2000, 0) is None


@pytest.mark.parametrize("state", [TenantState.ACTIVE, TenantState.DRY_RUN, TenantState.PAUSED])
def test_every_other_state_lets_in(state: TenantState) -> None:
    assert door().admit(settings(state), 1, 0) is None


def test_who_gets_no_metrics_is_warned_once_a_minute() -> None:
    gate = door()
    paused = idle(state=TenantState.PAUSED)
    assert "paused by the operator" in gate.warning(paused, 0)
    assert gate.warning(paused, MINUTE_NS - 1) == ""
    assert "metrics_generator.processors" in gate.warning(idle(), MINUTE_NS)
    assert gate.warning(idle(), 2 * MINUTE_NS - 1) == ""
    assert gate.warning(idle(tenant=TenantId("globex")), MINUTE_NS) != ""


@pytest.mark.parametrize("state", [TenantState.ACTIVE, TenantState.DRY_RUN])
def test_who_gets_metrics_is_not_warned(state: TenantState) -> None:
    assert door().warning(settings(state), 0) == ""


def test_warned_tenants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WARNED", 2)
    gate = door()
    first, *others = (idle(tenant=TenantId(f"t{number}")) for number in range(3))
    assert all(gate.warning(one, 0) for one in (first, *others))
    assert gate.warning(first, 1)
    assert gate.warning(others[1], 1) == ""
