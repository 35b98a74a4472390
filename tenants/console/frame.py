"""What all pages have: who one is, where one can go, light or dark, keys, and live parts that say what ails them."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
from fastapi import Request
from nicegui import ui

from tenants.console.doors import PREFIX, SIGN_IN, SIGN_OUT
from tenants.console.markup import Html, link
from tenants.console.visitor import ApiProblemError, Visitor, unattended

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

REFRESH_S: Final = 5.0
"""How often a page looks again while somebody has it open."""

_THEME: Final = "millrace_theme"
_STYLE: Final = Path(__file__).with_name("style.css").read_text()

# Keys work by pressing what is marked with them: no key does what no mouse can.
_KEY_SCRIPT: Final = """
<script>
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target;
  if (at.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(at.tagName)) {
    if (event.key === 'Escape') at.blur();
    return;
  }
  const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!found) return;
  event.preventDefault();
  if (found.matches('input')) found.focus(); else found.click();
});
</script>
"""


KEYS: Final = {
    "1 … 6": "views of a tenant",
    "/": "search",
    "r": "dry run, in the editor",
    "d": "light or dark",
    "Esc": "leave a field",
}
OPERATOR_KEYS: Final = {
    "t": "tenants",
    "c": "cluster",
    "a": "audit",
    "p": "previous page of tenants",
    "n": "next page of tenants",
}


def theme(request: Request) -> bool | None:
    """Whether the visitor chose dark (true) or light (false); None: as their system has it."""
    return {"dark": True, "light": False}.get(request.cookies.get(_THEME, ""))


@contextmanager
def frame(request: Request, visitor: Visitor, title: str, here: str) -> Iterator[None]:
    """Put everything that is built inside between what all pages have.

    Args:
        request: of the page.
        visitor: who sees it.
        title: of the page.
        here: which of the links at the top leads here.
    """
    ui.page_title(f"{title} · Millrace")
    ui.add_css(_STYLE)
    ui.add_head_html(_KEY_SCRIPT)
    ui.dark_mode(theme(request))
    # One that can be read on both grounds, with white on it.
    ui.colors(primary="#12808a", negative="#c2362c", positive="#12808a")
    with ui.header().classes("items-center gap-6 no-wrap"):
        ui.html('<a class="brand" href="/console/">Millrace</a>', sanitize=False)
        if visitor.is_operator:
            for label, path, key in (("Tenants", "", "t"), ("Cluster", "cluster", "c"), ("Audit", "audit", "a")):
                kind = ' class="here" aria-current="page"' if label == here else ""
                ui.html(f'<a href="{PREFIX}/{path}" data-key="{key}"{kind}>{label}</a>', sanitize=False)
        ui.space()
        ui.label(_who(visitor)).classes("who")
        toggle = ui.button(icon="contrast", on_click=_toggle).props(
            'flat round dense color=inherit aria-label="Light or dark" data-key="d"'
        )
        toggle.tooltip("Light or dark (d)")
        helping = _help(visitor)
        ui.button(icon="keyboard", on_click=helping.open).props(
            'flat round dense color=inherit aria-label="Keys" data-key="?"'
        ).tooltip("Keys (?)")
        if not visitor.is_trusted:
            ui.html(
                f'<form class="signout" method="post" action="{SIGN_OUT}">'
                '<button type="submit">Sign out</button></form>',
                sanitize=False,
            )
    yield


def live(refresh: Callable[[], Awaitable[None]]) -> None:
    """Do this when the page is there, and again every few seconds; below it stands what ails it, if something does."""
    said = ui.label().classes("problem").props("role=status")
    said.visible = False

    async def try_to_refresh() -> None:
        try:
            with unattended():
                await refresh()
        except ApiProblemError as problem:
            if problem.status == 401:
                ui.navigate.to(SIGN_IN.removeprefix(PREFIX))
            said.text, said.visible = problem.detail, True
        else:
            said.visible = False

    ui.timer(REFRESH_S, try_to_refresh)


@contextmanager
def card(title: str, data: str = "") -> Iterator[None]:
    """Put what is built inside on a card, with the link of the JSON behind it."""
    with ui.element("section").classes("card"):
        json = f'<a class="json" href="{data}" title="The same as JSON">JSON</a>' if data else ""
        ui.html(f"<h2>{title}</h2>{json}", sanitize=False).classes("top")
        yield


def html(content: str = "") -> ui.html:
    """Return an element that shows HTML of :mod:`tenants.console.markup`, which has escaped what came from outside."""
    return ui.html(content, sanitize=False)


def views(tenant: str, here: str, choices: tuple[tuple[str, str], ...], path: Callable[[str, str], str]) -> None:
    """Show the links of a tenant's views; the number keys follow them."""
    links = []
    for number, (view, label) in enumerate(choices, start=1):
        one = link(label, path(tenant, view), is_here=view == here)
        links.append(one.replace("<a ", f'<a data-key="{number}" ', 1))
    html(Html("".join(links))).classes("views").props('role=navigation aria-label="Views"')


def _who(visitor: Visitor) -> str:
    actor = visitor.principal.actor
    return f"Operator · {actor}" if visitor.is_operator else f"{visitor.principal.tenant} · {actor}"


def _toggle() -> None:
    # By loading the page anew: charts and the editor have colours of their own.
    ui.run_javascript(
        "const dark = !document.body.classList.contains('body--dark');"
        f"document.cookie = `{_THEME}=${{dark ? 'dark' : 'light'}}; path=/console; samesite=strict; max-age=31536000`;"
        "location.reload();"
    )


def _help(visitor: Visitor) -> ui.dialog:
    keys = OPERATOR_KEYS | KEYS if visitor.is_operator else KEYS
    with ui.dialog() as dialog, ui.card():
        rows = "".join(f"<tr><td><code>{key}</code></td><td>{what}</td></tr>" for key, what in keys.items())
        html(f'<h2>Keys</h2><table class="plain"><tbody>{rows}</tbody></table>')
    return dialog
