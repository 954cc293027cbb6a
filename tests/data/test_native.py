"""Images at their own aspect ratio, from both loaders: torchvision's pixels, every image once, a small canvas."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from pcpad.data.native import NativeTransform, order_by_shape, share_of_padding
from tests.data.made import CPU, MEAN, STD, eval_loader, pixels


def native(size=32, interpolation="bilinear", multiple=1) -> NativeTransform:
    return NativeTransform(size, 1.0, interpolation, MEAN, STD, multiple=multiple)


def original_sizes(files) -> np.ndarray:
    sizes = []
    for file in files:
        with Image.open(file) as image:
            sizes.append((image.height, image.width))
    return np.array(sizes)


def load(loader, files, transform, **options) -> dict[int, torch.Tensor]:
    """Pixels 0 to 255 of each image, by its row."""
    made = eval_loader(loader, files, transform, sizes=original_sizes(files), **options)
    images = {}
    for batch in made:
        assert batch.labels.tolist() == [row % 7 for row in batch.index.tolist()]
        for row, image in zip(batch.index.tolist(), batch.images.images(), strict=True):
            assert row not in images
            images[row] = pixels(image)
    return images


def test_the_sides_are_torchvisions():
    transform = native(224)
    for height, width in [(500, 375), (375, 500), (333, 500), (224, 224), (7, 5), (1200, 30)]:
        image = F.resize(torch.zeros(1, height, width), [224])
        assert transform.sides(height, width) == tuple(image.shape[1:])
    assert native(224, multiple=32).sides(375, 500) == (224, 288)  # 298 is nearer to 288 than to 320
    assert native(224, multiple=32).sides(500, 333) == (352, 224)  # 336 lies halfway and goes up
    assert transform.label == "native:224"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_torchvisions_pixels(loader, kind_files, interpolation, multiple):
    names = [name for name in kind_files if name not in ("wide", "tall", "tiny", "png_grey16")]
    files = [kind_files[name] for name in names]
    transform = native(32, interpolation, multiple)
    images = load(loader, files, transform)
    assert sorted(images) == list(range(len(files)))
    for row, file in enumerate(files):
        with Image.open(file) as image:
            image.load()
            image.info.pop("transparency", None)
            image = image.convert("RGB")
        sides = [32] if multiple == 1 else list(transform.sides(image.height, image.width))
        wanted = F.pil_to_tensor(F.resize(image, sides, InterpolationMode(interpolation))).float()
        assert images[row].shape == wanted.shape, names[row]
        limit = 0.25 if loader.__name__.endswith("dali") else 1e-4
        assert (images[row] - wanted).abs().mean() < limit, names[row]


def test_ranks_share_the_images(loader, photo_files):
    seen = [load(loader, photo_files, native(), rank=rank, world=3, batch_size=2) for rank in range(3)]
    assert sorted(row for part in seen for row in part) == list(range(12))
    assert [sorted(part) for part in seen] == [list(range(rank, 12, 3)) for rank in range(3)]


def test_the_canvas_is_small_and_its_padding_stated(loader, photo_files):
    files = photo_files[::2] + photo_files[1::2]  # tall and wide ones mixed
    made = eval_loader(loader, files, native(), sizes=original_sizes(files), batch_size=4)
    batches = list(made)
    area = sum(batch.images.canvas[:, 0].numel() for batch in batches)
    own = sum(int(batch.images.extents.prod(1).sum()) for batch in batches)
    assert made.share_of_padding == pytest.approx(1 - own / area)
    sides = np.array([native().sides(*size) for size in original_sizes(files).tolist()])
    assert made.share_of_padding < share_of_padding(range(len(files)), sides, 4)


def test_images_change_places_within_their_window_only():
    rng = np.random.default_rng(0)
    sides = rng.integers(20, 60, (100, 2))
    order = rng.permutation(100).tolist()
    sorted_all = order_by_shape(order, sides, 8)
    assert sorted(sorted_all) == sorted(order)
    ratios = sides[sorted_all, 0] / sides[sorted_all, 1]
    assert (np.diff(ratios) >= 0).all()
    windowed = order_by_shape(order, sides, 8, window=3)
    for start in range(0, 100, 24):
        assert sorted(windowed[start : start + 24]) == sorted(order[start : start + 24])
    shares = [share_of_padding(o, sides, 8) for o in (sorted_all, windowed, order)]
    assert shares[0] < shares[1] < shares[2]
    assert order_by_shape([], sides, 8) == []
    assert share_of_padding([], sides, 8) == 0


def test_workers_change_nothing(torchvision, photo_files):
    alone, shared = (load(torchvision, photo_files, native(), workers=workers, device=CPU) for workers in (0, 1))
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[row], shared[row]) for row in alone)
