"""What this package raises on purpose beside the errors of the store; leaves carry data and survive pickling."""

from tenants.identity.tenant_id import TenantId
from tenants.store.errors import StoreError


class JournalError(StoreError):
    """Root of what ``tenants.journal`` adds to the errors of ``tenants.store``."""


class Fenced(JournalError):  # noqa: N818  (an answer, not a fault)
    """Somebody else owns the journal now; nothing was written. Final.

    Attributes:
        owner: name of the owner.
        incarnation: that was refused.
        current: the one that owns it; None: nobody does.
    """

    def __init__(self, owner: str, incarnation: int, current: int | None) -> None:
        super().__init__(owner, incarnation, current)
        self.owner = owner
        self.incarnation = incarnation
        self.current = current

    def __str__(self) -> str:
        current = "nobody" if self.current is None else f"incarnation {self.current}"
        return (
            f"the journal of {self.owner} belongs to {current} and not to incarnation {self.incarnation}: "
            "end this process, its successor has taken over; if there is none, the clock of this machine is behind"
        )


class JournalDamaged(JournalError):  # noqa: N818  (a condition of the surroundings)
    """What is stored is not what was written, or not all of it.

    Attributes:
        tenant: whose journal; None: the whole database.
        position: of the entry or checkpoint; None: not one of them.
        problem: what is wrong, and where.
    """

    def __init__(self, tenant: TenantId | None, position: int | None, problem: str) -> None:
        super().__init__(tenant, position, problem)
        self.tenant = tenant
        self.position = position
        self.problem = problem

    def __str__(self) -> str:
        where = f" of tenant {self.tenant}" if self.tenant is not None else ""
        where += f" at position {self.position}" if self.position is not None else ""
        mend = "restore the database from a backup"
        if self.tenant is not None:
            mend += (
                "; or delete the tenant's rows from journal_entry and journal_checkpoint: its counters then begin anew"
            )
        return f"the journal{where} is damaged: {self.problem}; {mend}"


class JournalBacklogFull(JournalError):  # noqa: N818  (a refusal that passes)
    """Too many entries wait to be committed; this one was not taken. Offer it again later.

    Attributes:
        pending_bytes: of the entries that wait.
        max_bytes: their bound.
    """

    def __init__(self, pending_bytes: int, max_bytes: int) -> None:
        super().__init__(pending_bytes, max_bytes)
        self.pending_bytes = pending_bytes
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return (
            f"{self.pending_bytes} bytes of entries wait for the journal, and {self.max_bytes} may: "
            "see why its database does not keep up"
        )


class JournalClosed(JournalError):  # noqa: N818  (an answer, not a fault)
    """The writer was closed before."""

    def __str__(self) -> str:
        return "the journal is closed: nothing is committed any more"
