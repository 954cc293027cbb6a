"""The inpainting experiment: its nets, its holes, and a run from end to end on made photographs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.conftest import picture

FILE = Path(__file__).resolve().parents[2] / "experiments" / "inpainting" / "inpaint.py"


@pytest.fixture(scope="module")
def inpaint():
    spec = importlib.util.spec_from_file_location("inpaint", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_partial_net_never_reads_a_hole(inpaint):
    torch.manual_seed(0)
    net = inpaint.UNet(partial=True).eval()
    mask = inpaint.holes(2, 32, np.random.default_rng(0))
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        y = net(image, mask)
        assert y.shape == image.shape
        assert torch.equal(net(torch.where(mask, image, torch.nan), mask), y)
        moved = net(torch.where(mask, -image, image), mask)
    assert (moved - y).abs().max() > 0.01


def test_holes_are_irregular_and_of_all_sizes(inpaint):
    masks = inpaint.holes(50, 64, np.random.default_rng(0))
    share = 1 - masks.float().mean((1, 2, 3))
    assert masks.dtype == torch.bool
    assert share.min() >= 0.1
    assert share.max() <= 0.5
    assert share.std() > 0.05
    assert len({mask.numpy().tobytes() for mask in masks}) == 50


def test_errors_are_those_in_the_holes(inpaint):
    truth, mask = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 0] = False
    filled = truth.clone()
    filled[..., 0], filled[..., 1] = 0.2, 9.0  # what is known does not count
    found = inpaint.errors(filled, truth, mask)
    assert found["l1"] == pytest.approx(0.2 * 127.5)
    assert found["psnr"] == pytest.approx(20 * np.log10(255 / (0.2 * 127.5)))


def test_a_run_writes_results_and_a_picture(inpaint, tmp_path, capsys):
    for i in range(20):
        Image.fromarray(picture(40, 50 + i, seed=i)).save(tmp_path / f"{i:02}.png")
    out = tmp_path / "out"
    assert (
        inpaint.main([f"--images={tmp_path}", f"--out={out}", "--side=32", "--steps=2", "--batch=2", "--seeds=2"]) == 0
    )
    results = json.loads((out / "results.json").read_text())
    assert [(run["net"], run["seed"]) for run in results["runs"]] == [
        ("plain", 0), ("partial", 0), ("plain", 1), ("partial", 1),
    ]  # fmt: skip
    assert results["images"]["held_out"] == 2
    with Image.open(out / "examples.png") as sheet:
        assert sheet.size == (4 * 64 + 3 * 4, 2 * 64 + 4)
    for wrong, message in {
        ("--side=40",): "--side 40: give a multiple of 16",
        ("--steps=0",): "--steps 0: at least 1",
        (f"--images={out}",): "1 images found, at least 20 are needed",
    }.items():
        with pytest.raises(SystemExit):
            inpaint.main([f"--images={tmp_path}", *wrong])
        assert message in capsys.readouterr().err
