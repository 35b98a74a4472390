"""A bound on the memory of all request bodies that a gateway holds at one time.

Connections and request sizes are bounded too, but their product is more than any machine has. The budget
counts bytes and refuses; it neither waits nor knows whose they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.gateway.refusal import RefusalReason, Refused

_RETRY_AFTER_S = 1.0


class BodyBudget:
    """Bytes that bodies in flight may take together. Used from one event loop; never blocks.

    Attributes:
        limit_bytes: the bound.
        used_bytes: what is taken now.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    @contextmanager
    def share(self) -> Iterator["BodyShare"]:
        """Give one request its share, empty at first; everything taken comes back at the end."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self.used_bytes -= share.taken_bytes


class BodyShare:
    """What one request takes of the budget."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.taken_bytes = 0

    def take(self, size: int) -> Refused | None:
        """Take ``size`` bytes more; refused when the budget does not have them."""
        if self._budget.used_bytes + size > self._budget.limit_bytes:
            return Refused(RefusalReason.OVERLOADED, "too many requests in flight; send it again", _RETRY_AFTER_S)
        self._budget.used_bytes += size
        self.taken_bytes += size
        return None
