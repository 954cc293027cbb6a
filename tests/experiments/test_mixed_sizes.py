"""The benchmark of mixed-size batches compares forms that compute the same."""

import importlib.util
import json
from pathlib import Path

import torch

import pcpad

FILE = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "mixed_sizes.py"


def load():
    spec = importlib.util.spec_from_file_location("mixed_sizes", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_forms_agree(tmp_path, capsys):
    from torchvision.models import resnet18

    bench = load()
    torch.manual_seed(0)
    images = [torch.randn(3, h, w, dtype=torch.float64) for h, w in ((64, 80), (70, 64))]
    model = resnet18().double().eval()
    pcpad.convert(model, "partial")
    batch = pcpad.RaggedBatch.from_images(images)
    with torch.inference_mode():
        made = bench.forms(model, batch, images, compiled=False, textbook=True)
        alone = torch.cat(made["one by one"]())
        torch.testing.assert_close(made["mixed"](), alone, rtol=1e-10, atol=1e-10)
        assert (made["dense"]() - alone).abs().max() > 1e-6
        grown = model(pcpad.RaggedBatch.from_images(images, rule="grow"))
        torch.testing.assert_close(made["mask in every layer"](), grown, rtol=1e-10, atol=1e-10)
    assert (
        bench.main(["--model=torchvision/resnet18", "--count=2", "--size=32", "--repeats=1", f"--out={tmp_path}"]) == 0
    )
    assert "of the canvas" in capsys.readouterr().out
    (file,) = tmp_path.glob("*.json")
    results = json.loads(file.read_text())["results"]
    assert [row["form"] for row in results] == ["one by one", "mixed", "dense"] * 2 + ["mask in every layer"]
