"""Rings of a feature map by distance from its border, and the sums over them that the border study records."""

import torch
from torch import Tensor

LARGEST_MAP = 16
"""Side of the largest mean map that is recorded whole, in positions."""


def wide(values: Tensor) -> Tensor:
    """Values in float64: on their device, or on the CPU where that has no float64, as Apple's GPUs."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def ring_index(height: int, width: int) -> Tensor:
    """Distance of each position of a map from the border, in feature positions.

    Returns:
        int64 ``(height, width)``; the outermost positions are 0.

    >>> ring_index(3, 4)
    tensor([[0, 0, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 0, 0]])
    """
    rows, cols = torch.arange(height), torch.arange(width)
    rows, cols = torch.minimum(rows, height - 1 - rows), torch.minimum(cols, width - 1 - cols)
    return torch.minimum(rows[:, None], cols[None])


def over_rings(values: Tensor, rings: Tensor) -> Tensor:
    """Sums over the positions of each ring.

    Args:
        values: ``(..., H, W)``.
        rings: int64 ``(H, W)``, of `ring_index`.

    Returns:
        float64 ``(..., number of rings)``.
    """
    flat = wide(values).flatten(-2)
    sums = flat.new_zeros(*flat.shape[:-1], int(rings.max()) + 1)
    return sums.index_add_(-1, rings.flatten().to(flat.device), flat)


class FidelitySums:
    """How far features with padding are from those with true context, summed over images, channels and a ring.

    The relative error of a ring is ``sqrt(error / true)``: the norm of the difference over the norm of the true
    features, of all images together. A mean of each image's own quotient would be led by images that are dark there.

    Attributes:
        error: float64 ``(rings,)``, sum of the squared differences.
        true: float64 ``(rings,)``, sum of the squared true features.
    """

    def __init__(self, height: int, width: int):
        self.rings = ring_index(height, width)
        self.error = torch.zeros(int(self.rings.max()) + 1, dtype=torch.float64)
        self.true = torch.zeros_like(self.error)

    def add(self, features: Tensor, true: Tensor) -> None:
        """Count a batch: features with padding and with true context, both ``(N, C, H, W)``."""
        features, true = wide(features), wide(true)
        difference = features - true
        self.error += over_rings(difference.square().sum((0, 1)), self.rings).cpu()
        self.true += over_rings(true.square().sum((0, 1)), self.rings).cpu()


class MeanMap:
    """The mean activation map of each channel over images, as far as spatial bias needs it.

    ``bias(d) = mean over channels of |m(d) - m| / s``: m(d) is a channel's mean over images and the positions of ring
    d, m and s its mean and standard deviation over images and the positions of the centre. The centre is the inner
    half of the rings: of D rings those from D // 2 on. A channel that is constant there has no unit and is left out.
    A map of one ring has no centre of its own, and no bias.
    The mean over a ring comes first, so that what differs between the sides of a ring cancels and noise is small.
    """

    def __init__(self, channels: int, height: int, width: int):
        self.rings = ring_index(height, width)
        count = int(self.rings.max()) + 1
        self.first = count // 2
        self.positions = torch.bincount(self.rings.flatten()).double()
        self.sums = torch.zeros(channels, count, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        kept = max(height, width) <= LARGEST_MAP
        self.total = torch.zeros(channels, height, width, dtype=torch.float64) if kept else None
        self.n = 0

    def add(self, features: Tensor) -> None:
        """Count a batch of features ``(N, C, H, W)``."""
        features = wide(features)
        over_images = features.sum(0)
        self.sums += over_rings(over_images, self.rings).cpu()
        self.squares += over_rings(features.square().sum(0), self.rings)[:, self.first :].sum(1).cpu()
        if self.total is not None:
            self.total += over_images.cpu()
        self.n += len(features)

    def unit(self) -> tuple[Tensor, Tensor]:
        """Mean m and standard deviation s of each channel in the centre, float64 ``(C,)``; s is 0 for a constant."""
        count = self.n * self.positions[self.first :].sum()
        mean = self.sums[:, self.first :].sum(1) / count
        power = self.squares / count
        variance = power - mean.square()
        # Of a constant channel rounding leaves a variance of this order.
        return mean, torch.where(variance > 1e-12 * power, variance, 0.0).clamp(min=0).sqrt()

    def bias(self) -> dict:
        """Sums of the spatial bias: ``{"sum": [...], "channels": n}``; their quotient is ``bias(d)`` of each ring."""
        mean, deviation = self.unit()
        live = deviation > 0 if self.first > 0 else torch.zeros_like(deviation, dtype=torch.bool)
        by_ring = self.sums / (self.n * self.positions)
        away = (by_ring - mean[:, None]).abs()[live] / deviation[live, None]
        return {"sum": [float(f"{value:.9g}") for value in away.sum(0).tolist()], "channels": int(live.sum())}

    def picture(self) -> list[list[float]] | None:
        """``mean over channels of |mean map - m| / s`` at each position; None for a large map or one of one ring."""
        mean, deviation = self.unit()
        live = deviation > 0
        if self.first == 0 or self.total is None or not live.any():
            return None
        away = (self.total / self.n - mean[:, None, None]).abs()[live] / deviation[live, None, None]
        return [[round(value, 4) for value in row] for row in away.mean(0).tolist()]
