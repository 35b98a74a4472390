"""The journal in its database: entries of tenants in order, and the checkpoints that stand for those before them.

Knows neither what the entries mean nor when to write a checkpoint. Everything here blocks.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, NoReturn, Self

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, union
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from tenants.identity.tenant_id import TenantId
from tenants.journal.backlog_store import BacklogStore
from tenants.journal.body_codec import MAX_BODY_BYTES, BodyCodec
from tenants.journal.errors import Fenced, JournalDamaged
from tenants.journal.schema import BACKLOG, CHECKPOINTS, ENTRIES, OWNERS, migrate
from tenants.store.database import Database
from tenants.store.errors import StoreDamaged

_PART_BYTES: Final = 4 << 20
"""Of a checkpoint, in one row: drivers hold a row several times."""

_ENTRY: Final = ENTRIES.c
_CHECKPOINT: Final = CHECKPOINTS.c

# Whoever takes the ownership waits until this transaction has ended, and then sees what it has written.
_OWNER: Final = select(OWNERS.c.incarnation).where(OWNERS.c.name == bindparam("owner")).with_for_update(read=True)

# What is acknowledged has to be on the disk, also where the server is set to be quick. Other settings stay.
_POSTGRESQL_DURABLE: Final = text(
    "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'"
)


class Positioned(NamedTuple):
    """An entry or a checkpoint of a tenant.

    Attributes:
        position: of the entry, from 1 on; a checkpoint stands for all entries up to its position.
        body: as it was written.
    """

    position: int
    body: bytes


class Loaded(NamedTuple):
    """A tenant's journal.

    Attributes:
        checkpoint: the last one, if there ever was one.
        entries: after it, without a gap.
    """

    checkpoint: Positioned | None
    entries: list[Positioned]


class JournalSizes(NamedTuple):
    """What a tenant's journal takes in the database.

    Attributes:
        entries: bytes, as stored, of the entries after the checkpoint.
        checkpoint: bytes, as stored.
    """

    entries: int
    checkpoint: int


@dataclass(frozen=True, slots=True)
class _Extent:
    """What is stored of one tenant."""

    last_position: int = 0
    checkpoint_position: int = 0
    entry_bytes: int = 0
    checkpoint_bytes: int = 0


class JournalStore:
    """An open journal. One thread may write while others read.

    State held: where each tenant's journal ends and how large it is; one small object for each tenant that has one or
    was loaded.

    Every method raises ``StoreUnavailable`` if the database does not answer, is full, locked or read-only; the message
    says how to mend it. Whether the last change was stored is then not known, and making it again is right. Every
    method that writes raises :class:`Fenced`, and has written nothing, if the owner is another incarnation by then.

    Attributes:
        backlog: of the tenants' endpoints, in the same database, under the same ownership.
    """

    def __init__(self, database: Database, owner: str, incarnation: int) -> None:
        self.backlog = BacklogStore(self._read, self._write)
        self._database = database
        self._owner = owner
        self._incarnation = incarnation
        self._lock = threading.Lock()
        self._extents: dict[TenantId, _Extent] = {}

    @classmethod
    def open(cls, url: str, owner_name: str, incarnation: int) -> Self:
        """Open a journal and own it; its former owner can write nothing from now on.

        Args:
            url: as for :meth:`tenants.store.database.Database.open`.
            owner_name: who writes, among those who share the database, each for tenants of its own.
            incarnation: of the owner: greater than that of every process that was this owner before.

        Raises:
            Fenced: a newer incarnation is the owner.
            JournalDamaged: the database is.
            SchemaTooNewError: a newer version of the program was here.
            StoreUrlError: the URL cannot be used.
            StoreUnavailable: it cannot be reached or not be written to, or the former owner is writing just now.
        """
        try:
            database = Database.open(url, migrate)
        except StoreDamaged as error:
            raise JournalDamaged(None, None, error.problem) from error
        store = cls(database, owner_name, incarnation)
        try:
            store.take_ownership()
            store._read_extents()
        except BaseException:
            database.close()
            raise
        return store

    def close(self) -> None:
        """Close the database. Can be repeated."""
        self._database.close()

    def take_ownership(self) -> None:
        """Own the journal; idempotent."""
        with self._database.write() as connection:
            _keep_from_being_quick(connection)
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            statement = dialect.insert(OWNERS)
            taken = statement.excluded.incarnation
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[OWNERS.c.name], set_={"incarnation": taken}, where=OWNERS.c.incarnation <= taken
                ),
                {"name": self._owner, "incarnation": self._incarnation},
            )
            self._check_owner(connection)

    def tenants(self) -> list[TenantId]:
        """Return the tenants that have a journal, by name, whoever wrote it."""
        names = union(select(_ENTRY.tenant), select(_CHECKPOINT.tenant)).order_by("tenant")
        with self._read() as connection:
            return [self._tenant(name) for name in connection.execute(names).scalars()]

    def last_position(self, tenant: TenantId) -> int:
        """Return the position of the last entry that was committed; 0: there is none. Does not ask the database."""
        return self._extent(tenant).last_position

    def sizes(self, tenant: TenantId) -> JournalSizes:
        """Return how large the journal is. Does not ask the database."""
        extent = self._extent(tenant)
        return JournalSizes(extent.entry_bytes, extent.checkpoint_bytes)

    def load(self, tenant: TenantId) -> Loaded:
        """Read a tenant's journal. Call it also before the first append to one that another owner had.

        Raises:
            JournalDamaged: something is missing or is not what was written.
        """
        codec, before = BodyCodec(), self._extent(tenant)
        with self._read() as connection:
            checkpoint, checkpoint_bytes = self._read_checkpoint(connection, codec, tenant)
            expected = last = checkpoint.position if checkpoint is not None else 0
            entries, entry_bytes = [], 0
            after = select(_ENTRY.position, _ENTRY.body).where(_ENTRY.tenant == str(tenant), _ENTRY.position > last)
            for position, stored in connection.execute(after.order_by(_ENTRY.position)):
                expected += 1
                if position != expected:
                    self._raise_damaged(tenant, expected, "the entry is missing", ENTRIES.name)
                entries.append(Positioned(position, self._decoded(codec, tenant, position, stored)))
                entry_bytes += len(stored)
        with self._lock:
            # Unless something was written meanwhile: then what was read is old.
            if self._extents.get(tenant, before) == before:
                self._extents[tenant] = _Extent(expected, last, entry_bytes, checkpoint_bytes)
        return Loaded(checkpoint, entries)

    def append(self, entries: Sequence[tuple[TenantId, int, bytes]]) -> None:
        """Commit entries, all or none; those of a tenant in order, from the position after its last one.

        Raises:
            JournalDamaged: somebody else has written to these positions.
            ValueError: the positions do not follow the last one, or a body is larger than ``MAX_BODY_BYTES``.
        """
        codec = BodyCodec()
        extents: dict[TenantId, _Extent] = {}
        rows: list[dict[str, Any]] = []
        for tenant, position, body in entries:
            extent = extents.get(tenant) or self._extent(tenant)
            if position != extent.last_position + 1:
                raise ValueError(f"position {position} of tenant {tenant} does not follow {extent.last_position}")
            _check_size(body)
            stored = codec.encode(body, _entry_place(tenant, position))
            rows.append({"tenant": str(tenant), "position": position, "body": stored})
            extents[tenant] = replace(extent, last_position=position, entry_bytes=extent.entry_bytes + len(stored))
        if not rows:
            return
        try:
            with self._write() as connection:
                connection.execute(insert(ENTRIES), rows)
        except IntegrityError:
            # A commit whose answer was lost is made again: then all of it is there.
            self._check_written(rows)
        for tenant, extent in extents.items():
            self._set_extent(tenant, extent)

    def checkpoint(self, tenant: TenantId, position: int, body: bytes) -> None:
        """Let a checkpoint stand for the entries up to a position, and remove these; see :meth:`checkpoints`."""
        self.checkpoints([(tenant, position, body)])

    def checkpoints(self, checkpoints: Sequence[tuple[TenantId, int, bytes]]) -> None:
        """Replace the checkpoints of tenants, all or none, and remove the entries that they stand for.

        Raises:
            ValueError: a position is none between the former checkpoint and the last entry.
        """
        codec = BodyCodec()
        rows: list[dict[str, Any]] = []
        extents: dict[TenantId, _Extent] = {}
        for tenant, position, body in checkpoints:
            extent = self._extent(tenant)
            if not extent.checkpoint_position <= position <= extent.last_position:
                raise ValueError(
                    f"a checkpoint of tenant {tenant} at {position} is not between the former at "
                    f"{extent.checkpoint_position} and the last entry at {extent.last_position}"
                )
            parts = list(_parts(codec, tenant, position, body))
            size = sum(len(part["body"]) for part in parts)
            extents[tenant] = replace(extent, checkpoint_position=position, checkpoint_bytes=size)
            rows += parts
        if not rows:
            return
        with self._write() as connection:
            for tenant, extent in extents.items():
                own = _ENTRY.tenant == str(tenant)
                connection.execute(delete(ENTRIES).where(own, _ENTRY.position <= extent.checkpoint_position))
                left = connection.execute(select(func.sum(func.length(_ENTRY.body))).where(own)).scalar_one()
                connection.execute(delete(CHECKPOINTS).where(_CHECKPOINT.tenant == str(tenant)))
                extents[tenant] = replace(extent, entry_bytes=int(left or 0))
            for row in rows:
                connection.execute(insert(CHECKPOINTS), row)
        for tenant, extent in extents.items():
            self._set_extent(tenant, extent)

    def forget(self, tenant: TenantId) -> None:
        """Remove all of a tenant's journal, and its backlog; its positions begin at 1 again."""
        with self._write() as connection:
            connection.execute(delete(BACKLOG).where(BACKLOG.c.tenant == str(tenant)))
            connection.execute(delete(ENTRIES).where(_ENTRY.tenant == str(tenant)))
            connection.execute(delete(CHECKPOINTS).where(_CHECKPOINT.tenant == str(tenant)))
        with self._lock:
            self._extents.pop(tenant, None)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._database.read() as connection:
                yield connection
        except StoreDamaged as error:
            raise JournalDamaged(None, None, error.problem) from error

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._database.write() as connection:
            _keep_from_being_quick(connection)
            self._check_owner(connection)
            yield connection

    def _check_owner(self, connection: Connection) -> None:
        current = connection.execute(_OWNER, {"owner": self._owner}).scalar_one_or_none()
        if current != self._incarnation:
            raise Fenced(self._owner, self._incarnation, current)

    def _extent(self, tenant: TenantId) -> _Extent:
        with self._lock:
            return self._extents.get(tenant) or _Extent()

    def _set_extent(self, tenant: TenantId, extent: _Extent) -> None:
        with self._lock:
            self._extents[tenant] = extent

    def _read_extents(self) -> None:
        size = func.sum(func.length(_ENTRY.body))
        entries = select(_ENTRY.tenant, func.max(_ENTRY.position), size).group_by(_ENTRY.tenant)
        size = func.sum(func.length(_CHECKPOINT.body))
        checkpoints = select(_CHECKPOINT.tenant, func.max(_CHECKPOINT.position), size).group_by(_CHECKPOINT.tenant)
        with self._read() as connection:
            for name, position, taken in connection.execute(checkpoints):
                self._extents[self._tenant(name)] = _Extent(position, position, 0, int(taken))
            for name, position, taken in connection.execute(entries):
                tenant = self._tenant(name)
                extent = self._extents.get(tenant, _Extent())
                self._extents[tenant] = replace(extent, last_position=position, entry_bytes=int(taken))

    def _read_checkpoint(
        self, connection: Connection, codec: BodyCodec, tenant: TenantId
    ) -> tuple[Positioned | None, int]:
        """Return the checkpoint, and how many bytes it takes."""
        # Without the bodies: those are read one at a time.
        head = select(_CHECKPOINT.part, _CHECKPOINT.parts, _CHECKPOINT.position)
        rows = connection.execute(head.where(_CHECKPOINT.tenant == str(tenant)).order_by(_CHECKPOINT.part)).all()
        if not rows:
            return None, 0
        _, parts, position = rows[0]
        if [tuple(row) for row in rows] != [(part, parts, position) for part in range(parts)]:
            self._raise_damaged(tenant, position, f"the checkpoint is not of {parts} parts", CHECKPOINTS.name)
        bodies, size = [], 0
        one = select(_CHECKPOINT.body).where(_CHECKPOINT.tenant == str(tenant), _CHECKPOINT.part == bindparam("of"))
        for part in range(parts):
            stored = connection.execute(one, {"of": part}).scalar_one()
            size += len(stored)
            try:
                bodies.append(codec.decode(stored, _checkpoint_place(tenant, position, part, parts)))
            except ValueError as error:
                self._raise_damaged(tenant, position, f"part {part} of the checkpoint: {error}", CHECKPOINTS.name)
        return Positioned(position, b"".join(bodies)), size

    def _decoded(self, codec: BodyCodec, tenant: TenantId, position: int, stored: bytes) -> bytes:
        try:
            return codec.decode(stored, _entry_place(tenant, position))
        except ValueError as error:
            self._raise_damaged(tenant, position, str(error), ENTRIES.name)

    def _check_written(self, rows: Sequence[dict[str, Any]]) -> None:
        """Raise unless exactly these rows are there, and we still are who writes them."""
        one = select(_ENTRY.body).where(_ENTRY.tenant == bindparam("tenant"), _ENTRY.position == bindparam("position"))
        with self._write() as connection:
            for row in rows:
                if connection.execute(one, row).scalar_one_or_none() != row["body"]:
                    problem = "somebody else writes to this tenant's journal too"
                    self._raise_damaged(TenantId(row["tenant"]), row["position"], problem, ENTRIES.name)

    def _tenant(self, name: str) -> TenantId:
        try:
            return TenantId(name)
        except ValueError as error:
            raise JournalDamaged(None, None, f"{name[:200]!a} {error} ({self._database.place})") from error

    def _raise_damaged(self, tenant: TenantId, position: int, problem: str, table: str) -> NoReturn:
        raise JournalDamaged(tenant, position, f"{problem} (table {table} of {self._database.place})")


def _keep_from_being_quick(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_POSTGRESQL_DURABLE)


def _entry_place(tenant: TenantId, position: int) -> str:
    return f"entry/{tenant}/{position}"


def _checkpoint_place(tenant: TenantId, position: int, part: int, parts: int) -> str:
    return f"checkpoint/{tenant}/{position}/{part}/{parts}"


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"an entry of {len(body)} bytes cannot be stored; {MAX_BODY_BYTES} can")


def _parts(codec: BodyCodec, tenant: TenantId, position: int, body: bytes) -> Iterator[dict[str, Any]]:
    parts = max(1, -(-len(body) // _PART_BYTES))
    for part in range(parts):
        piece = body[part * _PART_BYTES : (part + 1) * _PART_BYTES]
        stored = codec.encode(piece, _checkpoint_place(tenant, position, part, parts))
        yield {"tenant": str(tenant), "part": part, "parts": parts, "position": position, "body": stored}
