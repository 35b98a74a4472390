"""What a receiver was sent: the history of every series, and requests for two spans to send."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from tests import remote_write
from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS, full_request
from tests.integration.waiting import eventually
from tests.remote_write import SeriesKey, TimeSeries
from tests.unit.receiver import Receiver

SPANS: Final = 2
"""In one request of :func:`send`."""

NOTHING: Final[Mapping[str, Any]] = {"processors": []}


async def send(service: MillraceProcess, tenant: str | None) -> None:
    """Send two spans that are one edge, and see them accepted."""
    async with GrpcClient(service.grpc_port) as client:
        answer = await client.export(full_request().SerializeToString(), tenant)
    assert answer.status == "OK", answer


def histories(receiver: Receiver) -> dict[SeriesKey, list[TimeSeries]]:
    """Return what was written of every series, in the order of the requests."""
    found: dict[SeriesKey, list[TimeSeries]] = {}
    for body in receiver.bodies:
        for key, series in remote_write.decode(body).items():
            found.setdefault(key, []).append(series)
    return found


def names(receiver: Receiver) -> set[str]:
    """Return the names of all metrics that were written."""
    return {dict(key)["__name__"] for key in histories(receiver)}


def total(receiver: Receiver, name: str = CALLS) -> float:
    """Return what the counters of a name have come to."""
    values = [
        [value for series in written for _, value in series.samples]
        for key, written in histories(receiver).items()
        if ("__name__", name) in key
    ]
    return sum(of_series[-1] for of_series in values)


async def until_written(receiver: Receiver, spans: float) -> None:
    """Wait until so many spans are counted at the receiver."""
    await eventually(lambda: total(receiver) == spans, 60, lambda: f"written: {total(receiver)}, expected {spans}")


@asynccontextmanager
async def receiving(service: MillraceProcess, tenant: str, **settings: Any) -> AsyncIterator[Receiver]:
    """Give a tenant an endpoint of its own and a ``metrics_generator`` in the runtime file; afterwards end it.

    What was set through the API is over the runtime file, and has to be taken back before the end.
    """
    async with Receiver() as receiver:
        await service.put_tenants(**{tenant: {"remote_write": [{"url": receiver.url}], **settings}})
        try:
            yield receiver
        finally:
            await service.put_tenants(**{tenant: {"remote_write": [{"url": receiver.url}], **NOTHING}})
            await until_ended(service, tenant)


async def until_ended(service: MillraceProcess, tenant: str) -> None:
    """Wait until a tenant has sent everything, and nothing of it is left."""

    async def has_ended() -> bool:
        return tenant not in (await service.status())["tenants"]

    await eventually(has_ended, 60, lambda: f"{tenant} is still there:\n{service.log}")


async def collections_pass(service: MillraceProcess, tenant: str, count: int = 3) -> None:
    """Wait until a tenant has been collected so many times more."""
    before = await service.metric("millrace_registry_collections_total", tenant=tenant)

    async def have_passed() -> bool:
        return await service.metric("millrace_registry_collections_total", tenant=tenant) >= before + count

    await eventually(have_passed, 60, lambda: f"{tenant} is not collected")
