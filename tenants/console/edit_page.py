"""The tenant's document: edited with every fault at its line, tried, saved if nobody was faster, and taken back."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from nicegui import ui

from tenants.console import figures_text as say
from tenants.console.document_lines import lines_of
from tenants.console.frame import card, html, theme
from tenants.console.markup import Html, data_path, table, tag, text
from tenants.console.tenant_pages import TenantPage
from tenants.console.visitor import ApiProblemError
from tenants.control.documents import difference
from tenants.settings.strict_json import MAX_BYTES

_PATH: Final = "/api/overrides"
_REVISION: Final = "x-overrides-revision"
_SKIP: Final = "skip-conflicting-overrides-check=true"
_IS_RUNTIME_CONFLICT: Final = 409
_IS_CONFLICT: Final = 412
_IS_TOO_LARGE: Final = 413
_LISTED_FAULTS: Final = 50
_PAUSE_S: Final = 0.4
"""How long nothing is typed before it is checked."""


class Edit(TenantPage):
    """Editor and history."""

    view = "edit"
    title = "Edit and history"

    def content(self) -> None:
        """Build what the view shows."""
        self._base: dict[str, Any] | None = None
        self._revision = 0
        self._is_loaded = False
        self._listed_revision = -1
        self._conflicting = -1
        with card("The organisation's document", data_path("overrides", self.tenant)):
            self._off = ui.label().classes("problem")
            html(
                "What it holds goes before all other layers; what it does not hold is inherited. "
                "Nothing is stored before you save."
            ).classes("soft")
            with ui.element("div").classes("edit") as self._body:
                with ui.column().classes("w-full gap-2"):
                    self._editor = ui.codemirror("", language="JSON", theme=self._theme(), on_change=self._on_change)
                    self._editor.props('aria-label="Document"')
                    with ui.row().classes("items-center gap-3"):
                        self._save = ui.button("Save", on_click=self._on_save).props("unelevated no-caps color=primary")
                        ui.button("Dry run", on_click=self.check).props('outline no-caps data-key="r"')
                        ui.button("Undo all", on_click=self._load).props("flat no-caps")
                        self._hides = ui.checkbox("Hide values of the runtime file", on_change=self.check)
                        self._hides.visible = False
                    self._status = html().props("role=status")
                with ui.column().classes("w-full gap-3"):
                    self._faults = ui.column().classes("w-full gap-1").props('aria-label="Faults"')
                    self._conflict = ui.column().classes("w-full gap-2")
                    html("<h2>What would change</h2>")
                    self._diff = html()
        with card("History", data_path("overrides/history", self.tenant)):
            self._history = ui.column().classes("w-full gap-0")
        self._check_soon = ui.timer(_PAUSE_S, self.check, active=False, once=False, immediate=False)

    async def refresh(self) -> None:
        """Load the document once, and tell when somebody else stores another one."""
        if not self._is_loaded:
            await self._load()
            return
        _, revision = await self._stored()
        if revision not in (self._revision, self._conflicting):
            await self._show_conflict()
        await self._list_history(revision)

    async def check(self) -> bool:
        """Dry run: check the text as the service would, and show what would change; return whether it may be stored."""
        self._check_soon.active = False
        try:
            answer = await self._post(is_dry_run=True)
        except ApiProblemError as problem:
            await self._refused(problem)
            return False
        self._show_faults("", [])
        self._show_diff(self._base, answer.json()["document"])
        self._status.content = tag("valid: nothing is stored yet", "good")
        return True

    async def _load(self) -> None:
        try:
            self._base, self._revision = await self._stored()
        except ApiProblemError as problem:
            self._off.text, self._body.visible = problem.detail, False
            return
        self._off.text, self._body.visible, self._is_loaded = "", True, True
        self._editor.value = json.dumps(self._base or {}, indent=2, ensure_ascii=False)
        self._end_conflict()
        self._show_faults("", [])
        self._show_diff(None, None)
        self._status.content = self._says_revision()
        await self._list_history(self._revision)

    async def _stored(self) -> tuple[dict[str, Any] | None, int]:
        try:
            answer = await self.visitor.ask("GET", _PATH, self.tenant)
        except ApiProblemError as problem:
            # Without a word it is the document that is not there, and not the route.
            if problem.status == 404 and not problem.is_told:
                return None, 0
            raise
        return answer.json(), int(answer.headers[_REVISION])

    def _on_change(self) -> None:
        # Marks belong to a text that is no more.
        self._editor.decorations = []
        self._check_soon.active = False
        self._check_soon.active = self._is_loaded

    async def _on_save(self) -> None:
        try:
            answer = await self._post(is_dry_run=False)
        except ApiProblemError as problem:
            await self._refused(problem)
            return
        revision = int(answer.headers[_REVISION])
        await self._load()
        self._status.content = tag(f"saved as revision {revision}; on its way to every process", "good")
        await self._until_in_force(revision)

    async def _until_in_force(self, revision: int) -> None:
        try:
            await self.get(f"{_PATH}?scope=merged&min_revision={revision}&wait=10s")
        except ApiProblemError as problem:
            self._status.content = tag(problem.detail, "poor")
        else:
            self._status.content = tag(f"saved as revision {revision}; in force everywhere", "good")

    async def _post(self, *, is_dry_run: bool) -> Any:
        if len(self._editor.value.encode(errors="replace")) > MAX_BYTES:
            raise ApiProblemError(_IS_TOO_LARGE, f"the document has more than {MAX_BYTES} bytes")
        query = "&".join([*(["dry_run=true"] if is_dry_run else []), *([_SKIP] if self._hides.value else [])])
        path = f"{_PATH}?{query}" if query else _PATH
        return await self.visitor.ask(
            "POST", path, self.tenant, content=self._editor.value, If_Match=str(self._revision)
        )

    async def _refused(self, problem: ApiProblemError) -> None:
        if problem.status == _IS_CONFLICT:
            await self._show_conflict()
            return
        self._hides.visible = self._hides.visible or problem.status == _IS_RUNTIME_CONFLICT
        self._show_faults(problem.detail, problem.violations or (("", problem.detail),))
        self._status.content = tag("not valid", "bad")

    def _show_faults(self, detail: str, faults: Sequence[tuple[str, str]]) -> None:
        value, listed = self._editor.value, faults[:_LISTED_FAULTS]
        lines = lines_of(value, [path for path, _ in listed])
        self._faults.clear()
        marks: dict[int, str] = {}
        with self._faults:
            if detail:
                html(f'<h2 class="problem">{text(detail)}</h2>')
            for path, message in listed:
                line = _told_line(message) or (lines[path] if path else 0)
                label = f"Line {line}: " if line else ""
                where = f"{path}: " if path else ""
                marks.setdefault(line, message)
                fault = ui.button(
                    f"{label}{where}{message}", on_click=partial(self._editor.reveal_line, line) if line else None
                )
                fault.props("flat dense no-caps align=left color=negative").classes("fault")
            if len(faults) > len(listed):
                ui.label(f"and {len(faults) - len(listed)} more").classes("soft")
        last = value.count("\n") + 1
        shown = [line for line in sorted(marks) if 0 < line <= last]
        self._editor.decorations = [{"kind": "line", "line": line, "class": "cm-fault"} for line in shown]
        self._editor.line_tooltips = {line: marks[line] for line in shown}

    def _show_diff(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        self._diff.content = _diff_table(difference(before, after)) or '<p class="soft">Nothing.</p>'

    async def _show_conflict(self) -> None:
        theirs, revision = await self._stored()
        self._status.content = tag("conflict: nothing was stored", "bad")
        # Buttons that are made anew under the pointer would lose its click.
        if revision != self._conflicting:
            self._list_conflict(theirs, revision)
            await self._list_history(revision)

    def _list_conflict(self, theirs: dict[str, Any] | None, revision: int) -> None:
        self._end_conflict()
        self._conflicting = revision
        with self._conflict:
            html(
                f'<h2 class="problem">Somebody else was faster: revision {revision} is there, yours began at '
                f"{self._revision}</h2><p>What they changed:</p>"
                + (_diff_table(difference(self._base, theirs)) or '<p class="soft">Nothing.</p>')
            )
            with ui.row().classes("gap-2"):
                ui.button("Keep my text, on top of theirs", on_click=partial(self._rebase, theirs, revision)).props(
                    "outline no-caps"
                )
                ui.button("Take theirs", on_click=self._load).props("flat no-caps")

    def _end_conflict(self) -> None:
        self._conflicting = -1
        self._conflict.clear()

    async def _rebase(self, theirs: dict[str, Any] | None, revision: int) -> None:
        self._base, self._revision = theirs, revision
        self._end_conflict()
        await self.check()

    async def _list_history(self, revision: int) -> None:
        if revision == self._listed_revision:
            return
        revisions = (await self.get(f"{_PATH}/history"))["revisions"]
        self._listed_revision = revision
        self._history.clear()
        with self._history:
            if not revisions:
                ui.label("Nothing was ever stored.").classes("soft")
            for kept in revisions:
                self._list_revision(kept, is_current=kept["revision"] == revision)

    def _list_revision(self, kept: Mapping[str, Any], *, is_current: bool) -> None:
        with ui.expansion().classes("w-full") as row:
            changes = {each["path"]: (each["before"], each["after"]) for each in kept["diff"] or ()}
            html(_diff_table(changes) or '<p class="soft">What was before is not kept.</p>')
        with row.add_slot("header"), ui.row().classes("items-center w-full gap-4 no-wrap"):
            html(Html(f"<b>Revision {kept['revision']}</b>"))
            html(Html(f'<span class="soft">{text(kept["at"])} · <code>{text(kept["author"])}</code></span>'))
            html(Html("" if kept["document"] is not None else tag("removed", "poor")))
            ui.space()
            if is_current:
                html(tag("current", "good"))
            elif kept["document"] is not None:
                back = ui.button("Roll back to this").props("outline dense no-caps")
                back.on("click.stop", partial(self._roll_back, kept["revision"]))

    async def _roll_back(self, revision: int) -> None:
        body = json.dumps({"revision": revision})
        stored, current = await self._stored()
        try:
            tried = await self.visitor.ask(
                "POST", f"{_PATH}/rollback?dry_run=true", self.tenant, content=body, If_Match=str(current)
            )
            with ui.dialog() as dialog, ui.card().style("max-width: 60rem"):
                html(
                    f"<h2>Back to revision {revision}?</h2>"
                    + (_diff_table(difference(stored, tried.json()["document"])) or "<p>It is the same.</p>")
                )
                with ui.row():
                    ui.button("Roll back", on_click=lambda: dialog.submit(True)).props("unelevated no-caps")
                    ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps")
            if not await dialog:
                return
            answer = await self.visitor.ask(
                "POST", f"{_PATH}/rollback", self.tenant, content=body, If_Match=str(current)
            )
        except ApiProblemError as problem:
            ui.notify(problem.detail, type="negative")
            return
        await self._load()
        await self._until_in_force(int(answer.headers[_REVISION]))

    def _says_revision(self) -> Html:
        return tag(f"revision {self._revision}" if self._revision else "there is no document yet")

    def _theme(self) -> Any:
        return "githubDark" if theme(self.request) else "githubLight"


def _diff_table(changes: Mapping[str, tuple[Any, Any]]) -> str:
    if not changes:
        return ""
    rows = [
        [Html(f"<code>{text(path)}</code>"), _side(before, "was"), _side(after, "now")]
        for path, (before, after) in changes.items()
    ]
    return table(["Setting", "Before", "After"], rows, kind="diff")


def _side(value: Any, kind: str) -> Html:
    shown = say.NONE if value is None else json.dumps(value, ensure_ascii=False)
    colour = (
        "problem" if kind == "was" and value is not None else "fine" if kind == "now" and value is not None else "soft"
    )
    return Html(f'<code class="{colour}">{text(shown)}</code>')


def _told_line(message: str) -> int:
    """Return the line that the API names where the text is no JSON; 0 if it names none."""
    _, found, rest = message.partition("(line ")
    number = rest.split(",")[0] if found else ""
    return int(number) if number.isdecimal() else 0
