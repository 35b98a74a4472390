"""The demo's shops, played into a service: the seconds that have just passed, as fast as they are taken."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cluster.demo.model import Call, External, Flavour, Publish, Query
from cluster.demo.shop import Shop
from cluster.demo.traffic import Player, Refusal, Send, grpc_send

_NS_PER_S: Final = 1_000_000_000
_TICK_NS: Final = _NS_PER_S // 4
_SEEDS: Final = (1, 2)


def play(flavour: Flavour, port: int, seconds: int, halfway: Callable[[], object]) -> list[bytes]:
    """Send what the shop's services would have sent in the last ``seconds``; return the requests. Blocks.

    Each half is of a shop of its own: what the first leaves open is never ended, so no half of an edge waits for
    ``halfway`` to return, however long that takes.

    Args:
        flavour: the shop.
        port: of OTLP/gRPC.
        seconds: of the past.
        halfway: called when half of it is sent.

    Raises:
        AssertionError: not every span was taken at once.
    """
    sent: list[bytes] = []
    half_ns = seconds * _NS_PER_S // 2
    opened_ns = time.time_ns() - 2 * half_ns
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        deliver = grpc_send(channel, flavour.tenant)

        def send(request: ExportTraceServiceRequest) -> int | Refusal:
            answer = deliver(request)
            assert answer == 0, answer
            sent.append(request.SerializeToString())
            return answer

        _play(Shop(flavour, _SEEDS[0], opened_ns), opened_ns, half_ns, send)
        halfway()
        _play(Shop(flavour, _SEEDS[1], opened_ns), opened_ns + half_ns, half_ns, send)
    return sent


def _play(shop: Shop, from_ns: int, duration_ns: int, send: Send) -> None:
    """Let the shop send what it would have sent from one time on, as fast as it is taken."""
    clock_ns = from_ns
    player = Player(
        shop,
        traces_per_s=shop.flavour.traces_per_s,
        send=send,
        clock_ns=lambda: clock_ns,
        pause=lambda _seconds: False,
        rng=random.Random(_SEEDS[0]),
    )
    for _ in range(duration_ns // _TICK_NS):
        clock_ns += _TICK_NS
        player.tick()


def edges(flavour: Flavour) -> set[tuple[str, str]]:
    """Return who calls whom in the shop, as the service graph names them: client and server."""
    found: set[tuple[str, str]] = set()
    for entry in flavour.entries:
        # Of a caller without spans only what the called side says of it is known, or that it is a user.
        found.add((entry.peer or "user", flavour.operations[entry.operation].service))
        found |= set(_edges_below(flavour, entry.operation))
    return found


def _edges_below(flavour: Flavour, key: str) -> Iterator[tuple[str, str]]:
    operation = flavour.operations[key]
    for step in operation.steps:
        if isinstance(step, Query):
            yield operation.service, step.database
        elif isinstance(step, External):
            yield operation.service, step.peer
        elif isinstance(step, Call | Publish):
            yield operation.service, flavour.operations[step.operation].service
            yield from _edges_below(flavour, step.operation)
