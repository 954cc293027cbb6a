"""pcpad train and pcpad eval from the command line, on a tiny tree, on the CPU."""

import json

import pytest
import timm
import torch
from PIL import Image

import pcpad
from pcpad.cli import main
from pcpad.config import ScheduleSettings
from pcpad.evaluation.fields import read_records
from pcpad.training import loop
from pcpad.training.distributed import World
from pcpad.training.schedule import learning_rate
from pcpad.training.state import Sums
from tests.training.conftest import difference

LOADERS = ["torchvision", "dali"]


def test_a_run_is_trained_evaluated_and_recorded(call, tmp_path, data, capsys):
    assert call("train", padding="partial") == 0
    out = capsys.readouterr().out
    run = tmp_path / "run"
    lines = out.splitlines()
    assert lines[0].startswith(f"data: {data}, recipe: textures (")
    assert "chance is 33.33%" in out
    assert "run: run" in out
    assert {p.name for p in run.iterdir()} == {
        *("checkpoints", "metrics.jsonl", "records.jsonl", "records", "run.json"),
        *("settings.yaml", "surgery.json", "tensorboard"),
    }
    about = json.loads((run / "run.json").read_text())
    assert about["classes"] == ["across", "down", "none"]
    assert len(json.loads((run / "surgery.json").read_text())["layers"]) > 5
    records = read_records(run)
    assert [r["step"] for r in records] == [4, 8]  # floor(36 / 8) steps an epoch
    assert {(r["padding"], r["padding_trained"], r["n"], r["top5"]) for r in records} == {
        ("partial", "partial", 21, None)
    }

    # The recorded count, by other means: timm's model, our layer put in by hand, PIL and timm's own transform.
    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(torch.load(run / "checkpoints/last.pt")["model"], strict=True)
    pcpad.convert(model, "partial")
    model.eval()
    cfg = model.pretrained_cfg
    transform = timm.data.create_transform(
        (3, 32, 32), interpolation=cfg["interpolation"], mean=cfg["mean"], std=cfg["std"], crop_pct=cfg["crop_pct"]
    )
    hits = 0
    for label, name in enumerate(about["classes"]):
        for path in (data / "val" / name).iterdir():
            with torch.no_grad():
                hits += int(model(transform(Image.open(path).convert("RGB"))[None]).argmax()) == label
    assert hits == records[-1]["top1"]


def test_tensorboard_has_the_curves(call, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert call("train", padding="zeros") == 0
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    rates = {e.step: e.value for e in events.Scalars("train/lr")}
    plan = ScheduleSettings(name="cosine", warmup_epochs=2)  # the recipe's
    assert rates == pytest.approx({s: learning_rate(s - 1, plan, 0.01, 2, 4) for s in range(1, 9)}, rel=1e-6)
    wanted = {"train/loss", "train/lr", "train/images_per_second", "train/memory_mb", "val/top1", "val/loss"}
    assert wanted <= set(events.Tags()["scalars"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert [e.step for e in events.Scalars("val/top1")] == [4, 8]


def test_the_log_has_the_loss_and_the_hits_of_each_step(call, tmp_path, monkeypatch):
    """Every step of a short epoch has an entry; here of two parts of four images."""
    original, found = loop.backward, []

    def backward(*args, **kwargs):
        loss, hits = original(*args, **kwargs)
        found.append((float(loss), int(hits)))
        return loss, hits

    monkeypatch.setattr(loop, "backward", backward)
    assert call("train", accumulate=2, epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "train/loss" in line}
    steps = list(zip(found[::2], found[1::2], strict=True))
    assert len(steps) == 4
    for step, ((loss, hits), (more, too)) in enumerate(steps, 1):
        assert logged[step]["train/loss"] == pytest.approx((loss + more) / 8, rel=1e-5)
        assert logged[step]["train/top1"] == pytest.approx(100 * (hits + too) / 8)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADERS)
def test_resumed_at_an_epoch_equals_uninterrupted(call, tmp_path, monkeypatch, capsys, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    options = {
        "padding": "partial",
        "data.loader": loader,
        "epochs": 3,
        "ema": 0.9,
        "amp": "bf16",
        "label_smoothing": 0.1,
    }
    assert call("train", **options, out="whole") == 0
    with monkeypatch.context() as patch:
        original = loop.train_epoch

        def stop_in_epoch_2(training):
            if training.state.epoch == 1:
                training.state.optimizer.param_groups[0]["params"][0].data.fill_(9.0)  # what was done since is lost
                raise KeyboardInterrupt
            return original(training)

        patch.setattr(loop, "train_epoch", stop_in_epoch_2)
        assert call("train", **options, out="cut") == 130
    torch.manual_seed(1234)  # no state outside the checkpoint may matter
    assert main(["train", "--resume", "cut"]) == 0
    assert "resuming cut after epoch 1" in capsys.readouterr().out
    whole, cut = (torch.load(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 12
    for part in ("model", "ema"):
        assert all(torch.equal(whole[part][k], cut[part][k]) for k in whole[part]), part
    momentum = [[s["momentum_buffer"] for s in c["optimizer"]["state"].values()] for c in (whole, cut)]
    assert all(torch.equal(a, b) for a, b in zip(*momentum, strict=True))
    assert call("train", **options | {"seed": 1}, out="other") == 0  # the control: another seed is another run
    other = torch.load(tmp_path / "other/checkpoints/last.pt")
    assert not all(torch.equal(whole["model"][k], other["model"][k]) for k in whole["model"])
    assert main(["train", "--resume", "cut"]) == 0
    assert "the run is finished" in capsys.readouterr().out


def test_resume_refuses_other_settings_and_other_images(call, tmp_path, data, capsys):
    assert call("train", padding="partial") == 0
    before = (tmp_path / "run/checkpoints/last.pt").read_bytes()
    assert main(["train", "--resume", "run", "--optim.lr", "0.2", "--padding", "zeros"]) == 1
    err = capsys.readouterr().err
    assert "optim.lr: 0.01 -> 0.2; padding: partial -> zeros" in err
    saved = tmp_path / "run/run.json"
    saved.write_text(saved.read_text().replace('"train_digest": "', '"train_digest": "0'))
    assert main(["train", "--resume", "run"]) == 1
    assert "the images are not those the run was started with (train digest" in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/last.pt").read_bytes() == before


def test_evaluation_of_a_run_over_a_grid(call, tmp_path, capsys):
    assert call("train", padding="partial", ema=0.5) == 0
    trained = read_records(tmp_path / "run")[-1]
    capsys.readouterr()
    assert call("eval", run="run", paddings="partial,zeros", sizes="32,48") == 0
    out = capsys.readouterr().out
    assert "top-1 in percent by padding and size, 21 images" in out
    records = read_records(tmp_path / "run")[2:]
    assert [(r["padding"], r["size"]) for r in records] == [
        ("partial", "32"), ("partial", "48"), ("zeros", "32"), ("zeros", "48"),
    ]  # fmt: skip
    assert (records[0]["top1"], records[0]["loss"]) == (trained["top1"], pytest.approx(trained["loss"], rel=1e-5))
    assert records[0]["settings_digest"] == trained["settings_digest"]
    assert records[0]["run"] == trained["run"]
    assert records[0]["loss"] != records[2]["loss"]
    assert call("eval", run="run", ema="false", out="elsewhere") == 0
    (record,) = read_records(tmp_path / "elsewhere")
    assert (record["ema"], record["padding"], record["size"]) == (False, "partial", "32")
    assert record["loss"] != records[0]["loss"]  # the averaged weights are others
    kept = torch.load(tmp_path / "run/checkpoints/last.pt")
    torch.manual_seed(0)
    start = timm.create_model("test_resnet", num_classes=3).state_dict()
    name = next(k for k in start if k.endswith("weight"))
    average = next(v for k, v in kept["ema"].items() if k.endswith(name))
    assert not torch.equal(average, start[name])  # it moved
    assert not torch.equal(average, kept["model"][name])  # and is an average


def test_deterministic_runs_are_the_same_bit_for_bit(call, tmp_path):
    """Weights, optimizer, averages and counts; another seed is the control."""
    options = {"deterministic": "true", "padding": "replicate", "ema": 0.9}
    try:
        for out, seed in (("a", 3), ("b", 3), ("c", 4)):
            assert call("train", **options, out=out, seed=seed) == 0
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    a, b, c = (torch.load(tmp_path / out / "checkpoints/last.pt") for out in "abc")
    assert difference(a, b) is None
    assert difference(a["model"], c["model"]) is not None


def test_what_torch_cannot_do_deterministically_is_said(call, monkeypatch, capsys):
    """As CUDA's backward pass of reflect padding does."""
    text = "reflection_pad2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_"

    def refuse(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr("pcpad.training.loop.backward", refuse)
    assert call("train") == 1
    err = capsys.readouterr().err
    assert err.startswith("pcpad: error: deterministic=true cannot be kept here: reflection_pad2d_backward_cuda ")
    assert err.count("\n") == 1


def test_a_run_outlives_the_weights_it_started_from(call, tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "w.pth")
    assert call("train", weights="w.pth") == 0
    (tmp_path / "w.pth").unlink()
    assert call("eval", run="run") == 0
    assert main(["train", "--resume", "run"]) == 0


def test_evaluation_takes_on_small_from_the_run(call, tmp_path, capsys):
    assert call("train", padding="reflect", size=16, on_small="replicate") == 0
    assert call("eval", run="run") == 0
    _, first, second = read_records(tmp_path / "run")
    assert (first["top1"], first["settings_digest"]) == (second["top1"], second["settings_digest"])
    assert call("eval", run="run", on_small="raise") == 1
    assert "cannot run with reflect padding at size 16" in capsys.readouterr().err
    assert call("eval", run="run", power=2, padding="zeros") == 1
    assert "power=2.0 has a meaning for partial padding only" in capsys.readouterr().err


def test_evaluation_of_a_model_with_weights(call, tmp_path, data, capsys):
    torch.manual_seed(0)
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=3).state_dict()}, tmp_path / "w.pth")
    call("eval", model="timm/test_resnet", weights="w.pth", data=data, size=32, padding="reflect", on_small="replicate")
    (folder,) = (tmp_path / "runs").iterdir()
    (record,) = read_records(folder)
    assert (record["checkpoint"], record["padding"], record["padding_trained"], record["n"]) == (
        "w.pth",
        "reflect",
        None,
        21,
    )
    assert len(record["weights_digest"]) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet5O"}, "unknown model 'resnet5O'; did you mean 'resnet50'?"),
        ({"padding": "partail"}, "unknown padding mode 'partail'"),
        ({"padding": "reflect", "size": 16}, "cannot run with reflect padding at size 16"),
        ({"weights": "w.pth"}, "holds the weights of another network"),
        ({"batch_size": 99}, "36 training images do not fill one batch of 99: lower --batch_size"),
        ({"data": "no/such"}, "neither textures, elpv, cifar10, imagenette, imagenet nor a folder"),
        ({"out": "w.pth/run"}, "cannot be written (Not a directory); choose another with --out"),
        ({"out": "full"}, "full exists and is not empty: choose another --out"),
        ({"optim.lr": 1e30}, "training has diverged; there is no checkpoint yet"),
        ({"device": "cuda"}, "device cuda"),
    ],
)
def test_a_mistake_gives_one_message_and_leaves_nothing_behind(call, tmp_path, capsys, options, message):
    if options.get("device") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "w.pth")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").touch()
    before = sorted(tmp_path.rglob("*"))
    assert call("train", **options) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("check", ["auto", "none"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_damaged_image_is_named(call, tmp_path, data, capsys, split, check, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    import shutil

    shutil.copytree(data, tmp_path / "data")
    victim = tmp_path / "data" / split / "down/3.jpg"
    victim.write_bytes(b"<html>404</html>")
    before = sorted(tmp_path.rglob("*"))
    assert call("train", **{"data": "data", "data.check": check, "data.loader": loader}) == 1
    err = capsys.readouterr().err
    assert "down/3.jpg" in err
    assert err.count("\n") == 1
    if split == "val" and check == "none":  # found after an epoch of training, which is kept
        assert (tmp_path / "run/checkpoints/last.pt").exists()
    else:
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_epoch_is_not_lost_with_its_evaluation(call, tmp_path, data, capsys, epochs):
    """A validation image goes bad during the run: after mending it, resume evaluates the epoch that was trained."""
    import shutil

    length = {"epochs": epochs, "schedule.warmup_epochs": 0}
    shutil.copytree(data, tmp_path / "data")
    victim = tmp_path / "data/val/down/3.jpg"
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2].ljust(len(good), b"\0"))
    assert call("train", **{"data": "data", "data.check": "none", **length}) == 1
    victim.write_bytes(good)
    assert main(["train", "--resume", "run"]) == 0
    assert [r["step"] for r in read_records(tmp_path / "run")] == [4, 8][:epochs]
    assert call("train", **length, out="undisturbed") == 0
    a, b = (torch.load(tmp_path / name / "checkpoints/last.pt") for name in ("run", "undisturbed"))
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in b["model"])
    assert [r["top1"] for r in read_records(tmp_path / "run")] == [
        r["top1"] for r in read_records(tmp_path / "undisturbed")
    ]


def test_a_run_with_the_root_of_the_ratio_is_evaluated_with_the_whole_one(call, tmp_path, capsys):
    """A checkpoint's power is that of a ramp of partial padding; partial_sqrt has a power of its own."""
    assert call("train", padding="partial_sqrt", epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    assert call("eval", run="run", paddings="partial,partial_sqrt") == 0
    found = {r["padding"]: r["power"] for r in read_records(tmp_path / "run") if r["checkpoint"] == "last"}
    assert found == {"partial": 1.0, "partial_sqrt": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "timm/test_resnet", "weights": "w.pt", "ema": "true"}, "--checkpoint and --ema choose among the"),
        ({"model": "timm/test_resnet", "weights": "w.pt", "checkpoint": "best"}, "those of --model are --weights"),
        ({"run": "run", "data.native": "true"}, "--data.native is for training"),
    ],
)
def test_an_option_that_an_evaluation_would_not_read_is_refused(call, capsys, options, message):
    assert call("eval", **options) == 2
    assert message in capsys.readouterr().err


def test_a_curve_is_read_from_devices_without_float64(monkeypatch):
    """As Apple's GPUs are; the sums of the second entry are those behind the first."""

    def refused(*_):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    monkeypatch.setattr(torch.Tensor, "double", refused)
    sums = Sums(torch.tensor(0.0), torch.tensor(0))
    sums.add(torch.tensor(6.0), torch.tensor(1), 4)
    assert sums.since_mark(World(), move=True) == (1.5, 25.0)
    sums.add(torch.tensor(2.0), torch.tensor(4), 4)
    assert sums.since_mark(World()) == (0.5, 100.0)
