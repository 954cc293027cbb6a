"""The built-in textures: what a data set must have for a study of padding, and how it comes to be on disk."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcpad.data import textures

STRIP = 10
"""Width of a border strip in pixels, at most 14% of the shorter side."""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return textures.ensure(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(full):
    """``{"train": (images, labels), "val": ...}`` of the default data set, decoded from its files."""
    return {split: _read(full / split) for split in ("train", "val")}


@pytest.fixture(scope="module")
def some(images):
    """Every third of ``images``."""
    return {split: (decoded[::3], labels[::3]) for split, (decoded, labels) in images.items()}


def _read(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    files = [sorted((folder / name).iterdir()) for name in textures.CLASSES]
    decoded = [np.asarray(Image.open(file)) for group in files for file in group]
    return decoded, np.repeat(np.arange(len(files)), [len(group) for group in files])


def _bytes(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def _python(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def _colour(image: np.ndarray) -> np.ndarray:
    pixels = image.reshape(-1, 3).astype(np.float64)
    return np.concatenate([pixels.mean(0), pixels.std(0)])


def _strips(image: np.ndarray) -> list[np.ndarray]:
    """Grey values of the top, bottom, left and right strip, each (STRIP, length)."""
    grey = image.mean(-1)
    return [grey[:STRIP], grey[-STRIP:], grey[:, :STRIP].T, grey[:, -STRIP:].T]


def _structure(image: np.ndarray) -> np.ndarray:
    """Grey-level variograms of the four strips, along and across each, in units of the strips' variance."""
    strips = _strips(image)
    variance = np.mean([strip.var() for strip in strips]) + 1
    features = []
    for pair in (strips[:2], strips[2:]):
        for lag in (1, 2, 3, 4, 6, 8):
            features.append(np.mean([np.square(s[:, lag:] - s[:, :-lag]).mean() for s in pair]) / variance)
            features.append(np.mean([np.square(s[lag:] - s[:-lag]).mean() for s in pair]) / variance)
    return np.log(np.array(features) + 0.01)


def _linear_accuracy(describe, data: dict) -> float:
    """Accuracy on val of multinomial logistic regression fitted on train, on standardised features."""
    features = {split: np.stack([describe(image) for image in decoded]) for split, (decoded, _) in data.items()}
    mean, deviation = features["train"].mean(0), features["train"].std(0) + 1e-9
    x, v = (np.c_[(features[split] - mean) / deviation, np.ones(len(features[split]))] for split in ("train", "val"))
    target = np.eye(len(textures.CLASSES))[data["train"][1]]
    weights = np.zeros((x.shape[1], target.shape[1]))
    # Newton's method with Boehning's bound of the Hessian, which is constant and needs no step size.
    inverse = np.linalg.inv(x.T @ x / 2 + np.eye(x.shape[1]))
    for _ in range(300):
        logits = x @ weights
        odds = np.exp(logits - logits.max(1, keepdims=True))
        weights -= inverse @ (x.T @ (odds / odds.sum(1, keepdims=True) - target) + weights)
    return ((v @ weights).argmax(1) == data["val"][1]).mean()


def test_layout_and_classes(full):
    assert full.name == f"textures-v{textures.VERSION}"
    assert len(textures.CLASSES) == 10
    assert list(textures.CLASSES) == sorted(textures.CLASSES)
    for split, count in (("train", textures.TRAIN_PER_CLASS), ("val", textures.VAL_PER_CLASS)):
        assert sorted(p.name for p in (full / split).iterdir()) == list(textures.CLASSES)
        for name in textures.CLASSES:
            files = sorted(p.name for p in (full / split / name).iterdir())
            assert files == [f"{number:04d}.jpg" for number in range(count)]


def test_sizes_vary_within_bounds_and_total_is_a_few_megabytes(full, images):
    shapes = np.array([image.shape[:2] for image in images["train"][0] + images["val"][0]])
    shorter, aspect = shapes.min(1), shapes[:, 1] / shapes[:, 0]
    assert shorter.min() >= 72
    assert shorter.max() <= 128
    assert aspect.min() >= 0.74
    assert aspect.max() <= 1.35
    assert aspect.min() < 0.8
    assert aspect.max() > 1.25
    assert len(np.unique(shapes, axis=0)) > 500
    assert 2e6 < sum(len(content) for content in _bytes(full).values()) < 8e6


def test_files_are_baseline_rgb_jpegs(full):
    with Image.open(full / "train" / "bricks" / "0000.jpg") as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"


def test_an_image_depends_neither_on_the_counts_nor_on_the_run(full, tmp_path):
    few = _bytes(textures.generate(tmp_path / "few", train_per_class=2, val_per_class=1))
    again = _bytes(textures.generate(tmp_path / "again", train_per_class=2, val_per_class=1))
    assert few == again
    assert len(few) == 30
    whole = _bytes(full)
    assert few == {name: whole[name] for name in few}
    assert len(set(whole.values())) == len(whole)


@pytest.mark.parametrize("name", textures.CLASSES)
def test_texture_is_a_pure_function(name):
    first = textures.texture(name, 80, 96, np.random.default_rng(3))
    assert first.shape == (80, 96, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, textures.texture(name, 80, 96, np.random.default_rng(3)))
    assert not np.array_equal(first, textures.texture(name, 80, 96, np.random.default_rng(4)))


def test_unknown_class_and_empty_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="plaid"):
        textures.texture("plaid", 80, 80, np.random.default_rng(0))
    with pytest.raises(ValueError, match="0"):
        textures.generate(tmp_path / "root", val_per_class=0)
    assert not list(tmp_path.iterdir())


def test_colour_does_not_give_the_class_away(images):
    assert _linear_accuracy(_colour, images) < 0.3


def test_the_colour_classifier_finds_a_class_that_colour_gives_away(some):
    # The same images, with the class in a shift of the red mean (5 of them) and in the contrast (2).
    def tinted(image: np.ndarray, label: int) -> np.ndarray:
        mean = image.mean((0, 1))
        contrast = 30 * (1 + label % 2) * (image - mean) / image.std((0, 1))
        return mean * [0, 1, 1] + contrast + [40 * (label // 2), 0, 0]

    data = {split: ([tinted(*pair) for pair in zip(*data, strict=True)], data[1]) for split, data in some.items()}
    assert _linear_accuracy(_colour, data) > 0.9


def test_hardly_a_pixel_is_clipped(images):
    saturated = [np.isin(image, (0, 255)).mean() for image in images["val"][0]]
    assert np.mean(saturated) < 1e-3


@pytest.mark.parametrize("label", range(10), ids=textures.CLASSES)
def test_every_border_strip_has_the_contrast_of_the_centre(images, label):
    decoded, labels = images["train"]
    ratios = []
    for image in (decoded[i] for i in np.flatnonzero(labels == label)):
        centre = image.mean(-1)[STRIP:-STRIP, STRIP:-STRIP].std()
        ratios.append([strip.std() / centre for strip in _strips(image)])
    ratios = np.array(ratios)
    assert np.all(np.abs(np.log(np.median(ratios, axis=0))) < np.log(1.25))
    assert ratios.min() > 0.3


def test_the_class_can_be_read_from_the_border_alone(some):
    assert _linear_accuracy(_structure, some) > 0.7


def test_the_border_test_fails_where_the_texture_fades_out(some):
    def vignetted(image: np.ndarray) -> np.ndarray:
        weight = np.zeros(image.shape[:2])
        weight[STRIP:-STRIP, STRIP:-STRIP] = 1
        mean = image.mean((0, 1))
        return np.rint(mean + weight[..., None] * (image - mean))

    data = {split: ([vignetted(image) for image in data[0]], data[1]) for split, data in some.items()}
    assert _linear_accuracy(_structure, data) < 0.3


def test_ensure_generates_once(full):
    before = (full / "train" / "dots" / "0000.jpg").stat().st_mtime_ns
    assert textures.ensure(full.parent) == full
    assert (full / "train" / "dots" / "0000.jpg").stat().st_mtime_ns == before
    assert [p.name for p in full.parent.iterdir()] == [full.name]


def test_an_error_midway_leaves_nothing(tmp_path, monkeypatch):
    def fail(name, height, width, rng):
        if name == "stripes":
            raise OSError("no space left on device")
        return np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr(textures, "texture", fail)
    with pytest.raises(OSError, match="no space"):
        textures.generate(tmp_path / "root", train_per_class=2, val_per_class=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs permissions that are enforced")
def test_a_read_only_cache_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            textures.ensure(tmp_path)
        assert not list(tmp_path.iterdir())
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_way_of_the_cache_is_an_error(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        textures.ensure(tmp_path / "cache")
    assert (tmp_path / "cache").read_text() == ""


def test_a_folder_that_holds_something_else_is_neither_used_nor_touched(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "thesis.tex").write_text("x")
    with pytest.raises(OSError, match="root"):
        textures.generate(tmp_path / "root", train_per_class=1, val_per_class=1)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["root", "root/thesis.tex"]


KILLED = """
import os, sys, pathlib
from pcpad.data import textures
texture = textures.texture
textures.texture = lambda name, *rest: os._exit(9) if name == "dots" else texture(name, *rest)
textures.generate(pathlib.Path(sys.argv[1]), train_per_class=1, val_per_class=1)
"""


def test_what_a_killed_process_leaves_is_not_taken_for_whole(tmp_path):
    root = tmp_path / "root"
    assert _python(KILLED, root).wait() == 9
    left = list(tmp_path.iterdir())
    assert left
    assert root not in left
    assert len(_bytes(textures.generate(root, train_per_class=1, val_per_class=1))) == 20


def test_the_loser_of_the_rename_uses_the_winners_copy(tmp_path, monkeypatch):
    rename, root = os.rename, tmp_path / "root"

    def overtaken(source, target):
        monkeypatch.setattr(os, "rename", rename)
        textures.generate(root, train_per_class=1, val_per_class=1)
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    assert textures.generate(root, train_per_class=1, val_per_class=1) == root
    assert os.rename is rename
    assert len(_bytes(root)) == 20
    assert list(tmp_path.iterdir()) == [root]


def test_concurrent_threads_all_end_with_one_whole_copy(tmp_path):
    root, barrier, outcomes = tmp_path / "root", threading.Barrier(4), []

    def work() -> None:
        barrier.wait()
        outcomes.append(textures.generate(root, train_per_class=1, val_per_class=1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [root] * 4
    assert len(_bytes(root)) == 20
    assert list(tmp_path.iterdir()) == [root]


CONCURRENT = """
import sys, pathlib, time
from pcpad.data import textures
root, me = pathlib.Path(sys.argv[1]), sys.argv[2]
ready = root.parent.parent
(ready / me).touch()
while len(list(ready.iterdir())) < 3:
    time.sleep(0.005)
textures.generate(root, train_per_class=2, val_per_class=1)
assert len(list(root.rglob("*.jpg"))) == 30
"""


def test_concurrent_processes_all_end_with_one_whole_copy(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    processes = [_python(CONCURRENT, cache / "root", name) for name in ("first", "second")]
    assert [process.wait() for process in processes] == [0, 0]
    assert list(cache.iterdir()) == [cache / "root"]
