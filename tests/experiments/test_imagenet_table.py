"""The cheapest reproduction: a checkpoint in the form of the authors' files goes through `pcpad eval`."""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import pcpad
from pcpad.cli import main
from pcpad.data.catalogue import imagenet_wnids


@pytest.mark.parametrize("old", [True, False], ids=["as torch wrote in 2018", "zip"])
def test_a_published_checkpoint_is_evaluated(old, tmp_path):
    """ResNet-18 stands for ResNet-50: a state_dict entry, module. prefixes, an optimizer's state, 1000 classes."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    momentum = {"momentum_buffer": torch.zeros(2)}
    content = {"epoch": 90, "arch": "resnet18", "state_dict": state, "best_prec1": torch.tensor(69.0)}
    content["optimizer"] = {"state": {0: momentum}, "param_groups": [{"lr": 0.001, "params": [0]}]}
    torch.save(content, tmp_path / "model_best.pth", _use_new_zipfile_serialization=not old)
    rng = np.random.default_rng(0)
    pixels = []
    for label in (3, 500, 999):
        folder = tmp_path / "val" / imagenet_wnids()[label]
        folder.mkdir(parents=True)
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "0.png")
        pixels.append(image)
    argv = ["eval", "--model", "resnet18", "--weights", str(tmp_path / "model_best.pth"), "--padding", "partial"]
    argv += ["--size", "64", "--preprocess.crop_pct", "1.0", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*argv, "--data.loader", "torchvision", "--data.workers", "1", "--device", "cpu"]) == 0
    (record,) = map(json.loads, (tmp_path / "out/records.jsonl").read_text().splitlines())
    assert (record["n"], record["num_classes"], record["padding"]) == (3, 1000, "partial")
    assert record["padding_trained"] is None  # a file does not say
    assert record["checkpoint"] == "model_best.pth"

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((torch.tensor(np.stack(pixels)) / 255 - mean) / std).permute(0, 3, 1, 2)
    with np.load(tmp_path / "out" / record["predictions"]) as found, torch.no_grad():
        assert found["label"].tolist() == [3, 500, 999]
        assert (found["top5"] != net(images).topk(5).indices.numpy()).any()  # not what zeros give
        pcpad.convert(net, "partial")
        assert (found["top5"] == net(images).topk(5).indices.numpy()).all()
