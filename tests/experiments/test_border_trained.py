"""The table of border studies of trained runs: means and intervals over the seeds, by hand."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from scipy import stats

FOLDER = Path(__file__).resolve().parents[2] / "experiments/border/trained"


@pytest.fixture
def trained():
    spec = importlib.util.spec_from_file_location("border_trained", FOLDER / "trained.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def features(padding, run, error, bias):
    layer = {"kind": "features", "layer": "conv", "height": 4, "width": 4, "reach": None, "exact": False}
    sums = {"bias": {"sum": [bias * 8], "channels": 8}, "bias_true": {"sum": [0.4], "channels": 8}}
    return layer | sums | {"padding": padding, "run": run, "error": [error**2 * 9.0], "true": [9.0]}


def shifts(padding, run, changed):
    rows = [{"dx": dx, "dy": dy, "changed": c, "top1": 40 + c} for (dx, dy), c in changed.items()]
    return {"kind": "shifts", "padding": padding, "run": run, "n": 200, "labelled": 100, "shifts": rows}


def test_the_cells_are_means_over_the_runs_with_students_interval(trained):
    errors = [0.50, 0.54, 0.61]
    records = [features("zeros", str(i), error, 0.25) for i, error in enumerate(errors)]
    directions = {
        (0, 0): 0,
        (1, 0): 10,
        (0, 1): 20,
        (1, 1): 60,
        (4, 0): 8,
        (0, 4): 8,
        (4, 4): 8,
        (16, 0): 2,
        (0, 16): 2,
    }
    records += [shifts("zeros", str(i), directions) for i in range(3)] + [features("partial", "3", 2.0, 1.0)]
    records += [shifts("partial", "3", {k: 2 * v for k, v in directions.items()})]
    text = trained.tables(records)
    low, high = stats.t.interval(0.95, 2, loc=55.0, scale=stats.sem([100 * e for e in errors]))
    assert f"| `conv` | 4x4 | all* | 55 ± {(high - low) / 2:.0f} | 200.00 |" in text
    assert "| `conv` | 4x4 | all* | 0.050 ± 0.000 | 0.250 ± 0.000 | 1.00 |" in text
    assert "| right without a shift, % | 40.000 ± 0.000 | 40.00 |" in text
    assert "| changed by a shift of 1, % | 15.000 ± 0.000 | 30.00 |" in text  # 90 of 3 x 200


def test_the_committed_table_is_that_of_the_committed_records(trained, tmp_path, monkeypatch):
    for name in ("README.md", "runs.jsonl"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    monkeypatch.setattr(trained, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["trained.py"])
    trained.main()
    assert (tmp_path / "README.md").read_text() == (FOLDER / "README.md").read_text()
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len({json.loads(line)["run"] for line in lines}) == 25
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:-11]) + "\n")
    trained.main()
    assert (tmp_path / "README.md").read_text() != (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runs", "{}"], "--runs needs --data"),
        (["--runs", "{}", "--data", "x", "--network", "net"], "no run in .* begins with 'net'"),
    ],
)
def test_mistakes_in_the_call_change_nothing(trained, argv, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").write_text("as it was")
    monkeypatch.setattr(trained, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["trained.py", *(word.format(tmp_path) for word in argv)])
    with pytest.raises(SystemExit) as ended:
        trained.main()
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert (tmp_path / "README.md").read_text() == "as it was"
