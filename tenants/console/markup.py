"""Pieces of pages that are mere text: tables, tags, bars. Everything that comes from outside is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final
from urllib.parse import quote, urlencode

from tenants.console.doors import DATA, PREFIX


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Cell = Html | str
"""HTML as it is, other text escaped."""

_NUMBER: Final = "n"


def text(value: Cell) -> Html:
    """Return the HTML that shows a value."""
    return value if isinstance(value, Html) else Html(escape(value))


def tag(label: str, kind: str = "") -> Html:
    """Return a label in a frame: ``good``, ``poor`` and ``bad`` have colours."""
    return Html(f'<span class="tag {kind}">{escape(label)}</span>')


def link(label: str, href: str, *, is_here: bool = False) -> Html:
    """Return a link."""
    here = ' class="here" aria-current="true"' if is_here else ""
    return Html(f'<a href="{escape(href)}"{here}>{escape(label)}</a>')


def bar(part: float, whole: float, label: str) -> Html:
    """Return how much of something is used; without a whole only the label."""
    if not whole:
        return text(label)
    share = min(1.0, part / whole)
    kind = "bad" if share >= 1 else "poor" if share >= 0.8 else ""
    return Html(f'{escape(label)}<div class="bar {kind}"><i style="width:{100 * share:.0f}%"></i></div>')


def table(
    heads: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, numbers: Iterable[int] = (), kind: str = ""
) -> Html:
    """Return a table; the columns ``numbers`` are set to the right."""
    right = set(numbers)

    def cells(name: str, row: Sequence[Cell]) -> str:
        return "".join(
            f"<{name}{f' class={_NUMBER}' if index in right else ''}>{text(cell)}</{name}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return Html(
        f'<div class="scroll"><table class="plain {kind}"><thead><tr>{cells("th", heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def tenant_path(tenant: str, view: str = "") -> str:
    """Return where a tenant's page is."""
    return f"{PREFIX}/tenant/{quote(tenant, safe='')}" + (f"/{view}" if view else "")


def data_path(path: str, tenant: str | None = None, **query: str) -> str:
    """Return the link of the JSON behind a page: ``path`` of the API, without ``/api/``."""
    parameters = query | ({"org": tenant} if tenant else {})
    return f"{DATA}/{path}" + (f"?{urlencode(parameters)}" if parameters else "")
