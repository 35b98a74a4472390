"""The numbered cases of tenancy §8: each test says which ones it shows, and where we differ from the letter of them."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

LAST: Final = 125

SHOWN: Final[dict[int, list[str]]] = defaultdict(list)
"""By number, the tests that show the case."""


def case(*numbers: int, difference: str = "") -> Callable[[F], F]:
    """Mark a test as showing these cases.

    Args:
        numbers: as in tenancy §8.
        difference: what we do otherwise than the case says, and why; begins with the decision's id, such as ``D-9``.
    """

    def mark(test: F) -> F:
        for number in numbers:
            if not 1 <= number <= LAST:
                raise ValueError(f"there is no case {number}")
            SHOWN[number].append(f"{test.__module__}.{test.__name__}{f' ({difference})' if difference else ''}")
        return test

    return mark
