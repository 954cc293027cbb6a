"""The size that an epoch is trained at: a pure function of the epoch, so that it changes between epochs only."""

from dataclasses import dataclass
from itertools import groupby

from pcpad.config import ProgressiveSettings, TrainSettings

MULTIPLE = 32
"""Sides on the way are multiples of it: what most networks shrink an image by."""


@dataclass(frozen=True)
class SizeOf:
    """Side in pixels of an epoch's images.

    Attributes:
        size: that of evaluation, in force where `progressive` does not say otherwise.

    >>> SizeOf(ProgressiveSettings(start=128, end=224, from_epoch=2, to_epoch=6), 256)(4)
    160
    """

    progressive: ProgressiveSettings
    size: int

    def __call__(self, epoch: int) -> int:
        plan = self.progressive
        if plan.start is None:
            return self.size
        end = plan.end or self.size
        if epoch < plan.from_epoch:
            return plan.start
        if epoch >= plan.to_epoch:
            return end
        side = plan.start + (end - plan.start) * (epoch - plan.from_epoch) / (plan.to_epoch - plan.from_epoch)
        low, high = sorted((plan.start, end))
        return min(max(int(side) // MULTIPLE * MULTIPLE, low), high)


def sizes_trained_at(settings: TrainSettings) -> list[int]:
    """Every side that some epoch has, ascending."""
    size_of = SizeOf(settings.progressive, settings.size)
    return sorted({size_of(epoch) for epoch in range(settings.epochs)})


def which_sizes(settings: TrainSettings) -> str:
    """The sides of training images by epoch as one line, and their share of the pixels of training at `size`."""
    size_of, spans, first = SizeOf(settings.progressive, settings.size), [], 1
    sides = [size_of(epoch) for epoch in range(settings.epochs)]
    for side, group in groupby(sides):
        last = first + len(list(group)) - 1
        spans.append(f"{side} in epoch {first}" if first == last else f"{side} in epochs {first} to {last}")
        first = last + 1
    share = sum(side**2 for side in sides) / (settings.size**2 * max(settings.epochs, 1))
    return f"pixels of training images: {', '.join(spans)}; {share:.0%} of those of training at {settings.size}"
