"""Predictions under shifts of the crop window, which move content across the border: exact counts."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pcpad.data.batch import EvalTransform

Shift = tuple[int, int]
"""Pixels that the crop window is moved to the right and down, ``(dx, dy)``."""


def parse_shifts(text: str) -> list[Shift]:
    """``"1,2"`` to the unshifted window and every shift to the right, down, and both.

    >>> parse_shifts("1,2")
    [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (2, 2)]
    """
    steps = sorted({int(part) for part in text.split(",")})
    return [(0, 0), *((s, 0) for s in steps), *((0, s) for s in steps), *((s, s) for s in steps)]


def check_shifts(shifts: list[Shift], size: int) -> None:
    """Raise ValueError where a shift leaves nothing of the image in a window of so many pixels."""
    widest = max(max(shift) for shift in shifts)
    if widest >= size:
        raise ValueError(f"shifts: {widest} leaves nothing of the {size} pixels that the network sees")


def shift_transform(transform: EvalTransform, shifts: list[Shift]) -> EvalTransform:
    """The preprocessing of the image that the windows of ``transform.size`` pixels are cut from.

    It resizes as `transform` does, and to a larger image only where that has no room for a shift. The space on each
    side is an even number of pixels: rounding half to even, the centre of the centre is then the centre, and the
    unshifted window has the pixels of an evaluation.
    """
    room = max(max(shift) for shift in shifts)
    side = transform.size + 2 * (room + room % 2)
    crop_pct = side / max(transform.resize, side)
    if math.floor(side / crop_pct) < transform.resize:  # the quotient of the rounded quotient may fall just below
        crop_pct = math.nextafter(crop_pct, 0)
    return replace(transform, size=side, crop_pct=crop_pct)


def window(images: Tensor, size: int, shift: Shift) -> Tensor:
    """The centre crop of images ``(N, C, H, W)``, moved by a shift."""
    left, top = (images.shape[-1] - size) // 2 + shift[0], (images.shape[-2] - size) // 2 + shift[1]
    return images[..., top : top + size, left : left + size]


@dataclass
class ShiftCounts:
    """Counts of one padding mode.

    Attributes:
        shifts: the first is ``(0, 0)``.
        changed: images whose top-1 class differs from that of their unshifted window, for each shift.
        top1: images whose top-1 class is their label, for each shift.
        n: images seen. labelled: those of them whose label is known.
    """

    shifts: list[Shift]
    changed: list[int] = field(init=False)
    top1: list[int] = field(init=False)
    n: int = 0
    labelled: int = 0

    def __post_init__(self):
        self.changed, self.top1 = [0] * len(self.shifts), [0] * len(self.shifts)

    def add(self, model: nn.Module, images: Tensor, labels: Tensor, size: int, layout=torch.contiguous_format) -> None:
        """Count a batch.

        Args:
            images: ``(N, 3, H, W)``, with room for every shift of a window of `size` pixels.
            labels: int64 ``(N,)``; below 0 where unknown.
            layout: memory format of the windows.
        """
        unshifted = None
        for i, shift in enumerate(self.shifts):
            top = model(window(images, size, shift).contiguous(memory_format=layout)).argmax(1)
            unshifted = top if unshifted is None else unshifted
            self.changed[i] += int((top != unshifted).sum())
            self.top1[i] += int((top == labels).sum())
        self.n += len(images)
        self.labelled += int((labels >= 0).sum())

    def result(self) -> dict:
        """The counts as a record states them; top1 is None where no label is known."""
        known = self.labelled > 0
        rows = [
            {"dx": dx, "dy": dy, "changed": changed, "top1": top1 if known else None}
            for (dx, dy), changed, top1 in zip(self.shifts, self.changed, self.top1, strict=True)
        ]
        return {"shifts": rows, "labelled": self.labelled}
