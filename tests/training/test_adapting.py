"""From weights of zero padding to another: recalibrated norms, the rising power, the teacher; and the whole command."""

import os
import signal

import pytest
import torch
from torch import nn

import pcpad
from pcpad.cli import main
from pcpad.config import AdaptSettings, TrainSettings
from pcpad.data.batch import Batch
from pcpad.data.catalogue import imagenet_wnids, open_for_training
from pcpad.evaluation.fields import read_records
from pcpad.training import beginning, loop
from pcpad.training.adapting import (
    batch_statistics,
    power_after,
    recalibration_rows,
    shift_statistics,
    towards_teacher,
)
from pcpad.training.distributed import World
from pcpad.training.signals import STOPPED
from tests.training.conftest import difference


def small_net() -> nn.Sequential:
    """Two norms one behind the other, a dropout between them, in training mode."""
    torch.manual_seed(1)
    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)]
    return nn.Sequential(convs[0], nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), convs[1], nn.BatchNorm2d(5)).double()


def batches(n: int = 3) -> list[Batch]:
    torch.manual_seed(2)
    return [Batch(torch.randn(4, 3, 6, 7).double() * (i + 1), torch.zeros(4), torch.arange(4)) for i in range(n)]


def by_hand(net: nn.Sequential, images: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean over the batches of each channel's mean and unbiased variance, before each norm."""
    found = [[], []]
    with torch.no_grad():
        for x in images:
            for i, (conv, norm) in enumerate(((net[0], net[1]), (net[4], net[5]))):
                y = conv(x)
                rows = y.transpose(0, 1).flatten(1)
                found[i].append((rows.mean(1), rows.var(1)))
                scaled = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
                scaled = scaled * norm.weight[:, None] + norm.bias[:, None]
                x = scaled.view(y.shape[1], y.shape[0], *y.shape[2:]).transpose(0, 1).relu()
    return [tuple(torch.stack(part).mean(0) for part in zip(*each, strict=True)) for each in found]


def test_batch_statistics_are_the_mean_of_the_batches():
    net, images = small_net(), batches()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = batch_statistics(net, images, World(), torch.preserve_format)
    for (mean, var), (mean_wanted, var_wanted) in zip(found, by_hand(net, [b.images for b in images]), strict=True):
        torch.testing.assert_close(mean, mean_wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(var, var_wanted, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert net[1].momentum == 0.1
    net.eval()
    net[1].running_mean += 7  # what was there before does not matter
    again = batch_statistics(net, images, World(), torch.preserve_format)
    assert all(torch.equal(a, b) for one, two in zip(found, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not any(module.training for module in net.modules())
    other = batch_statistics(net, images[:2], World(), torch.preserve_format)  # the control: other images
    assert not torch.allclose(found[0][0], other[0][0])


def test_norms_are_shifted_by_what_a_conversion_changes():
    """By hand: m + (m1 - m0) sqrt(v / v0) and v v1 / v0, from the tap-by-tap border of partial padding."""
    net, images = small_net().eval(), batches()
    for norm in (net[1], net[5]):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    old = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in (net[1], net[5])]
    before = by_hand(net, [b.images for b in images])
    pcpad.convert(net, "partial")
    after = by_hand(net, [b.images for b in images])
    shift_statistics(net, before, after)
    for norm, (m, v), (m0, v0), (m1, v1) in zip((net[1], net[5]), old, before, after, strict=True):
        torch.testing.assert_close(norm.running_mean, m + (m1 - m0) * (v / v0) ** 0.5, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, v * v1 / v0, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(norm.running_var, v)
    kept = [norm.running_var.clone() for norm in (net[1], net[5])]
    shift_statistics(net, after, after)  # nothing has changed
    assert all(torch.equal(a, norm.running_var) for a, norm in zip(kept, (net[1], net[5]), strict=True))
    dead = [(m0 * 0, v0 * 0) for m0, v0 in before]  # channels that show nothing stay as they are
    shift_statistics(net, dead, after)
    assert all(torch.equal(a, norm.running_var) for a, norm in zip(kept, (net[1], net[5]), strict=True))


def test_statistics_that_are_stopped_leave_the_norms_as_they_were():
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []

    def stop():
        seen.append(None)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch_statistics(net, batches(), World(), torch.preserve_format, stop)
    assert net[1].momentum == 0.1
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert batch_statistics(nn.Conv2d(3, 4, 3).double(), batches(), World(), torch.preserve_format) == []


def test_statistics_over_processes_are_the_mean_of_theirs():
    images, net = batches(4), small_net()
    theirs = iter([t for pair in batch_statistics(net, images[1::2], World(), torch.preserve_format) for t in pair])
    both = batch_statistics(net, images, World(), torch.preserve_format)

    class Two(World):
        def sum(self, values):
            return values + next(theirs)

    own = batch_statistics(net, images[::2], Two(size=2), torch.preserve_format)
    torch.testing.assert_close(own, both)


def test_rows_for_recalibration():
    rows = recalibration_rows(50, 30, 8, seed=0)
    assert (len(rows), rows == sorted(set(rows)), max(rows) < 50) == (24, True, True)
    assert rows != recalibration_rows(50, 30, 8, seed=1)
    assert len(recalibration_rows(50, 10_000, 8, seed=0)) == 48
    with pytest.raises(ValueError, match=r"recalibrate=30 of 50 training images do not fill one batch of 64"):
        recalibration_rows(50, 30, 64, seed=0)


def test_the_power_rises_in_hundredths():
    settings = TrainSettings(weights="x", power=0.8, adapt=AdaptSettings(ramp_epochs=2))
    found = [power_after(step, settings, steps_per_epoch=10) for step in (0, 1, 5, 10, 19, 20, 21, 400)]
    assert found == pytest.approx([0, 0.04, 0.2, 0.4, 0.76, 0.8, 0.8, 0.8])
    assert power_after(1, settings, 1000) == 0  # a twentieth of a hundredth
    assert power_after(20, settings, 1000) == pytest.approx(0.8 / 100)
    root = TrainSettings(weights="x", padding="partial_sqrt", adapt=AdaptSettings(ramp_epochs=1))
    assert [power_after(step, root, 10) for step in (0, 5, 10)] == pytest.approx([0, 0.25, 0.5])
    assert power_after(0, TrainSettings(), 10) == 1


def test_the_teacher_s_share_of_the_loss():
    torch.manual_seed(0)
    logits, taught = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    p = taught.exp() / taught.exp().sum(1, keepdim=True)
    q = logits.exp() / logits.exp().sum(1, keepdim=True)
    by_formula = -(p * q.log()).sum(1).mean()
    loss = torch.tensor(2.0).double()
    assert torch.equal(towards_teacher(loss, logits, taught, 0.0), loss)
    torch.testing.assert_close(towards_teacher(loss, logits, taught, 1.0), by_formula)
    torch.testing.assert_close(towards_teacher(loss, logits, taught, 0.25), 0.75 * loss + 0.25 * by_formula)


@pytest.fixture
def weights(call, tmp_path):
    """Weights of a short training with zero padding, as a plain state dict."""
    assert call("train", padding="zeros", out="zeros", epochs=4) == 0
    state = torch.load(tmp_path / "zeros/checkpoints/last.pt", weights_only=True)["model"]
    torch.save(state, tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


ADAPT = {"recipe": "adapt", "padding": "partial", "adapt.recalibrate": 20, "schedule.warmup_epochs": 0}


def test_without_training(call, weights, tmp_path, capsys):
    """The evaluations before the first step are those of pcpad eval, and the network is kept."""
    options = ADAPT | {"epochs": 0, "weights": weights, "out": "adapted", "ema": 0.9}
    assert call("train", **options) == 0
    text = capsys.readouterr().out
    assert "recalibrated: 15 batch norms" in text
    assert "without training with partial padding" in text
    found = {r["checkpoint"]: r for r in read_records(tmp_path / "adapted")}
    assert list(found) == ["unconverted", "converted", "recalibrated"]
    assert [r["padding"] for r in found.values()] == ["zeros", "partial", "partial"]
    given = {"model": "timm/test_resnet", "data": tmp_path / "data", "size": 32}
    data = next(part for part in (tmp_path / "zeros/settings.yaml").read_text().split() if "stripes" in part)
    given["data"] = data
    assert call("eval", weights=weights, paddings="zeros,partial", out="e", **given) == 0
    alone = {r["padding"]: r for r in read_records(tmp_path / "e")}
    for name, padding in (("unconverted", "zeros"), ("converted", "partial")):
        assert (found[name]["top1"], found[name]["n"]) == (alone[padding]["top1"], 21)
        assert found[name]["loss"] == pytest.approx(alone[padding]["loss"], rel=1e-6)
    assert found["recalibrated"]["loss"] != found["converted"]["loss"]
    assert call("eval", run="adapted", out="f") == 0
    (kept,) = read_records(tmp_path / "f")
    assert kept["loss"] == pytest.approx(found["recalibrated"]["loss"], rel=1e-6)
    assert kept["ema"] is True  # the average was taken from the recalibrated network
    assert main(["train", "--resume", "adapted"]) == 0
    assert "the run is finished: 0 of 0 epochs" in capsys.readouterr().out


def interrupt(original, at):
    """The function, with a SIGTERM to this process before its call number `at`."""
    done = []

    def wrapped(*args, **kwargs):
        done.append(None)
        if len(done) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize(
    "moment",
    [
        "recalibrated",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("unconverted", "recalibration", "step 1", "step 5")),
    ],
)
def test_stopped_anywhere_it_ends_the_same(call, weights, tmp_path, monkeypatch, capsys, moment):
    options = ADAPT | {"epochs": 2, "weights": weights, "adapt.ramp_epochs": 1.5, "adapt.distill": 0.5, "ema": 0.8}
    options |= {"eval_batch_size": 5} | ({"adapt.recalibrate": 0} if "step" in moment else {"adapt.ramp_epochs": 0})
    assert call("train", **options, out="whole") == 0
    with monkeypatch.context() as patch:
        if moment == "unconverted":
            patch.setattr(beginning, "validate", interrupt(beginning.validate, 1))
        elif moment == "recalibrated":
            patch.setattr(beginning, "validate", interrupt(beginning.validate, 3))
        elif moment == "recalibration":
            patch.setattr(beginning, "batch_statistics", interrupt(beginning.batch_statistics, 2))
        else:
            patch.setattr(loop, "optimizer_step", interrupt(loop.optimizer_step, int(moment[-1])))
        assert call("train", **options, out="cut") == STOPPED
    assert main(["train", "--resume", "cut"]) == 0
    saved = [torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True) for name in ("whole", "cut")]
    assert difference(*saved) is None
    assert saved[0]["power"] == 1
    records = [read_records(tmp_path / name) for name in ("whole", "cut")]
    facts = [[(r["checkpoint"], r["step"], r["power"], r["loss"]) for r in each] for each in records]
    assert facts[0] == facts[1]
    powers = [pytest.approx(0.66), 1] if "step" in moment else [1, 1]
    assert [r["power"] for r in records[0] if r["checkpoint"] == "epoch"] == powers


def test_the_power_of_a_checkpoint_is_what_it_is_evaluated_with(call, weights, tmp_path, monkeypatch):
    options = ADAPT | {"epochs": 2, "weights": weights, "adapt.ramp_epochs": 2, "adapt.recalibrate": 0, "save.keep": 9}
    assert call("train", **options) == 0
    half = next((tmp_path / "run/checkpoints").glob("step-*4-epoch.pt"))
    os.replace(half, tmp_path / "run/checkpoints/last.pt")
    assert call("eval", run="run", out="e") == 0
    (record,) = read_records(tmp_path / "e")
    (trained,) = [r for r in read_records(tmp_path / "run") if r["step"] == 4]
    assert record["power"] == trained["power"] == 0.5
    assert record["loss"] == pytest.approx(trained["loss"], rel=1e-6)


def test_a_stop_before_the_first_step_of_a_resumption_saves_the_power_that_is_due(call, weights, tmp_path, monkeypatch):
    """Step 3 of a ramp of 8 steps has 2/8; a network is built with the whole power."""
    options = ADAPT | {"epochs": 2, "weights": weights, "adapt.ramp_epochs": 2, "adapt.recalibrate": 0}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", interrupt(loop.optimizer_step, 2))
        assert call("train", **options) == STOPPED
    monkeypatch.setattr(loop, "train_epoch", interrupt(loop.train_epoch, 1))
    assert main(["train", "--resume", "run"]) == STOPPED
    saved = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    assert (saved["step"], saved["power"]) == (2, 0.25)


@pytest.mark.slow
def test_distillation_alone_needs_no_labels(call, weights, tmp_path, monkeypatch):
    """With the whole loss from the teacher, labels that are all wrong train the same network."""
    original, nets = loop.backward, []
    options = ADAPT | {"epochs": 1, "weights": weights, "adapt.distill": 1, "adapt.first": "false"}
    for shift in (0, 1):

        def shifted(model, images, labels, *rest, shift=shift, **how):
            return original(model, images, (labels + shift) % 3, *rest, **how)

        monkeypatch.setattr(loop, "backward", shifted)
        assert call("train", **options, out=f"run{shift}") == 0
        nets.append(torch.load(tmp_path / f"run{shift}/checkpoints/last.pt", weights_only=True)["model"])
    assert difference(*nets) is None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert call("train", **(options | {"adapt.distill": 0.9}), out="some") == 0  # the control
    assert difference(nets[0], torch.load(tmp_path / "some/checkpoints/last.pt", weights_only=True)["model"])


def test_frozen_norms_keep_their_statistics(call, weights, tmp_path):
    options = ADAPT | {"epochs": 1, "weights": weights, "adapt.recalibrate": 0, "adapt.first": "false"}
    before = torch.load(weights)
    for freeze in ("true", "false"):
        assert call("train", **options, out=freeze, **{"adapt.freeze_norms": freeze}) == 0
        after = torch.load(tmp_path / freeze / "checkpoints/last.pt", weights_only=True)["model"]
        kept = [torch.equal(before[k], after[k]) for k in before if "running" in k]
        assert (all(kept), any(kept)) == ((True, True) if freeze == "true" else (False, False))
        assert not torch.equal(before["fc.weight"], after["fc.weight"])


@pytest.mark.slow
def test_a_teacher_that_is_gone_or_another(call, weights, tmp_path, capsys):
    options = ADAPT | {"epochs": 2, "weights": weights, "adapt.distill": 0.5}
    assert call("train", **options) == 0
    for path in (tmp_path / "run/checkpoints").glob("step-00000008*"):
        path.unlink()
    os.remove(weights)
    assert main(["train", "--resume", "run"]) == 1
    assert "that file is gone or another one: put it back" in capsys.readouterr().err
    torch.save({k: v + 1 for k, v in torch.load("run/checkpoints/last.pt")["model"].items()}, weights)
    assert main(["train", "--resume", "run"]) == 1
    assert "that file is gone or another one: put it back" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": None, "adapt.distill": 0.5}, "start from weights: give --weights"),
        ({"adapt.ramp_epochs": 1, "padding": "reflect"}, "reflect has none"),
        ({"adapt.ramp_epochs": 1}, "give --adapt.recalibrate 0 with it"),
        (
            {"adapt.ramp_epochs": 1, "adapt.recalibrate": 0, "compile": "true"},
            "would compile the network anew for each power",
        ),
        (
            {"adapt.ramp_epochs": 3, "adapt.recalibrate": 0, "epochs": 2},
            "adapt.ramp_epochs must be at most epochs (2), not 3",
        ),
        ({"adapt.recalibrate": 3}, "do not fill one batch of 8"),
    ],
)
def test_settings_that_contradict_each_other(call, tmp_path, capsys, options, message):
    torch.save(pcpad_weights(), tmp_path / "w.pt")
    assert call("train", **(ADAPT | {"weights": tmp_path / "w.pt"} | options)) == 1
    err = capsys.readouterr().err
    assert (message in err, err.count("\n")) == (True, 1)
    assert not (tmp_path / "run").exists()


def pcpad_weights() -> dict:
    """Random weights of the small network for three classes."""
    import timm

    return timm.create_model("test_resnet", num_classes=3).state_dict()


def test_epochs_0_needs_the_evaluation_before(capsys):
    assert main(["train", "--epochs", "0"]) == 2
    assert "epochs must be at least 1, not 0" in capsys.readouterr().err


def test_adapt_is_train_with_its_recipe(capsys):
    assert main(["adapt", "--print_config"]) == 0
    text = capsys.readouterr().out
    assert "weights: pretrained" in text
    assert "recipe: adapt" in text
    assert "recalibrate: 10000" in text
    assert main(["adapt", "--weights=mine.pt", "--recipe", "paper", "--print_config"]) == 0
    text = capsys.readouterr().out
    assert ("weights: mine.pt" in text, "recipe: paper" in text, "recalibrate: 0" in text) == (True, True, True)


def test_a_part_of_imagenet_keeps_the_whole_head(tmp_path):
    from PIL import Image

    names = imagenet_wnids()
    for split, rows in (("train", (3, 998)), ("val", (998, 5))):
        for i in rows:
            (tmp_path / split / names[i]).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / names[i] / "a.png")
    data = open_for_training(str(tmp_path), imagenet_head=True)
    assert (data.classes, data.train.labels.tolist(), data.val.labels.tolist()) == (names, [3, 998], [5, 998])
    with pytest.raises(ValueError, match="must have the same class folders"):
        open_for_training(str(tmp_path))
    for split in ("train", "val"):
        os.rename(tmp_path / split / names[998], tmp_path / split / "cat")
        for i in (3, 5):
            if (tmp_path / split / names[i]).exists():
                os.rename(tmp_path / split / names[i], tmp_path / split / "dog")
    data = open_for_training(str(tmp_path), imagenet_head=True)  # no part of ImageNet: as always
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog"), [0, 1])
