"""Which taps of a convolution window see the image: counts and ratio, from geometry alone.

Source: Liu et al., "Partial Convolution based Padding", arXiv:1811.11718, equations 2 to 4. The known taps of a
window form a rectangle, so their number is (rows that see the image) * (columns that see the image).
"""

from functools import lru_cache

import torch
from torch import Tensor

Pads = tuple[int, int, int, int]
"""Padding of one convolution as ``(top, bottom, left, right)``, in pixels."""


def pair(value) -> tuple[int, int]:
    """A number for both axes, alone or in a tuple, or one for each, as ``(height, width)``: torch takes all three."""
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)


def conv_pads(padding, kernel_size, dilation) -> Pads:
    """Pads of an ``nn.Conv2d`` as ``(top, bottom, left, right)``.

    Args:
        padding: an int, ``(height, width)``, ``"same"`` or ``"valid"``, as ``nn.Conv2d.padding`` holds it. An odd
            total under ``"same"`` puts the extra pixel at the bottom and the right, as torch does.
        kernel_size, dilation: an int or ``(height, width)``.

    Raises:
        ValueError: `padding` is another string.
    """
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(pair(dilation), pair(kernel_size), strict=True)]
        return (totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2)
    if isinstance(padding, str):
        raise ValueError(f"padding {padding!r} is not one of 'same', 'valid' or a pair of integers")
    height, width = pair(padding)
    return (height, height, width, width)


def same_pads(
    size: tuple[int, int], kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Pads:
    """Pads of TensorFlow's "SAME" convolution, which depend on the input size: ``(top, bottom, left, right)``.

    The output has ``ceil(size / stride)`` positions along each axis; of an odd total the extra pixel stands at the
    bottom and the right. (torch's own ``"same"`` allows stride 1 only and depends on the kernel alone.)

    Args:
        size: ``(height, width)`` of the input map.
        kernel_size, stride, dilation: ``(height, width)`` each.

    Source: tensorflow.org, ``tf.nn``, notes on padding; the same as timm's ``Conv2dSame``.

    >>> same_pads((224, 224), (3, 3), (2, 2), (1, 1))
    (0, 1, 0, 1)
    """
    pads = []
    for length, k, s, d in zip(size, kernel_size, stride, dilation, strict=True):
        total = max((-(-length // s) - 1) * s + d * (k - 1) + 1 - length, 0)
        pads += [total // 2, total - total // 2]
    return tuple(pads)


def axes_of(size, kernel_size, stride, dilation, pads: Pads) -> list[tuple]:
    """Height and width: of each length, kernel, stride, dilation and the pad at either end."""
    return list(zip(size, kernel_size, stride, dilation, pads[::2], pads[1::2], strict=True))


def num_windows(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Length of a convolution's output along one axis; arguments as of `tap_counts`."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def tap_counts(size: int, kernel: int, stride: int, dilation: int, before: int, after: int, device=None) -> Tensor:
    """Number of taps of each window that lie inside the image, along one axis.

    Args:
        size: length of the image, in pixels.
        kernel, stride, dilation: of the convolution along this axis.
        before, after: padding at the two ends, in pixels.
        device: where the result lies.

    Returns:
        int64 ``(output length,)``, each in ``0..kernel``.

    Raises:
        ValueError: the padded image is shorter than the window.
    """
    out = num_windows(size, kernel, stride, dilation, before, after)
    if not torch.compiler.is_compiling() and out < 1:
        raise ValueError(
            f"a window of {dilation * (kernel - 1) + 1} pixels does not fit into {size} pixels "
            f"padded by {before} and {after}: use a larger input"
        )
    start = torch.arange(out, device=device) * stride - before  # of each window, in image coordinates
    first = (-start + dilation - 1).div(dilation, rounding_mode="floor").clamp(min=0)
    last = (size - 1 - start).div(dilation, rounding_mode="floor").clamp(max=kernel - 1)
    return (last - first + 1).clamp(min=0)


def coverage(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    device=None,
) -> Tensor:
    """Number n of taps of each window that lie inside the image.

    Args:
        size: ``(height, width)`` of the input map.
        kernel_size, stride, dilation: ``(height, width)`` each.
        pads: ``(top, bottom, left, right)``.
        device: where the result lies.

    Returns:
        int64 ``(H', W')``, each in ``0..kh * kw``.

    >>> coverage((4, 4), (3, 3), pads=(1, 1, 1, 1))
    tensor([[4, 6, 6, 4],
            [6, 9, 9, 6],
            [6, 9, 9, 6],
            [4, 6, 6, 4]])
    """
    rows = tap_counts(size[0], kernel_size[0], stride[0], dilation[0], pads[0], pads[1], device)
    cols = tap_counts(size[1], kernel_size[1], stride[1], dilation[1], pads[2], pads[3], device)
    return rows[:, None] * cols


def ratio(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    power: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device=None,
) -> Tensor:
    """The factor ``(K / n) ** power`` that partial padding applies to each window, 0 where n = 0.

    Args:
        power: 1 restores the sum (the paper), 0.5 the variance, 0 is zero padding.
        dtype: of the result. The quotient is one division in float64, rounded once to `dtype`.
        size, kernel_size, stride, dilation, pads, device: as in `coverage`.

    Returns:
        `dtype` ``(H', W')``. A window that sees the whole kernel has exactly 1, one that sees no pixel 0.

    Raises:
        TypeError: `dtype` is neither floating nor complex.

    >>> ratio((4, 4), (3, 3), pads=(1, 1, 1, 1))[0]
    tensor([2.2500, 1.5000, 1.5000, 2.2500])
    """
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(f"partial padding multiplies by fractions, which {dtype} does not hold: use a floating dtype")
    n = coverage(size, kernel_size, stride, dilation, pads, device)
    taps = kernel_size[0] * kernel_size[1]
    wide = torch.float32 if n.device.type == "mps" else torch.float64  # MPS has no float64
    factor = (taps / n.clamp(min=1).to(wide)) ** power
    return torch.where(n > 0, factor, 0.0).to(dtype)


@lru_cache(maxsize=256)
def cached_ratio(size, kernel_size, stride, dilation, pads, power, dtype, device) -> Tensor:
    """`ratio`, remembered by all of its arguments: one map ``(H', W')`` for each of the last geometries in use.

    A network has 5 to 12 geometries at one size (ResNet-50, VGG16, EfficientNet-B0, ...): these are those of some
    twenty sizes.
    """
    with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not be used in training later
        # Copied and waited for: computed on a GPU it would be there for the stream that asks first, not for others.
        return ratio(size, kernel_size, stride, dilation, pads, power, dtype, "cpu").to(device)
