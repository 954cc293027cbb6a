"""Damaged files are named, by PIL's check and by both loaders; whole files never are."""

import errno
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.damage import DamagedImageError, check_image, first_damaged

STATS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
EVAL = EvalTransform(32, 0.875, "bilinear", **STATS)
# Crops of half the image or more reach beyond the cut of a file that lost most of its rows.
TRAIN = TrainTransform(32, (0.5, 1.0), (3 / 4, 4 / 3), 0.5, "bilinear", **STATS)
CPU = torch.device("cpu")

DAMAGES = {
    "truncated": lambda data: data[: data.index(b"\xff\xda") + len(data) // 8],  # a few rows are left
    "empty": lambda data: b"",
    "html": lambda data: b"<html><body>404</body></html>" * 40,
    "zeros": lambda data: bytes(len(data)),
    "cut_header": lambda data: data[300:],
    "missing": None,
}


def damage(path: str, kind: str) -> str:
    if DAMAGES[kind] is None:
        os.remove(path)
    else:
        Path(path).write_bytes(DAMAGES[kind](Path(path).read_bytes()))
    return path


@pytest.fixture
def files(photo_files, tmp_path) -> list[str]:
    """Six whole photographs that a test may damage."""
    for path in photo_files[:6]:
        (tmp_path / Path(path).name).write_bytes(Path(path).read_bytes())
    return [str(path) for path in sorted(tmp_path.iterdir())]


def images_of(loader, mode: str, files: list[str], workers: int = 0):
    """The loader and a function that runs it over all files once, giving the indices that came."""
    labels, shared = np.zeros(len(files), np.int64), {"batch_size": 2, "workers": workers, "device": CPU}
    if mode == "eval":
        made = loader.EvalLoader(files, labels, EVAL, **shared)
        return made, lambda: [i for batch in made for i in batch.index.tolist()]
    made = loader.TrainLoader(files, labels, TRAIN, seed=0, **shared)
    return made, lambda: [i for batch in made.epoch(0) for i in batch.index.tolist()]


def check_message(error: BaseException, path: str, others: list[str]):
    message = str(error)
    assert path in message
    assert "remove or repair it" in message
    assert "\n" not in message
    assert not any(other in message for other in others if other != path)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_loader_names_the_damaged_file(loader, mode, kind, files):
    path = damage(files[3], kind)
    _, run = images_of(loader, mode, files)
    with pytest.raises(DamagedImageError) as caught:
        run()
    check_message(caught.value, path, files)
    with pytest.raises(RuntimeError, match="make a new one"):
        run()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_workers_name_the_damaged_file(loader, mode, files):
    path = damage(files[3], "truncated")
    _, run = images_of(loader, mode, files, workers=2)
    with pytest.raises(DamagedImageError) as caught:
        run()
    check_message(caught.value, path, files)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_whole_files_pass(loader, mode, files):
    _, run = images_of(loader, mode, files)
    assert sorted(run()) == list(range(6))


def test_file_whose_name_holds_another_name(loader, files):
    """The path of a whole file that is part of the damaged one's path is not blamed."""
    longer = files[2] + ".jpg"
    os.rename(files[3], longer)
    damage(longer, "truncated")
    _, run = images_of(loader, "eval", [*files[:3], longer, *files[4:]])
    with pytest.raises(DamagedImageError) as caught:
        run()
    assert f"{longer}:" in str(caught.value)


def test_format_that_dali_cannot_decode_is_named(dali, files):
    with Image.open(files[4]) as image:
        image.save(files[4], "GIF")
    _, run = images_of(dali, "eval", files)
    with pytest.raises(DamagedImageError, match="GIF") as caught:
        run()
    check_message(caught.value, files[4], files)


@pytest.mark.parametrize(
    "text",
    [
        "Error in CPU operator `nvidia.dali.fn.decoders.image`: a failure of another sort",
        "Error in GPU operator `nvidia.dali.fn.resize`: a failure of another sort",
        "Failed to decode sample #0 : {path}",
    ],
)
def test_dali_error_without_damage_is_raised_as_it_is(dali, files, monkeypatch, text):
    failure = RuntimeError(text.format(path=files[0]))

    def fail():
        raise failure
        yield

    monkeypatch.setattr(dali, "run_graph", lambda *args, **settings: fail())
    _, run = images_of(dali, "eval", files)
    with pytest.raises(RuntimeError) as caught:
        run()
    assert caught.value is failure
    with pytest.raises(RuntimeError, match="make a new one"):
        run()


@pytest.mark.parametrize("operator", ["fn.resize", "fn.decoders.image"])
def test_want_of_memory_starts_no_search(dali, files, monkeypatch, operator):
    """The search may take an hour on a large data set, and this error does not come from a file."""

    def fail():
        raise RuntimeError(f"Error in mixed operator `nvidia.dali.{operator}`: CUDA out of memory")
        yield

    damage(files[0], "html")
    monkeypatch.setattr(dali, "run_graph", lambda *args, **settings: fail())
    _, run = images_of(dali, "eval", files)
    with pytest.raises(RuntimeError, match="out of memory"):
        run()


def test_closed_train_loader_refuses(loader, files):
    made, run = images_of(loader, "train", files)
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        run()


@pytest.mark.parametrize(
    ("kind", "reason"),
    {
        "truncated": "truncated",
        "empty": "empty",
        "html": "not an image",
        "zeros": "not an image",
        "cut_header": "not an image",
        "missing": "No such file",
    }.items(),
)
def test_check_image_says_what_is_wrong(files, kind, reason):
    path = damage(files[0], kind)
    with pytest.raises(DamagedImageError, match=reason) as caught:
        check_image(path)
    check_message(caught.value, path, files)


def test_check_image_gives_height_and_width(kind_files):
    sizes = {"rgb": (188, 250), "exif_turned": (188, 250), "portrait": (250, 188), "wide": (20, 500)}
    assert {name: check_image(kind_files[name]) for name in sizes} == sizes


def test_check_image_passes_every_kind(kind_files):
    for path in kind_files.values():
        check_image(path)


def test_truncation_is_found_even_where_pil_was_told_to_accept_it(files, monkeypatch):
    path = damage(files[0], "truncated")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(path) as image:
        image.load()  # the trap: PIL alone gives half a picture
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with pytest.raises(DamagedImageError, match="truncated"):
        check_image(path)


def test_too_many_pixels(files, monkeypatch):
    """PIL warns above its limit and refuses above twice the limit."""
    pixels = np.prod(check_image(files[0]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 - 1)
    with pytest.raises(DamagedImageError, match="exceeds limit"):
        check_image(files[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
    with pytest.raises(Image.DecompressionBombWarning):  # warnings are errors here, and not damage
        check_image(files[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_image(files[0])


def test_want_of_file_handles_is_not_damage(files, monkeypatch):
    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="Too many open files") as caught:
        check_image(files[0])
    assert not isinstance(caught.value, DamagedImageError)


def test_first_damaged_finds_nothing_in_whole_files(kind_files):
    assert first_damaged(list(kind_files.values())) is None
    assert first_damaged([]) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_first_damaged_finds(files, kind):
    path = damage(files[4], kind)
    found, reason = first_damaged(files)
    assert found == path
    assert reason
    assert path not in reason


def test_first_damaged_reads_all_headers_before_whole_images(files):
    damage(files[0], "truncated")
    damage(files[5], "html")
    assert first_damaged(files)[0] == files[5]


def test_first_damaged_refuses_other_formats(files):
    assert first_damaged(files, formats=("JPEG",)) is None
    assert first_damaged(files, formats=("PNG",)) == (
        files[0],
        "in the format JPEG, which this loader cannot decode",
    )
