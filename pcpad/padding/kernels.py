"""Triton kernels: a border changed in place, an image padded from its own pixels, and the gradient of that.

Imported where a GPU is used. All take maps ``(N, C, H, W)`` that are contiguous or channels_last, and tables with an
entry for each pixel, numbered ``row * width + column``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
"""Elements that one program works on."""


@triton.jit
def border_kernel(
    y, bias, places, ratio, rest, count, channels, step_n, step_c, step_p, blocks,
    BIASED: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """y times ratio plus bias times rest, at the places named."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    entry = (tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel = tl.load(places + entry, entry < count, 0).to(tl.int64)
    mask = (entry < count)[:, None] & (channel < channels)[None, :]
    at = y + image * step_n + pixel[:, None] * step_p + channel[None, :] * step_c
    value = tl.load(at, mask, 0).to(SUM) * tl.load(ratio + entry, entry < count, 0).to(SUM)[:, None]
    if BIASED:
        share = tl.load(rest + entry, entry < count, 0).to(SUM)
        value += tl.load(bias + channel, channel < channels, 0).to(SUM)[None, :] * share[:, None]
    tl.store(at, value.to(y.dtype.element_ty), mask)


@triton.jit
def pad_kernel(
    x, y, source, count, channels, x_n, x_c, x_p, y_n, y_c, y_p, blocks,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Every pixel of y from the pixel of x that its entry in source names."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    origin = tl.load(source + pixel, pixel < count, 0).to(tl.int64)
    mask = (pixel < count)[:, None] & (channel < channels)[None, :]
    value = tl.load(x + image * x_n + origin[:, None] * x_p + channel[None, :] * x_c, mask, 0)
    pixel = pixel.to(tl.int64)
    tl.store(y + image * y_n + pixel[:, None] * y_p + channel[None, :] * y_c, value, mask)


@triton.jit
def unpad_kernel(
    x, y, own, starts, others, count, channels, x_n, x_c, x_p, y_n, y_c, y_p, blocks,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Every pixel of x: the sum of the pixels of y that came from it, the one inside and those in the padding."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = pixel < count
    mask = known[:, None] & (channel < channels)[None, :]
    base = y + image * y_n + channel[None, :] * y_c
    total = tl.load(base + tl.load(own + pixel, known, 0).to(tl.int64)[:, None] * y_p, mask, 0).to(SUM)
    start = tl.load(starts + pixel, known, 0)
    copies = tl.load(starts + pixel + 1, known, 0) - start
    for k in range(0, tl.max(copies, 0)):
        there = known & (k < copies)
        other = tl.load(others + start + k, there, 0).to(tl.int64)
        total += tl.load(base + other[:, None] * y_p, mask & there[:, None], 0).to(SUM)
    pixel = pixel.to(tl.int64)
    tl.store(x + image * x_n + pixel[:, None] * x_p + channel[None, :] * x_c, total.to(x.dtype.element_ty), mask)


def steps(x: Tensor) -> tuple[int, int, int]:
    """Elements from an image to the next, from a channel to the next, and from a pixel to the next."""
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    if x.is_contiguous():
        return channels * pixels, pixels, 1
    return channels * pixels, 1, channels


def tiles(x: Tensor, count: int) -> tuple[tuple[int, int], dict[str, int], int]:
    """Grid, sides of a tile and blocks of pixels in an image, for `count` pixels: long along what lies together."""
    channels = x.shape[1]
    if x.is_contiguous():
        across = 1
    else:
        across = min(128, triton.next_power_of_2(channels))
    along = min(TILE // across, triton.next_power_of_2(count))
    if x.is_contiguous():
        across = min(TILE // along, triton.next_power_of_2(channels))
    blocks = triton.cdiv(count, along)
    return (x.shape[0] * blocks, triton.cdiv(channels, across)), {"PIXELS": along, "CHANNELS": across}, blocks


def accumulator(x: Tensor):
    """The type in which elements are multiplied and added."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def rescale_border(y: Tensor, bias: Tensor | None, places: Tensor, ratio: Tensor, rest: Tensor) -> None:
    """Change y in place: times ratio plus bias times rest at the places, int32; ratio and rest of any float dtype."""
    grid, sides, blocks = tiles(y, len(places))
    border_kernel[grid](
        y, y if bias is None else bias, places, ratio, rest, len(places), y.shape[1], *steps(y), blocks,
        BIASED=bias is not None, SUM=accumulator(y), **sides,
    )  # fmt: skip


def pad(x: Tensor, y: Tensor, source: Tensor) -> None:
    """Fill y from x: source is int32, an entry for each pixel of y."""
    grid, sides, blocks = tiles(y, len(source))
    pad_kernel[grid](x, y, source, len(source), x.shape[1], *steps(x), *steps(y), blocks, **sides)


def unpad(x: Tensor, y: Tensor, own: Tensor, starts: Tensor, others: Tensor) -> None:
    """Fill x from y: for each pixel its own in y, and ``others[starts[i]:starts[i + 1]]``; all int32."""
    grid, sides, blocks = tiles(x, len(own))
    arguments = (x, y, own, starts, others, len(own), x.shape[1], *steps(x), *steps(y), blocks)
    unpad_kernel[grid](*arguments, SUM=accumulator(x), **sides)
