"""pcpad report: the page with its figures, and beside it each figure as SVG and its numbers as CSV."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from pcpad import __version__
from pcpad.config import ReportSettings
from pcpad.folders import write_whole
from pcpad.progress import say
from pcpad.study.plan import HOME
from pcpad.study.report.charts import Chart, csv_of, rows_of
from pcpad.study.report.figures import inline, svg_of
from pcpad.study.report.page import Markup, Section, element, folded, joined, page, table
from pcpad.study.report.sections import Block, Part, find, folders_of_studies, has_records, part_of, slug

REPORTS = Path("reports")


def make_report(settings: ReportSettings) -> Path:
    """Write the page that the settings name, and its figures beside it; returns the page.

    Raises:
        ValueError: there is no such study or no records, or what is there is damaged. OSError: the page cannot be
            written.
    """
    folders = [find(settings.study)] if settings.study else []
    if settings.records:
        folder = Path(settings.records)
        if not has_records(folder):
            raise ValueError(f"--records {folder}: no records there: a folder with records.jsonl or border.jsonl")
        folders.append(folder)
    whole = not folders
    if whole:
        folders = folders_of_studies()
        if not folders:
            raise ValueError(f"no folder of {HOME}/ here has records: run this where it is, or say --records FOLDER")
    name = "all" if whole else folders[0].resolve().name
    path = Path(settings.out) if settings.out else REPORTS / f"{name}.html"
    parts = [part_of(folder) for folder in dict.fromkeys(folders)]
    text, files = build(parts, f"{path.stem}-files")
    beside = path.with_name(f"{path.stem}-files")
    for folder in (path.parent, *([beside] if files else [])):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"the folder {folder} cannot be made ({error.strerror}): choose another --out") from error
    for file, content in files.items():
        write_whole(beside / file, content)
    write_whole(path, text)
    drawn = len(files) // 2
    figures = f"; {drawn} figure{'s' * (drawn > 1)} as SVG and CSV in {beside}" if files else ""
    of = f"the records in {settings.records}" if settings.records else f"the study {name}"
    say(f"{path}: {of if len(parts) == 1 else f'{len(parts)} studies'}{figures}")
    return path


def build(parts: list[Part], beside: str) -> tuple[str, dict[str, str]]:
    """The page, and the files that it links to by their names.

    Args:
        beside: folder of these, as the page names it.
    """
    files: dict[str, str] = {}
    names = Counter()
    sections = []
    for part in parts:
        names[slug(part.name)] += 1
        own = slug(part.name) + (f"-{names[slug(part.name)]}" if names[slug(part.name)] > 1 else "")
        below = []
        for block in part.blocks:
            taken = [section.id for section in below]
            number = taken.count(f"{own}.{slug(block.title)}")
            below.append(
                section_of(
                    block, f"{own}.{slug(block.title)}" + (f".{number + 1}" if number else ""), own, beside, files
                )
            )
        sections.append(Section(own, part.title, part.lead, tuple(below)))
    foot = f"Made by pcpad {__version__} from records; pcpad report makes it again."
    if len(sections) == 1:
        only = sections[0]
        return page(only.title, only.content, list(only.parts), foot), files
    lead = element("p", "What each study of this folder has found, from its records alone.")
    return page("Studies of padding", lead, sections, foot), files


def section_of(block: Block, name: str, own: str, beside: str, files: dict[str, str]) -> Section:
    """A block as a section; the files of its figures are added to `files`."""
    content = [block.content] if block.content else []
    drawn = []
    for chart in block.charts:
        chart = replace(chart, name=unique(f"{own}-{slug(chart.name)}", files))
        svg = svg_of(chart)
        files |= {f"{chart.name}.svg": svg + "\n", f"{chart.name}.csv": csv_of(chart)}
        drawn.append(figure(chart, inline(svg), beside))
    if drawn:
        content.append(element("div", joined(drawn, "\n"), class_="figures"))
    return Section(name, block.title, joined(content, "\n"))


def unique(name: str, files: dict[str, str]) -> str:
    """A name that no file has yet."""
    number = 1
    while (f"{name}-{number}" if number > 1 else name) + ".svg" in files:
        number += 1
    return f"{name}-{number}" if number > 1 else name


def figure(chart: Chart, svg: Markup, beside: str) -> Markup:
    """A figure with its caption, its numbers as a table, and links to its files."""
    head, rows, numbers_from = rows_of(chart)
    numbers = folded("Numbers", table(head, rows, numbers_from, f"Numbers of {chart.title}"))
    files = quote(f"{beside}/{chart.name}")
    links = [element("a", kind, href=f"{files}.{kind.lower()}", download=True) for kind in ("SVG", "CSV")]
    told = [element("strong", f"{chart.title}."), " ", chart.told, " "]
    caption = element("figcaption", *told, element("span", links[0], " ", links[1], class_="links"))
    return element("figure", svg, caption, numbers, id=f"{chart.name}-figure")
