"""A small data set, and the command line in an empty folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcpad.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`make_stripes`, once for a module."""
    return make_stripes(tmp_path_factory.mktemp("stripes"))


def make_stripes(root: Path) -> Path:
    """Three classes told apart by the direction of their stripes; 12 and 7 images each."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 7)):
        for name in ("across", "down", "none"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                y, x = np.mgrid[:48, :56]
                wave = {"across": y, "down": x, "none": 0 * x}[name] / rng.uniform(1, 3) + rng.uniform(0, 6)
                grey = 128 + 80 * np.sin(wave)[..., None] + rng.normal(0, 10, (48, 56, 3))
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(root / split / name / f"{i}.jpg")
    return root


@pytest.fixture
def call(data, tmp_path, monkeypatch):
    """Run a command in an empty folder; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(command, *argv, **options):
        defaults = {
            "model": "timm/test_resnet",
            "data": data,
            "data.workers": 1,
            "data.loader": "torchvision",
            "device": "cpu",
        }
        defaults |= {"recipe": "textures", "size": 32, "batch_size": 8, "epochs": 2, "out": "run", "optim.lr": 0.01}
        options = {**(defaults if command == "train" else {"data.loader": "torchvision", "device": "cpu"}), **options}
        return main([command, *(f"--{k}={v}" for k, v in options.items() if v is not None), *argv])

    return run


def difference(a, b, where: str = "") -> str | None:
    """The first place in which the contents of two checkpoints are not the same, bit for bit; None if there is none."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} is not {type(b).__name__}"
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{where}: the keys are not the same"
        return next((found for key in a if (found := difference(a[key], b[key], f"{where}.{key}"))), None)
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: the lengths are not the same"
        pairs = enumerate(zip(a, b, strict=True))
        return next((found for i, (x, y) in pairs if (found := difference(x, y, f"{where}[{i}]"))), None)
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return None if same else f"{where}: {str(a)[:60]} is not {str(b)[:60]}"
