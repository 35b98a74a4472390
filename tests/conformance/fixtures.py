"""The inputs that the contract's cases name (processors §6): F-BASE, L0, F-MYTH, F-VIRT and F-PAIR."""

from collections.abc import Mapping
from typing import Any, Final

from tests.traces import (
    CLIENT,
    CONSUMER,
    OK,
    PRODUCER,
    SECOND_NS,
    SERVER,
    Attributes,
    batch,
    plan,
    request,
    service_graphs_plan,
    span,
)

NOW_NS: Final = 1_700_000_000 * SECOND_NS
"""When requests arrive, unless a case says otherwise; F-BASE ends then."""

CALLS: Final = "traces_spanmetrics_calls_total"
LATENCY: Final = "traces_spanmetrics_latency"
SIZE: Final = "traces_spanmetrics_size_total"
TARGET_INFO: Final = "traces_target_info"
TOTAL: Final = "traces_service_graph_request_total"
FAILED: Final = "traces_service_graph_request_failed_total"
SERVER_SECONDS: Final = "traces_service_graph_request_server_seconds"
CLIENT_SECONDS: Final = "traces_service_graph_request_client_seconds"
MESSAGING_SECONDS: Final = "traces_service_graph_request_messaging_system_seconds"
CONNECTION_INFO: Final = "traces_service_graph_connection_info"
HOST_INFO: Final = "traces_host_info"

# F-BASE: ten or so equal spans of one service.

BASE_RESOURCE: Final = {"random.res.attr": "R", "service.name": "test-service"}
L0: Final = {
    "service": "test-service",
    "span_name": "test",
    "span_kind": "SPAN_KIND_CLIENT",
    "status_code": "STATUS_CODE_OK",
}


def base_span(attributes: Attributes = (), **changes: Any) -> Any:
    """Return the span of F-BASE; ``changes`` are arguments of :func:`tests.traces.span`."""
    settings: dict[str, Any] = {
        "name": "test",
        "kind": CLIENT,
        "status": OK,
        "message": "OK",
        "parent": bytes(8),
        "start_ns": NOW_NS - SECOND_NS,
        "end_ns": NOW_NS,
    }
    return span(attributes=attributes, **(settings | changes))


def lasting(duration_ns: int, attributes: Attributes = (), **changes: Any) -> Any:
    """Return the span of F-BASE with this duration."""
    return base_span(attributes, start_ns=NOW_NS - duration_ns, **changes)


def base_batch(count: int = 1, resource: Mapping[str, Any] | None = None, attributes: Attributes = ()) -> Any:
    """Return ``count`` x F-BASE; ``resource`` is added to the attributes of its resource."""
    return batch(BASE_RESOURCE | dict(resource or {}), *[base_span(attributes)] * count)


def base_request(count: int = 1, resource: Mapping[str, Any] | None = None, attributes: Attributes = ()) -> Any:
    """Return a request with nothing but :func:`base_batch`."""
    return request(base_batch(count, resource, attributes))


def graphs_plan(**settings: Any) -> dict[str, Any]:
    """Return a plan with service graphs only."""
    return plan(None, service_graphs_plan(**settings))


# F-MYTH: one trace with a call, a call to a database and a message.

MYTH_NS: Final = 1_658_320_854_930_000_000
"""When the requests of F-MYTH and F-VIRT arrive; spans whose end the contract leaves open end then."""
MYTH_TRACE: Final = bytes.fromhex("4290b5877a9930de79bb428365398ecc")
PRODUCED_NS: Final = 1_658_320_854_915_628_800
CONSUMED_NS: Final = 1_658_320_854_925_510_400
REQUESTER, MYTH_SERVER, RECORDER = "mythical-requester", "mythical-server", "mythical-recorder"

RS: Final = {"client": REQUESTER, "server": MYTH_SERVER}
SD: Final = {"client": MYTH_SERVER, "server": "postgres", "connection_type": "database"}
RR: Final = {"client": REQUESTER, "server": RECORDER, "connection_type": "messaging_system"}

POSTGRES: Final = {"db.name": "postgres", "db.system": "postgresql", "net.peer.name": "mythical-database"}
RABBIT: Final = {"messaging.system": "rabbitmq"}


def span_id(letter: str | bytes) -> bytes:
    """Return the 8-byte id that a letter stands for; no letter is no id, bytes are themselves."""
    if isinstance(letter, bytes):
        return letter
    return letter.encode().rjust(8, b"\x01") if letter else b""


def half(
    service: str | None,
    kind: int,
    own: str | bytes,
    parent: str | bytes = "",
    attributes: Attributes = (),
    *,
    duration_ns: int = 1,
    end_ns: int = MYTH_NS,
    trace_id: bytes = MYTH_TRACE,
    **changes: Any,
) -> Any:
    """Return the resource of one service with one span, half of an edge; None is a resource without a service."""
    one = span(
        kind=kind,
        trace_id=trace_id,
        span_id=span_id(own),
        parent=span_id(parent),
        start_ns=end_ns - duration_ns,
        end_ns=end_ns,
        attributes=attributes,
        **changes,
    )
    return batch({} if service is None else {"service.name": service}, one)


def myth(
    database: Mapping[str, Any] = POSTGRES, *, status: int = OK, everywhere: Mapping[str, Any] | None = None
) -> Any:
    """Return F-MYTH.

    Args:
        database: the attributes of its span 3.
        status: the status of spans 1 to 3.
        everywhere: attributes that all spans have besides their own.
    """
    more = dict(everywhere or {})
    beast = {"beast": "manticore"}
    peer, ipv4 = {"net.peer.name": "loki"}, {"peer.ipv4": "172.22.0.6"}
    database, rabbit = dict(database) | more, RABBIT | more
    consumed_end_ns = CONSUMED_NS + 699392
    return request(
        half(REQUESTER, CLIENT, "A", "", beast | {"god": "ares"} | more, duration_ns=45834496, status=status),
        half(MYTH_SERVER, SERVER, "B", "A", beast | {"god": "zeus"} | more, duration_ns=29986048, status=status),
        half(MYTH_SERVER, CLIENT, "C", "B", database, duration_ns=23781376, status=status),
        half(MYTH_SERVER, CLIENT, "D", "B", peer | more, duration_ns=3855104),
        half(MYTH_SERVER, CLIENT, "E", "D", ipv4 | more, duration_ns=802304),
        half(REQUESTER, PRODUCER, "P", "X", rabbit, duration_ns=68864, end_ns=PRODUCED_NS),
        half(REQUESTER, CLIENT, "F", "A", more, duration_ns=13806080),
        half(REQUESTER, CLIENT, "G", "A", more, duration_ns=6227968),
        half(RECORDER, CONSUMER, "Q", "P", rabbit, duration_ns=699392, end_ns=consumed_end_ns),
    )


def virtual() -> Any:
    """Return F-VIRT: three halves whose other side sends no spans."""
    payments = {"peer.service": "external-payments-platform"}
    producer = {"peer.service": "external-producer"}
    return request(
        half(MYTH_SERVER, SERVER, "A", duration_ns=45834496),
        half(REQUESTER, CLIENT, "B", "A", payments, duration_ns=705792),
        half("internal-consumer", CONSUMER, "C", "", producer, trace_id=b"\x01" * 16),
    )


# F-PAIR: one call between two services, in the first nanoseconds of time.

PAIR_NS: Final = 2
"""When the requests of F-PAIR arrive."""
PAIR: Final = {"client": "svc-a", "server": "svc-b"}
EXTERNAL: Final = {"client": "svc-a", "server": "external-peer", "connection_type": "virtual_node"}


def pair_half(
    service: str, kind: int, own: bytes, parent: bytes = b"", attributes: Attributes = (), **changes: Any
) -> Any:
    """Return a half of the trace of F-PAIR, with ids as they are."""
    times: dict[str, Any] = {"duration_ns": 1, "end_ns": PAIR_NS, "trace_id": b"\x01"}
    return half(service, kind, own, parent, attributes, **(times | changes))


def pair_client(attributes: Attributes = (), *, service: str = "svc-a", kind: int = CLIENT) -> Any:
    """Return the client half of F-PAIR."""
    return pair_half(service, kind, b"\x09", b"", attributes)


def pair_server(
    attributes: Attributes = (),
    *,
    service: str = "svc-b",
    kind: int = SERVER,
    own: bytes = b"\x0a",
    parent: bytes = b"\x09",
) -> Any:
    """Return the server half of F-PAIR."""
    return pair_half(service, kind, own, parent, attributes)
