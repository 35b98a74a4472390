"""How commands write JSON: as it is, which Rich's ``print`` does not leave it (it reads ``:name:`` as an emoji)."""

import json

from rich.console import Console


def write_json(document: object, out: Console, *, is_line: bool = False) -> None:
    """Write a document, in one line if somebody reads line by line; in ASCII where the terminal knows no more."""
    is_unicode = out.encoding.lower().startswith("utf")
    out.file.write(json.dumps(document, indent=None if is_line else 2, ensure_ascii=not is_unicode) + "\n")
    out.file.flush()
