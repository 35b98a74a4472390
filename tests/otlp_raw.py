"""OTLP trace messages whose string fields are bytes.

Clients send text that is not UTF-8, and the rules for it are part of what is tested (processors §0.5), but
protobuf for Python neither writes nor reads such text in a ``string`` field. The wire format knows no
difference between ``string`` and ``bytes``, so these classes are made from the published OTLP descriptors
with that one change. They hold no rules of their own: what a message means is said in ``tests.reference``.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2


def _messages(message: DescriptorProto) -> Iterator[DescriptorProto]:
    yield message
    for nested in message.nested_type:
        yield from _messages(nested)


def _pool_without_strings() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, trace_pb2, trace_service_pb2):  # in the order of their imports
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            for field in (field for part in _messages(message) for field in part.field):
                if field.type == FieldDescriptorProto.TYPE_STRING:
                    field.type = FieldDescriptorProto.TYPE_BYTES
        pool.Add(file)
    return pool


_POOL = _pool_without_strings()


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"opentelemetry.proto.{name}"))


AnyValue = _message_class("common.v1.AnyValue")
KeyValue = _message_class("common.v1.KeyValue")
Resource = _message_class("resource.v1.Resource")
Span = _message_class("trace.v1.Span")
ScopeSpans = _message_class("trace.v1.ScopeSpans")
ResourceSpans = _message_class("trace.v1.ResourceSpans")
ExportTraceServiceRequest = _message_class("collector.trace.v1.ExportTraceServiceRequest")


def parse(request: Message | bytes) -> Any:
    """Return a request, given as bytes or as a message of either kind, with bytes for strings.

    Unknown fields are dropped, as a receiver does that decodes before it measures (processors §1.4).

    Raises:
        google.protobuf.message.DecodeError: the bytes are not an ExportTraceServiceRequest.
    """
    body = request if isinstance(request, bytes) else request.SerializeToString()
    parsed = ExportTraceServiceRequest.FromString(body)
    parsed.DiscardUnknownFields()
    return parsed
