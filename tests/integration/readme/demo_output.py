"""What the demo tells whoever runs it."""

import re
from typing import Final

_CONSOLE: Final = re.compile(r"(http://127\.0\.0\.1:\d+)/console/\s+sign in with\s+(mrt_\S+)")


def shown_console(output: str) -> tuple[str, str] | None:
    """Return the address of the console and the token that opens it; None: nothing is shown yet."""
    found = _CONSOLE.search(output)
    return None if found is None else (found[1], found[2])
