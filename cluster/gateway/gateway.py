"""The gateway: an async actor with the OTLP ports."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cluster.gateway.body_budget import BodyBudget
from cluster.gateway.dispatch import Dispatcher, GroupBounds, Send
from cluster.gateway.intake import ReceiverLimits, Reception
from cluster.gateway.otlp_grpc import OtlpGrpcReceiver
from cluster.gateway.otlp_http import OtlpHttpReceiver
from cluster.gateway.refusal import Refused, identity_refused
from cluster.log_setup import set_up_logging
from cluster.measurements import Measurements
from cluster.placement import Routes
from tenants.identity.tenant_id import IdentityRefused, TenantId, identify
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import FrameGroup
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_BODIES_IN_FLIGHT = 16
"""The memory for bodies, in requests of the largest size."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a gateway listens.

    Attributes:
        otlp_grpc: port of OTLP/gRPC.
        otlp_http: port of OTLP/HTTP.
    """

    otlp_grpc: int
    otlp_http: int


class Gateway:
    """Terminates OTLP, finds the tenant, splits requests and passes their frames to the shard hosts.

    State held: requests in flight. When the process dies clients get no answer and send again; Ray restarts it, and the
    controller configures it anew. ``configure`` and ``put_overrides`` may be repeated. Everything runs in one event
    loop.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._dispatcher: Dispatcher | None = None
        self._receivers: tuple[OtlpGrpcReceiver, OtlpHttpReceiver] | None = None
        self._ports: Ports | None = None
        self._configuring = asyncio.Lock()

    async def configure(
        self,
        config: ServiceConfig,
        routes: Routes,
        hosts: Mapping[str, Any],
        version: int,
        runtime: RuntimeOverrides,
    ) -> Ports:
        """Listen, or go on with newer overrides; returns the ports.

        Raises:
            CannotListenError: an address cannot be had; nothing is listening.
        """
        set_up_logging(config.log, self._name)
        if self._dispatcher is None:
            book = ProfileBook(config)
            bounds = GroupBounds(config.cluster.group_bytes, config.cluster.group_wait.seconds)
            sends = {name: _send_to(host) for name, host in hosts.items()}
            self._dispatcher = Dispatcher(book, routes, sends, bounds, time.time_ns)
        await self._dispatcher.put_overrides(version, runtime)
        # One call at a time, or the second finds the ports taken by the first.
        async with self._configuring:
            if self._ports is None:
                self._ports = await self._listen(config, self._dispatcher)
            return self._ports

    async def put_overrides(self, version: int, runtime: RuntimeOverrides) -> None:
        """Put newer overrides in force."""
        if self._dispatcher is not None:
            await self._dispatcher.put_overrides(version, runtime)

    async def is_configured(self) -> bool:
        """Whether the ports accept."""
        return self._ports is not None

    async def drain(self, deadline_s: float) -> None:
        """Take no new requests, let those in flight finish, and close the ports; at most ``deadline_s`` seconds."""
        if self._receivers is not None:
            await asyncio.gather(*(receiver.drain(deadline_s) for receiver in self._receivers))

    async def measure(self) -> Measurements:
        """Return this actor's metrics."""
        if self._dispatcher is None or self._receivers is None:
            return []
        measured = self._dispatcher.measure()
        measured.append(("millrace_settings_version", (), self._dispatcher.book.version))
        receptions: dict[str, Reception] = dict(
            zip(("grpc", "http"), (receiver.reception for receiver in self._receivers), strict=True)
        )
        for protocol, reception in receptions.items():
            for answer, count in reception.answers.items():
                measured.append(("millrace_requests_total", (protocol, str(answer)), count))
        return measured

    async def _listen(self, config: ServiceConfig, dispatcher: Dispatcher) -> Ports:
        def identified(values: Sequence[str]) -> TenantId | Refused:
            tenant = identify(values, config.single_tenant)
            return identity_refused(tenant) if isinstance(tenant, IdentityRefused) else tenant

        max_bytes = config.cluster.max_request_bytes
        limits = ReceiverLimits(max_request_bytes=max_bytes, max_json_bytes=min(max_bytes, 4 << 20))
        budget = BodyBudget(_BODIES_IN_FLIGHT * max_bytes)
        listen = config.listen
        grpc = OtlpGrpcReceiver(dispatcher, identified, str(listen.otlp_grpc), limits, budget)
        http = OtlpHttpReceiver(dispatcher, identified, str(listen.otlp_http), limits, budget)
        grpc_port = await grpc.start()
        try:
            http_port = await http.start()
        except Exception:
            await grpc.drain(0)
            raise
        self._receivers = (grpc, http)
        log.info("accepting spans", otlp_grpc=grpc_port, otlp_http=http_port)
        return Ports(grpc_port, http_port)


def _send_to(host: Any) -> Send:
    async def send(group: FrameGroup) -> Collection[int]:
        uncounted: tuple[int, ...] = await host.ingest.remote(group)
        return uncounted

    return send
