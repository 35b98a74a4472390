"""Span names and attributes as the OpenTelemetry semantic conventions (1.30 and later) spell them.

The only place of the demo that knows attribute names. It invents no data: what a span says follows from the
operation or the step it belongs to, and from whether it failed.
"""

from collections.abc import Mapping

from cluster.demo.model import Database, External, Flavour, Operation, Protocol, Query, Service

AttributeValue = str | int
Attributes = Mapping[str, AttributeValue]

_HTTP_ANSWER: Mapping[bool, Attributes] = {
    False: {"http.response.status_code": 200},
    True: {"http.response.status_code": 503, "error.type": "503"},
}
_GRPC_ANSWER: Mapping[bool, Attributes] = {
    False: {"rpc.grpc.status_code": 0},
    True: {"rpc.grpc.status_code": 14, "error.type": "UNAVAILABLE"},
}
_PORTS = {Protocol.HTTP: 8080, Protocol.GRPC: 50051}


def resource(flavour: Flavour, service: Service, region: str, replica: int) -> Attributes:
    """Describe one instance of a service."""
    return {
        "service.name": service.name,
        "service.namespace": flavour.tenant,
        "service.version": service.version,
        "service.instance.id": f"{service.name}-{region}-{replica}",
        "deployment.environment.name": flavour.environment,
        "cloud.region": region,
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": service.language,
        "telemetry.sdk.version": "1.30.0",
    }


def caller_span_name(operation: Operation) -> str:
    """Name the span of the side that calls; HTTP clients know the method, not the route."""
    if operation.protocol is Protocol.HTTP:
        return operation.name.split(" ", 1)[0]
    return f"send {operation.name}" if operation.protocol is Protocol.QUEUE else operation.name


def handler_span_name(operation: Operation) -> str:
    """Name the span of the side that is called."""
    return f"process {operation.name}" if operation.protocol is Protocol.QUEUE else operation.name


def caller(operation: Operation, flavour: Flavour, *, has_failed: bool) -> Attributes:
    """Attributes of the CLIENT or PRODUCER span of a call."""
    if operation.protocol is Protocol.QUEUE:
        return _messaging(operation, flavour, "send")
    return {
        "server.address": operation.service,
        "server.port": _PORTS[operation.protocol],
        **_exchange(operation, has_failed=has_failed),
    }


def handler(operation: Operation, flavour: Flavour, *, has_failed: bool) -> Attributes:
    """Attributes of the SERVER or CONSUMER span of a call."""
    if operation.protocol is Protocol.QUEUE:
        return _messaging(operation, flavour, "process")
    if operation.protocol is Protocol.HTTP:
        route = operation.name.split(" ", 1)[1]
        return {"http.route": route, "url.scheme": "http", **_exchange(operation, has_failed=has_failed)}
    return _exchange(operation, has_failed=has_failed)


def query(step: Query, database: Database, *, has_failed: bool) -> Attributes:
    """Attributes of the CLIENT span of a database call."""
    operation, collection = step.statement.split(" ", 1)
    attributes: Attributes = {
        "db.system.name": database.system,
        "db.namespace": database.namespace,
        "db.operation.name": operation,
        "db.collection.name": collection,
        "server.address": database.host,
        "server.port": database.port,
    }
    return {**attributes, "error.type": "timeout"} if has_failed else attributes


def external(step: External, *, has_failed: bool) -> Attributes:
    """Attributes of the CLIENT span of a call to somebody who sends no spans."""
    return {
        "peer.service": step.peer,
        "server.address": f"api.{step.peer}.example",
        "server.port": 443,
        "http.request.method": step.request.split(" ", 1)[0],
        **_HTTP_ANSWER[has_failed],
    }


def _exchange(operation: Operation, *, has_failed: bool) -> Attributes:
    if operation.protocol is Protocol.HTTP:
        return {"http.request.method": operation.name.split(" ", 1)[0], **_HTTP_ANSWER[has_failed]}
    rpc_service, method = operation.name.split("/", 1)
    return {
        "rpc.system": "grpc",
        "rpc.service": rpc_service,
        "rpc.method": method,
        **_GRPC_ANSWER[has_failed],
    }


def _messaging(operation: Operation, flavour: Flavour, kind: str) -> Attributes:
    return {
        "messaging.system": flavour.messaging_system,
        "messaging.destination.name": operation.name,
        "messaging.operation.type": kind,
        "messaging.operation.name": kind,
    }
