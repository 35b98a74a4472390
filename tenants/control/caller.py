"""Who asks for a change, as it is written down with it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other side.

    Attributes:
        actor: the token's id, or how else it was known who asked; never a secret.
        source_ip: the address that the request came from.
    """

    actor: str
    source_ip: str
