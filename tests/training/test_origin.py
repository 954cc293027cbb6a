"""Files of weights that pcpad wrote say how they were trained; what uses them goes by it."""

import shutil
from dataclasses import replace

import pytest
import torch

from pcpad.cli import main
from pcpad.config import AdaptSettings, TrainSettings
from pcpad.evaluation.fields import read_records
from pcpad.origin import origin_of
from pcpad.training.adapting import check_adapting

TRAINED = {"padding": "partial", "power": 0.5, "epochs": 1, "schedule.warmup_epochs": 0, "preprocess.crop_pct": 0.7}


@pytest.fixture
def run(call, tmp_path):
    """A run of partial padding with power 0.5."""
    assert call("train", **TRAINED) == 0
    return tmp_path / "run"


def files(run, tmp_path) -> dict:
    """The run's weights in every form."""
    last = run / "checkpoints/last.pt"
    shutil.copy(last, tmp_path / "moved.pt")
    older = tmp_path / "older"
    shutil.copytree(run, older)
    content = torch.load(last, weights_only=True)
    content["network"] = {key: content["network"][key] for key in ("name", "model_kwargs")}
    (older / "checkpoints/last.pt").unlink()
    torch.save(content, older / "checkpoints/last.pt")
    assert main(["export", "--run", "run", "--out", "exported"]) == 0
    torch.save(content["model"], tmp_path / "plain.pt")
    torch.save(content, tmp_path / "older.pt")
    return {
        "checkpoint": last,
        "moved": tmp_path / "moved.pt",
        "older": older / "checkpoints/last.pt",
        "exported": tmp_path / "exported/model.safetensors",
        "plain": tmp_path / "plain.pt",
        "older and moved": tmp_path / "older.pt",
    }


def test_weights_are_evaluated_as_they_were_trained(run, call, data, tmp_path, capsys):
    (trained,) = read_records(run)
    facts = ("padding", "padding_trained", "power", "size", "preprocess", "loss", "top1")
    for name, path in files(run, tmp_path).items():
        capsys.readouterr()
        known = name not in ("plain", "older and moved")
        size = {} if known else {"size": 32}
        assert call("eval", model="timm/test_resnet", weights=path, data=data, out=f"of {name}", **size) == 0
        (record,) = read_records(tmp_path / f"of {name}")
        said = f"{path} was trained with partial padding and evaluated at 32 pixels"
        assert (said in capsys.readouterr().out) == known, name
        if known:
            for fact in facts:
                wanted = pytest.approx(trained[fact], rel=1e-6) if fact == "loss" else trained[fact]
                assert record[fact] == wanted, (name, fact)
        else:  # nobody knows
            assert (record["padding"], record["padding_trained"], record["power"]) == ("zeros", None, 1.0)
            assert record["loss"] != pytest.approx(trained["loss"], rel=1e-3)
    options = {"model": "timm/test_resnet", "weights": run / "checkpoints/last.pt", "data": data, "size": 48}
    assert call("eval", **options, paddings="zeros,partial", power=1.0, out="asked") == 0
    found = [(r["padding"], r["size"], r["power"]) for r in read_records(tmp_path / "asked")]
    assert found == [("zeros", "48", 1.0), ("partial", "48", 1.0)]


@pytest.mark.parametrize("option", [["--adapt.recalibrate", "16"], ["--adapt.distill", "0.5"]])
def test_only_weights_of_zero_padding_are_adapted(option, run, data, tmp_path, capsys):
    weights = run / "checkpoints/last.pt"
    wanted = ["--model", "timm/test_resnet", "--data", str(data), "--data.loader", "torchvision", "--size", "32"]
    wanted += ["--batch_size", "8", "--device", "cpu", "--epochs", "1", "--schedule.warmup_epochs", "0"]
    wanted += ["--weights", str(weights), "--padding", "partial", "--out", "adapted"]
    assert main(["train", *wanted, *option]) == 1
    error = capsys.readouterr().err
    assert f"{weights} was trained with partial padding, and weights of zero padding are what" in error
    assert not (tmp_path / "adapted").exists()
    given = TrainSettings(weights=str(weights), adapt=AdaptSettings(recalibrate=16), epochs=1)
    with pytest.raises(ValueError, match="was trained with partial padding"):
        check_adapting(given)
    check_adapting(replace(given, resume="begun before"))  # a run that was not refused then goes on
    assert main(["train", *wanted, "--adapt.first", "true"]) == 0  # on from where it was
    before = [r for r in read_records(tmp_path / "adapted") if r["checkpoint"] == "converted"]
    assert [r["padding_trained"] for r in before] == ["partial"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", "{"), ("config.json", "[]"), ("config.json", '{"pcpad": {"padding_trained": "partial"}}')],
)
def test_an_export_that_says_nothing_is_a_file_like_others(name, text, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert origin_of(str(tmp_path / "model.safetensors")) is None
    (tmp_path / name).write_text(text)
    assert origin_of(str(tmp_path / "model.safetensors")) is None
    assert origin_of(str(tmp_path / "nothing.pt")) is None
