"""Spans of the edges of processors §6, and what a tenant makes of them; for the model and for the engine."""

from typing import Any

import pytest

from tests.traces import CLIENT, CONSUMER, PRODUCER, SECOND_NS, SERVER, batch, plan, request, service_graphs_plan, span

MYTH_TRACE = bytes.fromhex("4290b5877a9930de79bb428365398ecc")
MYTH_NS = 1_658_320_854_930_000_000
RS = {"client": "mythical-requester", "server": "mythical-server"}
SD = {"client": "mythical-server", "server": "postgres", "connection_type": "database"}
RR = {
    "client": "mythical-requester",
    "server": "mythical-recorder",
    "connection_type": "messaging_system",
}
POSTGRES = {"db.name": "postgres", "db.system": "postgresql", "net.peer.name": "mythical-database"}
RABBIT = {"messaging.system": "rabbitmq"}


def span_id(letter: str | bytes) -> bytes:
    """Return the 8-byte id that a letter stands for; no letter is no id, bytes are themselves."""
    if isinstance(letter, bytes):
        return letter
    return letter.encode().rjust(8, b"\x01") if letter else b""


def half(
    service: str | None,
    kind: int,
    own: str,
    parent: str | bytes = "",
    attributes: Any = (),
    *,
    duration_ns: int = 1,
    end_ns: int = MYTH_NS,
    **more: Any,
) -> Any:
    """Return one span with its resource."""
    ids = {"trace_id": MYTH_TRACE, "span_id": span_id(own), "parent": span_id(parent)}
    times = {"start_ns": end_ns - duration_ns, "end_ns": end_ns}
    resource = {} if service is None else {"service.name": service}
    return batch(resource, span(kind=kind, attributes=attributes, **(ids | times | more)))


def myth(database: Any = POSTGRES, status: int | None = None) -> Any:
    """Return F-MYTH; ``status`` is that of the client, the server and the database client."""
    consumed_ns, produced_ns = 1_658_320_854_925_510_400, 1_658_320_854_915_628_800
    requester, server = "mythical-requester", "mythical-server"
    beast = {"beast": "manticore", "god": "ares"}
    return request(
        half(requester, CLIENT, "A", "", beast, duration_ns=45834496, status=status),
        half(server, SERVER, "B", "A", beast | {"god": "zeus"}, duration_ns=29986048, status=status),
        half(server, CLIENT, "C", "B", database, duration_ns=23781376, status=status),
        half(server, CLIENT, "D", "B", {"net.peer.name": "loki"}, duration_ns=3855104),
        half(server, CLIENT, "E", "D", {"peer.ipv4": "172.22.0.6"}, duration_ns=802304),
        half(requester, PRODUCER, "P", "X", RABBIT, duration_ns=68864, end_ns=produced_ns),
        half(requester, CLIENT, "F", "A", duration_ns=13806080),
        half(requester, CLIENT, "G", "A", duration_ns=6227968),
        half(
            "mythical-recorder",
            CONSUMER,
            "Q",
            "P",
            RABBIT,
            duration_ns=699392,
            end_ns=consumed_ns + 699392,
        ),
    )


def graph(implementation: Any, settings: dict[str, Any], *requests: Any, sweep: bool = True) -> Any:
    """Return a tenant after these requests and, with ``sweep``, after every open edge has expired."""
    tenant = implementation(plan(service_graphs=service_graphs_plan(**settings)))
    for one in requests:
        tenant.push(one, MYTH_NS)
    tenant.flush(MYTH_NS + (10 * SECOND_NS if sweep else 0))
    return tenant


def values(tenant: Any, *metrics: str) -> Any:
    """Return the series of each metric, named without its common prefix, by their other labels."""
    series = tenant.collect().series
    names = [("__name__", f"traces_service_graph_request_{metric}") for metric in metrics]
    found = [{key - {name}: value for key, value in series.items() if name in key} for name in names]
    return found[0] if len(found) == 1 else found


def key(labels: dict[str, str], **more: str) -> frozenset[tuple[str, str]]:
    """Return the key of a series in :func:`values`."""
    return frozenset((labels | more).items())


PAIR_CLIENT = half("svc-a", CLIENT, "9")
PAIR_SERVER = half("svc-b", SERVER, "a", "9")
PAIR = {"client": "svc-a", "server": "svc-b"}
BOTH_ORDERS = pytest.mark.parametrize("step", [1, -1], ids=["client first", "server first"])
