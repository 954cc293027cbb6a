"""The entries of a study's results.jsonl, one line for each run and each evaluation: what each has to hold."""

import json
from pathlib import Path

from pcpad.evaluation.fields import wrong_in_record
from pcpad.lines import COUNT, NOTHING, NUMBER, OBJECT, POSITIVE, TEXT, WHOLE, Kind, list_of, wrong_field

FILE = "results.jsonl"
NOT_APPLICABLE = "not applicable"
"""Status of an evaluation that the model cannot do: padding that its maps are too small for."""

ALL = {"name": TEXT, "model": TEXT, "padding": TEXT, "seed": WHOLE, "varied": OBJECT}
CELL = {"padding_evaluated": TEXT, "size": TEXT, "run_digest": TEXT}
FAILED = {"exit_code": WHOLE | NOTHING, "error": TEXT}
NEEDED = {
    ("run", "done"): {
        "n": POSITIVE,
        "top1": list_of(COUNT, 1),
        "settings_digest": TEXT,
        "settings": OBJECT,
        "record": OBJECT,
    },
    ("run", "failed"): FAILED,
    ("evaluation", "done"): {**CELL, "n": POSITIVE, "top1": COUNT, "record": OBJECT},
    ("evaluation", "failed"): FAILED,
    ("evaluation", NOT_APPLICABLE): {**CELL, "reason": TEXT},
}
"""What an entry has to hold besides `ALL`, by its kind and status."""
PAIRED = Kind(
    "an object with only_this, only_other and with",
    lambda value: (
        isinstance(value, dict) and wrong_field(value, {"with": TEXT, "only_this": COUNT, "only_other": COUNT}) is None
    ),
)
COUNTS = Kind("an object of counts", lambda value: isinstance(value, dict) and all(map(COUNT.holds, value.values())))
OPTIONAL = {
    "loss": list_of(NUMBER),
    "top5": COUNT | NOTHING,
    "train_digest": TEXT | NOTHING,
    "recipe": TEXT | NOTHING,
    "surgery": COUNTS | NOTHING,
    "seconds": NUMBER | NOTHING,
    "versions": OBJECT | NOTHING,
    "paired": PAIRED | NOTHING,
}


def wrong_in_entry(entry: object) -> str | None:
    """What is wrong with an entry, in words, or None."""
    if not isinstance(entry, dict):
        return f"a {type(entry).__name__} in place of an object"
    kind, status = entry.get("kind"), entry.get("status")
    if not (isinstance(kind, str) and isinstance(status, str) and (kind, status) in NEEDED):
        return f"its kind is {kind!r} and its status {status!r}"
    if wrong := wrong_field(entry, ALL | NEEDED[kind, status], OPTIONAL):
        return wrong
    if status != "done":
        return None
    most = max(entry["top1"]) if kind == "run" else max(entry["top1"], entry.get("top5") or 0)
    if most > entry["n"]:
        return f"{most} of {entry['n']} images are right in it"
    if wrong := wrong_in_record(entry["record"]):
        return f"in its record: {wrong}"
    if kind == "evaluation":
        return None
    if wrong := wrong_field(entry["settings"], {"seed": WHOLE}):
        return f"in its settings: {wrong}"
    stated = (entry["settings"].get("epochs"), len(entry["loss"]) if "loss" in entry else None)
    other = [number for number in stated if number is not None and number != len(entry["top1"])]
    return f"it has {len(entry['top1'])} epochs in top1, and {other[0]} elsewhere" if other else None


def key_of(entry: dict) -> tuple:
    """What an entry is of; there is one entry of each."""
    return entry["kind"], entry["name"], entry.get("padding_evaluated"), entry.get("size")


def read_results(folder: Path) -> list[dict]:
    """The entries of a study's results; empty if there are none yet.

    Raises:
        ValueError: a line is damaged, or two differ that are of the same; names them.
    """
    path = folder / FILE
    entries: dict[tuple, dict] = {}
    lines: dict[tuple, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            entry = json.loads(line.decode())
            damage = wrong_in_entry(entry)
        except ValueError as error:
            damage = error
        if damage:
            raise ValueError(
                f"{path}, line {number}, is damaged ({damage}): remove the line; what is still in the run's folder "
                "is collected again"
            )
        key = key_of(entry)
        if entries.setdefault(key, entry) != entry:
            what = " ".join(str(part) for part in key if part)
            raise ValueError(
                f"{path}, lines {lines[key]} and {number}, are of the same {what} and differ: remove one of them"
            )
        lines.setdefault(key, number)
    return list(entries.values())
