"""The messages of Remote-Write, and which of them an endpoint is sent."""

from enum import StrEnum


class ProtobufMessage(StrEnum):
    """A message of Remote-Write, by the name that the content type gives it (remote-write §1.3)."""

    V1 = "prometheus.WriteRequest"
    V2 = "io.prometheus.write.v2.Request"

    @property
    def version(self) -> str:
        """What ``X-Prometheus-Remote-Write-Version`` says."""
        return "0.1.0" if self is ProtobufMessage.V1 else "2.0.0"
