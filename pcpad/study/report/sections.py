"""The sections of a page: what a folder's records have to show, each only where there is something."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pcpad.config import nearest
from pcpad.evaluation.border.records import RECORDS, read_border
from pcpad.evaluation.border.tables import tables as border_tables
from pcpad.evaluation.fields import read_reasons, wrong_in_record
from pcpad.folders import read_text
from pcpad.lines import read_lines
from pcpad.statistics import decimals, mcnemar, rounded, rounded_p, wilson
from pcpad.study import plan as study_plan
from pcpad.study.entries import read_results
from pcpad.study.grid import Run
from pcpad.study.markdown import table as markdown_table
from pcpad.study.plan import HOME, load_plan
from pcpad.study.report import facts
from pcpad.study.report.border_charts import border_charts
from pcpad.study.report.charts import Chart
from pcpad.study.report.from_markdown import to_html
from pcpad.study.report.page import Markup, element, joined
from pcpad.study.report.study_charts import (
    difference_chart,
    record_charts,
    same_evaluation,
    size_charts,
    subjects_of,
    training_charts,
)
from pcpad.study.results import paired
from pcpad.study.states import is_evaluated, is_recorded
from pcpad.study.tables import tables_of

EVALUATION = {"schema", "model", "padding", "size", "n", "top1", "settings_digest", "checkpoint"}
"""Keys that tell a record of an evaluation from a line of another file."""


@dataclass(frozen=True)
class Block:
    """A heading with HTML or with figures below it."""

    title: str
    content: Markup | None = None
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Part:
    """What the page says of one folder."""

    name: str
    title: str
    lead: Markup
    blocks: tuple[Block, ...]


def folders_of_studies() -> list[Path]:
    """Every folder of experiments/ that has something to show."""
    return [path for path in sorted(HOME.glob("*")) if path.is_dir() and has_records(path)]


def has_records(folder: Path) -> bool:
    """Whether a folder holds a study, border records or records of evaluations."""
    return (folder / study_plan.FILE).is_file() or bool(border_files(folder) or record_files(folder))


def find(study: str) -> Path:
    """The folder of a study by its name in experiments/, or by its path.

    Raises:
        ValueError: there is no such folder, or nothing in it; names those there are.
    """
    for folder in (HOME / study, Path(study)):
        if folder.is_dir() and has_records(folder):
            return folder
    known = [path.name for path in folders_of_studies()]
    listed = f"choose from {', '.join(known)}, or a path" if known else f"no folder of {HOME}/ here has records"
    raise ValueError(f"unknown study {study!r}: {listed}{nearest(study, known)}")


def border_files(folder: Path) -> list[Path]:
    """Records of ``pcpad border`` in a folder and those below it."""
    return [*folder.glob(RECORDS), *sorted(folder.glob(f"*/{RECORDS}"))]


def record_files(folder: Path) -> list[Path]:
    """Files of evaluation records in a folder: records.jsonl first, then others whose first line is such a record."""

    def is_record(path: Path) -> bool:
        with open(path, errors="replace") as file:
            line = file.readline()
        try:
            content = json.loads(line)
        except ValueError:
            return path.name == "records.jsonl" and bool(line.strip())  # to be named as damaged where it is read
        return isinstance(content, dict) and set(content) >= EVALUATION

    files = [path for path in folder.glob("*.jsonl") if is_record(path)]
    return sorted(files, key=lambda path: (path.name != "records.jsonl", path.name))


def part_of(folder: Path) -> Part:
    """All that a folder has to show.

    Raises:
        ValueError: a study or a record is damaged; names the file.
    """
    name = folder.resolve().name
    title, lead, blocks = heading_of(folder) or name, element("p", "Records in ", element("code", str(folder)), "."), []
    if (folder / study_plan.FILE).is_file():
        plan = load_plan(str(folder))
        title = plan.title
        lead = joined([element("p", plan.question), element("p", "Study ", element("code", plan.name), class_="soft")])
        blocks += study_blocks(plan)
    records = [record for path in record_files(folder) for record in read_lines(path, wrong_in_record)]
    if records:
        blocks += record_blocks(folder, records)
    for path in border_files(folder):
        within = "" if path.parent == folder else f"{path.parent.name}: "
        blocks += border_blocks(read_border(path.parent), within)
    return Part(name, title, lead, tuple(blocks))


def heading_of(folder: Path) -> str | None:
    """The first heading of a folder's README; None without one."""
    path = folder / "README.md"
    lines = read_text(path).splitlines() if path.is_file() else []
    return next((line[2:].strip() for line in lines if line.startswith("# ")), None)


def study_blocks(plan) -> list[Block]:
    """Of a study: tables, figures, surgery, settings."""
    entries = read_results(plan.folder)
    text, _ = tables_of(plan, entries)
    blocks = [Block("Tables", to_html(text, f"Table of {plan.title}"))]
    difference = difference_chart(plan, entries) if {"training", "published"} & set(plan.tables) else None
    blocks += [Block("Differences", charts=(difference,))] if difference else []
    sizes = size_charts(plan, entries)
    blocks += [Block("Accuracy against size", charts=tuple(sizes))] if sizes else []
    curves = training_charts(plan, entries) if plan.source is None else []
    blocks += [Block("Training", charts=tuple(curves))] if curves else []
    names = {run.name: plan.label(run) for run in plan.runs}
    runs = {run.name: run for run in plan.runs}
    shown = [entry for entry in entries if entry["name"] in runs and is_shown(entry, runs[entry["name"]])]
    own = [entry | {"model": names[entry["name"]]} for entry in shown if is_done(entry)]
    done = facts.surgery({run.name: run.folder for run in plan.runs}, own) if plan.source is None else None
    blocks += [Block("Surgery", done)] if done else []
    settings = [made for made in (facts.run_facts(shown), facts.evaluation_facts(shown)) if made]
    blocks += [Block("How it was made", joined(settings, "\n"))] if settings else []
    return blocks


def is_shown(entry: dict, run: Run) -> bool:
    """Whether the tables count an entry of a run: it was made with the settings of today's plan."""
    return is_recorded(run, entry) if entry["kind"] == "run" else is_evaluated(run, entry)


def is_done(entry: dict) -> bool:
    """Whether an entry of a study's results is a finished run."""
    return entry["kind"] == "run" and entry["status"] == "done"


def record_blocks(folder: Path, records: list[dict]) -> list[Block]:
    """Of plain records: a table, accuracy against size, training curves of a run, surgery, settings."""
    records = list({same_evaluation(record): record for record in records}.values())
    text = record_table(records, read_reasons(folder))
    blocks = [Block("Evaluations", to_html(text, f"Evaluations in {folder.name}"))]
    text = paired_table(folder, records)
    blocks += [Block("On the same images", to_html(text, f"Paddings of {folder.name} compared"))] if text else []
    charts = record_charts(records)
    for title, wanted in (("Accuracy against size", "size-"), ("Training", "training-")):
        found = tuple(chart for chart in charts if chart.name.startswith(wanted))
        blocks += [Block(title, charts=found)] if found else []
    done = facts.surgery({folder.resolve().name: folder})
    blocks += [Block("Surgery", done)] if done else []
    settings = [made for made in (facts.run_about(folder), facts.record_facts(records)) if made]
    return [*blocks, Block("How it was made", joined(settings, "\n"))]


def record_table(records: list[dict], impossible: list[dict]) -> str:
    """One row for each evaluation, in Markdown; of a run's epochs only the last."""
    epochs = {
        (r["run"], r["padding"], r["size"]): r
        for r in sorted(records, key=lambda r: r["step"] or 0)
        if r["checkpoint"] == "epoch"
    }
    others = [r for r in records if r["checkpoint"] != "epoch"]
    again = {(r["run"], r["padding"], r["size"], r["step"], r["top1"], r.get("power")) for r in others}
    last = [
        r for r in epochs.values() if (*map(r.get, ("run", "padding", "size", "step", "top1", "power")),) not in again
    ]
    rows, shown = [], others + last  # what pcpad eval has counted once more is one evaluation
    for record, subject in zip(shown, subjects_of(shown), strict=True):
        n = record["n"]
        low, high = (100 * end for end in wilson(record["top1"], n))
        places = decimals((high - low) / 2, 100 / n)
        top1, top5 = (None if record[key] is None else 100 * record[key] / n for key in ("top1", "top5"))
        interval = f"{rounded(low, places)} to {rounded(high, places)}"
        numbers = [str(n), str(record["top1"]), rounded(top1, places), interval, rounded(top5, places)]
        rows.append([subject, record["padding"], record["size"], *numbers])
    there = {(r["model"], r["padding"], r["size"]) for r in shown}
    impossible = [
        c for c in impossible if (c.get("model"), c["padding"], c["size"]) not in there
    ]  # otherwise, with on_small
    names = {record["model"]: subject for record, subject in zip(shown, subjects_of(shown), strict=True)}
    for cell in impossible:
        name = names.get(cell.get("model"), cell.get("model", "-"))
        rows.append([name, cell["padding"], cell["size"], *["n/a"] * 5])
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    told = "In percent of n images; intervals are those of one accuracy over the images (Wilson, 95%)."
    if epochs:
        told += " Of each run's epochs the last one."
    head = ["network", "padding", "size", "n", "right", "top-1", "95% interval", "top-5"]
    parts = [told, markdown_table(head, rows, 3)]
    reasons = dict.fromkeys(cell["reason"] for cell in impossible)
    parts += ["n/a, not applicable:", "\n".join(f"- {reason}" for reason in reasons)] if reasons else []
    return "\n\n".join(parts)


def paired_table(folder: Path, records: list[dict]) -> str:
    """Each padding against that of the training, or zeros, on the same images, in Markdown; empty where none can be.

    Of evaluations whose predictions are beside the records.
    """
    shown = [record for record in records if record["checkpoint"] != "epoch"]
    alike = ("model", "run", "step", "checkpoint", "weights_digest", "manifest_digest", "size", "amp", "ema", "loader")
    alike += ("preprocess", "on_small")
    groups: dict[str, list[tuple[str, dict]]] = {}
    for record, subject in zip(shown, subjects_of(shown), strict=True):
        groups.setdefault(json.dumps([record.get(key) for key in alike]), []).append((subject, record))
    own = {record["run"]: record.get("power", 1.0) for record in records if record["checkpoint"] == "epoch"}
    rows = []
    for group in groups.values():
        base = base_of([record for _, record in group], own.get(group[0][1]["run"], 1.0))
        for subject, record in group if base else ():
            pair = paired(folder, record, base) if record is not base else None
            if pair:
                this, other, n = pair["only_this"], pair["only_other"], record["n"]
                points = rounded(100 * (this - other) / n, decimals(None, 100 / n), True)
                p = rounded_p(mcnemar(this, other))
                rows.append([subject, record["size"], named(record), named(base), points, str(this), str(other), p])
    if not rows:
        return ""
    told = "Difference in points of top-1 on the same images; p by McNemar's exact test, not adjusted for their number."
    head = ["network", "size", "padding", "against", "difference", "right with it alone", "with the other alone", "p"]
    return f"{told}\n\n{markdown_table(head, rows, 4)}"


def base_of(records: list[dict], power: float) -> dict | None:
    """The evaluation with the padding of the training, or else with zeros.

    Args:
        power: of partial padding in the training, if it is known: of several that one, or else that of 1.
    """
    for padding in (records[0].get("padding_trained"), "zeros"):
        found = [record for record in records if record["padding"] == padding]
        if found:
            return min(found, key=lambda record: [record.get("power", 1.0) != wanted for wanted in (power, 1.0)])
    return None


def named(record: dict) -> str:
    """The padding of a record, with its power where that is not the usual one."""
    power = record.get("power", 1.0)
    return f"partial, power {power:g}" if record["padding"] == "partial" and power != 1.0 else record["padding"]


def border_blocks(records: list[dict], within: str) -> list[Block]:
    """Of one call of ``pcpad border``: figures, tables, settings.

    Args:
        within: stands before each title, to tell it from others.
    """
    charts = border_charts(records)
    if within:
        before = slug(within)
        charts = [replace(chart, name=f"{before}-{chart.name}") for chart in charts]
    text = border_tables(records).partition("## ")
    lead = to_html(text[0].partition("\n\n")[2], "")
    tables = to_html(text[1] + text[2], "")
    return [
        Block(f"{within}Border profiles of {records[0]['model']}", lead, tuple(charts)),
        Block(f"{within}Border tables", tables),
        Block(f"{within}How it was measured", facts.border_facts(records)),
    ]


def slug(text: str) -> str:
    """Text as an id and the name of a file: small letters, digits, points, dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "x"
