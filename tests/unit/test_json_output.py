"""JSON of commands is what it was made from, whatever it holds and wherever it goes."""

import io
import json

import pytest
from rich.console import Console

from cluster.json_output import write_json

HOSTILE = {"url": "http://[2001:db8:a:b::1]:9090/w", "note": "[bold]x[/] :warning: naïve " + "long " * 100}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("is_line", [True, False])
def test_document_goes_through_unchanged(encoding: str, is_line: bool) -> None:
    written = io.BytesIO()
    out = Console(file=io.TextIOWrapper(written, encoding=encoding), width=40)
    write_json(HOSTILE, out, is_line=is_line)
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == HOSTILE
    assert text.count("\n") == (1 if is_line else 4)
