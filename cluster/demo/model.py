"""The words a shop is described in: services, operations, what an operation does, and what goes wrong when.

Pure data with its own checks; :mod:`cluster.demo.shop` plays it. It refuses descriptions that cannot be
played: names that lead nowhere and operations that call themselves.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Latency:
    """A log-normal time: half of the draws are below ``median_ms``, ``spread`` (sigma) widens the tail."""

    median_ms: float
    spread: float = 0.4

    def draw_ns(self, rng: random.Random) -> int:
        """Draw one time in nanoseconds, at least one microsecond."""
        return max(1_000, int(rng.lognormvariate(math.log(self.median_ms), self.spread) * _NS_PER_MS))


@dataclass(frozen=True, slots=True)
class Service:
    """One instrumented service; ``replicas`` instances of it report, each with its own resource."""

    name: str
    language: str
    version: str
    replicas: int = 2


@dataclass(frozen=True, slots=True)
class Database:
    """A database that sends no spans: it is seen only from its clients."""

    host: str
    system: str
    namespace: str
    port: int


class Protocol(Enum):
    """How an operation is reached; decides the attributes of both spans of a call."""

    HTTP = "http"
    GRPC = "grpc"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Call:
    """Call an operation of another service and wait for it."""

    operation: str
    chance: float = 1.0
    is_optional: bool = False
    """The caller goes on when this fails, as a page without recommendations does."""


@dataclass(frozen=True, slots=True)
class Query:
    """Ask a database. ``statement`` is operation and collection, such as ``SELECT products``."""

    database: str
    statement: str
    work: Latency
    chance: float = 1.0
    failure_rate: float = 0.0
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class External:
    """Call an HTTP API of somebody who sends no spans: the graph knows it by ``peer.service`` alone."""

    peer: str
    request: str
    work: Latency
    chance: float = 1.0
    failure_rate: float = 0.0
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message and go on; ``operation`` consumes it after ``delay``.

    One consumer per message: one client half pairs with exactly one server half (processors §2.3).
    """

    destination: str
    operation: str
    delay: Latency
    chance: float = 1.0


Step = Call | Query | External | Publish


@dataclass(frozen=True, slots=True)
class Operation:
    """What a service does for one kind of request: its own work, spread round its steps.

    ``name`` is ``METHOD /route`` for HTTP, ``package.Service/Method`` for gRPC, the destination for a queue.
    """

    service: str
    name: str
    work: Latency
    steps: tuple[Step, ...] = ()
    failure_rate: float = 0.0
    protocol: Protocol = Protocol.HTTP


@dataclass(frozen=True, slots=True)
class Entry:
    """A way in from outside: the caller sends no spans; ``peer`` names it where the service knows it."""

    operation: str
    weight: float
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """Trouble that comes and goes: the target (service, database or external peer) is slow and fails more."""

    target: str
    every_s: float
    begins_after_s: float
    lasts_s: float
    slowdown: float
    failure_rate: float

    def is_active(self, age_s: float) -> bool:
        """Tell whether the trouble is on when the shop has been open for ``age_s`` seconds."""
        return 0 <= (age_s % self.every_s) - self.begins_after_s < self.lasts_s


@dataclass(frozen=True, slots=True)
class Flavour:
    """A whole shop of one tenant.

    Raises:
        ValueError: a name that nothing answers to, or operations that call each other in a circle.
    """

    tenant: str
    about: str
    traces_per_s: float
    services: tuple[Service, ...]
    databases: tuple[Database, ...]
    operations: Mapping[str, Operation]
    entries: tuple[Entry, ...]
    incident: Incident
    messaging_system: str
    regions: tuple[str, ...] = ("eu-central-1",)
    environment: str = "production"

    def __post_init__(self) -> None:
        services = {service.name for service in self.services}
        databases = {database.host for database in self.databases}
        for entry in self.entries:
            self._check_operation(entry.operation, services, databases, ())

    def _check_operation(self, key: str, services: set[str], databases: set[str], path: tuple[str, ...]) -> None:
        if key in path:
            raise ValueError(f"{self.tenant}: operations call in a circle: {' > '.join((*path, key))}")
        operation = self.operations.get(key)
        if operation is None:
            raise ValueError(f"{self.tenant}: no operation {key!r}, wanted by {' > '.join(path) or 'an entry'}")
        if operation.service not in services:
            raise ValueError(f"{self.tenant}: {key} belongs to the unknown service {operation.service!r}")
        for step in operation.steps:
            if isinstance(step, Query):
                if step.database not in databases:
                    raise ValueError(f"{self.tenant}: {key} asks the unknown database {step.database!r}")
            elif not isinstance(step, External):
                self._check_operation(step.operation, services, databases, (*path, key))
