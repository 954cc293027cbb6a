"""What study run starts, skips, goes on with and records; the processes are `fake.py`, two tests have real ones."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pcpad.cli import main
from pcpad.config import StudyRunSettings
from pcpad.study import launch
from pcpad.study.entries import read_results
from pcpad.study.launch import slots_of
from pcpad.study.plan import load_plan
from pcpad.study.states import BEGUN, CHANGED, DAMAGED, DONE, INTERRUPTED, MISSING, RUNNING, state_of
from tests.study.conftest import TINY
from tests.study.launched import DATA, PARTIAL, ZEROS, calls, go, states


def test_what_is_missing_is_run_once(write, fake, capsys):
    folder = write(**DATA)
    assert states() == [MISSING, MISSING]
    assert go() == 0
    assert states() == [DONE, DONE]
    entries = read_results(folder)
    assert [(e["name"], e["status"], e["top1"], e["n"]) for e in entries] == [
        (ZEROS, "done", [50, 60], 100),
        (PARTIAL, "done", [55, 65], 100),
    ]
    assert all(e["seconds"] > 0 and e["hardware"] == "a machine" and e["versions"] for e in entries)
    before = (folder / "results.jsonl").read_bytes()
    assert go() == 0
    assert len(calls()) == 2
    assert (folder / "results.jsonl").read_bytes() == before
    assert "done train timm_test_byobnet-partial-s0: top-1 65.00%" in capsys.readouterr().out


def test_a_failure_is_recorded_and_the_rest_goes_on(write, fake, capsys):
    folder = write(**DATA)
    fake(**{ZEROS: {"fail": "pcpad: error: the disk is full"}})
    assert go() == 1
    assert states() == [MISSING, DONE]
    failed, done = read_results(folder)
    assert (failed["status"], failed["exit_code"], failed["error"]) == ("failed", 1, "pcpad: error: the disk is full")
    assert Path(failed["log"]).read_text().startswith("$ pcpad train --recipe textures")
    assert done["status"] == "done"
    assert f"failed: {ZEROS}" in capsys.readouterr().out
    assert go(dry_run=True) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    how = "missing failed before, exit code 1: pcpad: error: the disk is full"
    assert " ".join(listed[ZEROS].split()[1:]) == how
    assert "failed" not in listed[PARTIAL]
    fake()
    assert go() == 0  # what has failed is missing, and is tried again
    assert [(e["name"], e["status"]) for e in read_results(folder)] == [(ZEROS, "done"), (PARTIAL, "done")]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(write, fake):
    write(**DATA)
    fake(**{ZEROS: {"die": True}})
    assert go(only="*zeros*") == 1
    assert states() == [BEGUN, MISSING]
    assert "killed by SIGKILL" in read_results(Path("experiments/tiny"))[0]["error"]
    fake()
    assert go(only="*zeros*") == 0
    assert states() == [DONE, MISSING]
    assert "--resume" not in calls()[-1]["argv"]  # the same command again: the training itself starts over


def test_an_end_without_error_is_no_success_where_epochs_are_missing(write, fake):
    write(**DATA)
    fake(**{ZEROS: {"half": True}})
    assert go(only="*zeros*") == 1
    assert states() == [INTERRUPTED, MISSING]
    assert "is not complete" in read_results(Path("experiments/tiny"))[0]["error"]
    assert go(only="*zeros*") == 1
    assert calls()[-1]["argv"][:2] == ["--resume", f"runs/tiny/{ZEROS}"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_all_and_leaves_all_resumable(number, write, fake):
    """Two runs wait for their signal; a third is never started."""
    write(grid={"model": ["timm/test_byobnet"], "padding": ["zeros", "partial"], "seed": [0, 1]}, **DATA)
    fake(**{f"timm_test_byobnet-zeros-s{seed}": {"wait": True} for seed in (0, 1)})

    def press() -> None:
        while len(list(Path().glob("*.waits"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=press)
    thread.start()
    before = signal.getsignal(number)
    assert go(jobs=2) == 130
    thread.join()
    assert signal.getsignal(number) is before
    assert states() == [INTERRUPTED, INTERRUPTED, MISSING, MISSING]
    assert read_results(Path("experiments/tiny")) == []  # stopped is not failed


def test_a_second_ctrl_c_ends_what_does_not_stop():
    code = "import signal, time; signal.signal(15, lambda *_: print('no', flush=True)); print('up', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nwhile True: time.sleep(1)"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"up\n"
    asked = launch.Asked()
    asked.times = 1

    def press() -> None:
        assert process.stdout.readline() == b"no\n"
        asked.times = 2

    thread = threading.Thread(target=press)
    thread.start()
    launch.stop([process], asked)
    thread.join()
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_other_settings_in_a_run_s_folder_are_neither_used_nor_touched(write, fake, capsys):
    write(**DATA)
    assert go() == 0
    write(settings={"size": 32, "epochs": 3, "batch_size": 12, "data.loader": "torchvision"}, **DATA)
    assert states() == [CHANGED, CHANGED]
    assert state_of(load_plan("tiny").runs[0]).detail == "epochs: 2 -> 3; optim.lr: 0.01 -> 0.02"
    assert go() == 1
    assert len(calls()) == 2
    assert "holds a run with other settings (epochs: 2 -> 3; optim.lr: 0.01 -> 0.02): move it away" in (
        capsys.readouterr().out
    )


def test_other_weights_are_other_runs(write, fake, capsys):
    """No digest of the settings holds what a run began with."""
    settings = {"size": 32, "epochs": 2, "batch_size": 12, "optim.lr": 0.01, "data.loader": "torchvision"}
    write(**DATA)
    assert go() == 0
    for weights in ("pretrained", "some/file.pth"):
        write(settings=settings | {"weights": weights}, **DATA)
        assert states() == [CHANGED, CHANGED]
        assert state_of(load_plan("tiny").runs[0]).detail == f"weights: None -> {weights}"
        Path("runs").rename("elsewhere")
        assert states() == [MISSING, MISSING]  # nor are they those of the results
        Path("elsewhere").rename("runs")
    write(**DATA)
    assert states() == [DONE, DONE]
    for digest, alike in (("0123456789ab", True), ("pretrained", False)):
        for path in Path("runs/tiny").glob("*/run.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_digest": digest}))
        write(settings=settings | {"weights": "some/file.pth"}, **DATA)
        assert states() == [DONE if alike else CHANGED] * 2


def test_done_needs_every_epoch_of_this_very_run(write, fake, capsys):
    """Negative controls: a record less, of another run, of a step between, and a checkpoint that was not yet saved."""
    write(**DATA)
    assert go(only="*zeros*") == 0
    run = load_plan("tiny").runs[0]
    records = (run.folder / "records.jsonl").read_text()
    first, last = records.splitlines()
    for text in (first + "\n", first + "\n" + last.replace('-1"', '-2"'), records.replace('"step": 14', '"step": 15')):
        (run.folder / "records.jsonl").write_text(text)
        assert state_of(run).kind == INTERRUPTED
    (run.folder / "records.jsonl").write_text(f"{first}\n{first}\n{last}\n")  # an epoch evaluated twice after a stop
    assert state_of(run).kind == DONE
    (run.folder / "checkpoints/step-00000014-epoch.pt").rename(run.folder / "kept.pt")
    assert state_of(run).kind == INTERRUPTED
    for path in (run.folder / "checkpoints").iterdir():
        path.unlink()
    assert state_of(run).kind == DONE  # someone has made room
    (run.folder / "records.jsonl").write_text("{\n" + records)
    assert state_of(run).kind == DAMAGED
    assert "records.jsonl, line 1, is damaged" in state_of(run).detail
    assert go() == 1  # the other one is run all the same
    assert states() == [DAMAGED, DONE]
    (run.folder / "run.json").write_text("{")
    assert state_of(run).detail == f"{run.folder}/run.json is damaged"
    assert go() == 1
    assert "run.json is damaged): move it away to run this" in capsys.readouterr().out


def test_what_another_process_runs_is_left_to_it(write, fake):
    write(**DATA)
    folder = Path("runs/tiny", ZEROS)
    folder.mkdir(parents=True)
    holder = {"pid": os.getpid(), "host": os.uname().nodename, "since": "now"}
    (folder / ".lock").write_text(json.dumps(holder))
    assert states() == [RUNNING, MISSING]
    assert go() == 0
    assert [call["name"] for call in calls()] == [PARTIAL]
    (folder / ".lock").write_text(json.dumps(holder | {"pid": 2**22 + 1}))  # it is dead
    assert states() == [MISSING, DONE]


def test_results_without_the_folders_count_as_done(write, fake, capsys):
    """A clone has the results and not the runs; a change of the plan makes them worthless."""
    write(**DATA)
    assert go() == 0
    Path("runs").rename("elsewhere")
    assert go() == 0
    assert len(calls()) == 2
    assert go(dry_run=True) == 0
    assert "2 runs: 2 recorded" in capsys.readouterr().out
    write(settings={"epochs": 3, "schedule.warmup_epochs": 1}, **DATA)
    assert go(dry_run=True) == 0
    assert "2 runs: 2 missing" in capsys.readouterr().out


def test_each_of_several_processes_has_its_gpu_and_its_cores(write, fake, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    names = lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names()))
    assert slots_of(StudyRunSettings("x")) == [{}]
    assert slots_of(StudyRunSettings("x", gpus=1)) == [{"CUDA_VISIBLE_DEVICES": "0"}]
    four = slots_of(StudyRunSettings("x", gpus=2, jobs=4))
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in four] == ["0", "1", "0", "1"]
    assert {slot["OMP_NUM_THREADS"] for slot in four} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_of(StudyRunSettings("x", gpus=2))] == ["5", "GPU-7"]
    with pytest.raises(ValueError, match="gpus=3: torch finds 2 in CUDA_VISIBLE_DEVICES=5,GPU-7; --jobs N"):
        slots_of(StudyRunSettings("x", gpus=3))
    with monkeypatch.context() as hidden:
        hidden.delenv("CUDA_VISIBLE_DEVICES")
        hidden.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(ValueError, match="gpus=1: torch finds 0 on this machine; --jobs N"):
            slots_of(StudyRunSettings("x", gpus=1))
    write(**DATA)
    assert go(gpus=2) == 0
    assert sorted(call["seen"]["CUDA_VISIBLE_DEVICES"] for call in calls()) == ["5", "GPU-7"]
    assert all(call["seen"]["OMP_NUM_THREADS"] == "4" for call in calls())
    assert all(call["argv"][-2:] == ["--data.workers", "4"] for call in calls())


def test_images_that_are_not_there_are_named_before_anything_starts(write, tmp_path, monkeypatch, capsys):
    """Once, and not by each run; no failure is noted."""
    folder = write()
    monkeypatch.setattr(launch, "check_names", lambda plan: None)
    (tmp_path / "flat/train").mkdir(parents=True)
    for data, message in (("/nowhere/at/all", "is neither textures"), (str(tmp_path / "flat"), "no folder")):
        assert main(["study", "run", "tiny", "--data", data]) == 1
        error = capsys.readouterr().err
        assert f"data {data}" in error.replace("'", "")
        assert message in error
    assert not Path("runs").exists()
    assert not (folder / "results.jsonl").exists()


def test_a_real_run(write, stripes, monkeypatch):
    """One of two, in a process of its own; what comes of it is what `pcpad train` alone would give."""
    monkeypatch.setattr(launch, "check_names", lambda plan: None)
    folder = write(data=str(stripes), settings=TINY["settings"] | {"device": "cpu", "data.workers": 1})
    assert go(only="*partial*") == 0
    (entry,) = read_results(folder)
    (run,) = (run for run in load_plan("tiny").runs if run.padding == "partial")
    assert entry["settings_digest"] == entry["record"]["run_digest"] == run.digest("torchvision")
    assert (entry["name"], entry["n"], len(entry["top1"])) == (PARTIAL, 21, 2)
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    shares = [line["val/top1"] for line in metrics if "val/top1" in line]
    assert [100 * hits / 21 for hits in entry["top1"]] == pytest.approx(shares)
    assert entry["seconds"] > 1
    assert go(only="*partial*") == 0
    assert len(Path("runs/tiny/launches.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_real_study_is_stopped_and_goes_on(write, stripes):
    """Ctrl-C after the first checkpoint of a run; the same command then ends it, and evaluates both."""
    settings = TINY["settings"] | {"device": "cpu", "data.workers": 1, "epochs": 4, "save.every_steps": 1}
    evaluate = {"paddings": ["zeros", "partial"], "sizes": [32, 48]}
    folder = write(data=str(stripes), settings=settings, evaluate=evaluate)
    command = [sys.executable, "-m", "pcpad", "study", "run", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not list(Path("runs/tiny").glob("*/checkpoints/step-*.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130, out
    assert INTERRUPTED in states()
    assert subprocess.run(command, check=True).returncode == 0
    entries = read_results(folder)
    assert [e["status"] for e in entries] == ["done"] * 10
    launches = [json.loads(line) for line in Path("runs/tiny/launches.jsonl").read_text().splitlines()]
    assert [line["exit_code"] for line in launches] == [75, 0, 0, 0, 0]
    assert [line["resumed"] for line in launches] == [False, True, False, False, False]
    assert all(e["paired"] for e in entries if e["kind"] == "evaluation" and e["padding"] != e["padding_evaluated"])


def test_dry_run_lists_and_starts_nothing(write, fake, capsys):
    write(cost={"how": "computed", "unit": "GPU hours", "hours": {"timm/test_byobnet": 2.5}})
    assert go(dry_run=True) == 0
    out = capsys.readouterr().out
    assert f"  {ZEROS}    missing         2.50 GPU hours" in out
    assert "2 runs: 2 missing" in out
    assert "cost of what is to be run: 5.0 GPU hours (computed)" in out
    assert "python scripts/slurm/submit.py --study tiny --data /path/to/images" in out
    assert f"--out runs/tiny/{ZEROS}" in out
    assert not Path("runs").exists()
    assert not Path("experiments/tiny/results.jsonl").exists()


def test_mistakes_start_nothing(write, fake):
    write()
    with pytest.raises(ValueError, match="study tiny names no images: --data /path/with/train/and/val"):
        go()
    with pytest.raises(ValueError, match=f"no run of .* matches; they are called {ZEROS}, {PARTIAL} and so on"):
        go(only="*reflect*")
    assert not Path("calls.jsonl").exists()
