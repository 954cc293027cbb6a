"""The border study's tables and plots, from its records alone; torch is not imported."""

from itertools import groupby
from math import sqrt
from pathlib import Path

from pcpad.training.logbook import read_lines

SCHEMA = 1
"""Version of the records."""
RECORDS = "border.jsonl"
"""File of the records, one JSON line for each padding and layer and one for each padding's shifts."""


def report(folder: Path) -> list[Path]:
    """Draw tables and plots of the records in a folder, beside them; returns the files.

    Raises:
        ValueError: there are no records, or records of another schema or of more than one call. OSError: the folder
            cannot be written.
    """
    from pcpad.evaluation.border import plots, tables

    records = read_border(folder)
    table = folder / "tables.md"
    table.write_text(tables.tables(records))
    return [table, *plots.plots(records, folder)]


def read_border(folder: Path) -> list[dict]:
    """The records of one call of ``pcpad border``; raises ValueError for anything else."""
    path = folder / RECORDS
    if not path.is_file():
        raise ValueError(f"no records at {path}: pcpad border --out {folder} makes them")
    records = read_lines(path)
    others = sorted({str(record.get("schema")) for record in records} - {str(SCHEMA)})
    if others:
        raise ValueError(f"{path} holds records of schema {', '.join(others)}; this pcpad reads {SCHEMA}: measure anew")
    calls = {record["id"] for record in records}
    if len(calls) != 1:
        raise ValueError(f"{path} holds records of {len(calls)} calls and has to hold those of one")
    return records


def paddings(records: list[dict]) -> list[str]:
    """The padding modes, in the order they were asked for."""
    return list(dict.fromkeys(record["padding"] for record in records))


def layers(records: list[dict]) -> list[dict[str, dict]]:
    """The layers in their order, each as padding to record."""
    found: dict[str, dict[str, dict]] = {}
    for record in records:
        if record["kind"] == "features":
            found.setdefault(record["layer"], {})[record["padding"]] = record
    return list(found.values())


def shown_layers(records: list[dict], most: int = 6) -> list[dict[str, dict]]:
    """The last padded convolution of each stride, of at most so many strides, the deepest kept."""
    found = layers(records)
    last = [list(group)[-1] for _, group in groupby(found, key=lambda one: next(iter(one.values()))["stride"])]
    return last[-most:]


def fidelity(record: dict) -> list[float | None]:
    """Relative error of each ring, the outermost first: ``sqrt(error / true)``; None where the true features are 0."""
    return [sqrt(e / t) if t > 0 else None for e, t in zip(record["error"], record["true"], strict=True)]


def whole_fidelity(record: dict) -> float | None:
    """Relative error over all positions."""
    error, true = sum(record["error"]), sum(record["true"])
    return sqrt(error / true) if true > 0 else None


def bias(record: dict, key: str = "bias") -> list[float | None]:
    """Spatial bias of each ring; with ``bias_true`` of the features with true context at the same places."""
    held = record[key]
    return [one / held["channels"] if held["channels"] else None for one in held["sum"]]


def shift_records(records: list[dict]) -> dict[str, dict]:
    """Padding to its record of shifts."""
    return {record["padding"]: record for record in records if record["kind"] == "shifts"}


def directions(rows: list[dict]) -> dict[str, list[dict]]:
    """The shifts of a record by direction, each after the unshifted window."""
    found = {"right": [], "down": [], "right and down": []}
    for row in rows:
        name = "right" if not row["dy"] else "down" if not row["dx"] else "right and down"
        for each in found if not row["dx"] and not row["dy"] else [name]:
            found[each].append(row)
    return found
