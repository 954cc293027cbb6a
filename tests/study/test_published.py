"""The published table, recomputed here with decimals and by hand, without the code under test."""

import csv
import math
import re
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from pcpad.study.entries import read_results
from pcpad.study.plan import load_plan
from pcpad.study.published import read_published
from pcpad.study.tables import tables_of

FOLDER = Path(__file__).resolve().parents[2] / "experiments/imagenet_table"
LINES = read_published(FOLDER / "published.csv", "zeros")
with open(FOLDER / "published.csv", newline="") as _file:
    RAW = list(csv.DictReader(_file))
STEP = Decimal("0.001")


def runs_of(row: dict) -> list[Decimal]:
    return [Decimal(row[f"run{i}"]) for i in range(1, 6)]


def test_averages_and_differences_are_those_printed():
    """Within 0.001, from the published runs alone."""
    zeros = {row["network"]: sum(runs_of(row)) / 5 for row in RAW if row["padding"] == "zeros"}
    assert len(LINES) == len(RAW) == 20
    for line, row in zip(LINES, RAW, strict=True):
        average = sum(runs_of(row)) / 5
        assert float(line.exact_average) == pytest.approx(float(average), abs=1e-12)
        assert abs(average - Decimal(row["average"])) <= STEP
        if row["padding"] == "zeros":
            assert line.diff is None
        else:
            assert float(line.exact_diff) == pytest.approx(float(average - zeros[row["network"]]), abs=1e-12)
            assert abs(average - zeros[row["network"]] - Decimal(row["diff"])) <= STEP


def test_the_four_misprinted_cells():
    marked = {(line.network, line.padding, cell) for line in LINES for cell in line.misprinted()}
    assert marked == {
        ("vgg16_bn", "reflect", "diff"),
        ("resnet50", "reflect", "average"),
        ("resnet50", "replicate", "diff"),
        ("resnet101", "replicate", "diff"),
    }
    rows = {(row["network"], row["padding"]): row for row in RAW}
    means = {key: sum(runs_of(row)) / 5 for key, row in rows.items()}
    for network, padding, cell in marked:  # each is what rounding twice, or cutting off, gives
        mean, zeros = means[network, padding], means[network, "zeros"]
        if cell == "average":
            made = mean.quantize(STEP, ROUND_DOWN)
        else:
            made = mean.quantize(STEP, ROUND_HALF_UP) - zeros.quantize(STEP, ROUND_HALF_UP)
        assert made == Decimal(rows[network, padding][cell])


def test_which_formula_each_printed_deviation_follows():
    """zeros and partial divide by n + 1 in every network, the others by n - 1."""
    for line, row in zip(LINES, RAW, strict=True):
        runs = runs_of(row)
        squares = float(sum((run - sum(runs) / 5) ** 2 for run in runs))
        divisor = 6 if row["padding"] in ("zeros", "partial") else 4
        assert abs(math.sqrt(squares / divisor) - float(row["stdev"])) < 0.001
        others = {4, 5, 6} - {divisor}
        assert all(abs(math.sqrt(squares / other) - float(row["stdev"])) > 0.005 for other in others)
        assert line.formula() == ("n + 1" if divisor == 6 else "n - 1")


def test_a_deviation_of_no_known_formula_is_not_guessed():
    line = LINES[0]
    assert type(line)(**{**vars(line), "stdev": Decimal("0.5")}).formula() is None
    assert type(line)(**{**vars(line), "stdev": None}).formula() is None


def test_the_table_in_the_readme_is_the_one_that_is_made():
    plan = load_plan(str(FOLDER))
    text, rows = tables_of(plan, read_results(FOLDER))
    readme = (FOLDER / "README.md").read_text()
    assert text in readme
    assert len(plan.runs) == 100
    assert sum(1 for row in rows if row["basis"] == "published" and row.get("p_holm") is not None) == 15
    made = {(row[1].strip(), row[2].strip()): row for line in text.splitlines() if (row := line.split("|"))[7:]}
    for row in RAW:
        cells = re.findall(r"[-+]?\d+\.\d+(?: †)?", "|".join(made[row["network"], row["padding"]][3:]))
        assert cells[:5] == [str(run.quantize(STEP)) for run in runs_of(row)]
    assert text.count("†") == 4 + 1  # the cells, and what the sign means
    without, _ = tables_of(plan, [])
    for network in dict.fromkeys(row["network"] for row in RAW):
        for padding in ("zeros", "partial", "reflect", "replicate"):
            assert f"`pcpad study run imagenet_table --only 'torchvision_{network}-{padding}-s*'`" in without


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network,padding,run1,average,diff\nx,zeros,1,1,\n", "no column stdev"),
        ("network,padding,run1,average,diff,stdev\nx,zeros,many,1,,\n", "line 2, holds what is no number"),
        ("network,padding,run1,average,diff,stdev\nx,zeros,,1,,\n", "line 2, has no runs"),
        ("network,padding,run1,average,diff,stdev\nx,partial,1,1,,\n", "x has no line with zeros padding"),
    ],
)
def test_a_file_that_is_no_such_table_is_named(text, message, tmp_path):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path / "p.csv", "zeros")
