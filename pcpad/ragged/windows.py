"""Sliding windows: convolution, partial padding, pooling and padding by hand."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pcpad.padding import partial
from pcpad.padding.coverage import conv_pads
from pcpad.ragged.batch import RaggedBatch
from pcpad.ragged.dispatch import TABLE, handles, refusal
from pcpad.ragged.extents import Extents, Window
from pcpad.ragged.lengths import Length


def plane_last(x, name: str) -> RaggedBatch:
    """`x` if it is a batch ``(N, C, H, W)``; raises RaggedError for other orders of its axes."""
    if not isinstance(x, RaggedBatch):
        raise refusal(name, "its weights or indices are a mixed-size batch")
    if x.dim() != 4 or x.plane != (2, 3):
        raise refusal(name, "the batch does not have the axes (N, C, H, W) here")
    return x


def pair(value) -> tuple:
    """A number for both axes, alone or in a tuple, or one for each."""
    if isinstance(value, (tuple, list)):
        return (value[0], value[-1])
    return (value, value)


def windows(kernel_size, stride, dilation, pads, ceil=False) -> tuple[Window, Window]:
    """The two axes of a window; `pads` are ``(top, bottom, left, right)``."""
    k, s, d = pair(kernel_size), pair(stride), pair(dilation)
    return Window(k[0], s[0], d[0], pads[0], pads[1], ceil), Window(k[1], s[1], d[1], pads[2], pads[3], ceil)


def wide(x: Tensor) -> Tensor:
    """float32 for half-precision sums, as torch's own sums accumulate."""
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


@handles("conv2d")
def conv2d(func, name, args, kwargs):
    """A convolution with zeros outside each image."""
    return convolve(*args, **kwargs)


def convolve(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> RaggedBatch:
    """`conv2d` by the names of ``F.conv2d``."""
    x = plane_last(input, "conv2d")
    kernel_size = (weight.shape[-2], weight.shape[-1])
    pads = conv_pads(padding if isinstance(padding, str) else pair(padding), kernel_size, pair(dilation))
    rows, cols = windows(kernel_size, stride, dilation, pads)
    alone = kernel_size == (1, 1) and not any(pads)  # each output sees one position: nothing to keep out
    y = F.conv2d(x.finite() if alone else x.filled(), weight, bias, stride, padding, dilation, groups)
    return x.like(y, x.geometry.through(rows, cols, y.shape[-2:], "conv2d"), raw=False)


def rescale_border(func, name, args, kwargs):
    """Partial padding: the ratio of each image's own border (`pcpad.padding.partial.rescale_border`)."""
    y, x, bias, kernel_size, stride, dilation, pads, power = args
    x = plane_last(x, "partial padding")
    pads = tuple(int(one) for one in pads)
    rows, cols = windows(kernel_size, stride, dilation, pads)
    taps = kernel_size[0] * kernel_size[1]
    n = (
        x.geometry.rows.taps(rows, y.canvas.shape[-2])[:, None, :, None]
        * x.geometry.cols.taps(cols, y.canvas.shape[-1])[:, None, None, :]
    )
    wide = torch.float32 if n.device.type == "mps" else torch.float64  # MPS has no float64
    factor = taps / n.clamp(min=1).to(wide)
    factor = factor if power == 1 else factor**power
    r = torch.where(n > 0, factor, 0.0).to(y.canvas.dtype)
    if bias is None:
        return y.like(y.canvas * r)
    b = bias.to(y.canvas.dtype).view(-1, 1, 1)
    return y.like(torch.where(r == 1, y.canvas, (y.canvas - b) * r + b * (r != 0)))


TABLE[partial.rescale_border] = (rescale_border, "rescale_border")


@handles("max_pool2d")
def max_pool2d(func, name, args, kwargs):
    """Max pooling with -inf outside each image; in generated code with the least finite number.

    Inductor's max pooling takes the padding for the place of the maximum where a whole window is -inf, and its backward
    pass then writes outside the map (torch 2.13).
    """
    return pool_max(*args, **kwargs)


def pool_max(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> RaggedBatch:
    """`max_pool2d` by the names of ``F.max_pool2d``."""
    x = plane_last(input, "max_pool2d")
    if return_indices:
        raise refusal("max_pool2d_with_indices")
    stride = stride or kernel_size
    height, width = pair(padding)
    rows, cols = windows(kernel_size, stride, dilation, (height, height, width, width), ceil_mode)
    outside = torch.finfo(x.dtype).min if torch.compiler.is_compiling() else -torch.inf
    y = F.max_pool2d(x.filled(outside), kernel_size, stride, padding, dilation, ceil_mode)
    new = x.like(y, x.geometry.through(rows, cols, y.shape[-2:], "max_pool2d"), raw=False)
    return new.like(new.filled())  # no -inf is left, whose products would be NaN in a gradient


@handles("avg_pool2d")
def avg_pool2d(func, name, args, kwargs):
    """Average pooling by the number of taps that count."""
    return pool_average(*args, **kwargs)


def pool_average(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
) -> RaggedBatch:
    """`avg_pool2d` by the names of ``F.avg_pool2d``."""
    x = plane_last(input, "avg_pool2d")
    stride = stride or kernel_size
    height, width = pair(padding)
    rows, cols = windows(kernel_size, stride, 1, (height, height, width, width), ceil_mode)
    # by rule "grow" a pool that counts its padding counts all that is not known
    counted = x.geometry.grow and count_include_pad and not divisor_override
    total = wide(x.filled())  # a sum of half-precision numbers may be too large for them
    y = F.avg_pool2d(total, kernel_size, stride, padding, ceil_mode, True, None if counted else 1)
    geometry = x.geometry.through(rows, cols, y.shape[-2:], "avg_pool2d")
    if counted:
        return x.like(y.to(x.dtype), geometry, raw=False)
    if divisor_override:
        return x.like((y / divisor_override).to(x.dtype), geometry, raw=False)
    margins = ((height, height), (width, width)) if count_include_pad else ((0, 0), (0, 0))
    over_rows = x.geometry.rows.taps(rows, y.shape[-2], margins[0])[:, None, :, None]
    over_cols = x.geometry.cols.taps(cols, y.shape[-1], margins[1])[:, None, None, :]
    y = y / (over_rows * over_cols).clamp(min=1).to(y.dtype)
    return x.like(y.to(x.dtype), geometry, raw=False)


@handles("pad")
def pad(func, name, args, kwargs):
    """Padding by hand with a constant."""
    return pad_constant(*args, **kwargs)


def pad_constant(input, pad, mode="constant", value=None) -> RaggedBatch:
    """`pad` by the names of ``F.pad``; the amounts must be those of every image."""
    x = input
    if not isinstance(x, RaggedBatch):
        raise refusal("pad", "its amounts are a mixed-size batch")
    if mode != "constant":
        raise refusal(f"pad(mode={mode!r})", "it fills from the edge of the image, which differs from image to image")
    amounts = [one.agreed() if isinstance(one, Length) else one for one in pad]
    amounts = [int(one) for one in amounts]
    sides = {x.dim() - 1 - i // 2: (amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)}
    if sides.get(0, (0, 0)) != (0, 0):
        raise refusal("pad", "it would pad the batch axis")
    axes = []
    for axis, index in zip((x.geometry.rows, x.geometry.cols), x.plane, strict=True):
        before, after = sides.get(index, (0, 0))
        if min(before, after) < 0 and x.geometry.grow:
            raise refusal("pad", "by rule 'grow', negative amounts are not followed")
        axes.append(axis.shifted(before, after, x.geometry.grow) if before or after else axis)
    touched = any(sides.get(index, (0, 0)) != (0, 0) for index in x.plane)
    canvas = x.filled(value or 0) if touched else x.canvas
    geometry = Extents(axes[0], axes[1], x.geometry.grow)
    geometry.check_not_empty(x.geometry, "pad")
    return x.like(F.pad(canvas, amounts, "constant", value), geometry)
