"""The tracer of a process, if there is one."""

from tenants.settings.tracing import TracingConfig
from tenants.tracing.spans import Tracer


def open_tracer(config: TracingConfig, actor: str, version: str) -> Tracer | None:
    """Begin to trace, if that is configured; while it is not, nothing of OpenTelemetry's SDK is imported.

    Args:
        config: where spans go, and how many.
        actor: the name of this process.
        version: of Millrace.
    """
    if not config.is_on:
        return None
    from tenants.tracing.otlp_tracer import OtlpTracer  # noqa: PLC0415

    return OtlpTracer.open(config, actor, version)
