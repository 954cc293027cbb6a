"""The benchmark of the grid runs, and finds in each cell what the cell alone gives."""

import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from tests.data.conftest import picture

FILE = Path(__file__).resolve().parents[2] / "experiments/benchmarks/grid.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_grid", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def argv(tmp_path):
    for i in range(6):
        (tmp_path / f"data/{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(60, 70, seed=i)).save(tmp_path / f"data/{i % 3}/{i}.png")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "w.pth")
    options = {"model": "timm/test_resnet", "weights": tmp_path / "w.pth", "data": tmp_path / "data"}
    options |= {"paddings": "zeros,partial", "sizes": "32,48", "loader": "torchvision", "out": tmp_path / "out.json"}
    return [f"--{key}={value}" for key, value in options.items()]


def test_it_runs(benchmark, argv, tmp_path):
    assert benchmark.main(argv) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["cells"]) == 4
    assert found["images"] == 6
    rounding = 0.005 / found["grid_seconds"] + 4 * 0.005 / found["cells_seconds"]  # of seconds to two places
    assert found["ratio"] == pytest.approx(found["grid_seconds"] / found["cells_seconds"], rel=rounding, abs=1e-3)


def test_a_cell_that_is_another_alone_is_an_error(benchmark, argv, monkeypatch):
    right = benchmark.read_records
    monkeypatch.setattr(
        benchmark,
        "read_records",
        lambda folder: [r | {"top1": r["top1"] + (not folder.name.startswith("grid"))} for r in right(folder)],
    )
    with pytest.raises(RuntimeError, match=r"zeros at 32: \d right alone, \d in the grid"):
        benchmark.main(argv)


def test_some_images_and_weights_drawn_at_random(benchmark, argv, tmp_path):
    argv = [option for option in argv if not option.startswith("--weights")]
    assert benchmark.main([*argv, "--images=4"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 4
