"""Whoever asks which keys there are is told all of them."""

import re
from pathlib import Path

from tenants.console import frame

_TREE = Path(__file__).parents[2]


def test_every_key_is_in_the_help_and_in_the_documentation() -> None:
    sources = [path.read_text() for path in Path(frame.__file__).parent.glob("*.py")]
    marked = {key for source in sources for key in re.findall(r'data-key="([^"{]+)"', source)}
    assert {"/", "d", "p", "?"} <= marked
    known = frame.KEYS | frame.OPERATOR_KEYS
    assert marked - {"?"} <= set(known)
    (documented,) = re.findall(r"\*\*Keys\.\*\*(.*?)\n\n", (_TREE / "docs/console.md").read_text(), re.DOTALL)
    assert {"1", "6", "?", *known} - {"1 … 6"} <= set(re.findall("`(.+?)`", documented))
