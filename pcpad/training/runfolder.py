"""The folder of a run: whose it is, what it says of the run, and whether a run can go on in it."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import torch

from pcpad import lock
from pcpad.config import TrainSettings, differences, result_part, to_dict, yaml_text
from pcpad.data.catalogue import DataSet
from pcpad.environment import commit, hardware, versions
from pcpad.folders import result_folder
from pcpad.lock import locked
from pcpad.padding import SurgeryReport
from pcpad.progress import say
from pcpad.training import checkpoint
from pcpad.training.checkpoint import Shelf
from pcpad.training.distributed import World

EXCLUDED = "excluded.txt"
"""In a run's folder: the training images that are left out, a copy of data.exclude."""
UNBORN = {
    *(lock.NAME, "run.json", "run.json.tmp", "settings.yaml", "surgery.json", EXCLUDED, "requeue.json"),
    *("metrics.jsonl", "metrics.tmp", "tensorboard", "records", "records.jsonl", checkpoint.FOLDER),
}
"""What the folder of a run without a checkpoint may hold."""


@contextmanager
def own_folder(folder: Path, settings: TrainSettings) -> Iterator[None]:
    """The run's folder for this start alone; on an error without a checkpoint what was made in it is removed."""
    with locked(folder):
        if not settings.resume:
            refuse_occupied(folder, settings)
            clear_unborn(folder)
        Shelf(folder).sweep_temporary()
        with result_folder(folder, f"{checkpoint.FOLDER}/step-*.pt"):
            yield


def choose_checkpoint(folder: Path, settings: TrainSettings, facts: dict, world: World) -> Path:
    """The checkpoint to go on from: the newest intact one; with another number of processes, of an epoch's end.

    Raises:
        ValueError: there is none, or the run has other settings or images.
    """
    shelf = Shelf(folder)
    content, path, damaged = shelf.newest()
    if content is not None and content["world"] != world.size and content["step_in_epoch"]:
        was = f"the run was stopped inside epoch {content['epoch'] + 1}, with {content['world']} processes"
        now = f"with {world.size} it can go on from the end of an epoch only"
        content, path, more = shelf.newest(only_epoch_ends=True)
        damaged += [one for one in more if one not in damaged]
        if content is None:
            raise ValueError(f"--resume {folder}: {was}; {now}, and there is no checkpoint of one yet")
        say(f"note: {was}; {now}: what was done after step {content['step']} is done again")
    for text in damaged:
        say(f"warning: {text}; going on from the checkpoint before it")
    if content is None:
        raise ValueError(
            f"--resume {folder}: there is no checkpoint in it yet: start the run again with its own command, and --out "
            f"{folder}"
        )
    check_resume(folder, settings, facts)
    inside = f" and {content['step_in_epoch']} steps" if content["step_in_epoch"] else ""
    say(f"resuming {folder} after epoch {content['epoch']}{inside} (step {content['step']})")
    return path


def new_run_folder(settings: TrainSettings, data: str) -> Path:
    """Where a run goes: ``--out``, or a name below runs/ that says what it is and when it began.

    Raises:
        ValueError: ``--out`` is there and not empty.
    """
    if settings.out is None:
        short = settings.model.partition("/")[2].replace("/", "_")
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{short}-{settings.padding}-{data}-s{settings.seed}-{stamp}"
    folder = Path(settings.out)
    refuse_occupied(folder, settings)
    return folder


def refuse_occupied(folder: Path, settings: TrainSettings) -> None:
    """Raise ValueError unless a new run can go to `folder`: it is not there, or empty but for its lock.

    If a run is there, the message says what is different in it.
    """
    if not folder.exists() or (folder.is_dir() and not {path.name for path in folder.iterdir()} - {lock.NAME}):
        return
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} exists and is not empty: choose another --out")
    changed = changed_settings(read_run(folder), settings)
    if not Shelf(folder).all():  # its start was killed before the first checkpoint
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in UNBORN)
        if not changed and not foreign:
            return
        why = f"other settings ({'; '.join(changed)})" if changed else f"files that are no run's ({', '.join(foreign)})"
        raise ValueError(f"{folder} holds a run without a checkpoint, with {why}: remove it, or choose another --out")
    raise ValueError(
        f"{folder} exists and is not empty: it holds a run with "
        + (f"other settings ({'; '.join(changed)}): choose another --out, " if changed else "these settings: ")
        + f"{'or ' if changed else ''}continue it with --resume {folder}"
        + ("" if changed else ", or choose another --out")
    )


def clear_unborn(folder: Path) -> None:
    """Remove what a start has left that was killed before its first checkpoint; `refuse_occupied` has looked at it."""
    if folder.is_dir() and (folder / "run.json").is_file():
        say(f"{folder} holds a run that was killed before its first checkpoint: starting over")
        for path in folder.iterdir():
            if path.name != lock.NAME:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_run(
    folder: Path,
    settings: TrainSettings,
    facts: dict,
    data: DataSet,
    surgery: SurgeryReport,
    device: torch.device,
    world: World,
) -> None:
    """Write settings.yaml, run.json (what the run is), surgery.json (what convert did) and what is left out."""
    about = {
        "id": f"{folder.resolve().name}-{uuid4().hex[:6]}",
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        **facts,
        "data": data.name,
        "settings": to_dict(settings),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "processes": world.size,
    }
    temporary = folder / "run.json.tmp"
    temporary.write_text(json.dumps(about, indent=1) + "\n")
    temporary.replace(folder / "run.json")  # first of all, and whole: what lies in the folder is known by it
    (folder / "settings.yaml").write_text(yaml_text(replace(settings, out=None)))
    if settings.data.exclude:
        shutil.copyfile(settings.data.exclude, folder / EXCLUDED)
    (folder / "surgery.json").write_text(json.dumps(surgery.to_dict(), indent=1) + "\n")


def read_run(folder: Path) -> dict:
    """``run.json`` of a run's folder; raises ValueError if there is none."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: there is no {path}")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or start a new run") from None


def check_resume(folder: Path, settings: TrainSettings, facts: dict) -> None:
    """Raise ValueError unless settings and data are those the run was started with; names every difference."""
    old = read_run(folder)
    if old["settings_digest"] != facts["settings_digest"]:
        raise ValueError(
            f"--resume {folder}: the run has other settings: {'; '.join(changed_settings(old, settings))}; "
            "start a new run to change them"
        )
    for key in ("train_digest", "val_digest", "classes"):
        if old[key] != facts[key]:
            raise ValueError(
                f"--resume {folder}: the images are not those the run was started with ({key.replace('_', ' ')} "
                "differs); restore them, or start a new run"
            )


def changed_settings(old: dict, settings: TrainSettings) -> list[str]:
    """Lines ``"name: was -> is"`` of what is different from a run's settings and changes a result."""
    now = json.loads(json.dumps(to_dict(settings, result_only=True)))
    before = result_part(TrainSettings, old["settings"])
    lines = [line for line in differences(before, now) if not line.startswith("data.")]
    was, now_is = before["data"]["loader"], now["data"]["loader"]
    return [*lines, *([f"data.loader: {was} -> {now_is}"] if was != now_is else [])]
