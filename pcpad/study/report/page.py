"""HTML as text: elements that escape what they hold, and the page that a report is."""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing from anywhere."""
VOID = ("meta", "br")
WIDE = 20
"""Characters from which a cell of text is given room, and not broken after every word."""


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already; any other text is escaped where it is put into an element."""

    text: str


Content = str | Markup


def element(name: str, *content: Content, **attributes: str | bool | None) -> Markup:
    """``<name attribute="value">content</name>``.

    Args:
        content: strings are escaped, `Markup` is not.
        attributes: a trailing ``_`` is dropped and ``_`` is ``-`` (``class_``, ``aria_label``); True stands without a
            value; None and False are left out.

    >>> element("p", "a < b", class_="lead").text
    '<p class="lead">a &lt; b</p>'
    """
    given = ""
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            given += f" {key}" if value is True else f' {key}="{escape(value)}"'
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(content).text}</{name}>")


def joined(content, between: str = "") -> Markup:
    """Pieces one after the other, strings escaped."""
    return Markup(between.join(part.text if isinstance(part, Markup) else escape(part) for part in content))


@dataclass(frozen=True)
class Section:
    """A heading of the page with what stands below it.

    Attributes:
        id: unique on the page.
        parts: sections of their own, one level deeper.
    """

    id: str
    title: str
    content: Markup
    parts: tuple["Section", ...] = ()


def table(head: list[Content], rows: list[list[Content]], numbers_from: int, caption: str, sortable: bool = True):
    """A table in a box that scrolls by itself.

    Args:
        numbers_from: columns from this one on are aligned to the right.
        caption: says what the table is to who cannot see it at a glance.
        sortable: whether its headings are buttons that sort the rows; page.js does that.
    """
    sortable = sortable and len(rows) > 1

    def cell(name: str, index: int, text: Content, **more) -> Markup:
        shown = re.sub("<[^>]*>", "", text.text) if isinstance(text, Markup) else text
        wide = "w" if name == "td" and len(shown) > WIDE else None
        return element(name, text, class_="n" if index >= numbers_from else wide, **more)

    heads = [
        cell(
            "th",
            i,
            element("button", text, type="button") if sortable and text else text,
            scope="col",
            aria_sort="none" if sortable and text else None,
        )
        for i, text in enumerate(head)
    ]
    body = [element("tr", *(cell("td", i, text) for i, text in enumerate(row))) for row in rows]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", joined(body, "\n")),
        class_="sortable" if sortable else None,
    )
    return element("div", whole, class_="box", tabindex="0", role="region", aria_label=caption)


def folded(summary: str, *content: Content, printed: bool = False) -> Markup:
    """What opens when its heading is clicked.

    Args:
        printed: whether it is open in print, from which it is left out otherwise.
    """
    return element("details", element("summary", summary), *content, class_="printed" if printed else None)


def page(title: str, lead: Content, sections: list[Section], foot: Content) -> str:
    """The whole document: one file that loads nothing."""
    head = [
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Markup((HERE / "page.css").read_text())),
    ]
    body = [
        element("header", element("h1", title), lead),
        element("nav", element("h2", "Contents"), contents(sections), aria_label="Contents"),
        element("main", *(rendered(section, 2) for section in sections)),
        element("footer", foot),
        element("script", Markup((HERE / "page.js").read_text())),
    ]
    document = element(
        "html", element("head", joined(head, "\n")), "\n", element("body", joined(body, "\n")), lang="en"
    )
    return f"<!doctype html>\n{document.text}\n"


def contents(sections: tuple[Section, ...] | list[Section]) -> Markup:
    """Links to sections as nested lists."""
    items = []
    for section in sections:
        below = [contents(section.parts)] if section.parts else []
        items.append(element("li", element("a", section.title, href=f"#{section.id}"), *below))
    return element("ul", *items)


def rendered(section: Section, level: int) -> Markup:
    """A section with its heading at a level, 2 for ``<h2>``."""
    name = f"h{min(level, 6)}"
    heading = element(name, section.title, id=section.id)
    parts = [rendered(part, level + 1) for part in section.parts]
    return element("section", heading, section.content, *parts, aria_labelledby=section.id)
