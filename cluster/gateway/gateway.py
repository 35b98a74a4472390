"""The gateway: an async actor with the OTLP ports."""

import asyncio
import contextlib
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cluster.gateway.body_budget import BodyBudget
from cluster.gateway.dispatch import Dispatcher
from cluster.gateway.host_lane import GroupBounds, HostCalls
from cluster.gateway.intake import ReceiverLimits, Reception
from cluster.gateway.otlp_grpc import OtlpGrpcReceiver
from cluster.gateway.otlp_http import OtlpHttpReceiver
from cluster.gateway.refusal import Refused, identity_refused
from cluster.log_setup import set_up_logging
from cluster.measurements import Measurements
from cluster.placement import Routes
from cluster.process_measurements import measure_process
from cluster.tls import certificates
from cluster.version import VERSION
from tenants.identity.authenticator import Authenticator
from tenants.identity.identification import Identification
from tenants.identity.tenant_id import TenantId
from tenants.identity.token_table import TokenTable
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.profile import ProfileBook
from tenants.settings.in_force import OverridesChange
from tenants.settings.service_config import ServiceConfig
from tenants.tracing.opening import open_tracer
from tenants.tracing.spans import CLOSE_S, Tracer

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_BODIES_IN_FLIGHT = 16
"""The memory for bodies, in requests of the largest size."""

_BODIES_DELAYED = _BODIES_IN_FLIGHT // 4
"""The part of it for requests whose answers are held back: a tenant that is slowed must not slow the others."""


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
    controller configures it anew, and pushes the tokens. ``configure`` and everything that is put may be repeated.
    Everything runs in one event loop.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._dispatcher: Dispatcher | None = None
        self._tracer: Tracer | None = None
        self._receivers: tuple[OtlpGrpcReceiver, OtlpHttpReceiver] | None = None
        self._ports: Ports | None = None
        self._configuring = asyncio.Lock()
        self._authenticator = Authenticator(lambda: time.time_ns() // 1_000_000)
        self._identification: Identification | None = None

    async def configure(
        self,
        config: ServiceConfig,
        routes: Routes,
        hosts: Mapping[str, Any],
        overrides: OverridesChange,
        gateways: int = 1,
    ) -> Ports:
        """Listen, or go on with newer routes and overrides, of which this is the whole; returns the ports.

        ``gateways`` share the rates of tenants where the strategy is global (tenancy §4.2).

        Raises:
            CannotListenError: an address cannot be had; nothing is listening.
            StartError: a certificate is no good; nothing is listening.
        """
        set_up_logging(config.log, self._name)
        calls = {name: _calls_of(host) for name, host in hosts.items()}
        if self._dispatcher is None:
            self._tracer = open_tracer(config.tracing, self._name, VERSION)
            book = ProfileBook(config)
            bounds = GroupBounds(config.cluster.group_bytes, config.cluster.group_wait.seconds)
            self._dispatcher = Dispatcher(
                book,
                routes,
                calls,
                bounds,
                time.time_ns,
                poll_s=config.cluster.flush_interval.seconds,
                monotonic_ns=time.monotonic_ns,
                random=random.random,
                gateways=gateways,
                max_delayed_bytes=_BODIES_DELAYED * config.cluster.max_request_bytes,
                max_retained_bytes=config.cluster.retained_bytes,
                is_traced=self._tracer is not None,
            )
        self._dispatcher.put_routes(routes, calls)
        self._dispatcher.put_gateways(gateways)
        await self._dispatcher.put_overrides(overrides)
        # One call at a time, or the second finds the ports taken by the first.
        async with self._configuring:
            if self._ports is None:
                self._ports = await self._listen(config, self._dispatcher)
            return self._ports

    async def put_overrides(self, change: OverridesChange) -> bool:
        """Put newer overrides in force; false if the version that they change is not here."""
        return self._dispatcher is not None and await self._dispatcher.put_overrides(change)

    async def put_routes(self, routes: Routes, hosts: Mapping[str, Any]) -> bool:
        """Send to these shard hosts from now on, unless the routes are older; false if the process knows nothing."""
        if self._dispatcher is None:
            return False
        self._dispatcher.put_routes(routes, {name: _calls_of(host) for name, host in hosts.items()})
        return True

    async def put_gateways(self, gateways: int) -> bool:
        """Share the rates of tenants with so many gateways; false if the process knows nothing."""
        if self._dispatcher is None:
            return False
        self._dispatcher.put_gateways(gateways)
        return True

    async def is_done_with(self, host: str) -> bool:
        """Whether nothing is needed any more of a shard host that is not in the routes."""
        return self._dispatcher is None or self._dispatcher.is_done_with(host)

    async def put_tokens(self, version: int, table: TokenTable) -> bool:
        """Put newer tokens in force, of which this is the whole; older ones are ignored. Always true.

        While requests need tokens, all are told to try again until the first call.
        """
        self._authenticator.put_tokens(version, table)
        return True

    async def is_configured(self) -> bool:
        """Whether the ports accept."""
        return self._ports is not None

    async def drain(self, deadline_s: float) -> bool:
        """Take no new requests, let those in flight finish, close the ports, and wait for the journal.

        At most ``deadline_s`` seconds.

        Returns:
            Whether everything that was acknowledged is journalled: then no shard host may lose it any more.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        is_settled = True
        if self._dispatcher is not None:
            self._dispatcher.end_delays()
        if self._receivers is not None:
            await asyncio.gather(*(receiver.drain(deadline_s) for receiver in self._receivers))
        if self._dispatcher is not None:
            # Half of what is left: a shard that does not answer must not keep the journal from the others.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((ends_at - loop.time()) / 2):
                    await self._dispatcher.tell_refused()
            is_settled = await self._dispatcher.settle(max(0.0, ends_at - loop.time()))
        if not is_settled:
            log.warning("not everything that was accepted is journalled yet")
        self._authenticator.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close, min(CLOSE_S, max(0.0, ends_at - loop.time())))
        return is_settled

    async def measure(self) -> Measurements:
        """Return this actor's metrics."""
        if self._dispatcher is None or self._receivers is None:
            return []
        measured = self._dispatcher.measure() + measure_process()
        measured.append(("millrace_settings_version", (), self._dispatcher.book.version))
        if self._tracer is not None:
            measured += self._tracer.measure()
        receptions: dict[str, Reception] = dict(
            zip(("grpc", "http"), (receiver.reception for receiver in self._receivers), strict=True)
        )
        for protocol, reception in receptions.items():
            for answer, count in reception.answers.items():
                measured.append(("millrace_requests_total", (protocol, str(answer)), count))
        if self._identification is not None:
            for reason, count in self._identification.denials.items():
                measured.append(("millrace_authentication_failures_total", (reason.value,), count))
        return measured

    async def _listen(self, config: ServiceConfig, dispatcher: Dispatcher) -> Ports:
        identification = Identification(config.auth.mode, config.single_tenant, self._authenticator)

        async def identified(authorization: Sequence[str], tenants: Sequence[str]) -> TenantId | Refused:
            sender = await identification.sender(authorization, tenants)
            return sender if isinstance(sender, TenantId) else identity_refused(sender)

        max_bytes = config.cluster.max_request_bytes
        limits = ReceiverLimits(max_request_bytes=max_bytes, max_json_bytes=min(max_bytes, 4 << 20))
        budget = BodyBudget(_BODIES_IN_FLIGHT * max_bytes)
        listen = config.listen
        grpc_tls = certificates(listen.otlp_grpc_tls, "listen.otlp_grpc_tls")
        http_tls = certificates(listen.otlp_http_tls, "listen.otlp_http_tls")
        tracer = self._tracer
        grpc = OtlpGrpcReceiver(
            dispatcher, identified, str(listen.otlp_grpc), limits, budget, tls=grpc_tls, tracer=tracer
        )
        http = OtlpHttpReceiver(
            dispatcher, identified, str(listen.otlp_http), limits, budget, tls=http_tls, tracer=tracer
        )
        grpc_port = await grpc.start()
        try:
            http_port = await http.start()
        except Exception:
            await grpc.drain(0)
            raise
        self._receivers = (grpc, http)
        self._identification = identification
        log.info("accepting spans", otlp_grpc=grpc_port, otlp_http=http_port)
        return Ports(grpc_port, http_port)


def _calls_of(host: Any) -> HostCalls:
    async def send(group: FrameGroup) -> Sequence[Place | None]:
        places: tuple[Place | None, ...] = await host.ingest.remote(group)
        return places

    async def durable(keys: Collection[ShardKey]) -> Mapping[ShardKey, Place]:
        places: dict[ShardKey, Place] = await host.durable.remote(keys)
        return places

    async def adopt(keys: Collection[ShardKey]) -> Collection[ShardKey]:
        here: frozenset[ShardKey] = await host.adopt.remote(keys)
        return here

    return HostCalls(send, durable, adopt)
