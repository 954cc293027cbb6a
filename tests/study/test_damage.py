"""Records that are damaged: one line says which and what to do, and nothing is written over."""

import json
from pathlib import Path

import pytest

from pcpad.cli import main
from pcpad.study.plan import load_plan
from tests.study.pages import GRID, result, whole_record
from tests.study.test_tables import evaluation

HITS = {"zeros": [50, 60], "partial": [52, 68], "reflect": [1, 2]}


def told(capsys, *argv: str) -> str:
    """What a command that has to fail says, in one line."""
    assert main(list(argv)) == 1
    error = capsys.readouterr().err
    assert error.startswith("pcpad: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        ({"top1": []}, "its top1 is [], not a list of a whole number from 0 on, at least 1"),
        ({"top1": 5}, "its top1 is 5, not a list"),
        ({"top1": [50, 999]}, "999 of 100 images are right in it"),
        ({"n": 0}, "its n is 0, not a whole number from 1 on"),
        ({"name": 7}, "its name is 7, not text"),
        ({"record": None}, "its record is null, not an object"),
        ({"record": {"loader": "dali"}}, "in its record: there is no schema in it"),
        ({"settings": {"seed": "0"}}, 'in its settings: its seed is "0", not a whole number'),
        ({"settings": {}}, "in its settings: there is no seed in it"),
        ({"top1": [50]}, "it has 1 epochs in top1, and 2 elsewhere"),
        ({"surgery": {"converted": "x"}}, "not an object of counts"),
        ({"status": ["done"]}, "its kind is 'run' and its status ['done']"),
    ],
)
def test_results(change, damage, write, capsys):
    folder = write(grid=GRID)
    lines = [result(run, HITS[run.padding]) for run in load_plan("tiny").runs]
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["study", "table", "tiny"]) == 0  # the control
    readme = (folder / "README.md").read_text()
    path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], lines[1] | change, *lines[2:]]))
    before = path.read_text()
    capsys.readouterr()
    for argv in (["study", "table", "tiny"], ["report", "tiny", "--out", "page.html"]):
        error = told(capsys, *argv)
        assert "tiny/results.jsonl, line 2, is damaged (" in error
        assert damage in error
        assert "remove the line" in error
    assert (path.read_text(), (folder / "README.md").read_text()) == (before, readme)
    assert not Path("page.html").exists()


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        ({"top1": 2000}, "2000 of 1000 images are right in it"),
        ({"size": 32}, "its size is 32, not text"),
        ({"run_digest": None}, "its run_digest is null, not text"),
        ({"paired": {"only_this": 1}}, "not an object with only_this, only_other and with"),
        ({"record": whole_record(top5=101)}, "in its record: its top5 is 101 of 100 images"),
    ],
)
def test_evaluations(change, damage, write, capsys):
    folder = write(evaluate={"paddings": ["zeros", "partial"], "sizes": [32]}, tables=["cross"], data="/images")
    run = load_plan("tiny").runs[0]
    lines = [evaluation(run, padding, "32", 500) for padding in ("zeros", "partial")]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["study", "table", "tiny"]) == 0
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [lines[0] | change, lines[1]]))
    capsys.readouterr()
    error = told(capsys, "study", "table", "tiny")
    assert "results.jsonl, line 1" in error
    assert damage in error


@pytest.mark.parametrize(
    ("name", "content", "damage"),
    [
        ("results.jsonl", b'{"kind": "\xff"}\n', "results.jsonl, line 1, is damaged"),
        ("README.md", b"# \xff\n", "README.md is no text in UTF-8 (byte 2"),
    ],
)
def test_text_that_is_none(name, content, damage, write, capsys):
    folder = write()
    (folder / name).write_bytes(content)
    assert damage in told(capsys, "study", "table", "tiny")


@pytest.mark.parametrize("value", ["NaN", "inf", "x"])
def test_published_numbers(value, write, capsys):
    folder = write(published="p.csv", tables=["published"])
    text = f"network,padding,run1,run2,average,diff,stdev\nnet,zeros,70,{value},70,,1\n"
    (folder / "p.csv").write_text(text)
    assert "p.csv, line 2, holds what is no number" in told(capsys, "study", "table", "tiny")


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        ({"top1": None}, "its top1 is null, not a whole number from 0 on"),
        ({"top1": 101}, "its top1 is 101 of 100 images"),
        ({"n": 0}, "its n is 0"),
        ({"size": 224}, "its size is 224, not text"),
        ({"model": None}, "its model is null, not text"),
        ({"run": "r", "checkpoint": "epoch"}, "it is of an epoch and has no step"),
        ({"preprocess": 3}, "its preprocess is 3, not an object"),
    ],
)
def test_plain_records(change, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    Path("some/records.jsonl").write_text(json.dumps(whole_record()) + "\n")
    assert main(["report", "--records", "some", "--out", "page.html"]) == 0  # the control
    Path("page.html").unlink()
    lines = [whole_record(), whole_record(size="32") | change]
    Path("some/records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    error = told(capsys, "report", "--records", "some", "--out", "page.html")
    assert f"records.jsonl, line 2, is damaged ({damage}" in error
    assert not Path("page.html").exists()


def test_reasons_and_launches(finished, capsys):
    plan, _ = finished
    reasons = plan.runs[0].folder / "not_applicable.jsonl"
    reasons.write_text(json.dumps({"padding": "reflect", "reason": "small"}) + "\n")
    error = told(capsys, "study", "table", "tiny")
    assert "not_applicable.jsonl, line 1, is damaged (there is no size in it); remove that line" in error
    reasons.unlink()
    Path("runs/tiny/launches.jsonl").write_text(json.dumps({"a": 1}) + "\n")
    error = told(capsys, "study", "table", "tiny")
    assert "launches.jsonl, line 1, is damaged (there is no name in it); remove that line" in error


def test_pages_that_cannot_be_written(write, capsys):
    write()
    Path("file").touch()
    assert "the folder file cannot be made (File exists)" in told(capsys, "report", "tiny", "--out", "file/p.html")
    Path("folder.html").mkdir()
    assert "folder.html could not be written: Is a directory" in told(capsys, "report", "tiny", "--out", "folder.html")


def test_a_source_that_is_gone_is_named_with_its_file(write, capsys):
    options = dict.fromkeys(("grid", "recipe", "settings"))
    options |= {"evaluate": {"paddings": ["zeros"], "sizes": [32]}, "tables": ["cross"]}
    write("other", **options, **{"from": "tiny"})
    error = told(capsys, "study", "table", "other")
    assert "experiments/other/study.yaml: from: unknown study 'tiny'" in error
