"""Published numbers beside our own: recomputed exactly from the published runs, with how each printed one was made."""

import csv
import io
import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

from pcpad.folders import read_text

COLUMNS = ("network", "padding", "average", "diff", "stdev")
FORMULAS = {"n - 1": -1, "n": 0, "n + 1": 1}
"""What the sum of squares was divided by, as text and as what is added to n."""


@dataclass(frozen=True)
class Published:
    """One line of a published table, in percent.

    Attributes:
        runs: accuracies as they are printed. average, diff, stdev: as printed; None where nothing is.
        baseline: the runs of the same network that `diff` refers to.
    """

    network: str
    padding: str
    runs: tuple[Decimal, ...]
    baseline: tuple[Decimal, ...]
    average: Decimal | None
    diff: Decimal | None
    stdev: Decimal | None

    @property
    def exact_average(self) -> Fraction:
        """Mean of the runs."""
        return exact_mean(self.runs)

    @property
    def exact_diff(self) -> Fraction:
        """Mean of the runs less that of the baseline."""
        return self.exact_average - exact_mean(self.baseline)

    @property
    def values(self) -> list[float]:
        """The runs as floats."""
        return [float(run) for run in self.runs]

    def misprinted(self) -> list[str]:
        """Which of ``average`` and ``diff`` are not the exact value rounded once to the three printed decimals."""
        pairs = {"average": (self.average, self.exact_average), "diff": (self.diff, self.exact_diff)}
        return [
            name
            for name, (printed, exact) in pairs.items()
            if printed is not None and Fraction(printed) != Fraction(round(exact * 1000), 1000)
        ]

    def formula(self) -> str | None:
        """What the sum of squares was divided by to give the printed stdev: a key of FORMULAS, None if none fits."""
        if self.stdev is None or len(self.runs) < 2:
            return None
        squares = sum((run - Decimal(str(float(self.exact_average)))) ** 2 for run in self.runs)
        off = {
            name: abs(math.sqrt(squares / (len(self.runs) + more)) - float(self.stdev))
            for name, more in FORMULAS.items()
        }
        nearest = min(off, key=off.get)
        return nearest if off[nearest] < 0.0011 else None  # the last printed digit, which may be truncated


def exact_mean(values: tuple[Decimal, ...]) -> Fraction:
    """Mean without rounding."""
    return sum(map(Fraction, values), Fraction(0)) / len(values)


def read_published(path: Path, baseline: str) -> list[Published]:
    """The lines of a published table.

    Args:
        path: CSV with the columns network, padding, run1, run2 and so on, average, diff, stdev.
        baseline: the padding that `diff` refers to.

    Raises:
        ValueError: a column is missing, a line has no numbers, or a network has no baseline; names it.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    missing = [name for name in (*COLUMNS, "run1") if name not in (reader.fieldnames or [])]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    names = [name for name in reader.fieldnames if name.startswith("run")]
    rows = []
    for number, line in enumerate(reader, 2):
        try:
            runs = tuple(Decimal(line[name]) for name in names if line[name])
            printed = [Decimal(line[name]) if line[name] else None for name in COLUMNS[2:]]
            if not all(value is None or value.is_finite() for value in (*runs, *printed)):
                raise InvalidOperation
        except (InvalidOperation, TypeError):
            raise ValueError(f"{path}, line {number}, holds what is no number") from None
        if not runs:
            raise ValueError(f"{path}, line {number}, has no runs")
        rows.append((line["network"], line["padding"], runs, printed))
    baselines = {network: runs for network, padding, runs, _ in rows if padding == baseline}
    lone = [network for network, *_ in rows if network not in baselines]
    if lone:
        raise ValueError(f"{path}: {lone[0]} has no line with {baseline} padding to compare with")
    return [
        Published(network, padding, runs, baselines[network], average, None if padding == baseline else diff, stdev)
        for network, padding, runs, (average, diff, stdev) in rows
    ]
