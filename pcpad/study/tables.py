"""pcpad study table: a study's tables from its results, in its README and as table.csv; torch is never imported."""

import csv
import io

from pcpad.folders import write_whole
from pcpad.progress import say
from pcpad.study.cross_table import cross_table, resolution_table
from pcpad.study.markdown import code, put_into
from pcpad.study.plan import Plan, load_plan
from pcpad.study.results import collect
from pcpad.study.states import REFUSED, state_of
from pcpad.study.training_table import published_table, training_table

COLUMNS = ("table", "model", "varied", "padding", "padding_evaluated", "size", "basis", "runs", "images", "mean")
COLUMNS += (
    "deviation",
    "difference",
    "difference_low",
    "difference_high",
    "low",
    "high",
    "t",
    "df",
    "p",
    "p_holm",
    "values",
)


def make_tables(study: str) -> None:
    """Collect what is finished, then write a study's tables.

    Raises:
        ValueError: there is no such study, a result is damaged, or the README has no place for the tables.
    """
    plan = load_plan(study)
    entries = collect(plan)
    text, rows = tables_of(plan, entries)
    readme = plan.folder / "README.md"
    changed = put_into(readme, text)
    if rows:
        csv_text = io.StringIO()
        writer = csv.DictWriter(csv_text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(plan.folder / "table.csv", csv_text.getvalue())
    else:
        (plan.folder / "table.csv").unlink(missing_ok=True)  # of results that are no longer the plan's
    done = sum(entry["status"] == "done" for entry in entries)
    told = "has new tables" if changed else "is as it was"
    numbers = f"; {len(rows)} rows of numbers in {plan.folder / 'table.csv'}" if rows else ""
    say(f"{plan.name}: {done} results; {readme} {told}{numbers}")
    refused = [(run, state) for run in plan.runs if (state := state_of(run)).kind in REFUSED]
    if refused:
        run, state = refused[0]
        one = len(refused) == 1
        runs = "1 run whose folder is" if one else f"{len(refused)} runs whose folders are"
        told = f"not looked at: {runs} changed or damaged; what the results have of {'it' if one else 'them'} stays"
        say(f"{told}; {run.folder}: {state.detail}")


def tables_of(plan: Plan, entries: list[dict]) -> tuple[str, list[dict]]:
    """All tables of a study as Markdown, and their numbers as rows of table.csv."""
    texts, rows = [], []
    for kind in plan.tables:
        if kind == "published":
            text, numbers = published_table(plan)
        else:
            make = {"training": training_table, "cross": cross_table, "resolution": resolution_table}[kind]
            text, numbers = make(plan, entries)
        texts.append(text)
        rows += [{"table": kind, **row} for row in numbers]
    names = {run.name for run in plan.runs}
    failed = [entry for entry in entries if entry["status"] == "failed" and entry["name"] in names]
    if failed:
        lines = [f"- {e['name']}: exit code {e['exit_code']}: {code(e['error'])}" for e in failed]
        texts.append("Failed:\n\n" + "\n".join(lines))
    return "\n\n".join(texts), rows
