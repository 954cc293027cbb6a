"""A depthwise convolution with filled padding on a GPU, in inference: zero padding, and what fills it added after.

A copy of the map, larger by its padding, is most of what filled padding costs beside a convolution that does little
more than read and write its map. The kernel touches the border alone.
"""

import sys
import warnings
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pcpad.padding import gpu
from pcpad.padding.coverage import Pads, axes_of, num_windows, tap_counts
from pcpad.padding.sources import sources

WORTH = 2
"""Taps outside the image for each pixel of it up to which they are added: all 3x3 kernels on maps of 7x7 and larger."""


class Outside(NamedTuple):
    """The taps that see no pixel of the image, window by window.

    Attributes:
        windows: int32, those that leave the image, numbered ``row * width + column``.
        starts: int32, one more than windows: where the taps of each begin.
        taps: int32, numbered as `windows`. pixels: int32, of the image, that each shows, numbered likewise.
    """

    windows: Tensor
    starts: Tensor
    taps: Tensor
    pixels: Tensor


def may_add(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `convolve` takes a depthwise convolution of which `eager` holds: without a gradient, in one dtype."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    dtypes = {t.dtype for t in (x, weight, bias) if t is not None}
    if torch.is_autocast_enabled("cuda"):
        fit = dtypes <= {torch.float32, torch.bfloat16, torch.float16}
    else:
        fit = len(dtypes) == 1
    return fit and gpu.worth(x) and is_right(x.device)


@lru_cache(maxsize=64)
def is_right(device: torch.device) -> bool:
    """Whether the kernel computes on a device what it should, of a small image; a warning tells where it does not."""
    try:
        # Of the caller's settings none is to change what is compared.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            numbers = torch.arange(1, 28, dtype=torch.float32, device="cpu")
            x = numbers[:16].view(1, 1, 4, 4).repeat(2, 3, 1, 1)
            weight, geometry = numbers.view(3, 1, 3, 3), ((3, 3), (1, 1), (1, 1), (1,) * 4)
            wanted = F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), weight, groups=3)
            layouts = (torch.contiguous_format, torch.channels_last, torch.channels_last)  # the last starts another way
            for layout in layouts:
                y = F.conv2d(x, weight, padding=1, groups=3).to(device).contiguous(memory_format=layout)
                add(x.to(device).contiguous(memory_format=layout), y, weight.to(device), (*geometry, "reflect"))
                if not torch.equal(y.cpu(), wanted):
                    raise RuntimeError("a kernel computed something else")
    except Exception as error:  # whatever keeps it from running, the image can be padded
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"depthwise convolutions pad their images, some percent slower: {reason[-1]}", stacklevel=2)
        return False
    return True


def worth(x: Tensor, geometry: tuple) -> bool:
    """Whether the taps outside are few enough; arguments as of `convolve`."""
    return number(x.shape[-2:], *geometry) <= WORTH * x.shape[-2] * x.shape[-1]


@lru_cache(maxsize=256)
def number(size, kernel_size, stride, dilation, pads: Pads, mode: str) -> int:
    """How many taps of all windows of an image lie outside it."""
    inside, every = 1, 1
    for along in axes_of(size, kernel_size, stride, dilation, pads):
        windows = num_windows(*along)
        if windows < 1:
            return sys.maxsize  # the convolution itself will say so
        every *= windows * along[1]
        inside *= sum(tap_counts(*along, device="cpu").tolist())
    return every - inside


def seen(windows: int, kernel: int, stride: int, dilation: int, before: int, length: int) -> tuple[Tensor, Tensor]:
    """Along one axis, for each window and tap: the pixel of the padded axis, and whether it is the image's."""
    place = torch.arange(windows, device="cpu")[:, None] * stride + torch.arange(kernel, device="cpu") * dilation
    return place, (place >= before) & (place < before + length)


@lru_cache(maxsize=256)  # of large maps some 0.1 MB of the GPU's memory each
def outside(size, kernel_size, stride, dilation, pads: Pads, mode: str, device: torch.device) -> Outside:
    """The taps outside an image of a size ``(height, width)``; other arguments as of `convolve`."""
    pixels, insides = [], []
    with torch.inference_mode(False):
        for length, kernel, step, apart, before, after in axes_of(size, kernel_size, stride, dilation, pads):
            windows = num_windows(length, kernel, step, apart, before, after)
            place, inside = seen(windows, kernel, step, apart, before, length)
            pixels.append(sources(mode, length, before, after)[place])
            insides.append(inside)
        out = ~(insides[0][:, None, :, None] & insides[1][None, :, None, :])  # windows down, across, taps down, across
        down, across, tap_down, tap_across = out.nonzero().unbind(1)
        window = down * out.shape[1] + across
        windows, counts = torch.unique_consecutive(window, return_counts=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        pixel = pixels[0][down, tap_down] * size[1] + pixels[1][across, tap_across]
        tap = tap_down * kernel_size[1] + tap_across
        return Outside(*(t.int().to(device) for t in (windows, starts, tap, pixel)))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """A depthwise convolution with filled padding; the same as of the padded image to rounding, without a gradient.

    Its border is rounded twice: the sum inside the image, then with the rest.

    Args:
        x: ``(N, C, H, W)``, of which `may_add` holds.
        weight: ``(C, 1, kh, kw)``. bias: ``(C,)`` or None.
        geometry: kernel_size, stride, dilation, pads, mode; the pads the same at both ends of an axis, and no larger
            than the mode can fill.

    Returns:
        ``(N, C, H', W')``, in autocast's dtype where that is on.
    """
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        x, weight, bias = (t if t is None else t.to(dtype) for t in (x, weight, bias))
    _, stride, dilation, pads, _ = geometry
    y = F.conv2d(x, weight, bias, stride, (pads[0], pads[2]), dilation, len(weight))
    add(gpu.fitting(x), y := gpu.fitting(y), weight.contiguous(), geometry)
    return y


def add(x: Tensor, y: Tensor, weight: Tensor, geometry: tuple) -> None:
    """To a zero-padded convolution y of x add, in place, what the taps outside the image see in filled padding."""
    where = outside(tuple(x.shape[-2:]), *geometry, x.device)
    if len(where.windows):
        shapes, layouts = (tuple(x.shape), tuple(y.shape)), (x.is_contiguous(), y.is_contiguous())
        taps = weight[0].numel()
        with gpu.current(x.device):
            run = gpu.kernels(x.device).outside(*shapes, *layouts, x.dtype, len(where.windows), taps, x.device)
            run(x, y, weight, *where)
