"""The service's log: one line on standard error for each event that an operator cares about."""

import logging
import sys
from typing import TextIO, cast

import structlog

from cluster.log_pipe import LineWriter, open_log_pipe
from tenants.settings.service_config import LogConfig

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up_logging(config: LogConfig, process: str) -> None:
    """Direct this process's events to the service's standard error; ``process`` is on every line. Can be repeated."""
    pipe = open_log_pipe()
    renderers: list[structlog.typing.Processor]
    # Tracebacks without locals: they hold headers, and with them secrets.
    if config.format == "json":
        as_data = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderers = [structlog.processors.ExceptionRenderer(as_data), structlog.processors.JSONRenderer()]
    else:
        tracebacks = structlog.dev.plain_traceback
        renderers = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=tracebacks)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
            _named(process),
            *([_told_of_dropped_lines(pipe)] if pipe else []),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", pipe) if pipe else sys.stderr),
        cache_logger_on_first_use=False,
    )


def _named(process: str) -> structlog.typing.Processor:
    def add_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("process", process)
        return event

    return add_process


def _told_of_dropped_lines(pipe: LineWriter) -> structlog.typing.Processor:
    def add_dropped(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if pipe.dropped:
            event["dropped_lines"] = pipe.dropped
        return event

    return add_dropped
