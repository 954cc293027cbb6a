"""Resizing in a DALI graph, with PIL's pixels: on a CPU by torch, whose filters of 8 bits are vectorised, else by DALI.

DALI's own filters take longer on a CPU than decoding does (experiments/benchmarks/NOTES.md).
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache

import numpy as np
import PIL
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from torch.nn.functional import interpolate

FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
PIL_MAY_TAKE_HEIGHT_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
Sides = tuple[DataNode, DataNode]


def resize(images: DataNode, new: Sides | tuple[int, int], interpolation: str, old: Sides | None = None) -> DataNode:
    """Resizes images of 8 bits, ``(height, width, 3)``, with antialiasing, on the device where they are.

    PIL's pixels, on a CPU within 2 of 255. On a GPU the border is another, and without `old` the rounding too.

    Args:
        new: height and width wanted.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        old: height and width of the images.
    """
    by = resized_by_torch if images.device == "cpu" else resized_by_dali
    return by(images, new, interpolation, old)


def resized_by_torch(images: DataNode, new: Sides | tuple[int, int], interpolation: str, _: Sides | None) -> DataNode:
    """As `resize`, on a CPU, in as many threads as the pipeline has."""
    sizes = fn.constant(idata=list(new), device="cpu") if isinstance(new[0], int) else fn.stack(*new)
    resizer = Resizer(interpolation, Pipeline.current().num_threads)
    return fn.python_function(images, sizes, function=resizer, batch_processing=True, output_layouts="HWC")


def resized_by_dali(images: DataNode, new: Sides | tuple[int, int], interpolation: str, old: Sides | None) -> DataNode:
    """As `resize`. One fn.resize resizes both sides before it rounds; two of them round as PIL does."""
    args = {"interp_type": FILTERS[interpolation], "antialias": True}
    if old is not None:
        (height, width), (new_height, new_width) = old, new
        height_first = is_height_first(height, width, new_height, new_width)
        first = (height + height_first * (new_height - height), new_width + height_first * (width - new_width))
        images = fn.resize(images, size=fn.cast(fn.stack(*first), dtype=types.FLOAT), **args)
    size = list(new) if isinstance(new[0], int) else fn.cast(fn.stack(*new), dtype=types.FLOAT)
    return fn.resize(images, size=size, **args)


def is_height_first(height, width, new_height, new_width):
    """Whether PIL resizes the height before the width (Resample.c, from Pillow 13 on), of numbers or nodes."""
    return (height > new_height) & (height - new_height > 2 * (width - new_width)) & PIL_MAY_TAKE_HEIGHT_FIRST


class Resizer:
    """Resizes the images of a batch, each on one of several threads: the function of an ``fn.python_function``."""

    def __init__(self, interpolation: str, threads: int):
        self._interpolation, self._threads = interpolation, threads

    def __call__(self, images: list[np.ndarray], sizes: list[np.ndarray]) -> list[np.ndarray]:
        made: list[np.ndarray | None] = [None] * len(images)
        left = iter(range(len(images)))  # whichever thread is free takes the next

        def work() -> None:
            for i in left:
                made[i] = resized(images[i], tuple(sizes[i].tolist()), self._interpolation)

        jobs: list[Future] = []
        try:
            jobs.extend(pool(self._threads).submit(work) for _ in range(self._threads))
        finally:
            wait(jobs)  # after a failure too: they read memory that is DALI's, and gone when this has returned
        for job in jobs:
            job.result()
        return made


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """The threads of all pipelines of this process that have so many."""
    return ThreadPoolExecutor(threads, thread_name_prefix="pcpad-resize")


os.register_at_fork(after_in_child=pool.cache_clear)  # threads do not follow into a forked process


def resized(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """An image of 8 bits, ``(height, width, 3)``, resized to `size` with PIL's pixels, within 2 of 255."""
    steps = [size]
    if is_height_first(*image.shape[:2], *size):
        steps.insert(0, (size[0], image.shape[1]))
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # strided as a batch: torch is slow else
    for step in steps:
        pixels = interpolate(pixels, step, mode=interpolation, antialias=True)
    return pixels.permute(0, 2, 3, 1)[0].numpy()
