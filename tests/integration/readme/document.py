"""What README.md asks its readers to type and to write, in its order."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parents[3] / "README.md"
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME: Final = re.compile(r"# (\S+\.yaml)\n")
_LINK: Final = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@dataclass(frozen=True, slots=True)
class File:
    """A file that readers write."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """What readers type, some lines of a shell's."""

    text: str


def steps() -> Iterator[File | Command]:
    """Return all files and commands."""
    for kind, text in _BLOCK.findall(README.read_text()):
        if kind == "yaml":
            named = _NAME.match(text)
            assert named, f"a file without a name in its first line:\n{text}"
            yield File(named[1], text)
        elif kind == "sh":
            yield from _commands(text)


def links() -> Iterator[str]:
    """Return the paths that it leads to, pictures too."""
    return (link for link in _LINK.findall(README.read_text()) if "://" not in link)


def _commands(block: str) -> Iterator[Command]:
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line)
        if not line.endswith("\\") and _is_whole("\n".join(lines)):
            yield Command("\n".join(lines))
            lines.clear()
    assert not lines, f"no whole command: {lines}"


def _is_whole(text: str) -> bool:
    return subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode == 0
