"""Evaluation pixels of both loaders against timm's transform on PIL's images."""

import numpy as np
import pytest
import torch
from PIL import Image

from pcpad.data import cmyk
from pcpad.data.batch import EvalTransform, TrainTransform
from tests.data.conftest import picture
from tests.data.made import CPU, MEAN, STD, eval_loader, eval_transform, pixels, train_loader

SIZES = [(64, 0.875), (128, 0.95), (160, 1.0), (224, 0.875), (288, 0.95)]
RESIZES = [(*s, i, m) for s in SIZES for i in ("bilinear", "bicubic") for m in ("center", "squash")]


def timm_images(files: list[str], transform: EvalTransform) -> torch.Tensor:
    """The oracle: PIL's pixels through timm's own transform."""
    create = pytest.importorskip("timm.data").create_transform
    apply = create(
        transform.size,
        is_training=False,
        interpolation=transform.interpolation,
        crop_pct=transform.crop_pct,
        crop_mode=transform.crop_mode,
        mean=transform.mean,
        std=transform.std,
    )
    images = []
    for file in files:
        with Image.open(file) as image:
            image.load()
            image.info.pop("transparency", None)
            if image.mode == "I;16":  # PIL's own conversion clips at 255
                image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
            images.append(apply(image.convert("RGB")))
    return torch.stack(images)


def eval_images(loader, files: list[str], transform: EvalTransform, device=CPU) -> torch.Tensor:
    return torch.cat([batch.images for batch in eval_loader(loader, files, transform, device=device)])


def differences(loader, files: list[str], transform: EvalTransform, device=CPU) -> torch.Tensor:
    """Mean absolute difference to timm's pixels, in 255ths, per image."""
    ours, theirs = eval_images(loader, files, transform, device), timm_images(files, transform)
    return (pixels(ours) - pixels(theirs)).abs().mean((1, 2, 3))


@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_torchvision_gives_timms_pixels_exactly(torchvision, kind_files, resize):
    files, transform = list(kind_files.values()), eval_transform(*resize)
    assert torch.equal(eval_images(torchvision, files, transform), timm_images(files, transform))


@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_dali_gives_timms_pixels(dali, kind_files, resize):
    """Below 0.02 for every kind of file: 0.003 to 0.009 was found."""
    found = differences(dali, list(kind_files.values()), eval_transform(*resize)).tolist()
    assert {n: d for n, d in zip(kind_files, found, strict=True) if d >= 0.02} == {}


@pytest.mark.parametrize("resize", RESIZES[::3], ids=str)
def test_dali_gives_timms_pixels_of_real_photographs(dali, real_files, resize):
    """0.001 to 0.005 on average; up to 0.05 in an image that is halved exactly (ties)."""
    found = differences(dali, real_files, eval_transform(*resize))
    assert found.mean() < 0.01
    assert found.max() < 0.1


def test_training_gives_pils_pixels(loader, tmp_path):
    """Of square images, of which a crop of the whole area and of ratio 1 is the whole."""
    images = [Image.fromarray(picture(side, side, seed=side)) for side in (40, 96, 97, 160, 200, 251)]
    files = [str(tmp_path / f"{i}.png") for i in range(len(images))]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    transform = TrainTransform(96, (1.0, 1.0), (1.0, 1.0), 0.0, "bilinear", MEAN, STD)
    for batch in train_loader(loader, files, transform, batch_size=3).epoch(0):
        for ours, i in zip(pixels(batch.images), batch.index.tolist(), strict=True):
            theirs = torch.from_numpy(np.asarray(images[i].resize((96, 96), Image.Resampling.BILINEAR)).copy())
            assert (ours - theirs.permute(2, 0, 1)).abs().mean() < 0.02, i


@pytest.mark.parametrize(
    "other",
    [
        {"crop_pct": 0.9},
        {"interpolation": "bicubic"},
        {"crop_mode": "squash"},
    ],
)
def test_differences_see_another_transform(dali, kind_files, other):
    """The measure itself: any other setting of the transform is far beyond the limit."""
    settings = {"size": 64, "crop_pct": 0.875, "interpolation": "bilinear"}
    files = [kind_files["rgb"]]
    ours = eval_images(dali, files, eval_transform(**settings))
    theirs = timm_images(files, eval_transform(**settings | other))
    assert (pixels(ours) - pixels(theirs)).abs().mean() > 0.5


def test_a_few_rows_open_their_own_files_alone(dali, kind_files, monkeypatch):
    """A statistic over some of a million images; their pixels are those of a pass over all, CMYK among them."""
    files, names = list(kind_files.values()), list(kind_files)
    rows = [names.index(name) for name in ("cmyk_black", "rgb")]
    whole = {
        int(index): image
        for batch in eval_loader(dali, files)
        for index, image in zip(batch.index, batch.images, strict=True)
    }
    opened, is_cmyk = [], cmyk.is_cmyk
    monkeypatch.setattr(cmyk, "is_cmyk", lambda path: opened.append(path) or is_cmyk(path))
    found = {
        int(i): x
        for batch in eval_loader(dali, files, rows=rows)
        for i, x in zip(batch.index, batch.images, strict=True)
    }
    assert sorted(opened) == sorted(files[row] for row in rows)
    assert sorted(found) == sorted(rows)
    assert all(torch.equal(found[row], whole[row]) for row in rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_dali_on_the_gpu_gives_timms_pixels(dali, kind_files, interpolation):
    """Within 1 of 255: the GPU's JPEG decoder has another inverse DCT than libjpeg."""
    names = list(kind_files)
    transform = eval_transform(224, 0.875, interpolation)
    found = differences(dali, [kind_files[name] for name in names], transform, torch.device("cuda"))
    assert {n: d for n, d in zip(names, found.tolist(), strict=True) if d >= 1} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_evaluation_is_repeatable(loader, photo_files):
    cuda, transform = torch.device("cuda"), eval_transform(64)
    first, second = (eval_images(loader, photo_files, transform, cuda) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_images_stay_as_they_are_while_the_gpu_is_behind(loader, photo_files):
    """The loader goes on, and each batch is dropped, long before the GPU comes to read it."""
    cuda, files = torch.device("cuda"), list(photo_files) * 40
    sums = []
    for late in (False, True):
        found = []
        for batch in eval_loader(loader, files, eval_transform(64), device=cuda):
            torch.cuda._sleep(2 * 10**8) if late else torch.cuda.synchronize()
            found.append(batch.images.double().sum((1, 2, 3)))
            del batch
        sums.append(torch.cat(found).cpu())
    assert torch.equal(*sums)


def test_crop_beyond_the_image_is_refused(loader, photo_files):
    with pytest.raises(ValueError, match="crop_pct"):
        eval_loader(loader, photo_files, eval_transform(crop_pct=1.1))
