"""What a record of an evaluation has to hold, and the records of a folder; without torch."""

from pathlib import Path

from pcpad.lines import COUNT, FINITE, NOTHING, NUMBER, OBJECT, POSITIVE, TEXT, TRUTH, WHOLE, read_lines, wrong_field

FILE = "records.jsonl"
NEEDED = {
    "schema": POSITIVE,
    "run": TEXT | NOTHING,
    "checkpoint": TEXT | NOTHING,
    "step": COUNT | NOTHING,
    "model": TEXT,
    "padding": TEXT,
    "size": TEXT,
    "loader": TEXT,
    "n": POSITIVE,
    "top1": COUNT,
    "top5": COUNT | NOTHING,
    "loss": NUMBER,
    "settings_digest": TEXT,
    "manifest_digest": TEXT,
}
OPTIONAL = {
    "run_digest": TEXT | NOTHING,
    "weights_digest": TEXT | NOTHING,
    "predictions": TEXT,
    "padding_trained": TEXT | NOTHING,
    "power": FINITE,
    "preprocess": OBJECT,
    "versions": OBJECT,
    "images_per_second": NUMBER | NOTHING,
    "ema": TRUTH,
    "seed": WHOLE | NOTHING,
}
NOT_APPLICABLE = {"padding": TEXT, "size": TEXT, "reason": TEXT}
"""Of a cell that the model cannot do."""


def wrong_in_record(record: dict) -> str | None:
    """What is wrong with a record, in words, or None."""
    if wrong := wrong_field(record, NEEDED, OPTIONAL):
        return wrong
    if record["checkpoint"] == "epoch" and record["run"] is not None and record["step"] is None:
        return "it is of an epoch and has no step"
    over = [key for key in ("top1", "top5") if (record[key] or 0) > record["n"]]
    return f"its {over[0]} is {record[over[0]]} of {record['n']} images" if over else None


def read_records(folder: Path) -> list[dict]:
    """All records of a folder, in the order they were written.

    Raises:
        ValueError: a line is damaged; names it.
    """
    path = folder / FILE
    return read_lines(path, wrong_in_record) if path.is_file() else []


def read_reasons(folder: Path) -> list[dict]:
    """``not_applicable.jsonl`` of a folder: the cells that an evaluation could not do, with the reason.

    Raises:
        ValueError: a line is damaged; names it.
    """
    path = folder / "not_applicable.jsonl"
    optional = {"model": TEXT, "on_small": TEXT}
    return read_lines(path, lambda line: wrong_field(line, NOT_APPLICABLE, optional)) if path.is_file() else []
