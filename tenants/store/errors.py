"""What this package raises on purpose: one root, leaves that carry data and survive pickling; no secret in any text."""


class StoreError(Exception):
    """Root of everything that ``tenants.store`` raises on purpose."""


class StoreUnavailable(StoreError):  # noqa: N818  (a condition of the surroundings; the API answers 503)
    """The database does not answer, is busy for too long or refuses. Whether the last change was stored is not known.

    Attributes:
        problem: what the database or its driver said, and how to mend it where that is known.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the database does not do what it should: {self.problem}"


class StoreDamaged(StoreUnavailable):
    """What the database has on its disk is damaged: asking again does not help."""


class RevisionConflict(StoreError):  # noqa: N818  (an answer, not a fault)
    """Another revision than the expected one is there; nothing was stored.

    Attributes:
        current: the revision that is there; 0: none.
    """

    def __init__(self, current: int) -> None:
        super().__init__(current)
        self.current = current

    def __str__(self) -> str:
        return f"the current revision is {self.current}: read it, and change that one"


class StoreUrlError(StoreError):
    """The URL of the database cannot be used. Its text is not repeated: it may hold a password."""


class SchemaTooNewError(StoreError):
    """A newer version of this program has changed the database.

    Attributes:
        found: the number of the database's schema.
        known: the newest number that this version knows.
        subject: what the schema is of.
    """

    def __init__(self, found: int, known: int, subject: str = "database") -> None:
        super().__init__(found, known, subject)
        self.found = found
        self.known = known
        self.subject = subject

    def __str__(self) -> str:
        return (
            f"the {self.subject} has schema {self.found}, and this version knows schemas up to {self.known}: "
            "run the version that changed it, or restore a backup from before"
        )


class TokenExistsError(StoreError):
    """A token with this id is there already; nothing was stored.

    Attributes:
        token_id: the id.
    """

    def __init__(self, token_id: str) -> None:
        super().__init__(token_id)
        self.token_id = token_id

    def __str__(self) -> str:
        return f"there is a token {self.token_id} already: make one with another id"


class UnreadableTenantError(StoreError):
    """The stored record of a tenant is damaged. Writing it anew mends it.

    Attributes:
        tenant: whose record.
        revision: of the record.
        problem: what is wrong with it.
    """

    def __init__(self, tenant: str, revision: int, problem: str) -> None:
        super().__init__(tenant, revision, problem)
        self.tenant = tenant
        self.revision = revision
        self.problem = problem

    def __str__(self) -> str:
        return f"tenants, row {self.tenant}, revision {self.revision}: {self.problem}; write the record anew"
