"""Which pixel of the image each pixel of a filled padding shows, along one axis."""

from typing import NamedTuple

import torch
from torch import Tensor

MAPPED = ("reflect", "symmetric", "replicate", "circular")
"""Modes that `sources` knows."""


def sources(mode: str, length: int, before: int, after: int) -> Tensor:
    """For each pixel of a padded axis the one of the image that it shows, int64."""
    index = torch.arange(-before, length + after, device="cpu")
    if mode == "replicate":
        return index.clamp(0, length - 1)
    if mode == "circular":
        return index % length
    period = max(2 * length - (2 if mode == "reflect" else 0), 1)
    index = index % period
    return torch.minimum(index, period - index - int(mode == "symmetric"))


class Shown(NamedTuple):
    """Neighbouring pixels of a padded axis: the first, their number, and the pixel of the image that each shows.

    That is `source` for the first, and `step` further, 0 or 1, for each next.
    """

    into: int
    count: int
    source: int
    step: int


def outside(mode: str, length: int, before: int, after: int) -> list[Shown]:
    """The pads of an axis, in as few pieces as can be views of the image."""
    shown, found = sources(mode, length, before, after).tolist(), []
    for place, end in ((0, before), (before + length, before + length + after)):
        while place < end:
            steps = [b - a for a, b in zip(shown[place : end - 1], shown[place + 1 : end], strict=True)]
            step = steps[0] if steps and steps[0] in (0, 1) else 1
            count = next((n for n, other in enumerate(steps) if other != step), len(steps)) + 1
            found.append(Shown(place, count, shown[place], step))
            place += count
    return found
