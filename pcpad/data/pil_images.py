"""The pixels of the torchvision loader: PIL's resizing of one image, the reference that DALI's graphs have to match."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torchvision.transforms.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.native import NativeTrainTransform, NativeTransform, native_sides
from pcpad.data.randomness import drawn_from

FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def eval_pixels(image: Image.Image, transform: EvalTransform) -> Tensor:
    """Resizes and centre-crops an RGB image: uint8 ``(3, size, size)``, the pixels of timm's evaluation."""
    resize = [transform.resize] if transform.crop_mode == "center" else [transform.resize, transform.resize]
    image = F.resize(image, resize, FILTERS[transform.interpolation])
    return F.pil_to_tensor(F.center_crop(image, [transform.size, transform.size]))


def native_pixels(image: Image.Image, transform: NativeTransform) -> Tensor:
    """Resizes an RGB image and keeps its aspect ratio: uint8 ``(3, height, width)``."""
    sides = list(native_sides(image.height, image.width, transform.size, transform.multiple))
    return F.pil_to_tensor(F.resize(image, sides, FILTERS[transform.interpolation]))


def train_pixels(image: Image.Image, transform: TrainTransform, rng: np.random.Generator) -> Tensor:
    """Crops, resizes and flips an RGB image at random: uint8 ``(3, size, size)``, or of its own aspect ratio."""
    if isinstance(transform, NativeTrainTransform):
        box = native_box(image.height, image.width, transform.scale, rng)
        size = list(native_sides(image.height, image.width, transform.size, transform.multiple))
    else:
        box = crop_box(image.height, image.width, transform.scale, transform.ratio, rng)
        size = [transform.size, transform.size]
    image = F.resized_crop(image, *box, size, FILTERS[transform.interpolation])
    image = F.hflip(image) if rng.random() < transform.hflip else image
    return F.pil_to_tensor(rand_augmented(image, transform, rng) if transform.randaugment else image)


def rand_augmented(image: Image.Image, transform: TrainTransform, rng: np.random.Generator) -> Image.Image:
    """timm's RandAugment, its random numbers drawn from `rng` alone."""
    augment = rand_augment(transform.magnitude, transform.randaugment, min(image.size), transform.mean)
    with drawn_from(int(rng.integers(2**32))):
        return augment(image)


@lru_cache(maxsize=32)
def rand_augment(
    magnitude: int, number: int, side: int, mean: tuple[float, ...]
) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment for images of a side, every operation of which grows with the magnitude."""
    from timm.data.auto_augment import rand_augment_transform

    hparams = {"translate_const": int(0.45 * side), "img_mean": tuple(round(255 * value) for value in mean)}
    return rand_augment_transform(f"rand-m{magnitude}-n{number}-inc1", hparams)


def crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draws the box of a random resized crop: ``(top, left, height, width)`` in pixels.

    The law of torchvision's RandomResizedCrop: the share of the area is uniform in ``scale``, width / height
    log-uniform in ``ratio``; after ten boxes that do not fit, the largest central crop within ``ratio``.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def native_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a box of the image's own aspect ratio, its share of the area uniform in ``scale``: as `crop_box`."""
    side = math.sqrt(rng.uniform(*scale))
    h, w = max(round(side * height), 1), max(round(side * width), 1)
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
