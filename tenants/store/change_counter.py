"""Numbers that order changes, one row of numbers for each kind of thing.

Taking a number keeps all others of the same feed waiting until the transaction ends. So numbers become visible in
their order: whoever has seen one has seen, or can see, every change with a smaller one. (A sequence would not do: a
transaction that took its number first may be the last to commit.)
"""

from enum import StrEnum

from sqlalchemy import Connection, select, update

from tenants.store.schema import CHANGE_COUNTERS


class Feed(StrEnum):
    """What is counted on its own. A transaction takes numbers in this order, or two could wait for each other."""

    DOCUMENTS = "documents"
    TENANTS = "tenants"
    TOKENS = "tokens"
    AUDIT = "audit"


def next_number(connection: Connection, feed: Feed) -> int:
    """Take the next number, from 1; a transaction that is rolled back gives it back."""
    counter = CHANGE_COUNTERS.c
    connection.execute(update(CHANGE_COUNTERS).where(counter.feed == feed.value).values(value=counter.value + 1))
    return last_number(connection, feed)


def last_number(connection: Connection, feed: Feed) -> int:
    """Return the last number that was taken; 0 before the first."""
    number: int = connection.execute(
        select(CHANGE_COUNTERS.c.value).where(CHANGE_COUNTERS.c.feed == feed.value)
    ).scalar_one()
    return number
