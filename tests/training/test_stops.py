"""Stops at odd moments: before the first step, before the first checkpoint; and what a start finds after them."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from pcpad.cli import main
from pcpad.evaluation.fields import read_records
from pcpad.training import loop, run
from pcpad.training.signals import NOTED, STOPPED, Signals, Stopped, heeded
from tests.training.conftest import difference
from tests.training.test_launch import alive, family, options, start


@pytest.fixture
def signalled(monkeypatch):
    """A start that gets a signal while it checks the images."""
    right = run.check_data

    def by(name: str):
        def check(*args):
            os.kill(os.getpid(), getattr(signal, name))
            return right(*args)

        monkeypatch.setattr(run, "check_data", check)

    return by


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name for name in NOTED if name != "SIGINT"])
def test_a_signal_before_the_first_step_stops_at_once(call, signalled, tmp_path, capsys, name):
    """A new run leaves nothing behind, one that was resumed is as it was; the handlers are those of before."""
    before = signal.getsignal(getattr(signal, name))
    signalled(name)
    assert call("train", padding="partial") == STOPPED
    said = capsys.readouterr().err
    assert said == f"pcpad: stopped by {name} before the first step: nothing has changed\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_run_that_is_stopped_while_it_resumes_is_as_it_was(call, signalled, tmp_path, monkeypatch, capsys):
    assert call("train", epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    kept = contents(tmp_path)
    signalled("SIGTERM")
    assert main(["train", "--resume", "run"]) == STOPPED
    assert contents(tmp_path) == kept


def test_ctrl_c_before_the_first_step(call, signalled, tmp_path, capsys):
    signalled("SIGINT")
    assert call("train", padding="partial") == 130
    assert capsys.readouterr().err == "pcpad: error: stopped\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        assert set(NOTED) - set(heeded()) == {"SIGHUP"}
        with Signals() as signals:
            signals.wait()
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.asked is None
            os.kill(os.getpid(), signal.SIGQUIT)
            assert signals.asked == "SIGQUIT"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("first", [None, "SIGTERM", "SIGHUP"])
def test_a_second_ctrl_c_is_one_whatever_came_before(first):
    """So that a step that never ends can be left."""
    with Signals() as signals:
        signals.wait()
        if first:
            os.kill(os.getpid(), getattr(signal, first))
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked == (first or "SIGINT")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_opened_twice_are_closed_once():
    before = {name: signal.getsignal(getattr(signal, name)) for name in NOTED}
    with Signals() as outer, outer as inner:
        assert inner is outer
        with pytest.raises(Stopped, match="stopped by SIGUSR1 before the first step"):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert {name: signal.getsignal(getattr(signal, name)) for name in NOTED} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_the_launcher_ends_while_its_processes_start(data, tmp_path, name):
    """None of them is left over, whatever they were about to do."""
    process = start(tmp_path, **options(data, "cut", epochs=1000))
    for line in process.stdout:
        if line.startswith("images: "):
            break
    below = family(process.pid)
    os.kill(process.pid, getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert not any(alive(pid) for pid in below)
    if name == "SIGTERM":
        assert process.returncode == STOPPED
        assert "stopped by SIGTERM" in err


def test_a_run_killed_before_its_first_checkpoint_starts_over(call, tmp_path, capsys):
    assert call("train", padding="partial") == 0
    whole = torch.load(tmp_path / "run/checkpoints/last.pt")
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.unlink()
    (tmp_path / "run/checkpoints/step-00000004.pt.tmp").write_bytes(b"half")
    assert main(["train", "--resume", "run"]) == 1
    assert "there is no checkpoint in it yet: start the run again with its own command" in capsys.readouterr().err
    kept = contents(tmp_path)
    assert call("train", padding="zeros") == 1
    err = capsys.readouterr().err
    assert "run holds a run without a checkpoint, with other settings (padding: partial -> zeros): remove it, or" in err
    (tmp_path / "run/thesis.txt").touch()
    assert call("train", padding="partial") == 1
    assert "with files that are no run's (thesis.txt): remove it, or choose another --out" in capsys.readouterr().err
    (tmp_path / "run/thesis.txt").unlink()
    assert contents(tmp_path) == kept
    assert call("train", padding="partial") == 0
    assert "run holds a run that was killed before its first checkpoint: starting over" in capsys.readouterr().out
    assert difference(torch.load(tmp_path / "run/checkpoints/last.pt"), whole) is None
    assert [r["step"] for r in read_records(tmp_path / "run")] == [4, 8]


def test_records_of_epochs_that_are_done_again_are_replaced(call, tmp_path):
    """The newest checkpoint is gone, and the last line was cut off: no step is recorded twice, none is lost."""
    assert call("train", padding="partial", epochs=3, **{"save.keep": 3}) == 0
    assert call("eval", run="run", padding="zeros") == 0
    before = read_records(tmp_path / "run")
    (tmp_path / "run/checkpoints/step-00000012-epoch.pt").unlink()
    with (tmp_path / "run/records.jsonl").open("a") as file:
        file.write('{"schema": 1, "ste')
    assert main(["train", "--resume", "run"]) == 0
    after = read_records(tmp_path / "run")
    assert sorted((r["step"], r["checkpoint"]) for r in after) == [
        (4, "epoch"),
        (8, "epoch"),
        (12, "epoch"),
        (12, "last"),
    ]
    top1 = {(r["step"], r["checkpoint"]): r["top1"] for r in before}
    assert {(r["step"], r["checkpoint"]): r["top1"] for r in after} == top1
    names = {path.name for path in (tmp_path / "run/records").iterdir()}
    assert names == {r["predictions"].partition("/")[2] for r in after}


def test_a_resumed_run_takes_no_other_weights(call, tmp_path, capsys):
    assert call("train", epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    assert main(["train", "--resume", "run", "--weights", "other.pth"]) == 1 + 1
    assert "--weights other.pth cannot be given with it, the run has none" in capsys.readouterr().err


def test_a_damaged_run_json_is_named(call, tmp_path, capsys):
    assert call("train", epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    (tmp_path / "run/run.json").write_text("")
    assert main(["train", "--resume", "run"]) == 1
    assert "run/run.json is damaged (Expecting value" in capsys.readouterr().err


def test_parts_that_no_epoch_fills_are_refused(call, tmp_path, capsys):
    """36 images make one batch of 12 parts of 3, and no batch of 12 parts of 6."""
    assert call("train", epochs=1, batch_size=36, accumulate=12, **{"schedule.warmup_epochs": 0}) == 0
    shutil.rmtree(tmp_path / "run")
    assert call("train", batch_size=72, accumulate=12) == 1
    err = capsys.readouterr().err
    assert "no training step: 36 images over 1 processes do not fill 12 parts of 6 on each of them" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fp16_that_no_loss_scale_helps_has_diverged(call, tmp_path, monkeypatch, capsys):
    """Skipped steps are the scaler's own affair; not where every step is skipped, down to no scale at all."""
    original, steps = loop.backward, []

    def backward(model, *args, **kwargs):
        found = original(model, *args, **kwargs)
        steps.append(None)
        next(p for p in model.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return found

    monkeypatch.setattr(loop, "backward", backward)
    assert call("train", amp="fp16", epochs=9, **{"schedule.warmup_epochs": 0}) == 1
    err = capsys.readouterr().err
    assert "the gradient is not finite at any loss scale at step 27 (epoch 7)" in err or "at step 27" in err
    assert "training has diverged; the last checkpoint is kept" in err
    assert len(steps) == 16 + 10 + 1  # from 2**16 to below 2**-10
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["amp"] == "fp16"


@pytest.mark.slow
def test_a_name_that_is_no_text(data, tmp_path):
    """Of a file: Linux allows any bytes."""
    shutil.copytree(data, tmp_path / "data")
    folder = os.fsencode(tmp_path / "data/train/down")
    os.rename(folder + b"/0.jpg", folder + b"/a\xff.jpg")
    (tmp_path / "data/train/down/1.jpg").write_bytes(b"no image")
    os.rename(folder + b"/1.jpg", folder + b"/b\xff.jpg")
    command = [sys.executable, "-m", "pcpad", "data", "check", "--data", str(tmp_path / "data")]
    environment = {**os.environ, "PCPAD_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
    for known in ("", "35 of them known from before, "):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"train: 36 images, {known}1 damaged" in done.stdout
        assert r"b\udcff.jpg: not an image" in done.stdout
