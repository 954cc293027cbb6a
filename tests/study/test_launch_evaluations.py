"""The evaluations that study run starts: after the trainings, of another study's runs, and those that cannot be."""

from pathlib import Path

from pcpad.config import StudyRunSettings
from pcpad.study.entries import read_results
from pcpad.study.launch import run_study
from pcpad.study.plan import load_plan
from pcpad.study.tables import tables_of
from tests.study.launched import DATA, PARTIAL, ZEROS, calls, go


def test_evaluations_follow_the_trainings(write, fake):
    folder = write(evaluate={"paddings": ["zeros", "partial"], "sizes": [32, "native:64"]}, **DATA)
    assert go() == 0
    cells = [e for e in read_results(folder) if e["kind"] == "evaluation"]
    assert len(cells) == 8
    own = {(e["padding"], e["padding_evaluated"], e["size"]): e["top1"] for e in cells}
    assert (own["zeros", "zeros", "32"], own["zeros", "partial", "32"], own["partial", "partial", "native:64"]) == (
        78,
        69,
        76,
    )
    assert go() == 0
    assert len(read_results(folder)) == 10
    write(evaluate={"paddings": ["zeros", "partial"], "sizes": [32, "native:64", 128]}, **DATA)
    fake(evaluation="pcpad: error: too small")
    assert go(only="*zeros*") == 1
    assert [e["error"] for e in read_results(folder) if e["status"] == "failed"] == ["pcpad: error: too small"]
    fake()
    assert go(only="*zeros*") == 0  # what is missing only
    assert {e["status"] for e in read_results(folder)} == {"done"}
    lines = (Path("runs/tiny", ZEROS) / "records.jsonl").read_text().splitlines()
    assert len(lines) == 2 + 4 + 2


def test_the_runs_of_another_study_are_evaluated_and_never_trained(write, fake, capsys):
    write(**DATA)
    assert go(only="*zeros*") == 0
    evaluate = {"paddings": ["zeros", "partial"], "sizes": [32]}
    nothing = dict.fromkeys(("grid", "recipe", "settings"))
    folder = write("cross", **nothing, **{"from": "tiny"}, evaluate=evaluate, tables=["cross"])
    assert run_study(StudyRunSettings("cross")) == 0
    assert f"{PARTIAL} is missing: pcpad study run tiny trains it" in capsys.readouterr().out
    assert [e["kind"] for e in read_results(folder)] == ["evaluation", "evaluation"]
    assert len(calls()) == 1
    Path("runs").rename("elsewhere")  # as in a clone: what is evaluated needs no training
    assert run_study(StudyRunSettings("cross")) == 0
    out = capsys.readouterr().out
    assert f"{PARTIAL} is missing" in out
    assert ZEROS not in out
    assert run_study(StudyRunSettings("cross", dry_run=True)) == 0
    assert "4 evaluations: 2 missing" in capsys.readouterr().out


def test_a_cell_that_the_model_cannot_do_is_said_and_not_tried_again(write, fake, capsys):
    evaluate = {"paddings": ["zeros", "partial"], "sizes": [32]}
    folder = write(evaluate=evaluate, tables=["cross"], **DATA)
    fake(impossible=["partial"])
    assert go(only="*zeros*") == 0
    before = (Path("runs/tiny", ZEROS) / "records.jsonl").read_text()
    assert go(only="*zeros*") == 0
    assert (Path("runs/tiny", ZEROS) / "records.jsonl").read_text() == before
    entries = [e for e in read_results(folder) if e["kind"] == "evaluation"]
    assert sorted((e["padding_evaluated"], e["status"]) for e in entries) == [
        ("partial", "not applicable"),
        ("zeros", "done"),
    ]
    text, numbers = tables_of(load_plan("tiny"), read_results(folder))
    (row,) = [line for line in text.splitlines() if line.startswith("| test_byobnet | 32 | zeros")]
    assert row.endswith("| n/a |")
    assert "n/a, not applicable:\n\n- partial: too small" in text
    assert len(numbers) == 1


def test_each_run_can_be_evaluated_with_its_own_padding_alone(write, fake):
    folder = write(evaluate={"paddings": "own", "sizes": [32, 48]}, **DATA)
    assert go() == 0
    cells = [(e["padding"], e["padding_evaluated"], e["size"]) for e in read_results(folder) if e["kind"] != "run"]
    assert cells == [(padding, padding, size) for padding in ("zeros", "partial") for size in ("32", "48")]
