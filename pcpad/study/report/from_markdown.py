"""The Markdown that tables are made as, read back into HTML: a page has the very numbers that a README has."""

import re

from pcpad.study.markdown import cells
from pcpad.study.report.page import Markup, element, joined, table

LONG = 40
"""Characters from which code is a command, which may be broken in a narrow column."""


def to_html(text: str, caption: str, deepest: int = 4) -> Markup:
    """HTML of headings, paragraphs, lists and tables in Markdown, which is all that pcpad writes of it.

    Args:
        caption: of its tables, unless a heading stands before one.
        deepest: level of the HTML heading that Markdown's second level becomes; its first level is left out.
    """
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.strip().splitlines()
        if not lines:
            continue
        heading = re.match(r"(#+) (.*)", lines[0])
        if heading:
            caption = heading[2]
            if len(heading[1]) > 1:
                parts.append(element(f"h{deepest + len(heading[1]) - 2}", inline(heading[2])))
        elif lines[0].startswith("|"):
            parts.append(table_of(lines, caption))
        elif lines[0].startswith("- "):
            parts.append(element("ul", *(element("li", inline(line.removeprefix("- "))) for line in lines)))
        else:
            parts.append(element("p", inline(" ".join(lines))))
    return joined(parts, "\n")


def table_of(lines: list[str], caption: str) -> Markup:
    """A table; columns that hold numbers in most cells are aligned to the right where Markdown says nothing."""
    head, marks, *rows = map(cells, lines)
    right = [i for i, mark in enumerate(marks) if mark.endswith(":")]
    if not right:
        right = [i for i in range(len(head)) if rows and all(re.match(r"[-+]?\d[\d.]*\b(?!x)|-$", r[i]) for r in rows)]
    rows = [[inline(text) for text in row] for row in rows]
    return table([inline(text) for text in head], rows, min(right, default=len(head)), caption)


def inline(text: str) -> Markup:
    """Text with ``code`` and **bold**; anything else is taken as it is, and escaped."""
    parts = []
    for piece in re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", text):
        if len(piece) > 2 and piece[0] == piece[-1] == "`":
            parts.append(element("code", piece[1:-1], class_="long" if len(piece) > LONG else None))
        elif len(piece) > 4 and piece.startswith("**") and piece.endswith("**"):
            parts.append(element("strong", piece[2:-2]))
        else:
            parts.append(piece)
    return joined(parts)
