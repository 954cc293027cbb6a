"""Triton kernels: a border changed in place, a map times a ratio, an image padded from its own pixels, and back; taps
that lie outside an image added to a depthwise convolution.

Imported where a GPU is used. All take maps ``(N, C, H, W)`` that are contiguous or channels_last and begin at a
multiple of 16 bytes, and tables with an entry for each pixel, numbered ``row * width + column``.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
"""Elements that one program works on."""


@triton.jit(do_not_specialize_on_alignment=["bias"])
def border_kernel(
    y, places, ratio, rest, bias, count, channels, step_n, step_c, step_p, blocks,
    BIASED: tl.constexpr, SUM: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
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
def scale_kernel(
    x, y, ratio, count, channels, step_n, step_c, step_p, blocks,
    SUM: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = x times the ratio of its pixel."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mask = (pixel < count)[:, None] & (channel < channels)[None, :]
    at = image * step_n + pixel.to(tl.int64)[:, None] * step_p + channel[None, :] * step_c
    value = tl.load(x + at, mask, 0).to(SUM) * tl.load(ratio + pixel, pixel < count, 0).to(SUM)[:, None]
    tl.store(y + at, value.to(y.dtype.element_ty), mask)


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
    y, x, own, starts, others, count, channels, x_n, x_c, x_p, y_n, y_c, y_p, blocks,
    SUM: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
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


@triton.jit(do_not_specialize_on_alignment=["weight"])
def outside_kernel(
    x, y, weight, windows, starts, taps, pixels, count, channels, taps_each, x_n, x_c, x_p, y_n, y_c, y_p, blocks,
    SUM: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """To the windows of y named, of a depthwise convolution of x, the sum over their taps outside the image."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    entry = (tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = entry < count
    mask = known[:, None] & (channel < channels)[None, :]
    window = tl.load(windows + entry, known, 0).to(tl.int64)
    at = y + image * y_n + window[:, None] * y_p + channel[None, :] * y_c
    total = tl.load(at, mask, 0).to(SUM)
    start = tl.load(starts + entry, known, 0)
    number = tl.load(starts + entry + 1, known, 0) - start
    for k in range(0, tl.max(number, 0)):
        there = known & (k < number)
        both = mask & there[:, None]
        pixel = tl.load(pixels + start + k, there, 0).to(tl.int64)
        tap = tl.load(taps + start + k, there, 0)
        shown = tl.load(x + image * x_n + pixel[:, None] * x_p + channel[None, :] * x_c, both, 0).to(SUM)
        total += shown * tl.load(weight + channel[None, :] * taps_each + tap[:, None], both, 0).to(SUM)
    tl.store(at, total.to(y.dtype.element_ty), mask)


def steps(shape: tuple[int, ...], contiguous: bool) -> tuple[int, int, int]:
    """Elements from an image to the next, from a channel to the next, and from a pixel to the next."""
    _, channels, height, width = shape
    return (channels * height * width, height * width, 1) if contiguous else (channels * height * width, 1, channels)


def tiles(images: int, channels: int, count: int, contiguous: bool) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Grid, blocks of pixels in an image, and sides of a tile (pixels, channels): long along what lies together."""
    across = 1 if contiguous else min(128, triton.next_power_of_2(channels))
    along = min(TILE // across, triton.next_power_of_2(count))
    if contiguous:
        across = min(TILE // along, triton.next_power_of_2(channels))
    blocks = triton.cdiv(count, along)
    return (images * blocks, triton.cdiv(channels, across)), blocks, (along, across)


def prepared(kernel, grid: tuple[int, int], numbers: tuple, constants: tuple) -> Callable[..., None]:
    """A function of a kernel's tensors. From its second call on it starts what the first has compiled.

    A start through ``kernel[grid]`` looks at all arguments anew, which takes longer than most of the kernels here.
    """
    started = None

    def start(*tensors: Tensor) -> None:
        nonlocal started
        if started is None:
            compiled = kernel[grid](*tensors, *numbers, *constants)
            started = None if compiled is None else compiled[(*grid, 1)]  # the interpreter compiles nothing
        else:
            started(*tensors, *numbers, *constants)

    return start


def accumulator(dtype: torch.dtype):
    """The type in which elements are multiplied and added."""
    return tl.float64 if dtype == torch.float64 else tl.float32


@lru_cache(maxsize=4096)
def border(shape, contiguous: bool, dtype, bias_dtype, count: int, device) -> Callable[..., None]:
    """Function of y, places, ratio, rest and bias (any tensor where bias_dtype is None) that changes y in place.

    Args:
        shape: of y. contiguous: whether it is, or else channels_last. count: of the places.
    """
    grid, blocks, sides = tiles(shape[0], shape[1], count, contiguous)
    numbers = (count, shape[1], *steps(shape, contiguous), blocks)
    return prepared(border_kernel, grid, numbers, (bias_dtype is not None, accumulator(dtype), *sides))


@lru_cache(maxsize=4096)
def scale(shape, contiguous: bool, dtype, device) -> Callable[..., None]:
    """Function of x, y and ratio that fills y, for the shape and layout of both."""
    count = shape[2] * shape[3]
    grid, blocks, sides = tiles(shape[0], shape[1], count, contiguous)
    numbers = (count, shape[1], *steps(shape, contiguous), blocks)
    return prepared(scale_kernel, grid, numbers, (accumulator(dtype), *sides))


@lru_cache(maxsize=4096)
def pad(small, large, contiguous: bool, dtype, device) -> Callable[..., None]:
    """Function of x, y and source that fills y, for the shapes of x and y and their layout."""
    count = large[2] * large[3]
    grid, blocks, sides = tiles(large[0], large[1], count, contiguous)
    numbers = (count, large[1], *steps(small, contiguous), *steps(large, contiguous), blocks)
    return prepared(pad_kernel, grid, numbers, sides)


@lru_cache(maxsize=4096)
def unpad(small, large, contiguous: bool, dtype, device) -> Callable[..., None]:
    """Function of y, x, own, starts and others that fills x, for the shapes of x and y and their layout.

    A pixel of x is the sum of its own pixel in y and of those in ``others[starts[i]:starts[i + 1]]``.
    """
    count = small[2] * small[3]
    grid, blocks, sides = tiles(small[0], small[1], count, contiguous)
    numbers = (count, small[1], *steps(small, contiguous), *steps(large, contiguous), blocks)
    return prepared(unpad_kernel, grid, numbers, (accumulator(dtype), *sides))


@lru_cache(maxsize=4096)
def outside(of_x, of_y, x_contiguous, y_contiguous, dtype, count: int, taps: int, device) -> Callable[..., None]:
    """Function of x, y, weight, windows, starts, taps and pixels that adds to y in place.

    Args:
        of_x, of_y: shapes of x and y. x_contiguous, y_contiguous: whether each is, or else channels_last.
        count: of the windows. taps: of each channel's weights, which lie together.
    """
    grid, blocks, sides = tiles(of_y[0], of_y[1], count, y_contiguous)
    numbers = (count, of_y[1], taps, *steps(of_x, x_contiguous), *steps(of_y, y_contiguous), blocks)
    return prepared(outside_kernel, grid, numbers, (accumulator(dtype), *sides))
