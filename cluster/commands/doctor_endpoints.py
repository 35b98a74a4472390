"""What ``millrace doctor`` looks at behind remote-write endpoints: whether they let us in, and what time they have.

Each is sent one empty write, with the secrets and under the rules that hold for its tenants. Nothing is stored by it.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from cluster.commands.finding import Finding, fail, ok, warn
from cluster.version import VERSION
from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.endpoint_access import EndpointAccess, Granted
from tenants.endpoint.endpoint_settings import endpoint_configs
from tenants.endpoint.errors import SecretUnavailableError
from tenants.endpoint.exchange import Outcome, Verdict, exchange
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.surroundings import Surroundings, SystemClock
from tenants.identity.tenant_id import HEADER, TenantId
from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import WILDCARD
from tenants.settings.protobuf_message import ProtobufMessage
from tenants.settings.service_config import ServiceConfig
from tenants.settings.tenant_settings import resolve

MAX_ASKED: Final = 50
"""Endpoints that are asked; tenants that share one, but for their names, count once."""

_AT_ONCE: Final = 8
_TIMEOUT_S: Final = 10.0
_EMPTY: Final = b"\x00"
"""A message without a field, in snappy's block format."""
_NOT_UNDERSTOOD: Final = frozenset({400, 415})
_CLOCK_WARN_S: Final = 5.0
_CLOCK_FAIL_S: Final = 30.0
"""As far from now as a span may end, unless metrics_ingestion_time_range_slack says otherwise."""
_SYNCHRONISE: Final = "synchronise this machine's clock (chronyd, systemd-timesyncd), or the endpoint's"
_MENDS: Final = {
    "timeout": "see whether the endpoint is overloaded, and remote_timeout",
    "network": "see url, tls_config and remote_write_targets, and whether a firewall is between",
    "http_401": "see authorization, basic_auth or headers of the endpoint",
    "http_403": "see what the credentials of the endpoint are allowed to do",
    "http_404": "see the path of url: Prometheus has /api/v1/write, Mimir /api/v1/push",
}


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint, and the first of the tenants that send there."""

    config: EndpointConfig
    tenant: TenantId


@dataclass(slots=True)
class _Asked:
    """What asking came to."""

    finding: Finding
    skews_s: list[float] = field(default_factory=list)


def endpoint_findings(config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId | None) -> Iterator[Finding]:
    """Ask the endpoints of one tenant, or of all that are known; then compare clocks. Runs an event loop of its own."""
    found = targets(config, overrides, tenant)
    if not found:
        yield warn("endpoints", "there is none: what is generated goes nowhere", "set remote_write")
        return
    asked = asyncio.run(_ask_all(config, found[:MAX_ASKED]))
    yield from (each.finding for each in asked)
    if len(found) > MAX_ASKED:
        yield warn(
            "endpoints", f"{len(found) - MAX_ASKED} more were not asked", "millrace doctor --tenant TENANT asks them"
        )
    yield clock_finding([skew for each in asked for skew in each.skews_s])


def targets(config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId | None) -> list[Target]:
    """Return each endpoint once, however many tenants share it."""
    found: dict[tuple[object, ...], Target] = {}
    for name in _tenants(config, overrides, tenant):
        for each in endpoint_configs(resolve(config, overrides, name)):
            headers = tuple((key, value) for key, value in each.headers if key.lower() != HEADER.lower())
            key = (each.url, headers, each.headers_from, each.tls, each.is_confined, each.protobuf_message)
            found.setdefault(key, Target(each, name))
    return list(found.values())


def clock_finding(skews_s: Sequence[float]) -> Finding:
    """Judge how far this machine's clock is from those of endpoints, in seconds; ahead of them is positive."""
    check = "clock"
    if not skews_s:
        return warn(check, "cannot be compared: no endpoint said what time it has", _SYNCHRONISE)
    worst = max(skews_s, key=abs)
    if abs(worst) < _CLOCK_WARN_S:
        return ok(check, f"within {_CLOCK_WARN_S:g} s of every endpoint that says its time")
    said = f"{abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} an endpoint's"
    return (fail if abs(worst) >= _CLOCK_FAIL_S else warn)(check, said, _SYNCHRONISE)


def skew_s(date: str | None, before_s: float, after_s: float) -> float | None:
    """Return how far we are ahead of a ``Date`` header that came between two moments; None: it says nothing.

    The header has whole seconds: what the moments allow counts as no difference.
    """
    try:
        said_s = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    if before_s > said_s + 1:
        return before_s - said_s - 1
    return min(0.0, after_s - said_s)


def _tenants(config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId | None) -> Iterable[TenantId]:
    if tenant is not None:
        return [tenant]
    if config.single_tenant is not None:
        return [config.single_tenant]
    known = [TenantId(name) for name in overrides.runtime if name != WILDCARD]
    return known or [TenantId("doctor")]


async def _ask_all(config: ServiceConfig, found: Sequence[Target]) -> list[_Asked]:
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def ask(target: Target) -> _Asked:
        # Clients of its own: what is noted of answers must not be another endpoint's.
        async with at_once, HttpClients(config.remote_write_targets) as clients:
            return await _ask(target, Surroundings(clients, SystemClock(), random.Random(), VERSION))  # noqa: S311

    return await asyncio.gather(*map(ask, found))


async def _ask(target: Target, around: Surroundings) -> _Asked:
    config = replace(target.config, timeout_s=min(target.config.timeout_s, _TIMEOUT_S))
    check = f"endpoint {config.label} of {target.tenant}"
    access = EndpointAccess(config, around)
    skews_s: list[float] = []
    try:
        async with access.granted() as granted:
            before_s = time.time()

            async def compare(response: httpx.Response) -> None:
                if (skew := skew_s(response.headers.get("date"), before_s, time.time())) is not None:
                    skews_s.append(skew)

            granted.client.event_hooks["response"].append(compare)
            outcome = await _empty_write(granted, around)
    except SecretUnavailableError as error:
        return _Asked(fail(check, str(error), "mend the file or variable that the endpoint's settings point to"))
    finally:
        await access.close()
    return _Asked(_judged(check, config, outcome), skews_s)


async def _empty_write(granted: Granted, around: Surroundings) -> Outcome:
    """Write nothing, in 2.0 or else in 1.0 if both may be sent."""
    pinned = granted.config.protobuf_message
    outcome = await exchange(_empty(pinned or ProtobufMessage.V2), 0, granted, around)
    if pinned is None and outcome.status in _NOT_UNDERSTOOD:
        outcome = await exchange(_empty(ProtobufMessage.V1), 0, granted, around)
    return outcome


def _empty(message: ProtobufMessage) -> Batch:
    return Batch(_EMPTY, 0, 0, 0, time.time_ns() // 1_000_000, message)


def _judged(check: str, config: EndpointConfig, outcome: Outcome) -> Finding:
    said = f"{config.display_url}: {outcome.reason} {outcome.message}".strip()
    if outcome.verdict is Verdict.DELIVERED:
        return ok(check, f"{config.display_url}: takes an empty write")
    if mend := _MENDS.get(outcome.reason):
        return fail(check, said, mend)
    if outcome.verdict is Verdict.RETRY:
        return warn(check, f"{said}; it is reached, and does not take samples now", "ask whoever runs it")
    return warn(check, f"{said}; it is reached, and refuses an empty write", "see in its log whether it takes samples")
