"""A tenant's way out: collection, batches, and remote write with its own queue and back-off.

``CollectionSchedule`` says when a tenant's series are collected. What the engine then encodes goes as
``Batch`` es to the tenant's ``TenantEndpoint``, which has one ``EndpointSender`` per ``EndpointConfig``. All
senders of a process share one ``Surroundings``. Nothing here knows what is inside a batch.
"""

from tenants.endpoint.batch import Batch
from tenants.endpoint.collection import CollectionSchedule
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters, EndpointState
from tenants.endpoint.errors import EndpointError, InvalidEndpointError
from tenants.endpoint.headers import is_protected
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Clock, Surroundings, SystemClock
from tenants.endpoint.tenant_endpoint import TenantEndpoint, TenantEndpointSnapshot

__all__ = [
    "Batch",
    "Clock",
    "CollectionSchedule",
    "EndpointConfig",
    "EndpointCounters",
    "EndpointError",
    "EndpointSender",
    "EndpointState",
    "HttpClients",
    "InvalidEndpointError",
    "Surroundings",
    "SystemClock",
    "TenantEndpoint",
    "TenantEndpointSnapshot",
    "is_protected",
]
