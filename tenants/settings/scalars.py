"""Values that are written as text in a settings file: durations, addresses, and the bounds of buckets.

Each type reads exactly one notation and prints it back; nothing is rounded, guessed or clipped.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from tenants.settings.schema import SECONDS

_GO_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DAY_NS = 24 * _GO_UNITS_NS["h"]
_CALENDAR_UNITS_NS = _GO_UNITS_NS | {"d": _DAY_NS, "w": 7 * _DAY_NS, "y": 365 * _DAY_NS}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([a-zµμ]+)")
_MAX_TEXT = 64  # keeps Decimal exact and a hostile number cheap
_DURATION_NOTATION = core_schema.union_schema(
    [
        core_schema.str_schema(
            pattern=r"^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+)$", max_length=_MAX_TEXT
        ),
        core_schema.int_schema(),
    ]
)

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time, exact to the nanosecond.

    Read from a Go-style string (``300ms``, ``15s``, ``1h30m``) or whole nanoseconds (tenancy §2.3 "Scalars").
    """

    ns: int

    @property
    def seconds(self) -> float:
        """The length in seconds, for timers."""
        return self.ns / 1e9

    @classmethod
    def parse(cls, value: object, *, calendar_units: bool = False) -> Self:
        """Read a duration.

        Args:
            value: a Duration, a string, or whole nanoseconds.
            calendar_units: also take ``d``, ``w`` and ``y`` (365 days), as Prometheus does.

        Raises:
            ValueError: the value is none of these; the message says what is.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(value)
        units = _CALENDAR_UNITS_NS if calendar_units else _GO_UNITS_NS
        ns = _parse_ns(value, units) if isinstance(value, str) and len(value) <= _MAX_TEXT else None
        if ns is None:
            examples = "300ms, 15s, 1h30m or 2d" if calendar_units else "300ms, 15s or 1h30m"
            raise ValueError(f"should be a duration such as {examples}, or whole nanoseconds")
        return cls(ns)

    def __str__(self) -> str:
        """Return the shortest Go-style text that reads back as the same length."""
        if self.ns == 0:
            return "0s"
        rest, text = abs(self.ns), "-" if self.ns < 0 else ""
        for unit in ("h", "m", "s", "ms", "us", "ns"):
            count, rest = divmod(rest, _GO_UNITS_NS[unit])
            text += f"{count}{unit}" if count else ""
        return text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic to read with :meth:`parse` and to write the text."""
        return _text_schema(cls.parse, _DURATION_NOTATION)


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where a listener binds: ``host:port``, an IPv6 host in brackets, port 0 for any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``host:port``.

        Raises:
            ValueError: the value is not an address; the message says what is wrong with it.
        """
        if isinstance(value, cls):
            return value
        host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if not colon:
            raise ValueError("should be host:port, such as 127.0.0.1:4317 or '[::1]:4317'")
        if not host:
            raise ValueError("names no host: write 127.0.0.1 for this machine only, 0.0.0.0 for every interface")
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError("should end in a port from 0 to 65535 (0: any free port)")
        return cls(_checked_host(host), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic to read with :meth:`parse` and to write the text."""
        return _text_schema(cls.parse)


@dataclass(frozen=True, slots=True)
class DurationBounds:
    """Annotation of a duration: from ``lowest`` to ``highest``, both allowed."""

    lowest: Duration
    highest: Duration

    def check(self, value: Duration) -> Duration:
        """Return the duration; raise ValueError if it is out of bounds."""
        if not self.lowest <= value <= self.highest:
            raise ValueError(f"should be {self}, not {value}")
        return value

    def __str__(self) -> str:
        return f"from {self.lowest} to {self.highest}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic to check what it has read."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say the bounds in words: no schema of JSON compares durations."""
        return {**handler(schema), "description": f"{self}"}


def between(low: str, high: str) -> DurationBounds:
    """Return a check that a duration is within two bounds, both allowed; they may be calendar durations."""
    return DurationBounds(Duration.parse(low, calendar_units=True), Duration.parse(high, calendar_units=True))


def _check_buckets(bounds: Sequence[float]) -> Sequence[float]:
    previous = 0.0
    for index, bound in enumerate(bounds):
        # Written so that NaN fails too.
        if not previous < bound < float("inf"):
            rule = "greater than 0" if index == 0 else f"greater than the bound before it ({previous})"
            raise ValueError(f"entry [{index}] should be a finite number {rule}")
        previous = bound
    return bounds


def _parse_ns(text: str, units: dict[str, int]) -> int | None:
    negative, unsigned = text.startswith("-"), text.removeprefix("-").removeprefix("+")
    if unsigned == "0":
        return 0
    total, end = Decimal(0), 0
    while match := _PART.match(unsigned, end):
        if match[2] not in units:
            return None
        total, end = total + Decimal(match[1]) * units[match[2]], match.end()
    if end == 0 or end != len(unsigned) or total != int(total):
        return None
    return -int(total) if negative else int(total)


def _checked_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError("has brackets around something that is no IPv6 address") from None
    if ":" in host:
        raise ValueError("should have its IPv6 address in brackets: '[::1]:4317'")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("has a host that is no IPv4 address") from None
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("has a host that is neither an address nor a host name")
    return host


def _text_schema(parse: Any, notation: CoreSchema | None = None) -> CoreSchema:
    return core_schema.no_info_plain_validator_function(
        parse,
        serialization=core_schema.to_string_ser_schema(when_used="json"),
        json_schema_input_schema=notation or core_schema.str_schema(),
    )


CALENDAR_UNITS = BeforeValidator(lambda value: Duration.parse(value, calendar_units=True))

CalendarDuration = Annotated[Duration, CALENDAR_UNITS]
"""A duration that may also be written Prometheus-style: ``1d``, ``2w``."""

CollectionInterval = Annotated[Duration, between("1s", "5m")]
"""Operators may go below the 15 s that tenants are held to: demos and tests need short intervals."""

TenantCollectionInterval = Annotated[Duration, between("15s", "5m")]
"""Bounds of tenancy §2.4 ``collection_interval`` for tenants."""


def zero_duration_is_absent(value: object) -> object:
    """Let the next layer answer where the reference takes a zero for "not set" (tenancy §2.2). False is not zero."""
    return None if value in (0, "0", "0s") and not isinstance(value, bool) else value


IngestionSlack = Annotated[Duration, between("0s", "12h")]
"""Bounds of tenancy §2.4 ``ingestion_time_range_slack``."""

Buckets = Annotated[tuple[float, ...], Field(max_length=100), AfterValidator(_check_buckets), Strict(False), SECONDS]
