"""What tenants used, by day, for billing. Adds up what it is given; what a day is, is decided by whoever counts."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from tenants.store.database import Database
from tenants.store.schema import USAGE_DAYS

_COLUMNS: Final = USAGE_DAYS.c

_ADDED: Final = ("spans", "bytes", "samples_sent", "active_series_sum", "active_series_readings")


@dataclass(frozen=True, slots=True)
class UsageDay:
    """What one tenant used on one day, or on a part of it.

    Attributes:
        day: which.
        tenant: who.
        spans: that were received.
        bytes: that were received.
        samples_sent: to the tenant's endpoint.
        active_series_max: the most series at once.
        active_series_sum: the series of all readings; divided by their number, the average.
        active_series_readings: how many readings.
    """

    day: date
    tenant: str
    spans: int
    bytes: int
    samples_sent: int
    active_series_max: int
    active_series_sum: int
    active_series_readings: int

    def plus(self, other: Self) -> Self:
        """Return both parts of this day together."""
        return type(self)(
            self.day,
            self.tenant,
            self.spans + other.spans,
            self.bytes + other.bytes,
            self.samples_sent + other.samples_sent,
            max(self.active_series_max, other.active_series_max),
            self.active_series_sum + other.active_series_sum,
            self.active_series_readings + other.active_series_readings,
        )


class UsageStore:
    """Usage of all tenants and days."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Iterable[UsageDay]) -> None:
        """Add parts of days to what is stored, all or none. Not idempotent: what is added twice counts twice.

        Raises:
            StoreUnavailable: if it is raised by the commit itself, the parts may be stored all the same.
        """
        # In one order, so that two who add never wait for each other.
        values = [asdict(row) for row in sorted(rows, key=lambda row: (row.tenant, row.day))]
        if not values:
            return
        with self._database.write() as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            statement = dialect.insert(USAGE_DAYS)
            new = statement.excluded
            kept: dict[str, ColumnElement[Any]] = {name: _COLUMNS[name] + new[name] for name in _ADDED}
            # The two databases have different functions for the greater of two.
            kept["active_series_max"] = case(
                (new.active_series_max > _COLUMNS.active_series_max, new.active_series_max),
                else_=_COLUMNS.active_series_max,
            )
            connection.execute(
                statement.on_conflict_do_update(index_elements=[_COLUMNS.tenant, _COLUMNS.day], set_=kept), values
            )

    def read(self, tenant: str | None, first: date, last: date) -> list[UsageDay]:
        """Return the days from ``first`` to ``last``, both included, by day and tenant; None: of all tenants."""
        query = select(USAGE_DAYS).where(_COLUMNS.day.between(first, last)).order_by(_COLUMNS.day, _COLUMNS.tenant)
        if tenant is not None:
            query = query.where(_COLUMNS.tenant == tenant)
        with self._database.read() as connection:
            return [UsageDay(**row) for row in connection.execute(query).mappings()]

    def forget_before(self, day: date) -> int:
        """Remove the days before; return how many rows."""
        with self._database.write() as connection:
            return connection.execute(delete(USAGE_DAYS).where(_COLUMNS.day < day)).rowcount
