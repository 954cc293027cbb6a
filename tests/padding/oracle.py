"""Convolutions written out tap by tap in float64: what every padding mode must agree with."""

import itertools

import numpy as np


def source(mode: str, position: int, size: int) -> int | None:
    """The pixel along one axis that stands at `position`, which may lie outside 0..size-1; None for no pixel."""
    if 0 <= position < size:
        return position
    if mode == "replicate":
        return 0 if position < 0 else size - 1
    if mode == "circular":
        return position % size
    if mode == "symmetric":
        return -1 - position if position < 0 else 2 * size - 1 - position
    if mode == "reflect":
        return -position if position < 0 else 2 * (size - 1) - position
    return None  # zeros, partial and mean


def mean_around(x, at: tuple[int, int], pads):
    """The mean of the pixels not further than the pads from the pixel of x (N, C, H, W) that is nearest to `at`."""
    total, pixels = np.zeros(x.shape[:2]), 0
    nearest = [min(max(place, 0), size - 1) for place, size in zip(at, x.shape[2:], strict=True)]
    for row, col in itertools.product(range(x.shape[2]), range(x.shape[3])):
        if abs(row - nearest[0]) <= max(pads[:2]) and abs(col - nearest[1]) <= max(pads[2:]):
            total += x[:, :, row, col]
            pixels += 1
    return total / pixels


def conv2d(
    x, weight, bias=None, *, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), groups=1, mode="zeros", power=1.0
):
    """One 2d convolution of float64 arrays: x (N, C, H, W), weight (C', C / groups, kh, kw), bias (C',) or None.

    `pads` is (top, bottom, left, right). For ``partial`` each window's sum is scaled by (K / n) ** power, with n
    counted one tap at a time, and a window without a tap gives 0.
    """
    n_images, _, height, width = x.shape
    out_channels, in_group, kh, kw = weight.shape
    rows = (height + pads[0] + pads[1] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    cols = (width + pads[2] + pads[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n_images, out_channels, rows, cols))
    for o, i, j in itertools.product(range(out_channels), range(rows), range(cols)):
        first = o // (out_channels // groups) * in_group
        total, known = np.zeros(n_images), 0
        for a, b in itertools.product(range(kh), range(kw)):
            row = source(mode, i * stride[0] - pads[0] + a * dilation[0], height)
            col = source(mode, j * stride[1] - pads[2] + b * dilation[1], width)
            if mode == "mean" and (row is None or col is None):
                at = i * stride[0] - pads[0] + a * dilation[0], j * stride[1] - pads[2] + b * dilation[1]
                total += mean_around(x[:, first : first + in_group], at, pads) @ weight[o, :, a, b]
            elif row is not None and col is not None:
                known += 1
                total += x[:, first : first + in_group, row, col] @ weight[o, :, a, b]
        offset = 0.0 if bias is None else bias[o]
        if mode in ("partial", "partial_sqrt"):
            power = 0.5 if mode == "partial_sqrt" else power
            y[:, o, i, j] = total * (kh * kw / known) ** power + offset if known else 0.0
        else:
            y[:, o, i, j] = total + offset
    return y
