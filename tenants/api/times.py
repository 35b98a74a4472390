"""Times and days as the API writes and reads them: RFC 3339, UTC."""

from datetime import UTC, datetime


def time_text(ms: int) -> str:
    """Write milliseconds since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_time_text(ms: int | None) -> str | None:
    """Write milliseconds since 1970, if there are any."""
    return None if ms is None else time_text(ms)
