"""A depthwise convolution whose padding is filled, without a padded image: zero padding, and what fills it added after.

A depthwise convolution does little more than read and write its map, so one copy of the map beside it, larger by the
padding, is a large share of it. What pixels outside the image add is a few products of thin views.
"""

from functools import lru_cache
from itertools import product, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcpad.padding import gpu_depthwise
from pcpad.padding.coverage import Pads, axes_of, num_windows
from pcpad.padding.eager import eager, has_memory
from pcpad.padding.sources import MAPPED, sources
from pcpad.padding.views import View, part, stretch

WORTH = 60_000
"""Elements of a map for each step (`steps`) from which on the steps take less time than a copy of the map."""
LEAST = 200_000
"""Elements of a map from which on `steps` are looked for: a 3x3 convolution has 7, or 16 in circular padding."""


class Run(NamedTuple):
    """Some windows of one axis, equally spaced, each with one of its taps and the pixel that the tap sees.

    Attributes:
        count: how many.
        window, pixel, tap: the first one's index; and what is added to it from one to the next.
        outside: whether the taps lie outside the image.
    """

    count: int
    window: tuple[int, int]
    pixel: tuple[int, int]
    tap: tuple[int, int]
    outside: bool


class Step(NamedTuple):
    """One product: of pixels ``(N, C, h, w)`` with taps ``(C, h, w)``, to be added to windows ``(N, C, h, w)``.

    `summed` are the axes of the product along which a tap stays the same.
    """

    windows: View
    pixels: View
    taps: View
    summed: tuple[int, ...]


def runs(length: int, kernel: int, stride: int, dilation: int, before: int, after: int, mode: str) -> list[Run]:
    """All taps of all windows along one axis; arguments as of `coverage.tap_counts`.

    A tap before the image and one behind it are taken together where that can be a view: their pixels must lie in the
    order of their windows, which those of circular padding do not.
    """
    shown = sources(mode, length, before, after).tolist()
    count = num_windows(length, kernel, stride, dilation, before, after)
    found, first, last = [], [], []
    for tap in range(kernel):
        inside = [w for w in range(count) if before <= w * stride + tap * dilation < before + length]
        if inside:
            pixel = inside[0] * stride + tap * dilation - before
            found.append(Run(len(inside), (inside[0], 1), (pixel, stride), (tap, 0), outside=False))
        for window in range(count):
            place = window * stride + tap * dilation
            if place < before:
                first.append((window, shown[place], tap))
            elif place >= before + length:
                last.insert(0, (window, shown[place], tap))
    for one, other in zip_longest(first, last):
        if one and other and all(a < b for a, b in zip(one, other, strict=True)):
            found.append(Run(2, *((a, b - a) for a, b in zip(one, other, strict=True)), outside=True))
        else:
            found += [Run(1, *((a, 0) for a in alone), outside=True) for alone in (one, other) if alone]
    return found


@lru_cache(maxsize=256)
def steps(shape, kernel_size, stride, dilation, pads: Pads, mode: str) -> tuple[Step, ...]:
    """What is to be added to a zero-padded convolution of images of a shape ``(N, C, H, W)``, all in channels_last."""
    images, channels, *size = shape
    axes, found = axes_of(size, kernel_size, stride, dilation, pads), []
    out = [num_windows(*along) for along in axes]
    for row, col in product(*(runs(*along, mode) for along in axes)):
        if row.outside or col.outside:
            views = []
            for name, (height, width) in (("window", out), ("pixel", size), ("tap", kernel_size)):
                lead, strides = ((images, channels), (height * width * channels, 1))
                if name == "tap":
                    lead, strides = (channels,), (1,)
                (down, below), (across, beside) = getattr(row, name), getattr(col, name)
                places = (stretch(down, row.count, below), stretch(across, col.count, beside))
                views.append(part((*lead, height, width), (*strides, width * channels, channels), *places))
            summed = (0, *(axis for axis, run in ((2, row), (3, col)) if not run.tap[1]))
            found.append(Step(*views, summed))
    return tuple(found)


def may_add(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, pads: Pads, mode: str) -> bool:
    """Whether `convolve` takes a convolution.

    It takes a depthwise one whose pads are the same at both ends of an axis: in float32 or float64, on a CPU in
    channels_last, or without a gradient on a GPU. An inference tensor cannot be kept for a gradient.
    """
    if groups == 1 or not eager(x) or x.numel() < LEAST or groups != weight.shape[0]:
        return False
    if mode not in MAPPED or pads[0] != pads[1] or pads[2] != pads[3] or x.dim() != 4 or x.shape[1] != groups:
        return False
    if not plain(weight) or not (bias is None or plain(bias)):
        return False
    if not x.is_cpu:
        return x.device.type == "cuda" and gpu_depthwise.may_add(x, weight, bias)
    if x.dtype not in (torch.float32, torch.float64) or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        return False
    return not (torch.is_autocast_enabled("cpu") or (torch.is_grad_enabled() and x.is_inference()))


def plain(parameter: Tensor) -> bool:
    """Whether a parameter is no tensor of another class."""
    return type(parameter) in (Tensor, nn.Parameter)


def worth(x: Tensor, geometry: tuple) -> bool:
    """Whether it takes less time than a copy of the map; arguments as of `convolve`."""
    if not x.is_cpu:
        return gpu_depthwise.worth(x, geometry)
    return x.numel() >= WORTH * number(x.shape[-2:], *geometry)


@lru_cache(maxsize=256)
def number(size, kernel_size, stride, dilation, pads: Pads, mode: str) -> int:
    """How many `steps` there are, without making them: of a large kernel there are ten thousands."""
    axes = [runs(*along, mode) for along in axes_of(size, kernel_size, stride, dilation, pads)]
    inside = [sum(not run.outside for run in axis) for axis in axes]
    return len(axes[0]) * len(axes[1]) - inside[0] * inside[1]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """A depthwise convolution with filled padding, differentiable; the same as of the padded image to rounding.

    Args:
        x: ``(N, C, H, W)``, of which `may_add` holds.
        weight: ``(C, 1, kh, kw)``. bias: ``(C,)`` or None.
        geometry: kernel_size, stride, dilation, pads, mode; no pad larger than the mode can fill.

    Returns:
        ``(N, C, H', W')``, on a CPU in channels_last.
    """
    if not x.is_cpu:
        return gpu_depthwise.convolve(x, weight, bias, geometry)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return Depthwise.apply(x, weight, bias, geometry)
    return added(x, weight, bias, geometry)


def added(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """`convolve` without a gradient."""
    _, stride, dilation, pads, _ = geometry
    y = F.conv2d(x, weight, bias, stride, (pads[0], pads[2]), dilation, len(weight))
    y = y.contiguous(memory_format=torch.channels_last)
    taps = by_tap(weight)
    start = x.storage_offset()
    for windows, pixels, weights, _ in steps(x.shape, *geometry):
        seen = x.as_strided(pixels.size, pixels.stride, start + pixels.offset)
        y.as_strided(*windows).addcmul_(seen, weights.of(taps))
    return y


def by_tap(weight: Tensor) -> Tensor:
    """Weights ``(C, 1, kh, kw)`` as a matrix ``(kh * kw, C)``; a view of them where they lie so."""
    return weight.reshape(len(weight), -1).t().contiguous()


class Depthwise(torch.autograd.Function):
    """`added` with its gradient; that can be differentiated again."""

    @staticmethod
    def forward(ctx, x, weight, bias, geometry):
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.bias = geometry, bias is not None
        return added(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not has_memory(grad):
            return *padded_gradients(grad, x, weight, ctx.bias, ctx.geometry, wanted), None
        _, stride, dilation, pads, _ = ctx.geometry
        grad = grad.contiguous(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)  # hooks of saved tensors may have changed that
        found = gradients(grad, x, weight, ctx.bias, stride, (pads[0], pads[2]), dilation, wanted)
        of_x = found[0] if found[0] is None else found[0].contiguous(memory_format=torch.channels_last)
        taps = by_tap(weight)
        of_taps = torch.zeros_like(taps) if wanted[1] else None
        for step in steps(x.shape, *ctx.geometry):
            seen = step.windows.of(grad)
            if of_x is not None:
                step.pixels.of(of_x).addcmul_(seen, step.taps.of(taps))
            if of_taps is not None:
                total = (seen * step.pixels.of(x)).sum(step.summed, keepdim=True)[0]
                step.taps.of(of_taps)[:, : total.shape[1], : total.shape[2]].add_(total)
        of_weight = None if of_taps is None else found[1] + of_taps.t().reshape(weight.shape)
        return of_x, of_weight, found[2], None


def gradients(grad, x, weight, bias: bool, stride, padding, dilation, wanted) -> tuple[Tensor | None, ...]:
    """Gradients of a zero-padded depthwise convolution by its image, weight and bias, each where it is wanted."""
    size = [len(weight)] if bias else None
    shape = (list(stride), list(padding), list(dilation), False, [0, 0], len(weight))
    return torch.ops.aten.convolution_backward(grad, x, weight, size, *shape, list(wanted))


def padded_gradients(grad, x, weight, bias: bool, geometry: tuple, wanted) -> tuple[Tensor | None, ...]:
    """The gradients of `Depthwise` by way of a padded image, from operations that can be differentiated and batched."""
    _, stride, dilation, pads, mode = geometry
    height, width = x.shape[-2:]
    rows, cols = sources(mode, height, *pads[:2]), sources(mode, width, *pads[2:])
    source = (rows[:, None] * width + cols).flatten()
    padded = x.flatten(2).index_select(2, source).unflatten(2, (len(rows), len(cols)))
    of_padded, *others = gradients(grad, padded, weight, bias, stride, (0, 0), dilation, wanted)
    if not wanted[0]:
        return None, *others
    start = of_padded.shape[:2]
    of_x = of_padded.new_zeros((*start, height * width)).index_add(2, source, of_padded.reshape(*start, len(source)))
    return of_x.reshape(*start, height, width), *others
