"""How far a run of a study is, read from its folder without torch."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from pcpad import lock
from pcpad.evaluation.fields import read_records
from pcpad.study.grid import Run, differences_from

DONE, RECORDED, MISSING, RUNNING = "done", "recorded", "missing", "running"
INTERRUPTED, BEGUN, CHANGED, DAMAGED = "interrupted", "begun", "changed", "damaged"
RUNNABLE = (MISSING, INTERRUPTED, BEGUN)
REFUSED = (CHANGED, DAMAGED)
"""A person has to look at the folder first."""


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        kind: ``done``; ``recorded``: the study's results have it and its folder is not here; ``missing``; ``running``:
            another process has it; ``interrupted``: it has a checkpoint to go on from; ``begun``: it has none;
            ``changed``: its folder holds a run with other settings; ``damaged``: a file in it cannot be read.
        detail: what a reader wants to know of it, or an empty string.
        history: records of its epochs, the first first.
        about: content of its run.json.
    """

    kind: str
    detail: str = ""
    history: tuple[dict, ...] = ()
    about: dict = field(default_factory=dict)


def state_of(run: Run, recorded: dict | None = None) -> State:
    """The state of a run.

    Args:
        recorded: its entry in the study's results, if there is one.
    """
    folder = run.folder
    if not (folder / "run.json").is_file():
        if holder := holder_of(folder):
            return State(RUNNING, f"just started by {holder}")
        if is_recorded(run, recorded):
            return State(RECORDED, "in the results; its folder is not here")
        return State(MISSING)
    try:
        about = json.loads((folder / "run.json").read_text())
        own_digest = run.digest(about["settings"]["data"]["loader"])
        its_digest, _ = about["settings_digest"], about["id"]
    except (ValueError, KeyError, TypeError):
        return State(DAMAGED, f"{folder / 'run.json'} is damaged")
    if its_digest != own_digest:
        lines = differences_from(run, about["settings"])
        return State(CHANGED, "; ".join(lines) or "an older pcpad's settings", about=about)
    if not same_weights(run, about.get("weights_digest")):
        return State(CHANGED, f"weights: {about.get('weights_digest')} -> {run.settings.weights}", about=about)
    try:
        history = epochs_of(folder, about["id"])
    except (ValueError, KeyError, TypeError) as error:
        return State(DAMAGED, str(error), about=about)
    steps = [record["step"] for record in history]
    whole = steps == [steps[0] * (i + 1) for i in range(run.settings.epochs)] if steps else False
    saved = {int(path.stem.split("-")[1]) for path in (folder / "checkpoints").glob("step-*.pt")}
    detail = f"{len(history)} of {run.settings.epochs} epochs"
    if holder := holder_of(folder):
        return State(RUNNING, f"{detail}, {holder}", tuple(history), about)
    if whole and (not saved or steps[-1] in saved):  # a record is written before the checkpoint of its epoch
        return State(DONE, f"top-1 {100 * history[-1]['top1'] / history[-1]['n']:.2f}%", tuple(history), about)
    return State(INTERRUPTED if saved else BEGUN, detail, tuple(history), about)


def is_recorded(run: Run, entry: dict | None) -> bool:
    """Whether an entry of the results is this run, finished and with the settings of today's plan."""
    if not entry or entry.get("status") != "done":
        return False
    alike = entry["settings_digest"] == run.digest(entry["record"]["loader"])
    return alike and same_weights(run, entry["record"].get("weights_digest"))


def is_evaluated(run: Run, entry: dict) -> bool:
    """Whether an evaluation of the results is of this run, with the settings and the weights of today's plan."""
    if not run.made(entry.get("run_digest")):
        return False
    return entry["status"] != "done" or same_weights(run, entry["record"].get("weights_digest"))


def same_weights(run: Run, digest: str | None) -> bool:
    """Whether a run began with weights of the kind that the plan names, which no settings digest holds.

    Args:
        digest: a library's name of its weights, or the digest of a file, whose content the plan does not state.
    """
    planned = run.settings.weights
    if planned is None or digest is None or planned == digest:
        return planned == digest
    may_be_file = Path(planned).suffix or "/" in planned or Path(planned).is_file()
    return bool(may_be_file) and re.fullmatch("[0-9a-f]{12}", digest) is not None


def epochs_of(folder: Path, run_id: str) -> list[dict]:
    """The records of a run's epochs in order; of an epoch that was evaluated again after a stop, the later one."""
    own = [r for r in read_records(folder) if r.get("checkpoint") == "epoch" and r.get("run") == run_id]
    return [record for _, record in sorted({record["step"]: record for record in own}.items())]


def holder_of(folder: Path) -> str | None:
    """The living process of this machine, or the one of another machine, that holds the folder's lock; else None."""
    try:
        return lock.read_holder((folder / lock.NAME).read_bytes())
    except OSError:
        return None
