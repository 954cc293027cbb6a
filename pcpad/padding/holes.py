"""Holes: which taps of a window are known when any pixel may be missing, and what that makes of a convolution.

Source: Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", arXiv:1804.07723, equations 1
and 2; the window's taps are counted within the group that an output channel sees.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from pcpad.padding.border import rescaled
from pcpad.padding.coverage import Pads
from pcpad.padding.debug import may_read


def check_mask(x: Tensor, mask: Tensor) -> None:
    """Raise unless `mask` says of every pixel of `x` whether it is known.

    Raises:
        TypeError: `mask` is no tensor, or neither bool nor floating point; `x` is no tensor.
        ValueError: its shape or device do not fit, or a floating-point mask has a value other than 0 and 1 (looked
            for on a CPU, and under `debug` on a GPU).
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"a mask goes with a tensor, not with a {type(x).__name__}, whose extents are its mask")
    if not isinstance(mask, Tensor):
        raise TypeError(f"the mask must be a tensor, not {type(mask).__name__}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"the mask must be bool (True = known) or floating point (1 = known), not {mask.dtype}")
    fits = mask.dim() == x.dim() and mask.shape[-2:] == x.shape[-2:] and mask.shape[:-3] == x.shape[:-3]
    if not fits or mask.shape[-3] not in (1, x.shape[-3]):
        one = (*x.shape[:-3], 1, *x.shape[-2:])
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, but for an input of shape {tuple(x.shape)} it must be {one}, or "
            f"{tuple(x.shape)} with a mask for each channel"
        )
    if mask.device != x.device:
        raise ValueError(f"the mask is on {mask.device} and the input on {x.device}: move one with .to(...)")
    if mask.is_floating_point() and may_read(mask):
        wrong = mask[(mask != 0) & (mask != 1)]
        if wrong.numel():
            raise ValueError(
                f"a mask holds 0 for a hole and 1 for a known pixel, but this one has {wrong.numel()} other values, "
                f"{float(wrong[0]):g} first: give mask > threshold instead"
            )


def select(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where it is known and 0 elsewhere; what lies in a hole, NaN included, is not read."""
    return torch.where(mask != 0, x, 0)


def known_taps(
    mask: Tensor,
    channels: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: Pads,
    groups: int,
) -> tuple[Tensor, int]:
    """Number of known taps of each window, and the number of all.

    Args:
        mask: ``(..., 1, H, W)`` or ``(..., C, H, W)``; not 0 where known.
        channels: C.
        kernel_size, stride, dilation: ``(height, width)`` each. pads: ``(top, bottom, left, right)``.

    Returns:
        float32 ``(..., 1, H', W')``, whole numbers in ``0..kh * kw``, and kh * kw; for a mask of C > 1 channels
        ``(..., groups, H', W')``, in ``0..C / groups * kh * kw``, and that.
    """
    own = mask.shape[-3] > 1
    groups, seen = (groups, channels // groups) if own else (1, 1)
    top, bottom, left, right = pads
    known = F.pad((mask != 0).float(), (left, right, top, bottom))
    ones = known.new_ones(groups, seen, *kernel_size)
    # A half-precision sum of more than 256 taps would not be whole; the meta device knows no autocast.
    with nullcontext() if mask.is_meta else torch.autocast(mask.device.type, enabled=False):
        count = F.conv2d(known, ones, None, stride, 0, dilation, groups)
    return count.round(), seen * kernel_size[0] * kernel_size[1]


def rescale_known(
    y: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    channels: int,
    kernel_size,
    stride,
    dilation,
    pads: Pads,
    groups,
    power,
) -> tuple[Tensor, Tensor]:
    """Turn the output of a zero-padded convolution of the known pixels into the partial convolution's.

    ``(y - bias) * (K / n) ** power + bias`` where n of the K taps are known, 0 where none is. The arguments are those
    of `known_taps`, and `y` ``(..., C', H', W')``, `bias` ``(C',)`` or None.

    Returns:
        Like `y`, and the new mask: bool, ``(..., 1, H', W')``, for a mask for each channel ``(..., C', H', W')``.
    """
    count, taps = known_taps(mask, channels, kernel_size, stride, dilation, pads, groups)
    wide = torch.float32 if count.device.type == "mps" else torch.float64  # MPS has no float64
    r = torch.where(count > 0, (taps / count.clamp(min=1).to(wide)) ** power, 0.0).to(y.dtype)
    if mask.shape[-3] > 1:
        repeats = y.shape[-3] // groups
        r, count = r.repeat_interleave(repeats, -3), count.repeat_interleave(repeats, -3)
    return rescaled(y, bias, r), count > 0
