"""What a run gives to the constructor of its network: recorded, rebuilt by eval and resume, refused where unknown."""

import json

import pytest
import torch

from pcpad import models
from pcpad.evaluation.fields import read_records

WIDE = {"model_kwargs.stem_width": 24, "model_kwargs.drop_path_rate": 0.2, "schedule.warmup_epochs": 0, "epochs": 1}
GIVEN = {"stem_width": 24, "drop_path_rate": 0.2}


def test_a_run_is_rebuilt_with_what_it_gave(call, tmp_path, monkeypatch, capsys):
    """A wider stem: without it the weights do not fit. The record of evaluation counts what training counted."""
    assert call("train", **WIDE) == 0
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["settings"]["model_kwargs"] == GIVEN
    content = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    assert {key: content["network"][key] for key in ("name", "model_kwargs")} == {
        "name": "timm/test_resnet",
        "model_kwargs": GIVEN,
    }
    assert call("eval", run="run") == 0
    first, again = read_records(tmp_path / "run")
    assert first["model_kwargs"] == again["model_kwargs"] == GIVEN
    assert (first["top1"], first["n"]) == (again["top1"], again["n"])
    assert call("eval", run="run", **{"model_kwargs.stem_width": 24}) != 0
    assert "--model_kwargs belongs to --model" in capsys.readouterr().err
    run["settings"]["model_kwargs"] = {}
    (tmp_path / "run/run.json").write_text(json.dumps(run))
    assert call("eval", run="run", out="other") == 1  # the control
    assert "holds the weights of another network" in capsys.readouterr().err


def test_eval_of_weights_takes_them_too(call, tmp_path, data):
    name = models.resolve("timm/test_resnet")
    torch.save(models.create(name, 3, {"stem_width": 24}).state_dict(), tmp_path / "w.pth")
    options = {"model": "timm/test_resnet", "weights": "w.pth", "data": data, "out": "out"}
    assert call("eval", **options) == 1
    assert call("eval", **options, **{"model_kwargs.stem_width": 24}) == 0
    assert read_records(tmp_path / "out")[0]["model_kwargs"] == {"stem_width": 24}


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("timm/test_resnet", {"drop_pth_rate": 0.1}, r"does not take 'drop_pth_rate'.*did you mean 'drop_path_rate'"),
        ("resnet18", {"drop_path_rate": 0.1}, r"torchvision/resnet18 does not take 'drop_path_rate'; its class states"),
        ("mobilenet_v3_small", {"dropuot": 0.1}, r"does not take 'dropuot'.*did you mean 'dropout'"),  # it swallows all
        ("timm/test_resnet", {"num_classes": 3}, "num_classes is not the user's to give"),
        ("timm/test_resnet", {"output_stride": 7}, "cannot be built with model_kwargs={'output_stride': 7}"),
    ],
)
def test_what_a_constructor_does_not_take_is_named(model, given, message):
    with pytest.raises(ValueError, match=message):
        models.create(models.resolve(model), 10, given)


def test_what_it_takes_is_there():
    dropouts = [
        m.p
        for m in models.create(models.resolve("mobilenet_v3_small"), 10, {"dropout": 0.7}).modules()
        if isinstance(m, torch.nn.Dropout)
    ]
    assert dropouts == [0.7]
    paths = {
        m.drop_prob
        for m in models.create(models.resolve("timm/test_resnet"), 10, GIVEN).modules()
        if type(m).__name__ == "DropPath"
    }
    assert max(paths) == pytest.approx(0.2)


def test_a_folder_of_the_hubs_kind(call, tmp_path, capsys):
    """As timm pushes it: architecture, arguments and preprocessing in config.json; a run of it can be evaluated."""
    stated = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25], "input_size": [3, 96, 96], "interpolation": "bicubic"}
    config = {"architecture": "test_resnet", "num_classes": 10, "num_features": 256}
    config |= {"model_args": {"stem_width": 24}, "pretrained_cfg": stated | {"crop_pct": 0.9}}
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/config.json").write_text(json.dumps(config))
    name = models.resolve(f"timm/local-dir:{tmp_path}/hub")
    assert models.create(name, 3).conv1[0].out_channels == 24
    transform = models.eval_transform(name, models.PreprocessSettings())
    assert (transform.size, transform.mean, transform.interpolation) == (96, (0.5, 0.4, 0.3), "bicubic")
    options = {"model": str(name), "epochs": 1, "schedule.warmup_epochs": 0}
    assert call("train", **options) == 0
    assert call("eval", run="run") == 0
    assert len(read_records(tmp_path / "run")) == 2
    assert call("train", model=f"timm/local-dir:{tmp_path}/none", out="none") == 1
    assert "none could not be read (Config file not found" in capsys.readouterr().err
    assert models.resolve("timm/hf-hub:org/name.tag") == models.resolve("hf-hub:org/name.tag")
    assert str(models.resolve("hf-hub:org/name.tag")) == "timm/hf-hub:org/name.tag"
    with pytest.raises(ValueError, match="has one set of weights: --weights pretrained, not 'a1_in1k'"):
        models.tagged(name, "a1_in1k")
