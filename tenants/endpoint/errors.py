"""What this package raises on purpose: one root, leaves that carry data and survive pickling.

An endpoint that does not answer, or refuses what it is sent, is not an error here: it is counted.
"""


class EndpointError(Exception):
    """Root of everything that ``tenants.endpoint`` raises on purpose."""


class InvalidEndpointError(EndpointError):
    """An endpoint's settings cannot be used; the text never repeats a URL or a header value.

    Attributes:
        field: the setting at fault, such as ``url`` or ``headers.Authorization``.
        problem: what is wrong with it and how to mend it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class SecretUnavailableError(EndpointError):
    """A secret that settings point to cannot be used now; perhaps later. The text never repeats a secret.

    Attributes:
        source: where it should be.
        problem: what is wrong there.
    """

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)
        self.source = source
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


class OwnerSilentError(EndpointError):
    """A shard host does not answer and may live: it may have counted what it did not hand over. Ask again later.

    Attributes:
        host: its name.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host

    def __str__(self) -> str:
        return f"{self.host} does not say what it counted last; it is asked again at the next claim"
