"""Both loaders against timm, PIL and torchvision: pixels, order, coverage, random crops, resuming."""

import copy
import gc
import io
import math
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.reference import crop_box

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
RATIO = (3 / 4, 4 / 3)
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=gpu)]


def eval_transform(size=32, crop_pct=0.875, interpolation="bilinear", crop_mode="center") -> EvalTransform:
    return EvalTransform(size, crop_pct, interpolation, MEAN, STD, crop_mode)


def train_transform(size=16, scale=(0.08, 1.0), mean=MEAN, std=STD) -> TrainTransform:
    return TrainTransform(size, scale, RATIO, 0.5, "bilinear", mean, std)


def eval_loader(loader, files, transform=None, *, batch_size=8, workers=0, device=CPU, labels=None, **shard):
    labels = np.arange(len(files)) % 7 if labels is None else labels
    transform = transform or eval_transform()
    shared = {"batch_size": batch_size, "workers": workers, "device": device}
    return loader.EvalLoader(files, labels, transform, **shared, **shard)


def train_loader(loader, files, transform=None, *, batch_size=4, workers=0, device=CPU, labels=None, **rest):
    labels = np.arange(len(files)) % 7 if labels is None else labels
    transform = transform or train_transform()
    shared = {"batch_size": batch_size, "workers": workers, "device": device}
    return loader.TrainLoader(files, labels, transform, **shared, **{"seed": 0, **rest})


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Takes the normalisation back: values of 0 to 255."""
    return (images.cpu() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def same(a, b) -> bool:
    """Whether two lists of batches are equal, bit for bit."""
    return len(a) == len(b) and all(all(map(torch.equal, p, q)) for p, q in zip(a, b, strict=True))


# evaluation: pixels

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
    """Below 0.25 for every kind of file; only one of a few pixels, enlarged, shows that the border is another."""
    transform = eval_transform(*resize)
    limits = dict.fromkeys(kind_files, 0.25)
    if transform.interpolation == "bicubic":
        limits["tiny"] = 0.6  # nearly all border, where DALI repeats pixels and PIL cuts the filter off
    found = differences(dali, list(kind_files.values()), transform).tolist()
    assert {n: d for n, d in zip(kind_files, found, strict=True) if d >= limits[n]} == {}


@pytest.mark.parametrize("resize", RESIZES[::3], ids=str)
def test_dali_gives_timms_pixels_of_real_photographs(dali, real_files, resize):
    """0.003 to 0.03 on average; up to 0.3 in an image that is halved exactly (ties) or cropped nowhere."""
    found = differences(dali, real_files, eval_transform(*resize))
    assert found.mean() < 0.05
    assert found.max() < 0.35


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


def test_crop_beyond_the_image_is_refused(loader, photo_files):
    with pytest.raises(ValueError, match="crop_pct"):
        eval_loader(loader, photo_files, eval_transform(crop_pct=1.1))


# what a batch is


@pytest.mark.parametrize("device", DEVICES)
def test_batches_hold_what_they_say(loader, flat_files, device):
    """Each image is that of its index (the files are flat, their grey tells), and so is its label."""
    device = torch.device(device)
    labels = np.random.default_rng(0).integers(0, 1000, 64)
    labels.flags.writeable = False
    evaluation = list(eval_loader(loader, flat_files, labels=labels, device=device))
    training = list(train_loader(loader, flat_files, labels=labels, device=device).epoch(0))
    for batch, size in [(b, 32) for b in evaluation] + [(b, 16) for b in training]:
        count = len(batch.index)
        assert batch.images.shape == (count, 3, size, size)
        assert [values.dtype for values in batch] == [torch.float32, torch.int64, torch.int64]
        assert [values.device.type for values in batch] == [device.type, device.type, "cpu"]
        assert batch.labels.tolist() == labels[batch.index].tolist()
        grey = 4.0 * batch.index.view(-1, 1, 1, 1).expand(count, 3, size, size)
        torch.testing.assert_close(pixels(batch.images), grey, atol=1e-3, rtol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_leave_the_garbage_of_their_parent_alone(torchvision, dali, flat_files, tmp_path, workers):
    """Destroying a DALI pipeline in a forked process never ends. Without workers, the garbage does go."""
    mark = tmp_path / "destroyed"

    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            mark.touch()

    class Collecting(EvalTransform):
        @property
        def resize(self):
            gc.collect()
            return 32

    transform = Collecting(32, 1.0, "bilinear", MEAN, STD)
    gc.collect()
    gc.disable()
    try:
        Garbage()
        list(eval_loader(torchvision, flat_files[:2], transform, workers=workers))
        assert mark.exists() == (workers == 0)
    finally:
        gc.enable()


def test_batches_are_not_overwritten(loader, photo_files):
    """A batch that is kept stays what it was while the loader goes on."""
    batches = eval_loader(loader, photo_files, batch_size=1)
    kept = [(batch, copy.deepcopy(batch)) for batch in batches]
    assert same([b for b, _ in kept], [c for _, c in kept])


# evaluation: coverage


@pytest.mark.parametrize(
    ("number", "world", "batch_size"),
    [(1, 1, 4), (2, 3, 1), (5, 2, 3), (7, 3, 2), (8, 2, 4), (10, 4, 16), (63, 2, 16), (64, 3, 5)],
)
def test_evaluation_covers_every_image_once(loader, flat_files, number, world, batch_size):
    """Over all ranks, twice in a row; only the last batch of a rank is short, and a rank may have none."""
    files, settings = flat_files[:number], {"batch_size": batch_size, "world": world}
    shards = [eval_loader(loader, files, rank=rank, **settings) for rank in range(world)]
    for _ in range(2):
        sizes = [[len(batch.index) for batch in shard] for shard in shards]
        assert sum(map(sum, sizes)) == number
        assert [len(shard) for shard in shards] == [len(s) for s in sizes]
        assert all(size == batch_size for s in sizes for size in s[:-1])
        assert all(0 < size <= batch_size for s in sizes for size in s)
        found = [i for shard in shards for batch in shard for i in batch.index.tolist()]
        assert sorted(found) == list(range(number))


def test_evaluation_starts_over_after_it_was_left(loader, flat_files):
    batches = eval_loader(loader, flat_files, batch_size=4)
    next(iter(batches))
    assert [i for batch in batches for i in batch.index.tolist()] == list(range(64))


def test_evaluation_is_the_same_for_any_number_of_workers(loader, photo_files):
    one, two = (list(eval_loader(loader, photo_files, batch_size=5, workers=workers)) for workers in (1, 2))
    assert same(one, two)


# training: order and coverage


def order(batches) -> list[int]:
    return [i for batch in batches for i in batch.index.tolist()]


@pytest.mark.parametrize(
    ("number", "world", "batch_size", "steps"), [(63, 2, 16, 1), (64, 2, 8, 4), (64, 3, 7, 3), (10, 1, 3, 3)]
)
def test_training_takes_equal_steps_of_different_images(loader, flat_files, number, world, batch_size, steps):
    """63 files, 2 ranks, batch 16: one rank could take 2 batches and the other 1, and DDP would hang."""
    ranks = [
        train_loader(loader, flat_files[:number], batch_size=batch_size, rank=rank, world=world)
        for rank in range(world)
    ]
    for epoch in range(4):
        batches = [list(rank.epoch(epoch)) for rank in ranks]
        assert [len(b) for b in batches] == [steps] * world == [rank.steps_per_epoch for rank in ranks]
        assert {len(batch.index) for b in batches for batch in b} == {batch_size}
        found = [i for b in batches for i in order(b)]
        assert len(set(found)) == len(found) == steps * batch_size * world


def test_training_without_a_step_is_refused(loader, flat_files):
    with pytest.raises(ValueError, match=r"31 images over 2 ranks .* batch of 16"):
        train_loader(loader, flat_files[:31], batch_size=16, world=2)
    assert train_loader(loader, flat_files[:32], batch_size=16, world=2).steps_per_epoch == 1


def test_every_epoch_and_seed_has_its_own_order(loader, flat_files):
    """Whole shuffles: the place of an image in one order says nothing of its place in another."""
    orders = []
    for seed in (0, 1, 2):
        made = train_loader(loader, flat_files, seed=seed)
        orders += [order(made.epoch(epoch)) for epoch in range(3)]
    places = np.argsort(np.array([list(range(64)), *orders]), axis=1)
    correlation = np.corrcoef(places)[np.triu_indices(len(places), 1)]
    # Independent shuffles of 64 correlate with deviation 0.126; 0.5 is four of them, for 45 pairs.
    assert np.abs(correlation).max() < 0.5


def epochs(made, number: int) -> list:
    return [batch for epoch in range(number) for batch in made.epoch(epoch)]


def test_seed_decides_order_and_crops(loader, photo_files):
    first, again, other = (epochs(train_loader(loader, photo_files, seed=seed), 2) for seed in (3, 3, 4))
    assert same(first, again)
    assert order(first) != order(other)


def test_seed_decides_crops_of_the_same_image(loader, photo_files):
    """One file, many times: whatever the order, images differ only by their crops."""
    files = [photo_files[0]] * 16
    batches = [b for seed in (3, 4) for b in train_loader(loader, files, seed=seed).epoch(0)]
    assert len(torch.cat([b.images for b in batches]).flatten(1).unique(dim=0)) == 32


def test_epochs_have_different_crops_of_the_same_image(loader, photo_files):
    made = train_loader(loader, [photo_files[0]] * 16)
    images = torch.cat([batch.images for batch in epochs(made, 3)]).flatten(1)
    assert len(images.unique(dim=0)) == 48


def test_ranks_have_different_crops_of_the_same_image(loader, photo_files):
    files = [photo_files[0]] * 16
    ranks = [train_loader(loader, files, rank=rank, world=2) for rank in (0, 1)]
    images = torch.cat([batch.images for rank in ranks for batch in epochs(rank, 2)]).flatten(1)
    assert len(images.unique(dim=0)) == 32


def test_training_is_the_same_for_any_number_of_workers(loader, photo_files):
    found = [epochs(train_loader(loader, photo_files, workers=workers), 2) for workers in (0, 1, 2)]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_random_state_of_the_process_is_left_alone(loader, photo_files, workers):
    def run() -> list:
        list(eval_loader(loader, photo_files, workers=workers))
        return epochs(train_loader(loader, photo_files, workers=workers), 1)

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = run()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    assert same(run(), first)


# training: the law of the crops


def write_gradient(path, height: int, width: int) -> str:
    """An image whose red tells the column and whose green tells the row; the blue is the red."""
    red = np.broadcast_to(np.arange(width) * (255 / (width - 1)), (height, width))
    green = np.broadcast_to(np.arange(height)[:, None] * (255 / (height - 1)), (height, width))
    Image.fromarray(np.round(np.stack([red, green, red], -1)).astype(np.uint8)).save(path)
    return str(path)


def read_boxes(images: torch.Tensor, height: int, width: int) -> dict[str, np.ndarray]:
    """Where in the gradient image each crop was: lines fitted through the middle of its rows and columns."""

    def fit(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, start = np.polyfit(np.arange(size)[2:-2] + 0.5, values[:, 2:-2].T, 1)
        return start + 0.5, slope * size  # pixel centres lie at halves

    size = images.shape[-1]
    left, w = fit(images[:, 0].mean(1).numpy() * (width - 1))
    top, h = fit(images[:, 1].mean(2).numpy() * (height - 1))
    flipped = w < 0
    left, w = np.where(flipped, left + w, left), np.abs(w)
    return {"top": top, "left": left, "height": h, "width": w, "flipped": flipped}


def draw_boxes(loader, path: str, scale, number=1500, device=CPU) -> dict[str, np.ndarray]:
    with Image.open(path) as image:
        height, width = image.height, image.width
    transform = train_transform(16, scale, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    made = train_loader(loader, [path] * (number // 3), transform, batch_size=100, device=device, seed=5)
    images = torch.cat([batch.images for batch in epochs(made, 3)]).cpu()
    assert len(images) == number
    return read_boxes(images, height, width)


def ks_uniform(values: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance to the uniform law on 0..1, times the root of the sample size."""
    values, n = np.sort(values), len(values)
    steps = np.arange(n + 1) / n
    return max((steps[1:] - values).max(), (values - steps[:-1]).max()) * math.sqrt(n)


def ks_two(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two samples' distributions, scaled to be comparable with ks_uniform."""
    points = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(np.sort(v), points, "right") / len(v) for v in (a, b))
    distance = np.abs(below_a - below_b).max()
    return distance * math.sqrt(len(a) * len(b) / (len(a) + len(b)))


KS_LIMIT = 2.2  # exceeded by chance once in 10,000 times; the seeds are fixed


@pytest.mark.parametrize("device", DEVICES)
def test_crops_follow_the_analytic_law(loader, tmp_path, device):
    """Where every box fits: area, log aspect and place uniform, the flip a fair coin, all independent."""
    height, width, scale = 240, 240, (0.1, 0.5)
    path = write_gradient(tmp_path / "a.png", height, width)
    boxes = draw_boxes(loader, path, scale, device=torch.device(device))
    area = (boxes["height"] * boxes["width"] / (height * width) - scale[0]) / (scale[1] - scale[0])
    aspect = (np.log(boxes["width"] / boxes["height"]) - math.log(RATIO[0])) / math.log(RATIO[1] / RATIO[0])
    top, left = boxes["top"] / (height - boxes["height"]), boxes["left"] / (width - boxes["width"])
    for name, values in {"area": area, "aspect": aspect, "top": top, "left": left}.items():
        assert ks_uniform(values) < KS_LIMIT, name
    assert abs(boxes["flipped"].mean() - 0.5) < 4 * 0.5 / math.sqrt(1500)
    correlation = np.corrcoef([area, aspect, top, left, boxes["flipped"]])[np.triu_indices(5, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(1500)
    # The measure sees what is not the law: the square root of a uniform share, and an aspect uniform itself.
    plain_aspect = (boxes["width"] / boxes["height"] - RATIO[0]) / (RATIO[1] - RATIO[0])
    assert ks_uniform(np.sqrt(np.clip(area, 0, 1))) > KS_LIMIT
    assert ks_uniform(plain_aspect) > KS_LIMIT


def torchvision_boxes(height: int, width: int, scale, number: int) -> dict[str, np.ndarray]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(1, height, width)
        boxes = [RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(number)]
    return dict(zip(("top", "left", "height", "width"), np.array(boxes, float).T, strict=True))


@pytest.mark.parametrize(("height", "width"), [(150, 200), (200, 120)])
def test_crops_follow_torchvisions_law_where_boxes_are_rejected(loader, tmp_path, height, width):
    scale = (0.08, 1.0)
    ours = draw_boxes(loader, write_gradient(tmp_path / "a.png", height, width), scale)
    theirs = torchvision_boxes(height, width, scale, 4000)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 4000))  # ours are measured, not whole numbers
    for (name, values), blur in zip(theirs.items(), noise, strict=True):
        assert ks_two(ours[name], values + blur) < KS_LIMIT, name
    other = torchvision_boxes(height, width, (0.2, 1.0), 4000)
    assert ks_two(ours["width"], other["width"]) > KS_LIMIT


@pytest.mark.parametrize(("height", "width"), [(150, 200), (90, 400), (20, 500), (500, 20), (1, 1), (2, 3)])
def test_crop_box_is_torchvisions(height, width):
    """The fallback for extreme shapes included."""
    scale, rng = (0.08, 1.0), np.random.default_rng(0)
    ours = np.array([crop_box(height, width, scale, RATIO, rng) for _ in range(3000)], float)
    theirs = torchvision_boxes(height, width, scale, 3000)
    for values, (name, expected) in zip(ours.T, theirs.items(), strict=True):
        assert ks_two(values, expected) < KS_LIMIT, name


# training: resuming


def stored(state: dict) -> dict:
    """The state as a checkpoint file gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("shard", [{}, {"rank": 1, "world": 2}], ids=["alone", "rank 1 of 2"])
def test_resumed_epochs_equal_uninterrupted_ones(loader, photo_files, shard):
    """Bit for bit, with another number of workers; a state of another epoch gives other images."""
    whole = train_loader(loader, photo_files, batch_size=2, workers=1, **shard)
    found, states = [], []
    for epoch in range(4):
        states.append(stored(whole.state()))
        found.append(list(whole.epoch(epoch)))
    for start in range(1, 4):
        resumed = train_loader(loader, photo_files, batch_size=2, workers=2, **shard)
        resumed.restore(states[start])
        again = [list(resumed.epoch(epoch)) for epoch in range(start, 4)]
        assert all(same(a, b) for a, b in zip(again, found[start:], strict=True))
    assert not any(same(found[a], found[b]) for a in range(4) for b in range(a))


def test_state_passes_through_unused_loaders(loader, photo_files):
    """Restored and saved again without an epoch in between, as when a job is ended at once."""
    whole = train_loader(loader, photo_files)
    list(whole.epoch(0))
    between = train_loader(loader, photo_files)
    between.restore(whole.state())
    resumed = train_loader(loader, photo_files)
    resumed.restore(between.state())
    assert same(list(whole.epoch(1)), list(resumed.epoch(1)))


def test_resuming_after_the_data_moved(loader, photo_files, tmp_path):
    whole = train_loader(loader, photo_files)
    list(whole.epoch(0))
    moved = [str(shutil.copy(path, tmp_path)) for path in photo_files]
    resumed = train_loader(loader, moved)
    resumed.restore(whole.state())
    assert same(list(whole.epoch(1)), list(resumed.epoch(1)))


@pytest.mark.parametrize(
    ("key", "change"),
    {
        "batch_size": {"batch_size": 3},
        "seed": {"seed": 1},
        "world": {"world": 2},
        "rank": {"rank": 1, "world": 2},
        "files": {"labels": np.zeros(12, np.int64)},
    }.items(),
)
def test_state_of_other_settings_is_refused(loader, photo_files, key, change):
    state = train_loader(loader, photo_files).state()
    with pytest.raises(ValueError, match=f"{key} was"):
        train_loader(loader, photo_files, **change).restore(state)


def test_state_of_other_files_is_refused(loader, photo_files):
    state = train_loader(loader, photo_files).state()
    for files in (photo_files[:11], [*photo_files[:11], photo_files[0]], photo_files[::-1]):
        with pytest.raises(ValueError, match="files was"):
            train_loader(loader, files).restore(state)


def test_state_of_the_other_loader_is_refused(torchvision, dali, photo_files):
    for one, other in ((torchvision, dali), (dali, torchvision)):
        with pytest.raises(ValueError, match="loader was"):
            train_loader(other, photo_files).restore(train_loader(one, photo_files).state())


def test_state_of_another_dali_is_refused(dali, photo_files):
    state = train_loader(dali, photo_files).state()
    with pytest.raises(ValueError, match="dali was"):
        train_loader(dali, photo_files).restore({**state, "dali": "1.0"})


def test_epochs_come_in_order(loader, photo_files):
    made = train_loader(loader, photo_files)
    with pytest.raises(ValueError, match="0 is next"):
        made.epoch(1)
    list(made.epoch(0))
    with pytest.raises(ValueError, match="1 is next"):
        made.epoch(0)
    next(made.epoch(1))
    with pytest.raises(RuntimeError, match="between epochs"):
        made.state()
    with pytest.raises(ValueError, match="not taken to its end"):
        made.epoch(2)
