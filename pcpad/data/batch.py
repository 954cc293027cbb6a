"""What a loader yields, and the two image transforms that both loaders implement."""

from dataclasses import dataclass
from math import floor
from typing import Literal, NamedTuple

from torch import Tensor

from pcpad.ragged import RaggedBatch


class Batch(NamedTuple):
    """One batch of a loader.

    Attributes:
        images: float32 ``(B, 3, size, size)``, normalised, on the loader's device; a RaggedBatch of float32 images
            where they keep their own aspect ratio; a dict of such, by the transforms' labels, where a loader was given
            several transforms.
        labels: int64 ``(B,)``, on the loader's device.
        index: int64 ``(B,)``, on the CPU: the manifest row of each image.
    """

    images: Tensor | RaggedBatch | dict[str, Tensor | RaggedBatch]
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class EvalTransform:
    """Resize, centre crop, normalise: the evaluation preprocessing of torchvision and timm.

    ``crop_mode`` is timm's: ``"center"`` resizes the shorter side to ``resize`` and keeps the aspect
    ratio, ``"squash"`` resizes both sides to ``resize``. ``mean`` and ``std`` are for values in 0..1.
    """

    size: int
    crop_pct: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_mode: Literal["center", "squash"] = "center"

    @property
    def label(self) -> str:
        """The size as a record states it."""
        return str(self.size)

    @property
    def resize(self) -> int:
        """The side, in pixels, that the image is resized to before the crop (timm's rule)."""
        return floor(self.size / self.crop_pct)


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop, horizontal flip, normalise.

    ``scale`` is the range of the crop's share of the image area, ``ratio`` of its aspect ratio (width /
    height), ``hflip`` the probability of a flip, ``randaugment`` the number of RandAugment's operations and
    ``magnitude`` their strength, of 10.
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    hflip: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    randaugment: int = 0
    magnitude: int = 9
