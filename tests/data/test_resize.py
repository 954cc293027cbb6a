"""Resizing by torch and by DALI, within DALI's graphs, against PIL."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import picture

pytest.importorskip("nvidia.dali")

from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from pcpad.data import dali_resize
from pcpad.data.dali_resize import PIL_MAY_TAKE_HEIGHT_FIRST, Resizer, resized, resized_by_dali, resized_by_torch
from tests.data.made import eval_loader

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Height and width before and after: smaller, larger, one of each, height first, halved (ties), as it is, extremes.
SIZES = [((188, 250), (96, 128)), ((40, 56), (97, 131)), ((188, 60), (64, 64)), ((500, 120), (64, 100))]
SIZES += [
    ((128, 192), (64, 96)),
    ((64, 48), (64, 48)),
    ((1, 1), (16, 16)),
    ((3, 200), (32, 7)),
    ((900, 1200), (24, 32)),
]


def by_pil(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size[::-1], FILTERS[interpolation]))


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    return np.abs(ours.astype(int) - theirs)


def in_a_graph(resize, images: list[np.ndarray], sizes: list[tuple[int, int]], interpolation: str) -> list[np.ndarray]:
    """One batch of a pipeline on a CPU whose graph only resizes."""
    pipeline = Pipeline(batch_size=len(images), num_threads=2, device_id=None)
    with pipeline:
        old, new = (
            fn.external_source(source=[[np.array(pair, dtype=np.int32) for pair in pairs]], cycle=True)
            for pairs in ([image.shape[:2] for image in images], sizes)
        )
        given = fn.external_source(source=[images], cycle=True, layout="HWC")
        made = resize(given, (new[0], new[1]), interpolation, (old[0], old[1]))
        pipeline.set_outputs(made)
    pipeline.build()
    (output,) = pipeline.run()
    return [np.array(output.at(i)) for i in range(len(images))]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_torch_gives_pils_pixels(old, new, interpolation):
    image = picture(*old)
    found = difference(resized(image, new, interpolation), by_pil(image, new, interpolation))
    assert found.max() <= 2
    assert found.mean() < 0.05


@pytest.mark.skipif(not PIL_MAY_TAKE_HEIGHT_FIRST, reason="before 13, Pillow resizes the width first")
@pytest.mark.parametrize("interpolation", FILTERS)
def test_the_other_order_of_sides_is_seen(interpolation):
    """The measure itself: noise whose height is to be resized first is another one where the width comes first."""
    image = np.random.default_rng(0).integers(0, 256, (600, 80, 3), dtype=np.uint8)
    theirs = by_pil(image, (64, 60), interpolation)
    in_order = difference(resized(image, (64, 60), interpolation), theirs)
    width_first = difference(resized(resized(image, (600, 60), interpolation), (64, 60), interpolation), theirs)
    assert in_order.mean() < 0.01 < width_first.mean()


@pytest.mark.parametrize("interpolation", FILTERS)
def test_the_other_filter_is_seen(interpolation):
    other = "bicubic" if interpolation == "bilinear" else "bilinear"
    image = picture(188, 250)
    assert difference(resized(image, (96, 128), interpolation), by_pil(image, (96, 128), other)).mean() > 0.5


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("resize", "limit"), [(resized_by_torch, 0.05), (resized_by_dali, 0.25)])
def test_graphs_give_pils_pixels(resize, limit, interpolation):
    """Also the graph that a GPU takes, here on a CPU; at the border DALI repeats pixels, so small maps are left out."""
    pairs = [(old, new) for old, new in SIZES if min(*old, *new) > 20]
    images, sizes = [picture(*old) for old, _ in pairs], [new for _, new in pairs]
    made = in_a_graph(resize, images, sizes, interpolation)
    for ours, image, size in zip(made, images, sizes, strict=True):
        assert difference(ours, by_pil(image, size, interpolation)).mean() < limit


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_each_image_has_its_own_size(threads):
    images = [picture(20 + i, 40 - i, seed=i) for i in range(9)]
    sizes = [np.array((10 + i, 30 - 2 * i), dtype=np.int32) for i in range(9)]
    made = Resizer("bilinear", threads)(images, sizes)
    for ours, image, size in zip(made, images, sizes, strict=True):
        assert difference(ours, by_pil(image, tuple(size.tolist()), "bilinear")).max() <= 2


def test_a_failure_is_raised_when_no_thread_reads_any_more(monkeypatch):
    started, left = threading.Event(), []

    def slow(image, size, interpolation):
        if image is images[0]:
            assert started.wait(10)
            raise MemoryError("of the first image")
        started.set()
        time.sleep(0.3)
        left.append(image)

    images = [picture(20, 40), picture(20, 40)]
    monkeypatch.setattr(dali_resize, "resized", slow)
    with pytest.raises(MemoryError, match="of the first image"):
        Resizer("bilinear", 2)(images, [np.array((8, 8))] * 2)
    assert left == [images[1]]


def test_a_failure_is_not_a_damaged_file(dali, photo_files, monkeypatch):
    def fail(image, size, interpolation):
        raise MemoryError("too large to be resized")

    monkeypatch.setattr(dali_resize, "resized", fail)
    loader = eval_loader(dali, photo_files)
    with pytest.raises(RuntimeError, match="too large to be resized"):
        list(loader)
    with pytest.raises(RuntimeError, match="make a new one"):
        list(loader)


def test_a_forked_process_makes_its_own_threads():
    code_to_run = """
import os, signal
import numpy as np
from pcpad.data.dali_resize import Resizer
image, size = np.zeros((8, 8, 3), dtype=np.uint8), np.array((4, 4))
Resizer("bilinear", 2)([image], [size])
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(len(Resizer("bilinear", 2)([image], [size])) - 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code_to_run], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
