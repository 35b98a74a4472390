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
