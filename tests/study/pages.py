"""What tests of reports share: results made by hand, and a page as a parser sees it."""

import csv
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from pcpad.cli import main
from pcpad.config import to_dict

ROOT = Path(__file__).resolve().parents[2]
GRID = {"model": ["timm/test_byobnet"], "padding": ["zeros", "partial", "reflect"], "seed": [0, 1, 2]}
COUNTS = {"zeros": [[50, 60], [51, 62], [49, 64]], "partial": [[52, 68], [54, 70], [56, 72]]}

VOID = {"meta", "br", "link", "img", "input", "hr"}


@dataclass
class Seen:
    """What a page holds: elements as (name, attributes), ids, texts by element, tables as rows of texts."""

    elements: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    texts: dict = field(default_factory=dict)

    def named(self, name: str) -> list[dict]:
        return [attributes for element, attributes in self.elements if element == name]


def read_page(text: str) -> Seen:
    """Parse a page; what is not well nested stands in `wrong`."""
    seen, stack, cell = Seen(), [], []
    parser = HTMLParser(convert_charrefs=True)

    def start(name, attributes):
        seen.elements.append((name, dict(attributes)))
        seen.ids += [value for key, value in attributes if key == "id"]
        if name not in VOID:
            stack.append(name)
        if name == "table":
            seen.tables.append([])
        elif name == "tr":
            seen.tables[-1].append([])
        elif name in ("td", "th"):
            cell.clear()

    def end(name):
        if not stack or stack.pop() != name:
            seen.wrong.append((name, parser.getpos()))
        if name in ("td", "th"):
            seen.tables[-1][-1].append("".join(cell))

    def data(text):
        cell.append(text)
        if stack:
            seen.texts[stack[-1]] = seen.texts.get(stack[-1], "") + text

    def both(name, attributes):
        start(name, attributes)
        if name not in VOID:
            end(name)

    parser.handle_starttag, parser.handle_endtag, parser.handle_data = start, end, data
    parser.handle_startendtag = both
    parser.feed(text)
    seen.wrong += stack
    return seen


def whole_record(**more) -> dict:
    """A record of an evaluation with all that a record has to hold."""
    record = {"schema": 1, "run": None, "checkpoint": "w", "step": None, "model": "timm/a", "padding": "zeros"}
    record |= {"size": "64", "loader": "dali", "n": 100, "top1": 50, "top5": None, "loss": 1.0}
    return record | {"settings_digest": "s", "manifest_digest": "m"} | more


def result(run, top1: list[int]) -> dict:
    settings = json.loads(json.dumps(to_dict(run.settings, result_only=True)))
    facts = {"kind": "run", "name": run.name, "status": "done", "model": run.model, "padding": run.padding}
    facts |= {
        "seed": run.settings.seed,
        "varied": {},
        "top1": top1,
        "n": 100,
        "settings": settings,
        "recipe": "textures",
    }
    facts |= {"seconds": 7.5, "processes": 1, "hardware": "AMD <1>", "versions": {"torch": "9.8.7"}, "commit": "c0ffee"}
    return facts | {"settings_digest": run.digest("dali"), "record": whole_record()}


def built(*argv: str) -> str:
    assert main(["report", *argv, "--out", "page.html"]) == 0
    return Path("page.html").read_text()


def csv_rows(name: str) -> list[dict]:
    with open(Path("page-files", name), newline="") as file:
        return list(csv.DictReader(file))


def check_page(text: str):
    """What holds for every page."""
    seen = read_page(text)
    assert seen.wrong == []
    assert len(seen.ids) == len(set(seen.ids))
    for attributes in seen.named("svg"):
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= set(seen.ids)
    for name, attributes in seen.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "data", "srcset", "action"):
                assert name in ("a", "use"), (name, value)  # links, and shapes of the same page
                assert not re.match(r"\w+:", value), value
                if value.startswith("#"):
                    assert value[1:] in seen.ids
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    return seen
