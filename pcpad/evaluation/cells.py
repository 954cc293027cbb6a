"""The cells of a grid, a padding mode at a size each: which can be done, which are done, which are under way."""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcpad import models
from pcpad.config import digest
from pcpad.data.batch import EvalTransform
from pcpad.data.native import NativeTransform, native_transform
from pcpad.evaluation.counts import Tally
from pcpad.evaluation.fields import read_reasons, read_records
from pcpad.evaluation.predictions import DAMAGE, hits
from pcpad.evaluation.subject import Subject, options
from pcpad.evaluation.variants import Size, variant
from pcpad.padding import PADDING_MODES, convert
from pcpad.probe import probe, probe_native, refuse_filling

SAME = ("settings_digest", "manifest_digest", "run", "run_digest", "weights_digest", "checkpoint", "step")
"""Fields of a record that are alike where it is of the same cell."""


@dataclass
class Cell:
    """One padding mode at one size.

    Attributes:
        facts: the fields `SAME` of its record. tally: what was seen so far.
    """

    padding: str
    transform: EvalTransform
    facts: dict
    tally: Tally

    @property
    def title(self) -> str:
        """``"partial at 224"``."""
        return f"{self.padding} at {self.transform.label}"


def possible(
    subject: Subject, paddings: Sequence[str], sizes: Sequence[Size]
) -> tuple[list[tuple[str, EvalTransform]], dict[tuple[str, str], str]]:
    """Try the model in every cell, on empty images.

    Returns:
        Padding mode and preprocessing of the cells that the model can do, by padding and then by size; and of the
        others padding mode and size, to the reason. The model is left in one of the modes.
    """
    transforms: list[EvalTransform] = []
    reasons: dict[tuple[str, str], str] = {}
    for size in sizes:
        native = size.native
        square = models.eval_transform(subject.name, subject.preprocess, size.pixels, subject.weights)
        try:
            square = variant(square, size) if size.kind else square
        except ValueError as error:
            reasons |= {(padding, size.variant): str(error) for padding in paddings}
            continue
        seen = square.seen if size.kind else square.size
        transform, multiple = native_transform(square) if native else square, 1
        filling = [padding for padding in paddings if PADDING_MODES[padding].fills] if native else []
        for padding in paddings:
            try:
                if padding in filling:
                    refuse_filling(filling)  # one reason for all of them
                convert(subject.model, padding, **options(subject, padding))
                if native:
                    multiple = max(multiple, probe_native(subject.model, str(subject.name), padding, seen))
                else:
                    probe(subject.model, str(subject.name), padding, seen)
            except ValueError as error:
                reasons[padding, transform.label] = str(error)
        transforms.append(native_transform(square, multiple) if native else square)
    done = [(p, t) for p in paddings for t in transforms if (p, t.label) not in reasons]
    return done, reasons


def recorded(folder: Path, cell: Cell) -> dict | None:
    """The newest record of a cell in a folder, with the predictions beside it; without them it is to be done again."""
    for record in reversed(read_records(folder)):
        if all(record.get(key) == cell.facts.get(key) for key in SAME) and hits(folder, record) is not None:
            return record
    return None


class Shelf:
    """Where the tallies of unfinished cells are kept, so that an evaluation goes on where it was stopped."""

    def __init__(self, folder: Path):
        self.folder = folder / "records"

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / f"unfinished-{digest(cell.facts)}.npz"

    def save(self, cells: Sequence[Cell]) -> None:
        """Keep what the cells have seen; of a cell that has seen nothing, nothing."""
        for cell in cells:
            if len(cell.tally.index) > 1:
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary = self.path(cell).with_suffix(".tmp")
                with open(temporary, "wb") as file:
                    np.savez(file, **cell.tally.state())
                os.replace(temporary, self.path(cell))

    def load(self, cell: Cell) -> None:
        """Go on from what was kept; a damaged file counts as none."""
        with (
            contextlib.suppress(FileNotFoundError, *DAMAGE),
            open(self.path(cell), "rb") as file,
            np.load(file) as kept,
        ):
            cell.tally.load({name: kept[name] for name in kept.files})

    def clear(self, cell: Cell) -> None:
        """Forget a cell."""
        self.path(cell).unlink(missing_ok=True)


def write_reasons(folder: Path, subject: Subject, reasons: dict[tuple[str, str], str], done: Sequence = ()) -> None:
    """``not_applicable.jsonl``: one line for each cell that the model cannot do; lines of other cells stay.

    Args:
        done: padding mode and size of cells that it can do, of which no line stays.
    """
    path = folder / "not_applicable.jsonl"
    lines = read_reasons(folder)
    about = {"model": str(subject.name), "on_small": subject.on_small}
    new = [{**about, "padding": p, "size": size, "reason": text} for (p, size), text in reasons.items()]
    known = {(*about.values(), *cell) for cell in (*reasons, *done)}
    keys = (*about, "padding", "size")
    kept = [line for line in lines if tuple({"on_small": "raise", **line}.get(key) for key in keys) not in known]
    if new or kept != lines:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *new]))
        os.replace(temporary, path)


def reasons_text(reasons: dict[tuple[str, str], str]) -> list[str]:
    """A line for each reason why cells cannot be done, with the modes and sizes that it is of."""
    lines = []
    for reason in dict.fromkeys(reasons.values()):
        sizes: dict[str, list[str]] = {}
        for padding, size in (cell for cell, text in reasons.items() if text == reason):
            sizes.setdefault(padding, []).append(size)
        modes: dict[str, list[str]] = {}
        for padding, found in sizes.items():
            modes.setdefault(", ".join(found), []).append(padding)
        cells = "; ".join(f"{', '.join(paddings)} at {found}" for found, paddings in modes.items())
        lines.append(f"{cells}: not applicable: {reason}")
    return lines


def is_native(transform: EvalTransform) -> bool:
    """Whether images keep their own aspect ratio."""
    return isinstance(transform, NativeTransform)
