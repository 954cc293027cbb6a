"""pcpad eval at native sizes: the predictions of one image after the other, in mixed-size batches."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import functional as F

import pcpad
from pcpad.cli import main
from pcpad.evaluation.fields import read_records
from tests.zoo.redraw import redraw


def network(name, tmp_path, folder):
    """Drawn weights for 6 classes, in a file, with biases under which no class is always the first."""
    model = timm.create_model(name, num_classes=6).eval()
    redraw(model)
    images = []
    for file in sorted((folder / "val").glob("*/*")):
        with Image.open(file) as image:
            images.append(F.to_tensor(image.convert("RGB").resize((64, 64))))
    head = model.get_classifier()
    with torch.no_grad():
        head.bias -= model(torch.stack(images)).mean(0)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return model


@pytest.mark.parametrize(
    ("loader", "name", "multiple"),
    [("torchvision", "test_resnet", 1), ("dali", "test_resnet", 1), ("torchvision", "tf_efficientnet_lite0", 32)],
)
def test_gives_what_one_by_one_gives(folder, tmp_path, loader, name, multiple, capsys):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    model = network(name, tmp_path, folder)
    options = {"model": f"timm/{name}", "weights": tmp_path / "weights.pth", "data.name": folder, "data.loader": loader}
    options |= {"sizes": "native:64,64", "paddings": "zeros,partial", "out": tmp_path / "out", "batch_size": 5}
    assert main(["eval", *(f"--{k}={v}" for k, v in options.items())]) == 0
    assert "of the canvas is padding" in capsys.readouterr().out
    records = [r for r in read_records(tmp_path / "out") if r["size"] == "native:64"]
    assert [r["padding"] for r in records] == ["zeros", "partial"]
    cfg = model.pretrained_cfg
    files = sorted((folder / "val").glob("*/*"))
    for record in records:
        assert (record["n"], record["preprocess"]["multiple"]) == (18, multiple)
        assert 0 < record["canvas_padding"] < 0.3
        pcpad.convert(model, record["padding"])
        wanted = []
        for file in files:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            if multiple == 1:
                image = F.resize(image, 64, F.InterpolationMode(cfg["interpolation"]))
            else:
                short = min(image.height, image.width)
                sides = [max((side * 64 // short + 16) // 32 * 32, 32) for side in (image.height, image.width)]
                image = F.resize(image, sides, F.InterpolationMode(cfg["interpolation"]))
            with torch.inference_mode():
                x = F.normalize(F.to_tensor(image), cfg["mean"], cfg["std"])[None]
                wanted.append(model(x)[0].topk(5).indices.tolist())
        with np.load(tmp_path / "out" / record["predictions"]) as kept:
            differ = (kept["top5"] != np.array(wanted)).any(1).sum()
            assert differ <= (0 if loader == "torchvision" else 3)
        assert len({tuple(row) for row in wanted}) > 3


def test_mistakes(folder, tmp_path, capsys):
    network("test_resnet", tmp_path, folder)
    common = ["eval", "--model=timm/test_resnet", f"--weights={tmp_path}/weights.pth", f"--data.name={folder}"]
    common += [f"--out={tmp_path}/out", "--data.loader=torchvision"]
    for options, message in {
        ("--sizes=native:0",): "sizes must be positive integers, native:N",
        ("--sizes=own:64",): "sizes must be positive integers, native:N",
        ("--sizes=²",): "sizes must be positive integers, native:N",
        ("--sizes=cut:²@64",): "sizes must be positive integers, native:N",
        (
            "--sizes=native:64",
            "--paddings=reflect",
        ): "native sizes go with zeros, partial, partial_sqrt, not with reflect",
    }.items():
        assert main([*common, *options]) != 0
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_followed_is_said_before_the_start(tmp_path, folder, capsys):
    network("tf_efficientnet_lite0", tmp_path, folder)
    common = ["eval", f"--weights={tmp_path}/weights.pth", f"--data.name={folder}", f"--out={tmp_path}/out"]
    assert main([*common, "--model=timm/tf_efficientnet_lite0", "--sizes=native:70"]) != 0
    assert "multiples of 32: choose native:64, not native:70" in capsys.readouterr().err
    torch.save(timm.create_model("edgenext_xx_small", num_classes=6).state_dict(), tmp_path / "weights.pth")
    assert main([*common, "--model=timm/edgenext_xx_small", "--sizes=native:64"]) != 0
    assert "cannot take images of native size with zeros padding: a mixed-size batch cannot go through reshape" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("loader", [pytest.param("torchvision", marks=pytest.mark.slow), "dali"])
def test_a_run_on_native_sizes(folder, tmp_path, loader, capsys):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    (folder / "train").symlink_to(folder / "val")
    common = ["--data.native=true", f"--data.name={folder}", f"--data.loader={loader}", "--recipe=textures"]
    common += ["--size=48", "--batch_size=6", "--epochs=2", "--schedule.warmup_epochs=0", "--device=cpu"]
    assert main(["train", "--model=timm/test_resnet", "--padding=partial", *common, f"--out={tmp_path}/run"]) == 0
    records = read_records(tmp_path / "run")
    assert [record["size"] for record in records] == ["native:48"] * 2
    assert 0 < records[0]["canvas_padding"] < 0.3
    assert records[0]["n"] == 18
    assert main(["eval", f"--run={tmp_path}/run", f"--data.loader={loader}", "--batch_size=6"]) == 0
    *_, again = read_records(tmp_path / "run")
    assert (again["size"], again["top1"]) == ("native:48", records[1]["top1"])
    impossible = ["--paddings=reflect,circular", "--sizes=native:48"]
    assert main(["eval", f"--run={tmp_path}/run", f"--data.loader={loader}", *impossible]) == 1
    lines = [json.loads(line) for line in (tmp_path / "run/not_applicable.jsonl").read_text().splitlines()]
    assert [(line["padding"], line["size"]) for line in lines] == [("reflect", "native:48"), ("circular", "native:48")]
    capsys.readouterr()
    assert main(["train", "--model=timm/test_resnet", "--padding=reflect", *common, f"--out={tmp_path}/other"]) != 0
    assert "native sizes go with zeros, partial, partial_sqrt, not with reflect" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
