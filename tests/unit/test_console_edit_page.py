"""The editor of documents, without a browser: how much work a visitor can make it do."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fastapi import Request
from nicegui import core, ui
from nicegui.client import Client
from nicegui.page import page

from tenants.console.edit_page import Edit
from tenants.console.visitor import ApiProblemError
from tenants.settings.strict_json import MAX_BYTES


class _Visitor:
    """Is told that everything is wrong."""

    def __init__(self) -> None:
        self.asked = 0
        self.violations: list[tuple[str, str]] = []

    async def ask(self, *_: object, **__: object) -> None:
        self.asked += 1
        raise ApiProblemError(400, "the document is wrong", self.violations)


class _Editor:
    """The page, as far as it is looked at."""

    def __init__(self, client: Client, visitor: _Visitor) -> None:
        self._client = client
        self.visitor = visitor
        self.page = Edit(visitor, "acme")  # type: ignore[arg-type]
        self.page.request = Request({"type": "http", "headers": []})
        self.page.content()

    async def check(self, text: str) -> None:
        self.page._editor.value = text
        with self._client:
            assert not await self.page.check()

    @property
    def faults(self) -> list[str]:
        elements = self._client.elements.values()
        return [each.text for each in elements if isinstance(each, ui.button) and "fault" in each.classes]

    @property
    def labels(self) -> list[str]:
        return [each.text for each in self._client.elements.values() if isinstance(each, ui.label)]


@pytest_asyncio.fixture
async def editor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Editor]:
    monkeypatch.setattr(core, "loop", asyncio.get_running_loop())
    client = Client(page("/editor"))
    with client:
        made = _Editor(client, _Visitor())
    yield made
    client.delete()


async def test_fifty_faults_are_shown_at_their_lines_and_how_many_more_there_are(editor: _Editor) -> None:
    text = "{\n" + ",\n".join(f'"k{number}": 1' for number in range(100)) + "}"
    editor.visitor.violations = [(f"k{number}", "unknown key") for number in range(100)]
    await editor.check(text)
    assert editor.faults == [f"Line {number + 2}: k{number}: unknown key" for number in range(50)]
    assert "and 50 more" in editor.labels
    assert len(editor.page._editor.decorations) == 50
    editor.visitor.violations = [("k1", "unknown key")]
    await editor.check(text)
    assert editor.faults == ["Line 3: k1: unknown key"]
    assert "and 50 more" not in editor.labels


@pytest.mark.parametrize("text", ["[" + "1," * (MAX_BYTES // 2), "ä" * (MAX_BYTES // 2 + 1)], ids=["long", "not ASCII"])
async def test_a_text_beyond_the_limit_of_the_api_is_refused_before_anything_is_done(
    editor: _Editor, text: str
) -> None:
    await editor.check(text)
    assert editor.visitor.asked == 0
    assert editor.faults == [f"the document has more than {MAX_BYTES} bytes"]
    await editor.check(text[: MAX_BYTES // 2])
    assert editor.visitor.asked == 1
