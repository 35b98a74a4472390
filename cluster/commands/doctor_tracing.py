"""What ``millrace doctor`` looks at behind ``tracing.endpoint``: whether it takes our own spans. It is sent none."""

from collections.abc import Iterator, Mapping

from cluster.commands.finding import Finding, fail, ok, warn
from cluster.version import VERSION
from tenants.settings.tracing import TracingConfig

_CHECK = "tracing"


def tracing_findings(config: TracingConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Send one request without spans, if anything is traced. Blocks for some seconds at most."""
    if not config.is_on:
        return
    # Imports OpenTelemetry's SDK, which who does not trace does without.
    from tenants.tracing.span_post import SpanPost  # noqa: PLC0415

    post = SpanPost(config, VERSION, environ)
    try:
        posted = post.send([])
    finally:
        post.close()
    if not posted.problem:
        yield ok(_CHECK, f"{config.url}: takes a request without spans")
    elif posted.problem.startswith("http_") and not posted.is_final:
        yield warn(
            _CHECK, f"{config.url}: {posted.problem}; it is reached, and takes no spans now", "ask whoever runs it"
        )
    else:
        yield fail(_CHECK, f"{config.url}: {posted.problem}", "see endpoint, headers and tls_config of tracing")
