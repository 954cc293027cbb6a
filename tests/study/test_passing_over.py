"""What study run leaves to others or cannot do, and what it says of it; and how it ends when it fails itself."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pcpad.config import StudyRunSettings
from pcpad.study import children, launch
from pcpad.study.entries import read_results
from pcpad.study.launch import run_study
from pcpad.study.plan import load_plan
from pcpad.study.results import missing_cells, note_launch, read_launches, results_of
from pcpad.study.states import INTERRUPTED
from pcpad.study.tables import tables_of
from tests.study.launched import DATA, PARTIAL, ZEROS, calls, go, states

EVALUATE = {"paddings": ["zeros", "partial"], "sizes": [32]}


def test_launches_go_on_after_a_line_that_was_cut(write):
    write(**DATA)
    plan = load_plan("tiny")
    about = {"task": "train", "time": "1", "resumed": False, "exit_code": 0, "seconds": 1, "error": None, "log": "l"}
    note_launch(plan, {"name": "a", **about})
    with open("runs/tiny/launches.jsonl", "a") as file:
        file.write('{"name": "b"')
    note_launch(plan, {"name": "c", **about})
    assert [line["name"] for line in read_launches(plan)] == ["a", "c"]


def test_an_error_of_the_bookkeeping_stops_what_runs(write, fake, monkeypatch):
    """One run waits; when the other ends, the disk is full."""
    write(**DATA)
    fake(**{ZEROS: {"wait": True}})

    def full(*_):
        while not Path(f"{ZEROS}.waits").exists():
            time.sleep(0.01)
        raise OSError("the disk is full")

    monkeypatch.setattr(launch, "end", full)
    with pytest.raises(OSError, match="the disk is full"):
        go(jobs=2)
    assert states()[0] == INTERRUPTED  # it was asked to stop, and has saved


@contextmanager
def evaluating(name: str):
    """Another process that has the right to evaluate a run of the study tiny."""
    code = (
        "from pcpad.lock import locked; from pathlib import Path\n"
        f"with locked(Path('runs/tiny/evaluating/{name}')): print('up', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "up\n"
        yield other
        other.stdin.close()


@contextmanager
def ends_at_its_wait(other, monkeypatch, before=lambda: None):
    """Let the other process end when it is first waited for; yields what was said until then."""
    said, say = [], launch.say

    def listen(line):
        say(line)
        said.append(line)
        if "waits until" in line:
            before()
            other.communicate("\n")

    monkeypatch.setattr(launch, "say", listen)
    monkeypatch.setattr(launch, "PAUSE", 0.01)
    yield said


def test_two_of_one_study_do_not_evaluate_a_run_twice(write, fake, monkeypatch):
    """The second waits, and finds nothing left to do."""
    write(evaluate=EVALUATE, **DATA)
    fake(evaluation="not now")
    assert go(only="*zeros*") == 1
    fake()
    plan = load_plan("tiny")

    def evaluate():
        task = launch.evaluation_task(plan, plan.runs[0])
        subprocess.run([*children.PROGRAM, *task.command], check=True)

    with evaluating(ZEROS) as other, ends_at_its_wait(other, monkeypatch, evaluate) as said:
        assert go(only="*zeros*") == 0
    assert f"{ZEROS} waits until another process has evaluated it" in said
    assert not [line for line in said if line.startswith("started eval")]
    assert missing_cells(plan, plan.runs[0], results_of(plan)) == []
    assert not Path("runs/tiny/evaluating").exists() or not list(Path("runs/tiny/evaluating").iterdir())


def test_a_wait_for_another_evaluation_can_be_broken_off(write, fake, monkeypatch):
    write(evaluate=EVALUATE, **DATA)
    fake(evaluation="not now")
    assert go(only="*zeros*") == 1
    fake()
    say = launch.say

    def interrupt(line):
        say(line)
        if "waits until" in line:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(launch, "say", interrupt)
    with evaluating(ZEROS):
        assert go(only="*zeros*") == 130


def test_two_studies_do_not_evaluate_one_run_at_once(write, fake, monkeypatch):
    """They want other cells of it: each gets its own."""
    write(**DATA)
    assert go() == 0
    nothing = dict.fromkeys(("grid", "recipe", "settings"))
    write("cross", **nothing, **{"from": "tiny"}, evaluate=EVALUATE, tables=["cross"])
    with evaluating(ZEROS) as other, ends_at_its_wait(other, monkeypatch) as said:  # for another study
        assert run_study(StudyRunSettings("cross", only="*zeros*")) == 0
    assert f"{ZEROS} waits until another process has evaluated it" in said
    plan = load_plan("cross")
    assert missing_cells(plan, plan.runs[0], results_of(plan)) == []


def test_a_run_none_of_whose_missing_cells_can_be_is_complete(write, fake):
    """As where a size was added to the study later: pcpad eval itself ends with an error."""
    folder = write(evaluate=EVALUATE, tables=["cross"], **DATA)
    fake(impossible=["zeros", "partial"])
    assert go(only="*zeros*") == 0
    kinds = [e["status"] for e in read_results(folder) if e["kind"] == "evaluation"]
    assert kinds == ["not applicable"] * 2
    assert go(only="*zeros*") == 0


def test_a_start_that_another_process_was_quicker_than_leaves_no_trace(write, fake):
    write(**DATA)
    folder = Path("runs/tiny", ZEROS)
    folder.mkdir(parents=True)
    holder = {"pid": os.getpid(), "host": os.uname().nodename, "since": "now"}
    fake(**{ZEROS: {"fail": "in use", "lock": holder}})
    assert go(only="*zeros*") == 0
    assert not Path("runs/tiny/launches.jsonl").exists()


@pytest.mark.parametrize("place", ["experiments/tiny", "some where/tiny"])
def test_commands_can_be_pasted(place, write, fake, capsys, monkeypatch):
    folder = Path(place)
    home = write(settings={"size": 32, "epochs": 2, "preprocess.mean": [0.5, 0.5, 0.25], "data.loader": "torchvision"})
    if place != "experiments/tiny":
        folder.parent.mkdir()
        home.rename(folder)
    assert run_study(StudyRunSettings(place, dry_run=True, data="/my images")) == 0
    said = capsys.readouterr().out
    named = "tiny" if place == "experiments/tiny" else place
    (one,) = [line.split(":", 1)[1] for line in said.splitlines() if line.startswith("one of them:")]
    words = shlex.split(one)
    assert words[:2] == ["pcpad", "train"]
    assert "--preprocess.mean=[0.5, 0.5, 0.25]" in words
    assert words[words.index("--data.name") + 1] == "/my images"
    (whole,) = [line.split(":", 1)[1] for line in said.splitlines() if line.startswith("the study:")]
    assert shlex.split(whole.partition("  (")[0]) == ["pcpad", "study", "run", named, "--data", "/my images"]
    plan = load_plan(named)
    text, _ = tables_of(plan, [])
    command = shlex.split(text.split("missing: `")[1].split("`")[0])
    assert command[:4] == ["pcpad", "study", "run", named]
    assert run_study(StudyRunSettings(command[3], only=command[5], data=command[7])) == 0
    assert [call["name"] for call in calls()] == [ZEROS]


def test_what_cannot_be_evaluated_here_is_told_how_it_could(write, fake, capsys):
    write(**DATA)
    assert go() == 0
    nothing = dict.fromkeys(("grid", "recipe", "settings"))
    write("cross", **nothing, **{"from": "tiny"}, evaluate=EVALUATE, tables=["cross"])
    Path("runs").rename("elsewhere")  # a clone: tiny has its results, and would not train again
    assert run_study(StudyRunSettings("cross")) == 1
    out = capsys.readouterr().out
    assert f"{PARTIAL} cannot be evaluated: its weights are not here" in out
    assert f"failed: {PARTIAL}" in out
    assert "to train it again, remove its line from experiments/tiny/results.jsonl\n" in out
    assert "trains it" not in out
    Path("elsewhere").rename("runs")
    Path("runs/tiny", ZEROS, "checkpoints/last.pt").unlink()
    assert run_study(StudyRunSettings("cross")) == 1
    assert f"results.jsonl, move runs/tiny/{ZEROS} away" in capsys.readouterr().out


def test_what_was_evaluated_elsewhere_needs_no_weights(write, fake, capsys):
    """Results of jobs that do not collect, and then the checkpoints are deleted to make room."""
    folder = write(evaluate=EVALUATE, **DATA)
    assert go() == 0
    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("".join(f"{x}\n" for x in lines if json.loads(x)["kind"] == "run"))
    for run in (ZEROS, PARTIAL):
        Path("runs/tiny", run, "checkpoints/last.pt").unlink()
    capsys.readouterr()
    before = (folder / "results.jsonl").read_bytes()
    assert go(dry_run=True) == 0
    assert "4 evaluations: 0 missing" in capsys.readouterr().out
    assert (folder / "results.jsonl").read_bytes() == before
    assert go() == 0
    assert "cannot be evaluated" not in capsys.readouterr().out
    assert sum(e["kind"] == "evaluation" for e in read_results(folder)) == 4


def test_a_run_of_another_process_is_said_to_be_left(write, fake, capsys):
    write(**DATA)
    folder = Path("runs/tiny", ZEROS)
    folder.mkdir(parents=True)
    (folder / ".lock").write_text(json.dumps({"pid": 7, "host": "a node", "since": "now"}))
    assert go() == 0
    assert f"{ZEROS} is left to who has it (just started by process 7 on a node since now)" in capsys.readouterr().out
