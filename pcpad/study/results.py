"""A study's results: one line for each run and each evaluation in its results.jsonl, all that tables are made of."""

import fcntl
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pcpad.config import to_dict
from pcpad.evaluation.fields import read_reasons, read_records
from pcpad.evaluation.predictions import hits
from pcpad.folders import read_text, write_whole
from pcpad.lines import NOTHING, NUMBER, TEXT, TRUTH, WHOLE, append_line, read_lines, wrong_field
from pcpad.study.entries import FILE, NOT_APPLICABLE, key_of, read_results
from pcpad.study.grid import Run
from pcpad.study.plan import Plan
from pcpad.study.states import DONE, State, is_evaluated, is_recorded, state_of

LAUNCHES = "launches.jsonl"
JOBS = "jobs"
"""Folder beside it, with the launches of a cluster's jobs."""
LAUNCH = {"name": TEXT, "task": TEXT, "time": TEXT, "resumed": TRUTH, "exit_code": WHOLE, "seconds": NUMBER}
LAUNCH |= {"error": TEXT | NOTHING, "log": TEXT}
"""What a line of the launches has to hold."""


def results_of(plan: Plan) -> dict[tuple, dict]:
    """The entries by `key_of`."""
    return {key_of(entry): entry for entry in read_results(plan.folder)}


def collect(plan: Plan, runs: tuple[Run, ...] | None = None) -> list[dict]:
    """Bring what runs have written into the study's results, and return these; what was there stays.

    But not the evaluations of a run that was trained anew. The same run replaces its own entry, and a failure no
    finished run, so collecting twice changes nothing. The file is replaced as a whole, and two processes wait for each
    other.

    Args:
        runs: which ones to look at; all if None.
    """
    with alone(plan.folder):
        entries = with_folders(plan, runs)
        order = {run.name: i for i, run in enumerate(plan.runs)}
        lines = sorted(entries.values(), key=lambda e: (order.get(e["name"], len(order)), e["kind"] != "run"))
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        path = plan.folder / FILE
        if text != (read_text(path) if path.is_file() else ""):  # as text: a loss that is nan equals no other
            write_whole(path, text)
    return list(entries.values())


def with_folders(plan: Plan, runs: tuple[Run, ...] | None = None) -> dict[tuple, dict]:
    """The entries by `key_of`, with what runs have written since; nothing is changed. Arguments as of `collect`."""
    entries = results_of(plan)
    launches = read_launches(plan)
    for run in plan.runs if runs is None else runs:
        state = state_of(run, entries.get(("run", run.name, None, None)))
        if state.kind == DONE:
            entries.pop(("evaluation", run.name, None, None), None)  # a failure, which is stated again if it lasts
            entries = {key: e for key, e in entries.items() if not of_earlier_weights(e, run, state)}
        for entry in entries_of(plan, run, state, entries, launches):
            entries[key_of(entry)] = entry
    return entries


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the right to change a study's results; waits for it."""
    with open(folder / ".results.lock", "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def of_earlier_weights(entry: dict, run: Run, state: State) -> bool:
    """Whether an entry is an evaluation of a training of this run that another one has taken the place of."""
    same = entry["kind"] == "evaluation" and entry["name"] == run.name and entry["status"] == "done"
    return same and entry["record"].get("run") != state.about["id"]


def entries_of(plan: Plan, run: Run, state: State, entries: dict, launches: list[dict]) -> list[dict]:
    """What a run's folder and its launches have to say: its own entry, and one for each evaluation."""
    found = []
    recorded = entries.get(("run", run.name, None, None))
    trained, evaluated = ([x for x in launches if (x["name"], x["task"]) == (run.name, t)] for t in ("train", "eval"))
    if plan.source is None:
        if state.kind == DONE:
            found.append(done_entry(run, state, trained))
        elif trained and trained[-1]["error"] is not None and not is_recorded(run, recorded):
            found.append(failed_entry("run", run, trained[-1]))
    if plan.sizes and state.kind == DONE:
        found += evaluation_entries(plan, run, state, entries)
        if evaluated and evaluated[-1]["error"] is not None and set(plan.cells(run)) - covered(plan, run, state):
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
        "train_digest": about.get("train_digest"),
        "settings": json.loads(json.dumps(to_dict(replace(run.settings, data=data), result_only=True))),
        "recipe": run.settings.recipe,
        "surgery": surgery_of(run),
        "seconds": round(seconds, 1) if launches else None,
        "processes": about.get("processes", 1),
        "hardware": about.get("hardware"),
        "versions": about.get("versions"),
        "commit": about.get("commit"),
        "record": last,
    }


def surgery_of(run: Run) -> dict[str, int] | None:
    """How many convolutions the run's surgery has dealt with, by what it did; None where its report is not at hand."""
    try:
        return counts_of(json.loads((run.folder / "surgery.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def counts_of(report: dict) -> dict[str, int]:
    """A report of `pcpad.convert`, as its ``to_dict`` gives it: convolutions by what was done."""
    return dict(Counter(layer["action"] for layer in report["layers"] if layer["is_conv"]))


def failed_entry(kind: str, run: Run, launch: dict) -> dict:
    """The entry of a run, or of the evaluation of one, that has failed: with what, and where its log is."""
    about = {key: launch[key] for key in ("exit_code", "error", "log", "time")}
    return {"kind": kind, "name": run.name, "status": "failed", "model": run.model, "padding": run.padding} | {
        "seed": run.settings.seed,
        "varied": run.varied,
        **about,
    }


def evaluations_of(plan: Plan, run: Run, state: State) -> dict[tuple[str, str], dict]:
    """The newest record of a finished run's last weights in each cell, by padding and size.

    What somebody has evaluated by hand on other images, or with another precision, power or preprocessing, is no cell
    of a study.
    """
    last, found = state.history[-1], {}
    for record in read_records(run.folder):
        same = record.get("run") == state.about["id"] and record.get("step") == last["step"]
        if same and record["checkpoint"] == "last" and on_images_of(plan, record, last) and plainly(run, record, last):
            found[record["padding"], record["size"]] = record
    return found


def on_images_of(plan: Plan, record: dict, last: dict) -> bool:
    """Whether a record is of the study's images: those of the run's own evaluation, or those that the study states.

    Args:
        last: the record of the run's last epoch.
    """
    if plan.other_images is not None:
        return record.get("data") in (plan.other_images, Path(plan.other_images).name)
    return record.get("manifest_digest") == last.get("manifest_digest")


def plainly(run: Run, record: dict, last: dict) -> bool:
    """Whether a record is what ``pcpad eval --run`` gives without further settings.

    Args:
        last: the record of the run's last epoch, which has the preprocessing of the training.
    """
    settings, padding = run.settings, record["padding"]
    wanted = {"amp": "off", "ema": settings.ema is not None, "on_small": settings.on_small}
    if padding == "partial":
        wanted["power"] = last.get("power", settings.power) if run.padding == padding else settings.power
    given, own = record.get("preprocess", {}), last.get("preprocess", {})
    native = any(one["size"].startswith("native:") for one in (record, last))
    keys = ("mean", "std", "interpolation") if native else ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    alike = all(given.get(key) == own.get(key) for key in keys) or not (given and own)
    return alike and all(record.get(key, value) == value for key, value in wanted.items())


def covered(plan: Plan, run: Run, state: State) -> set[tuple[str, str]]:
    """Padding and size of the cells that a finished run has a record of, or cannot do."""
    return {(padding, size) for padding, size, _ in not_applicable(run)} | set(evaluations_of(plan, run, state))


def evaluation_entries(plan: Plan, run: Run, state: State, recorded: dict[tuple, dict]) -> list[dict]:
    """The evaluation of a finished run's last weights in each cell of the study; and cells it cannot do.

    Where the predictions of the padding it was trained with are there, each entry counts the images that only one of
    the two has right, which is what a paired test needs.

    Args:
        recorded: the results so far: what they have counted of the same two records is not counted again.
    """
    cells, wanted = evaluations_of(plan, run, state), plan.cells(run)
    entries = []
    about = {"name": run.name, "model": run.model, "padding": run.padding}
    about |= {"seed": run.settings.seed, "varied": run.varied}
    for padding, size, reason in not_applicable(run):
        if (padding, size) in wanted and (padding, size) not in cells:
            entry = {"kind": "evaluation", "status": NOT_APPLICABLE, **about}
            entry |= {"padding_evaluated": padding, "size": size, "reason": reason}
            entries.append(entry | {"run_digest": state.about["settings_digest"]})
    for (padding, size), record in cells.items():
        if (padding, size) not in wanted:
            continue
        entry = {"kind": "evaluation", "status": "done", **about, "padding_evaluated": padding, "size": size}
        entry |= {key: record[key] for key in ("n", "top1", "top5")} | {"run_digest": state.about["settings_digest"]}
        other = cells.get((run.padding, size))
        if other is not None and padding != run.padding:
            old = [recorded.get(("evaluation", run.name, one, size), {}) for one in (padding, run.padding)]
            same = [one.get("record") for one in old] == [record, other]
            entry["paired"] = (old[0].get("paired") if same else None) or paired(run.folder, record, other)
        entries.append(entry | {"record": record})
    return entries


def not_applicable(run: Run) -> list[tuple[str, str, str]]:
    """Padding, size and reason of each cell that pcpad eval has found a run's model cannot do with its settings."""
    own = [line for line in read_reasons(run.folder) if line.get("on_small", "raise") == run.settings.on_small]
    return [(line["padding"], line["size"], line["reason"]) for line in own]


def missing_cells(plan: Plan, run: Run, entries: dict[tuple, dict]) -> list[tuple[str, str]]:
    """Padding and size of each evaluation of a run that a study's results do not have."""

    def is_there(padding: str, size: str) -> bool:
        entry = entries.get(("evaluation", run.name, padding, size))
        return entry is not None and is_evaluated(run, entry)

    return [cell for cell in plan.cells(run) if not is_there(*cell)]


def paired(folder: Path, record: dict, other: dict) -> dict | None:
    """How many images only one of two evaluations has right; None where the predictions are not at hand."""
    from pcpad.statistics import discordant

    right = [hits(folder, one) for one in (record, other)]
    if record["manifest_digest"] != other["manifest_digest"] or any(one is None for one in right):
        return None
    this, that = discordant(*(one.tolist() for one in right))
    return {"with": other["padding"], "only_this": this, "only_other": that}


def read_launches(plan: Plan) -> list[dict]:
    """What was started, a line each: name, task, exit code, seconds, and the error of a failure; a run's in order.

    `study run` keeps them in one file, a cluster's jobs in one file a run, since nodes do not share an append.
    """
    folder = Path("runs", plan.name)
    paths = [folder / LAUNCHES, *sorted(folder.glob(f"{JOBS}/*.jsonl"))]
    lines = [line for path in paths if path.is_file() for line in read_lines(path, wrong_in_launch)]
    return sorted(lines, key=lambda line: line["time"])


def wrong_in_launch(line: dict) -> str | None:
    """What is wrong with a line of the launches, in words, or None."""
    return wrong_field(line, LAUNCH)


def note_launch(plan: Plan, line: dict) -> None:
    """Append a line to the launches."""
    path = Path("runs", plan.name, LAUNCHES)
    path.parent.mkdir(parents=True, exist_ok=True)
    append_line(path, line)
