"""Variants of an evaluation's images, for robustness: the border cut off, replaced, or content moved across it."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpad.data.batch import EvalTransform
from pcpad.evaluation.border.shifts import shift_transform, window


class Size(NamedTuple):
    """What a grid evaluates at.

    Attributes:
        pixels: side of the square, or shorter side of images of their own aspect ratio; None for the model's own.
        native: whether images keep their own aspect ratio.
        kind: of a variant, one of `KINDS`; empty for the images as they are.
        width: the variant's pixels.
    """

    pixels: int | None
    native: bool = False
    kind: str = ""
    width: int = 0

    @property
    def variant(self) -> str:
        """A variant as a record states it, ``"cut:16@224"``."""
        return f"{self.kind}:{self.width}@{self.pixels}"


def blank(images: Tensor, width: int, index: Tensor) -> Tensor:
    """The border replaced by 0, which is the mean colour."""
    return framed(images, torch.zeros_like(images), width)


def noise(images: Tensor, width: int, index: Tensor) -> Tensor:
    """The border replaced by normal noise of mean 0 and deviation 1, always the same for an image."""
    drawn = [torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(int(row))) for row in index]
    return framed(images, torch.stack(drawn).to(images), width)


def blur(images: Tensor, width: int, index: Tensor) -> Tensor:
    """The border blurred by a Gaussian of 3 pixels' deviation."""
    from torchvision.transforms.functional import gaussian_blur

    return framed(images, gaussian_blur(images, [19, 19], [3.0, 3.0]), width)


def cut(images: Tensor, width: int, index: Tensor) -> Tensor:
    """The border cut off: a smaller image at the same scale."""
    return images[..., width:-width, width:-width]


def framed(images: Tensor, frame: Tensor, width: int) -> Tensor:
    """`images` with a border of so many pixels taken from `frame`."""
    inner = F.pad(torch.ones_like(images[:1, :1, width:-width, width:-width]), (width,) * 4).bool()
    return torch.where(inner, images, frame)


KINDS: dict[str, Callable[[Tensor, int, Tensor], Tensor] | None] = {
    "shift": None,  # by the window that is cut from the image
    "cut": cut,
    "blank": blank,
    "noise": noise,
    "blur": blur,
}
"""Each variant as a function of normalised images ``(N, 3, H, W)``, the width in pixels, and the images' rows."""


@dataclass(frozen=True)
class WideTransform(EvalTransform):
    """The larger image that shifted windows are cut from."""

    @property
    def label(self) -> str:
        """Not that of a square of its size, which is resized otherwise."""
        return f"{self.size} wide"


@dataclass(frozen=True)
class VariantTransform(EvalTransform):
    """An evaluation's preprocessing, and what is done to the square it gives.

    Attributes:
        kind: one of `KINDS`. width: in pixels.
    """

    kind: str = ""
    width: int = 0

    @property
    def label(self) -> str:
        """The size as a record states it, ``"cut:16@224"``."""
        return f"{self.kind}:{self.width}@{self.size}"

    @property
    def seen(self) -> int:
        """Side of the square that the network sees, in pixels."""
        return self.size - 2 * self.width if self.kind == "cut" else self.size


def variant(transform: EvalTransform, size: Size) -> VariantTransform:
    """The preprocessing of a variant.

    Raises:
        ValueError: its border leaves nothing of the image.
    """
    check_width(size)
    return VariantTransform(**vars(transform), kind=size.kind, width=size.width)


def check_width(size: Size) -> None:
    """Raise ValueError where the border of a variant, or a shift, leaves nothing of the image."""
    if leaves_nothing(size):
        raise ValueError(f"{size.variant} leaves nothing of {size.pixels} pixels")


def leaves_nothing(size: Size) -> bool:
    """Whether the border of a variant, or a shift, is as wide as the image."""
    return bool(size.kind) and (1 if size.kind == "shift" else 2) * size.width >= size.pixels


def source(transform: EvalTransform) -> EvalTransform:
    """What a loader makes for a cell, to be looked at by `view`."""
    if not isinstance(transform, VariantTransform):
        return transform
    plain = EvalTransform(**{f.name: getattr(transform, f.name) for f in fields(EvalTransform)})
    if transform.kind != "shift":
        return plain
    return WideTransform(**vars(shift_transform(plain, [(transform.width, transform.width)])))


def view(transform: EvalTransform, images, index: Tensor):
    """What the network sees of the images that `source` made.

    Args:
        images: of a loader. index: int64 ``(N,)``, their rows.
    """
    if not isinstance(transform, VariantTransform):
        return images
    if transform.kind == "shift":
        return window(images, transform.size, (transform.width, transform.width))
    return KINDS[transform.kind](images, transform.width, index)


def pixels(text: str) -> int:
    """A number of pixels as it is typed, 0 for any other text."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def parse_sizes(text: str) -> list[Size]:
    """``"128,native:224,cut:16@224"`` to sizes, each once; raises ValueError for another text."""
    sizes = []
    for part in text.split(","):
        what, _, side = part.strip().rpartition("@")
        if not what:
            kind, _, side = side.rpartition(":")
            good, size = kind in ("", "native"), Size(pixels(side), kind == "native")
        else:
            kind, _, width = what.partition(":")
            good = kind in KINDS and pixels(width) > 0
            size = Size(pixels(side), False, kind, pixels(width))
        if not good or not size.pixels:
            raise ValueError(
                "sizes must be positive integers, native:N for images of their own aspect ratio, or KIND:WIDTH@N with "
                f"one of {', '.join(KINDS)}, with commas between them, not {text!r}"
            )
        sizes.append(size)
    return list(dict.fromkeys(sizes))
