"""A study's results: one line for each run and each evaluation in its results.jsonl, all that tables are made of."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pcpad.config import to_dict
from pcpad.study.grid import Run
from pcpad.study.plan import Plan
from pcpad.study.states import DONE, State, is_recorded, records_of, state_of
from pcpad.training.logbook import read_lines

FILE = "results.jsonl"
LAUNCHES = "launches.jsonl"
NOT_APPLICABLE = "not applicable"
"""Status of an evaluation that the model cannot do: padding that its maps are too small for."""


def key_of(entry: dict) -> tuple:
    """What an entry is of; there is one entry of each."""
    return entry["kind"], entry["name"], entry.get("padding_evaluated"), entry.get("size")


def read_results(folder: Path) -> list[dict]:
    """The entries of a study's results; empty if there are none yet.

    Raises:
        ValueError: a line is damaged; names it.
    """
    path = folder / FILE
    entries = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
        try:
            entry = json.loads(line)
            key_of(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}, is damaged ({error}): remove the line; what is still in the run's folder "
                "is collected again"
            ) from None
        entries.append(entry)
    return entries


def results_of(plan: Plan) -> dict[tuple, dict]:
    """The entries by `key_of`."""
    return {key_of(entry): entry for entry in read_results(plan.folder)}


def collect(plan: Plan, runs: tuple[Run, ...] | None = None) -> list[dict]:
    """Bring what runs have written into the study's results, and return these; what was there stays.

    The same run replaces its own entry, and a failure no finished run, so collecting twice changes nothing. The file is
    replaced as a whole, and two processes wait for each other.

    Args:
        runs: which ones to look at; all if None.
    """
    with alone(plan.folder):
        entries = results_of(plan)
        before = dict(entries)
        launches = read_launches(plan)
        for run in plan.runs if runs is None else runs:
            entries.pop(("evaluation", run.name, None, None), None)  # a failure, which is stated again if it lasts
            for entry in entries_of(plan, run, entries, launches):
                entries[key_of(entry)] = entry
        if entries != before:
            order = {run.name: i for i, run in enumerate(plan.runs)}
            lines = sorted(entries.values(), key=lambda e: (order.get(e["name"], len(order)), e["kind"] != "run"))
            temporary = plan.folder / f"{FILE}.tmp"
            temporary.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
            os.replace(temporary, plan.folder / FILE)
    return list(entries.values())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the right to change a study's results; waits for it."""
    with open(folder / ".results.lock", "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def entries_of(plan: Plan, run: Run, entries: dict, launches: list[dict]) -> list[dict]:
    """What a run's folder and its launches have to say: its own entry, and one for each evaluation."""
    found = []
    recorded = entries.get(("run", run.name, None, None))
    state = state_of(run, recorded)
    trained, evaluated = ([x for x in launches if (x["name"], x["task"]) == (run.name, t)] for t in ("train", "eval"))
    if plan.source is None:
        if state.kind == DONE:
            found.append(done_entry(run, state, trained))
        elif trained and trained[-1]["error"] is not None and not is_recorded(run, recorded):
            found.append(failed_entry("run", run, trained[-1]))
    if plan.sizes and state.kind == DONE:
        found += evaluation_entries(plan, run, state)
        if evaluated and evaluated[-1]["error"] is not None:
            found.append(failed_entry("evaluation", run, evaluated[-1]))
    return found


def done_entry(run: Run, state: State, launches: list[dict]) -> dict:
    """The entry of a finished run: its last record whole, and the counts of every epoch.

    Its seconds are those of all its starts here, since the last one that was no continuation.
    """
    last, about = state.history[-1], state.about
    data = replace(run.settings.data, loader=last["loader"])
    first = max((i for i, line in enumerate(launches) if not line["resumed"]), default=0)
    seconds = sum(line["seconds"] for line in launches[first:])
    return {
        "kind": "run",
        "name": run.name,
        "status": "done",
        "model": run.model,
        "padding": run.padding,
        "seed": run.settings.seed,
        "varied": run.varied,
        "n": last["n"],
        "top1": [record["top1"] for record in state.history],
        "loss": [round(record["loss"], 6) for record in state.history],
        "settings_digest": about["settings_digest"],
        "settings": json.loads(json.dumps(to_dict(replace(run.settings, data=data), result_only=True))),
        "recipe": run.settings.recipe,
        "seconds": round(seconds, 1) if launches else None,
        "processes": about.get("processes", 1),
        "hardware": about["hardware"],
        "versions": about["versions"],
        "commit": about["commit"],
        "record": last,
    }


def failed_entry(kind: str, run: Run, launch: dict) -> dict:
    """The entry of a run, or of the evaluation of one, that has failed: with what, and where its log is."""
    about = {key: launch[key] for key in ("exit_code", "error", "log", "time")}
    return {"kind": kind, "name": run.name, "status": "failed", "model": run.model, "padding": run.padding} | {
        "seed": run.settings.seed,
        "varied": run.varied,
        **about,
    }


def evaluation_entries(plan: Plan, run: Run, state: State) -> list[dict]:
    """The newest evaluation of a finished run's last weights in each cell of the study; and cells it cannot do.

    Where the predictions of the padding it was trained with are there, each entry counts the images that only one of
    the two has right, which is what a paired test needs.
    """
    cells, wanted = {}, plan.cells(run)
    for record in records_of(run.folder):
        same = record.get("run") == state.about["id"] and record.get("step") == state.history[-1]["step"]
        if same and record["checkpoint"] == "last":
            cells[record["padding"], record["size"]] = record
    entries = []
    about = {"name": run.name, "model": run.model, "padding": run.padding}
    about |= {"seed": run.settings.seed, "varied": run.varied}
    for padding, size, reason in not_applicable(run):
        if (padding, size) in wanted and (padding, size) not in cells:
            entry = {
                "kind": "evaluation",
                "status": NOT_APPLICABLE,
                **about,
                "padding_evaluated": padding,
                "size": size,
            }
            loader = {"loader": state.history[-1]["loader"]}
            entries.append(entry | {"reason": reason, "run_digest": state.about["settings_digest"], "record": loader})
    for (padding, size), record in cells.items():
        if (padding, size) not in wanted:
            continue
        entry = {"kind": "evaluation", "status": "done", **about, "padding_evaluated": padding, "size": size}
        entry |= {key: record[key] for key in ("n", "top1", "top5", "run_digest")}
        other = cells.get((run.padding, size))
        if other is not None and padding != run.padding:
            entry["paired"] = paired(run.folder, record, other)
        entries.append(entry | {"record": record})
    return entries


def not_applicable(run: Run) -> list[tuple[str, str, str]]:
    """Padding, size and reason of each cell that pcpad eval has found a run's model cannot do."""
    path = run.folder / "not_applicable.jsonl"
    lines = read_lines(path) if path.is_file() else []
    return [(line["padding"], line["size"], line["reason"]) for line in lines]


def missing_cells(plan: Plan, run: Run, entries: dict[tuple, dict]) -> list[tuple[str, str]]:
    """Padding and size of each evaluation of a run that a study's results do not have."""

    def is_there(padding: str, size: str) -> bool:
        entry = entries.get(("evaluation", run.name, padding, size))
        return entry is not None and entry["run_digest"] == run.digest(entry["record"]["loader"])

    return [cell for cell in plan.cells(run) if not is_there(*cell)]


def paired(folder: Path, record: dict, other: dict) -> dict | None:
    """How many images only one of two evaluations has right; None where the predictions are not at hand."""
    import numpy as np

    from pcpad.statistics import discordant

    files = [folder / one["predictions"] for one in (record, other)]
    if record["manifest_digest"] != other["manifest_digest"] or not all(file.is_file() for file in files):
        return None
    right = []
    for file in files:
        with np.load(file) as content:
            right.append((content["top5"][:, 0] == content["label"]).tolist())
    this, that = discordant(*right)
    return {"with": other["padding"], "only_this": this, "only_other": that}


def read_launches(plan: Plan) -> list[dict]:
    """What `study run` has started, a line each: name, task, exit code, seconds, and the error of a failure."""
    path = Path("runs", plan.name, LAUNCHES)
    return read_lines(path) if path.is_file() else []


def note_launch(plan: Plan, line: dict) -> None:
    """Append a line to the launches."""
    path = Path("runs", plan.name, LAUNCHES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
