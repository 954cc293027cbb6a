"""Images at their own aspect ratio, from both loaders: torchvision's pixels, every image once, a small canvas."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from pcpad.data.native import (
    NativeTrainTransform,
    NativeTransform,
    native_sides,
    order_by_shape,
    share_of_padding,
    train_order,
)
from tests.data.made import CPU, MEAN, STD, epochs, eval_loader, pixels, train_loader


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
    for height, width in [(500, 375), (375, 500), (333, 500), (224, 224), (7, 5), (1200, 30)]:
        image = F.resize(torch.zeros(1, height, width), [224])
        assert native_sides(height, width, 224) == tuple(image.shape[1:])
    assert native_sides(375, 500, 224, 32) == (224, 288)  # 298 is nearer to 288 than to 320
    assert native_sides(500, 333, 224, 32) == (352, 224)  # 336 lies halfway and goes up
    assert native(224).label == "native:224"


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
        sides = [32] if multiple == 1 else list(native_sides(image.height, image.width, 32, multiple))
        wanted = F.pil_to_tensor(F.resize(image, sides, InterpolationMode(interpolation))).float()
        assert images[row].shape == wanted.shape, names[row]
        limit = 0.02 if loader.__name__.endswith("dali") else 1e-4
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
    assert made.share_of_padding["native:32"] == pytest.approx(1 - own / area)
    sides = np.array([native_sides(*size, 32) for size in original_sizes(files).tolist()])
    assert made.share_of_padding["native:32"] < share_of_padding(range(len(files)), sides, 4)


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


def training(size=24, multiple=1, scale=(0.25, 1.0)) -> NativeTrainTransform:
    return NativeTrainTransform(size, scale, (1.0, 1.0), 0.5, "bilinear", MEAN, STD, multiple=multiple)


def native_loader(loader, files, transform=None, **options):
    return train_loader(loader, files, transform or training(), sizes=original_sizes(files), **options)


def test_training_images_keep_their_shape(loader, photo_files):
    made = native_loader(loader, photo_files, batch_size=3)
    sizes = original_sizes(photo_files).tolist()
    for epoch in range(2):
        seen = []
        for batch in made.epoch(epoch):
            assert len(batch.index) == 3
            sides = [list(native_sides(*sizes[row], 24)) for row in batch.index.tolist()]
            assert batch.images.extents.tolist() == sides
            assert batch.labels.tolist() == [row % 7 for row in batch.index.tolist()]
            seen += batch.index.tolist()
        assert sorted(seen) == list(range(12))
    made.close()


def test_training_crops_have_the_images_own_aspect_ratio(loader, tmp_path):
    """Of a ramp the crop's range along each side tells its share of that side, wherever it lies."""
    y, x = np.mgrid[:120, :200]
    ramp = np.stack([y * 2, x, np.zeros_like(x)], -1).astype(np.uint8)
    files = []
    for i in range(32):
        files.append(str(tmp_path / f"{i:02}.png"))
        Image.fromarray(ramp).save(files[-1])
    made = native_loader(loader, files, training(60, scale=(0.25, 0.81)), batch_size=4)
    shares, flips, tops = [], 0, []
    for batch in made.epoch(0):
        for image in batch.images.images():
            assert image.shape == (3, 60, 100)
            values = pixels(image)
            rows, cols = values[0].mean(1), values[1].mean(0)
            share = (rows[-1] - rows[0]) / 238, (cols[-1] - cols[0]).abs() / 199
            assert abs(share[0] - share[1]) < 0.03
            shares.append(float(share[0]))
            flips += int(cols[-1] < cols[0])
            tops.append(float(rows[0]))
    made.close()
    assert 0.45 < min(shares) < 0.62
    assert 0.78 < max(shares) < 0.92  # the square root of 0.81, less the margins of the resize
    assert 4 < flips < 28
    assert max(tops) > 40


def test_training_is_seeded_and_resumes(loader, photo_files):
    first, again = (native_loader(loader, photo_files, seed=3) for _ in range(2))
    one, two = (epochs(made, 3) for made in (first, again))
    assert [b.index.tolist() for b in one] == [b.index.tolist() for b in two]
    assert all(torch.equal(a.images.canvas, b.images.canvas) for a, b in zip(one, two, strict=True))
    other = native_loader(loader, photo_files, seed=4)
    assert [b.index.tolist() for b in epochs(other, 3)] != [b.index.tolist() for b in one]
    for cut in range(1, 6):
        interrupted, taken = native_loader(loader, photo_files, seed=3), 0
        for epoch in range(2):
            for _ in interrupted.epoch(epoch):
                taken += 1
                if taken == cut:
                    break
            else:
                continue
            break
        resumed = native_loader(loader, photo_files, seed=3)
        resumed.restore(interrupted.state())
        rest = [batch for epoch in range((cut - 1) // 3, 3) for batch in resumed.epoch(epoch)]
        assert all(torch.equal(a.images.canvas, b.images.canvas) for a, b in zip(one[cut:], rest, strict=True))
        interrupted.close()
        resumed.close()
    for made in (first, again, other):
        made.close()


def test_the_batches_of_an_epoch_are_in_no_order_of_shape():
    rng = np.random.default_rng(0)
    sides = np.array([native_sides(*size, 224) for size in rng.integers(300, 600, (4096, 2)).tolist()])
    order = train_order(rng.permutation(4096).tolist(), sides, 16, rng)
    assert sorted(order) == list(range(4096))
    ratio = np.log(sides[order, 0] / sides[order, 1]).reshape(-1, 16).mean(1)
    assert abs(np.corrcoef(ratio[1:], ratio[:-1])[0, 1]) < 0.2
    assert share_of_padding(order, sides, 16) < 0.05  # of a random order it is 0.5
    assert share_of_padding(range(4096), sides, 16) > 0.4


def test_sizes_are_needed(loader, photo_files):
    with pytest.raises(ValueError, match=r"images of native size need their sizes: give sizes=image_sizes"):
        train_loader(loader, photo_files, training())
    with pytest.raises(ValueError, match=r"images of native size need their sizes"):
        eval_loader(loader, photo_files, native())
