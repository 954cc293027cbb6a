"""The border study's tables and plots, from its records alone; torch is not imported."""

from itertools import groupby
from math import sqrt
from pathlib import Path

from pcpad.evaluation.border.records import read_border
from pcpad.folders import write_whole


def report(folder: Path) -> list[Path]:
    """Draw tables and plots of the records in a folder, beside them; returns the files.

    Raises:
        ValueError: there are no records, or they are not those of one whole call. OSError: the folder cannot be
            written.
    """
    from pcpad.evaluation.border import plots, tables

    records = read_border(folder)
    table = folder / "tables.md"
    write_whole(table, tables.tables(records))
    return [table, *plots.plots(records, folder)]


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
