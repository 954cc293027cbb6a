"""Stopped after any step and resumed, a run ends as the one that was never stopped, bit for bit."""

import json
import os
import signal

import pytest
import torch

from pcpad.cli import main
from pcpad.evaluation.fields import read_records
from pcpad.training import checkpoint, ending, loop
from pcpad.training.signals import STOPPED
from tests.training.conftest import difference

OPTIONS = {
    "padding": "partial",
    "epochs": 2,
    "ema": 0.9,
    "amp": "fp16",
    "label_smoothing": 0.1,
    "model": "mobilenet_v3_small",
}
STEPS = 4  # of an epoch: 36 images in batches of 8
QUICK = [("dali", 5)]  # one after an epoch; all others are slow, and test_distributed.py has some of torchvision's
CUTS = [(loader, cut) for loader in ("torchvision", "dali") for cut in range(1, 2 * STEPS + 1)]


@pytest.fixture
def signalled(monkeypatch):
    """Send this process a signal after its n-th optimizer step."""

    def after(step: int, name: str = "SIGTERM"):
        done, original = [], loop.optimizer_step

        def stepping(state):
            original(state)
            done.append(None)
            if len(done) == step:
                os.kill(os.getpid(), getattr(signal, name))

        monkeypatch.setattr(loop, "optimizer_step", stepping)

    return after


@pytest.fixture(scope="module")
def whole():
    """Loader to the last checkpoint and curves of a run that was not stopped."""
    return {}


def last(folder) -> dict:
    return torch.load(folder / "checkpoints/last.pt", weights_only=True)


def curves(folder) -> list[tuple]:
    """Steps, losses and accuracies; speeds differ."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [tuple(line.get(k) for k in ("step", "train/loss", "train/top1", "val/loss", "val/top1")) for line in lines]


@pytest.mark.parametrize(
    ("loader", "cut"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CUTS]
)
def test_stopped_after_any_step(call, whole, tmp_path, signalled, monkeypatch, capsys, loader, cut):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    options = OPTIONS | {"data.loader": loader}
    if loader not in whole:
        assert call("train", **options, out="whole") == 0
        whole[loader] = last(tmp_path / "whole"), curves(tmp_path / "whole"), read_records(tmp_path / "whole")
    with monkeypatch.context():
        signalled(cut)
        assert call("train", **options, out="cut") == STOPPED
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert f"stopped by SIGTERM after step {cut}; all that is needed to go on is saved" in capsys.readouterr().err
    assert json.loads((tmp_path / "cut/requeue.json").read_text())["signal"] == "SIGTERM"
    kept = last(tmp_path / "cut")
    assert (kept["step"], kept["step_in_epoch"]) == (cut, (cut - 1) % STEPS + 1)
    torch.manual_seed(1234)  # no state outside the checkpoint may matter
    assert main(["train", "--resume", "cut"]) == 0
    assert not (tmp_path / "cut/requeue.json").exists()
    content, lines, records = whole[loader]
    assert difference(last(tmp_path / "cut"), content) is None
    assert curves(tmp_path / "cut") == lines
    again = read_records(tmp_path / "cut")
    assert [(r["step"], r["top1"], r["loss"]) for r in again] == [(r["step"], r["top1"], r["loss"]) for r in records]


@pytest.mark.parametrize(
    "part", ["random", *(pytest.param(part, marks=pytest.mark.slow) for part in ("loader", "optimizer", "ema", "sums"))]
)
def test_each_part_of_the_state_matters(call, tmp_path, signalled, monkeypatch, part):
    """The control: with one part lost, the run ends elsewhere, or the curves do."""
    options = OPTIONS | {"epochs": 1, "schedule.warmup_epochs": 0}
    assert call("train", **options, out="whole") == 0
    with monkeypatch.context():
        signalled(2)
        assert call("train", **options, out="cut") == STOPPED
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (path,) = (tmp_path / "cut/checkpoints").glob("step-*.pt")
    content = torch.load(path, weights_only=True)
    own = content["ranks"][0]
    if part == "random":
        own["random"]["torch"] = torch.Generator().manual_seed(5).get_state()
    elif part == "loader":
        own["loader"]["step"] = 0
    elif part == "optimizer":
        content["optimizer"]["state"] = {}
    elif part == "ema":
        content["ema"] = {key: value * 0 for key, value in content["ema"].items()}
    else:
        own["sums"][0] += 1.0
    checkpoint.save(path, content)
    assert main(["train", "--resume", "cut"]) == 0
    if part == "sums":
        assert curves(tmp_path / "cut") != curves(tmp_path / "whole")
    else:
        assert difference(last(tmp_path / "cut"), last(tmp_path / "whole")) is not None


def test_stopped_while_it_evaluates(call, tmp_path, monkeypatch, capsys):
    """The epoch's training is kept, the evaluation is done again."""
    original = ending.count

    def interrupted(*args, progress, **kwargs):
        os.kill(os.getpid(), signal.SIGUSR1)
        return original(*args, progress=progress, **kwargs)

    monkeypatch.setattr(ending, "count", interrupted)
    assert call("train", padding="partial", out="cut") == STOPPED
    assert "stopped by SIGUSR1 after step 4" in capsys.readouterr().err
    assert not (tmp_path / "cut/records.jsonl").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "cut"]) == 0
    assert call("train", padding="partial", out="whole") == 0
    assert difference(last(tmp_path / "cut"), last(tmp_path / "whole")) is None


def test_a_second_interrupt_does_not_wait(call, tmp_path, monkeypatch, capsys):
    def twice(state):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "optimizer_step", twice)
    assert call("train") == 130
    assert capsys.readouterr().err == "pcpad: error: stopped\n"
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(loop, "optimizer_step", lambda state: os.kill(os.getpid(), signal.SIGINT))
    assert call("train") == 130
    assert "stopped by SIGINT after step 1; all that is needed" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoints_inside_an_epoch(call, tmp_path):
    """After every third step and every epoch; two are kept, and the best."""
    assert call("train", **{"save.every_steps": 3, "epochs": 3}) == 0
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step-00000009.pt", "step-00000012-epoch.pt"]
    assert call("train", **{"save.every_minutes": 1e-9, "save.keep": 1, "epochs": 2, "out": "often"}) == 0
    names = sorted(path.name for path in (tmp_path / "often/checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step-00000008-epoch.pt"]
    assert difference(last(tmp_path / "often")["model"], last(tmp_path / "run")["model"]) is not None
