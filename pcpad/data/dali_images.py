"""DALI's graphs: decoding, resizing and augmentation of one image, with torchvision's integers for every size."""

import numpy as np
import torch
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode

from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.dali_resize import resize
from pcpad.data.native import NativeTrainTransform, NativeTransform

Transform = EvalTransform | TrainTransform


def decoded(encoded: DataNode, device: torch.device) -> DataNode:
    """The whole image, in RGB."""
    return fn.decoders.image(encoded, **decoder(device))


def eval_images(images: DataNode, encoded: DataNode, transform: EvalTransform) -> DataNode:
    """Resizes, crops and normalises a decoded image, with torchvision's integers for every size and offset."""
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    height, width = shape[0], shape[1]
    shorter = math.min(height, width)
    by_height, by_width = (shorter, shorter) if transform.crop_mode == "center" else (height, width)
    new_height, new_width = height * transform.resize // by_height, width * transform.resize // by_width
    images = resize(images, (new_height, new_width), transform.interpolation, (height, width))
    start = fn.stack(half(new_height - transform.size), half(new_width - transform.size))
    images = fn.slice(images, start=start, shape=[transform.size, transform.size], axis_names="HW")
    return normalise(images, transform)


def native_images(images: DataNode, encoded: DataNode, transform: NativeTransform) -> tuple[DataNode, DataNode]:
    """Resizes and normalises a decoded image at its own aspect ratio, on a canvas of the batch; and the sides."""
    old, sides = native_sides_of(encoded, transform)
    images = resize(images, sides, transform.interpolation, old)
    return fn.pad(normalise(images, transform), axis_names="HW", fill_value=0), fn.stack(*sides)


def native_train_images(
    encoded: DataNode, transform: NativeTrainTransform, device: torch.device, seeds: list[int]
) -> tuple[DataNode, DataNode]:
    """Crops at random with the image's own aspect ratio, resizes, flips and normalises, on a canvas of the batch."""
    side = math.sqrt(fn.random.uniform(range=list(transform.scale), seed=seeds[0]))
    start = fn.random.uniform(range=[0.0, 1.0], shape=[2], seed=seeds[2]) * (1.0 - side)
    crop = {"rel_start": start, "rel_shape": fn.stack(side, side), "axis_names": "HW"}
    images = fn.decoders.image_slice(encoded, **crop, **decoder(device))
    _, sides = native_sides_of(encoded, transform)
    images = resize(images, sides, transform.interpolation)
    mirror = fn.random.coin_flip(probability=transform.hflip, seed=seeds[1])
    images = normalise(images, transform, mirror=mirror)
    return fn.pad(images, axis_names="HW", fill_value=0), fn.stack(*sides)


def native_sides_of(
    encoded: DataNode, transform: NativeTransform | NativeTrainTransform
) -> tuple[tuple[DataNode, DataNode], tuple[DataNode, DataNode]]:
    """Height and width of the file's image, and what `pcpad.data.native.native_sides` makes of them."""
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    old = (shape[0], shape[1])
    shorter = math.min(*old)
    return old, tuple(rounded(side * transform.size // shorter, transform.multiple) for side in old)


def rounded(side: DataNode, multiple: int) -> DataNode:
    """A side rounded to a multiple, as `pcpad.data.native.native_sides` rounds it."""
    return math.max((side + multiple // 2) // multiple, 1) * multiple


def train_images(
    encoded: DataNode,
    transform: TrainTransform,
    device: torch.device,
    seeds: list[int],
) -> DataNode:
    """Crops, resizes, flips and normalises at random; the crop follows torchvision's law."""
    images = fn.decoders.image_random_crop(
        encoded,
        random_area=list(transform.scale),
        random_aspect_ratio=list(transform.ratio),
        num_attempts=10,
        seed=seeds[0],
        **decoder(device),
    )
    images = resize(images, (transform.size, transform.size), transform.interpolation)
    if transform.randaugment:
        images = rand_augmented(images, transform)
    mirror = fn.random.coin_flip(probability=transform.hflip, seed=seeds[1])
    return normalise(images, transform, mirror=mirror)


def rand_augmented(images: DataNode, transform: TrainTransform) -> DataNode:
    """DALI's RandAugment, in a pipeline with conditionals; 11 bins, so that a magnitude means what it does to timm.

    Its seeds are the pipeline's: one that is given here starts the choice of operations and the sign of their
    magnitudes alike, so that an operation would always go the same way.
    """
    from nvidia.dali.auto_aug.rand_augment import rand_augment

    shape = (transform.size, transform.size)
    return rand_augment(images, n=transform.randaugment, m=transform.magnitude, num_magnitude_bins=11, shape=shape)


def decoder(device: torch.device) -> dict:
    args = {"device": "cpu", "adjust_orientation": False}  # PIL does not turn images by EXIF either
    if device.type == "cpu":
        return args
    # Chroma as PIL's libjpeg has it; and no hardware decoder, whose pixels are not those of the kernels, so
    # that an image does not depend on which of the two it went to.
    return args | {"device": "mixed", "jpeg_fancy_upsampling": True, "hw_decoder_load": 0.0}


def half(excess: DataNode) -> DataNode:
    """Half of a number from 0 up, rounded as Python's round does in torchvision: ties to even."""
    return fn.cast((excess + (excess // 2 & 1)) // 2, dtype=types.INT32)


def normalise(images: DataNode, transform: Transform, **mirror: DataNode) -> DataNode:
    """To float32 and CHW, with the transform's mean and std."""
    scaled = {"mean": [255 * mean for mean in transform.mean], "std": [255 * std for std in transform.std]}
    return fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", **scaled, **mirror)


def seeds(*key: int) -> list[int]:
    """Independent seeds that DALI takes (31 bits)."""
    return [int(seed) >> 1 for seed in np.random.SeedSequence(key).generate_state(3)]
