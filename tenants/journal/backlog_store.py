"""Batches that an endpoint could not be sent yet, on disk: the tables beside the journal. Everything here blocks.

Knows nothing of what is in a batch; what is told of it, its ``facts``, is a text of whoever writes it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select

from tenants.identity.tenant_id import TenantId
from tenants.journal.body_codec import BodyCodec
from tenants.journal.schema import BACKLOG

_ROW: Final = BACKLOG.c
_READ_AT_ONCE: Final = 100
"""Databases bound how many parameters a statement has."""

Transaction = Callable[[], AbstractContextManager[Connection]]


class StoredBatch(NamedTuple):
    """A batch to be written.

    Attributes:
        sequence: tells it from all others of its endpoint.
        facts: what is told of it without its body.
        body: as it is sent.
    """

    sequence: int
    facts: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BacklogChange:
    """What is to become of the batches of one endpoint.

    Attributes:
        tenant: whose.
        endpoint: key of the endpoint.
        added: batches to write; one of the same sequence is replaced.
        removed: sequences to remove; one that is not there is none to remove.
        is_cleared: everything that was there before goes.
    """

    tenant: TenantId
    endpoint: str
    added: Sequence[StoredBatch] = field(default=(), repr=False)
    removed: Sequence[int] = ()
    is_cleared: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of the bodies to be written."""
        return sum(len(batch.body) for batch in self.added)


class BacklogStore:
    """The backlogs of all endpoints in the journal's database. May be used from several threads.

    Args:
        read: opens a transaction that reads.
        write: opens one that writes, if the journal is still ours.
    """

    def __init__(self, read: Transaction, write: Transaction) -> None:
        self._read = read
        self._write = write

    def index(self, tenant: TenantId) -> dict[str, list[tuple[int, str]]]:
        """Return sequence and facts of every batch of a tenant, in the order of the sequences, by endpoint.

        Raises:
            StoreError: the database does not answer.
        """
        found = select(_ROW.endpoint, _ROW.sequence, _ROW.facts).where(_ROW.tenant == str(tenant))
        by_endpoint: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        with self._read() as connection:
            for endpoint, sequence, facts in connection.execute(found.order_by(_ROW.endpoint, _ROW.sequence)):
                by_endpoint[endpoint].append((sequence, facts))
        return dict(by_endpoint)

    def bodies(self, tenant: TenantId, endpoint: str, sequences: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of batches; those that are not there, or are not what was written, are missing.

        Raises:
            StoreError: the database does not answer.
        """
        codec = BodyCodec()
        bodies: dict[int, bytes] = {}
        own = (_ROW.tenant == str(tenant), _ROW.endpoint == endpoint)
        with self._read() as connection:
            for first in range(0, len(sequences), _READ_AT_ONCE):
                some = _ROW.sequence.in_(sequences[first : first + _READ_AT_ONCE])
                for sequence, facts, stored in connection.execute(
                    select(_ROW.sequence, _ROW.facts, _ROW.body).where(*own, some)
                ):
                    try:
                        bodies[sequence] = codec.decode(stored, _place(tenant, endpoint, sequence, facts))
                    except ValueError:
                        continue
        return bodies

    def apply(self, changes: Sequence[BacklogChange]) -> None:
        """Make changes, all or none. Making them again is right.

        Raises:
            Fenced: somebody else owns the journal now; nothing was written.
            StoreError: the database does not take them.
        """
        codec = BodyCodec()
        one = delete(BACKLOG).where(
            _ROW.tenant == bindparam("of"), _ROW.endpoint == bindparam("at"), _ROW.sequence == bindparam("number")
        )
        with self._write() as connection:
            for change in changes:
                tenant, endpoint = str(change.tenant), change.endpoint
                if change.is_cleared:
                    connection.execute(delete(BACKLOG).where(_ROW.tenant == tenant, _ROW.endpoint == endpoint))
                gone = [*change.removed, *(batch.sequence for batch in change.added)]
                if gone:
                    connection.execute(one, [{"of": tenant, "at": endpoint, "number": number} for number in gone])
                # One at a time: together they would be in memory several times.
                for sequence, facts, body in change.added:
                    stored = codec.encode(body, _place(change.tenant, endpoint, sequence, facts))
                    row = {"tenant": tenant, "endpoint": endpoint, "sequence": sequence, "facts": facts, "body": stored}
                    connection.execute(insert(BACKLOG), row)


def _place(tenant: TenantId, endpoint: str, sequence: int, facts: str) -> str:
    return f"backlog/{tenant}/{endpoint}/{sequence}/{facts}"
