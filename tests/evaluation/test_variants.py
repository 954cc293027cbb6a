"""Variants of an evaluation's images: each cell is the network on images that PIL, numpy and scipy make by hand."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms import functional as F

import pcpad
from pcpad.cli import main
from pcpad.evaluation.fields import read_records
from pcpad.evaluation.variants import check_width, parse_sizes
from tests.evaluation.test_native import network

SIZES = ["64", "cut:10@64", "blank:5@64", "noise:7@64", "blur:8@64", "shift:3@64", "shift:40@64"]
MEAN, STD, RESIZE = 0.5, 0.5, 67  # of test_resnet: 64 / 0.95 is 67.4


def by_hand(image: Image.Image, kind: str, width: int, row: int) -> torch.Tensor:
    """One image as the network is to see it, float64 ``(3, H, W)``."""
    room = 2 * (width + width % 2) if kind == "shift" else 0  # a shift beyond the resized image needs a larger one
    resized = F.resize(image, max(RESIZE, 64 + room), F.InterpolationMode.BILINEAR)
    pixels = np.asarray(resized).astype(np.float64).transpose(2, 0, 1) / 255
    top, left = (round((side - 64) / 2) for side in pixels.shape[1:])
    if kind == "shift":
        top, left = top + width, left + width
    x = (pixels[:, top : top + 64, left : left + 64] - MEAN) / STD
    inner = (slice(None), slice(width, 64 - width), slice(width, 64 - width))
    if kind == "cut":
        return torch.from_numpy(x[inner].copy())
    if kind in ("blank", "noise", "blur"):
        noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(row)).numpy()
        smooth = np.stack([gaussian_filter(c, 3.0, mode="mirror", radius=9) for c in x])
        frame = {"blank": np.zeros_like(x), "noise": noise, "blur": smooth}[kind].astype(np.float64)
        frame[inner] = x[inner]
        x = frame
    return torch.from_numpy(x.copy())


@pytest.mark.parametrize("loader", [pytest.param("torchvision", marks=pytest.mark.slow), "dali"])
def test_each_variant_is_what_it_is_by_hand(folder, tmp_path, capsys, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    network("test_resnet", tmp_path, folder)
    argv = ["eval", "--model=timm/test_resnet", f"--weights={tmp_path}/weights.pth", f"--data={folder}"]
    argv += [f"--data.loader={loader}", "--data.workers=1", "--device=cpu", f"--out={tmp_path}/out"]
    assert main([*argv, "--paddings=zeros,partial", f"--sizes={','.join(SIZES)}", "--batch_size=5"]) == 0
    records = {(r["padding"], r["size"]): r for r in read_records(tmp_path / "out")}
    assert set(records) == {(p, s) for p in ("zeros", "partial") for s in SIZES}
    assert "blank:5@64" in capsys.readouterr().out
    files = sorted((folder / "val").rglob("*.png"))
    labels = torch.tensor([int(path.parent.name) for path in files])
    net = timm.create_model("test_resnet", num_classes=6).eval()
    net.load_state_dict(torch.load(tmp_path / "weights.pth"))
    losses = set()
    for padding in ("zeros", "partial"):
        pcpad.convert(net.double(), padding)
        for size in SIZES:
            what = size.rpartition("@")[0]
            kind, width = (what.partition(":")[0], int(what.partition(":")[2])) if what else ("", 0)
            images = [by_hand(Image.open(path), kind, width, row) for row, path in enumerate(files)]
            with torch.inference_mode():
                logits = net(torch.stack(images))
            wanted = float(torch.nn.functional.cross_entropy(logits, labels))
            found = records[padding, size]
            assert found["loss"] == pytest.approx(wanted, rel=2e-4 if loader == "torchvision" else 5e-3), size
            if loader == "torchvision":
                with np.load(tmp_path / "out" / found["predictions"]) as kept:
                    assert (kept["top5"] == logits.topk(5).indices.numpy()).all(), size
            losses.add(round(wanted, 4))
    assert len(losses) == len(records)  # the variants differ by more than the tolerance
    assert {r["preprocess"].get("kind") for r in records.values()} == {None, "cut", "blank", "noise", "blur", "shift"}


def test_noise_is_an_image_s_own(folder, tmp_path):
    """Whatever the batches: the noise of an image depends on its row alone."""
    network("test_resnet", tmp_path, folder)
    argv = ["eval", "--model=timm/test_resnet", f"--weights={tmp_path}/weights.pth", f"--data={folder}"]
    argv += ["--data.loader=torchvision", "--data.workers=1", "--device=cpu", "--sizes=noise:20@64"]
    for batch in (3, 18):
        assert main([*argv, f"--batch_size={batch}", f"--out={tmp_path}/{batch}"]) == 0
    ((a,), (b,)) = (read_records(tmp_path / str(batch)) for batch in (3, 18))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
    assert a["settings_digest"] == b["settings_digest"]


def test_a_plain_size_keeps_its_digest(folder, tmp_path):
    """Records from before there were variants are found again: nothing new stands in what their digest is of."""
    network("test_resnet", tmp_path, folder)
    argv = ["eval", "--model=timm/test_resnet", f"--weights={tmp_path}/weights.pth", f"--data={folder}"]
    assert main([*argv, "--data.loader=torchvision", "--sizes=64,cut:3@64", f"--out={tmp_path}/out"]) == 0
    plain, cut = read_records(tmp_path / "out")
    assert set(plain["preprocess"]) == {"crop_pct", "interpolation", "mean", "std", "crop_mode"}
    assert plain["settings_digest"] != cut["settings_digest"]


def test_a_border_that_leaves_nothing(folder, tmp_path, capsys):
    network("test_resnet", tmp_path, folder)
    argv = ["eval", "--model=timm/test_resnet", f"--weights={tmp_path}/weights.pth", f"--data={folder}"]
    assert main([*argv, "--sizes=cut:32@64", f"--out={tmp_path}/out"]) == 1
    assert "cut:32@64 leaves nothing of 64 pixels" in capsys.readouterr().err
    with pytest.raises(ValueError, match="shift:1000000@64 leaves nothing of 64 pixels"):
        check_width(*parse_sizes("shift:1000000@64"))
    check_width(*parse_sizes("shift:63@64"))
    assert main([*argv, "--paddings=zeros,reflect", "--sizes=cut:30@64", f"--out={tmp_path}/out"]) == 0
    assert "reflect at cut:30@64: not applicable" in capsys.readouterr().out  # 4 pixels are too few
