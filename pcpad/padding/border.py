"""The output of a convolution times a ratio, its bias left as it is: all of it, or in place its border alone."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pcpad.padding import gpu
from pcpad.padding.blocks import layout
from pcpad.padding.coverage import Pads, cached_ratio, tap_counts
from pcpad.padding.eager import eager, has_memory
from pcpad.padding.views import Places, View, part, stretch

SMALL = 2**17
"""Elements of a map without a bias below which one product of all takes less time than several of its border."""


class Strip(NamedTuple):
    """A part of an output map, two of the same size, one at either end, or all of it.

    Attributes:
        view: where it lies: ``(N, C', *at)``, where ``at`` is the shape of the ratio.
        ratio: (K / n) ** power there.
        rest: what of the bias is to be added: 1 - ratio, but 0 where a window sees no pixel.
    """

    view: View
    ratio: Tensor
    rest: Tensor


@lru_cache(maxsize=1024)
def strips(
    shape, strides, together: bool, size, kernel_size, stride, dilation, pads: Pads, power, dtype, device
) -> tuple[Strip, ...]:
    """Strips that cover the windows which leave the image, each window once; or one that covers all windows.

    Args:
        shape, strides: of the output, ``(N, C', H', W')`` or ``(C', H', W')``.
        together: whether it is one for all.
        size, kernel_size, stride, dilation, pads, power, dtype, device: as of `coverage.ratio`.
    """
    ratio = cached_ratio(size, kernel_size, stride, dilation, pads, power, dtype, device)
    seen = []
    for axis in (0, 1):
        sides = pads[2 * axis : 2 * axis + 2]
        taps = tap_counts(size[axis], kernel_size[axis], stride[axis], dilation[axis], *sides, device="cpu")
        seen.append(whole(taps, kernel_size[axis]))
    (height, width), (top, bottom), (left, right) = shape[-2:], *seen
    places = [(rows, stretch(0, width)) for rows in ends(top, bottom, height)]
    places += [(stretch(top, bottom - top), cols) for cols in ends(left, right, width)]
    if together:
        places = [(stretch(0, height), stretch(0, width))]
    with torch.inference_mode(False), torch.no_grad():
        parts = [part(ratio.shape, (width, 1), *at).of(ratio).contiguous() for at in places]
        found = [(part(shape, strides, *at), r) for at, r in zip(places, parts, strict=True) if r.numel()]
        return tuple(Strip(view, r, (r != 0).to(dtype) - r) for view, r in found)


def ends(first: int, last: int, length: int) -> list[Places]:
    """The places of an axis before `first` and from `last` on: taken together where they are as many."""
    if first == length - last:
        return [Places(0, ((2, last), (first, 1)))]
    return [stretch(0, first), stretch(last, length - last)]


def whole(taps: Tensor, kernel: int) -> tuple[int, int]:
    """The range of windows along one axis that see the whole kernel; an empty range at the end where none does."""
    found = (taps == kernel).nonzero().flatten()
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (len(taps), len(taps))


def rescaled(y: Tensor, bias: Tensor | None, r: Tensor) -> Tensor:
    """``(y - bias) * r + bias``, 0 where r is 0, as ``y * r + bias * (1 - r)``: one pass over y, in its memory format.

    Args:
        y: ``(N, C', H', W')`` or ``(C', H', W')``; 0 less its bias where r is 0. bias: ``(C',)`` or None, any dtype.
        r: ``(H', W')`` or as many axes as y; of y's dtype.
    """
    if bias is None:
        return y * r  # times 1 changes no bit, and times 0 only meets the 0 of a window without taps
    rest = bias.to(y.dtype).view(-1, 1, 1) * ((r != 0).to(r.dtype) - r)
    rest = rest[None] if rest.dim() < y.dim() else rest
    return torch.addcmul(rest.contiguous(memory_format=layout(y)), y, r)


def may_change(y: Tensor, x: Tensor, bias: Tensor | None) -> bool:
    """Whether a convolution's output may be changed in place, and whether that is worth while.

    It may where nothing but its reader holds y, and nobody traces or transforms. With a gradient it is worth while on a
    CPU if there is a bias: without one the incoming gradient, which may be that of a residual branch too, has to be
    multiplied as a whole, and the output may as well be.
    """
    if not eager(x) or type(y) is not Tensor or y is x:
        return False
    if not y.is_cpu:
        return gpu.worth(y)
    return not differentiated(y, bias) or (bias is not None and not y._is_view())


def differentiated(y: Tensor, bias: Tensor | None) -> bool:
    """Whether what is computed of an output and a bias has a gradient."""
    return torch.is_grad_enabled() and (y.requires_grad or (bias is not None and bias.requires_grad))


def rescale(y: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """`y` itself, its border times ratio plus bias * rest, differentiable.

    Args:
        y: ``(N, C', H', W')`` or ``(C', H', W')``, of which `may_change` holds.
        bias: ``(C',)`` or None, any dtype.
        geometry: size, kernel_size, stride, dilation, pads, power, as of `coverage.ratio`.
    """
    if not y.is_cpu:
        return gpu.rescale(y, bias, geometry)
    if differentiated(y, bias):
        return RescaleStrips.apply(y, bias, geometry)
    return change(y, bias, geometry)


def change(y: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """`rescale` on a CPU without a gradient."""
    start = y.storage_offset()
    small = bias is None and y.numel() < SMALL  # times 1 changes no bit, but an infinite bias times 0 is none
    for (size, stride, offset), ratio, rest in strips(y.shape, y.stride(), small, *geometry, y.dtype, y.device):
        strip = y.as_strided(size, stride, start + offset)
        if bias is None:
            strip.mul_(ratio)
        else:
            added = bias.to(y.dtype).view(-1, *(1,) * rest.dim()) * rest
            torch.addcmul(added, strip, ratio, out=strip)
    return y


class RescaleStrips(torch.autograd.Function):
    """The border of a convolution's fresh output changed in place; the incoming gradient is not."""

    @staticmethod
    def forward(ctx, y, bias, geometry):
        ctx.mark_dirty(y)
        ctx.geometry, ctx.bias = (*geometry, y.dtype, y.device), None if bias is None else bias.dtype
        return change(y, bias, geometry)

    @staticmethod
    def backward(ctx, grad):
        of_bias = None
        if ctx.bias is not None and ctx.needs_input_grad[1]:  # the convolution sums the rest of it
            of_bias = bias_gradient(grad, ctx.geometry).to(ctx.bias)
        return grad * cached_ratio(*ctx.geometry), of_bias, None


def bias_gradient(grad: Tensor, geometry: tuple) -> Tensor:
    """The sum over the border of a gradient ``(N, C', H', W')`` times `Strip.rest`, ``(C',)``."""
    if not has_memory(grad):  # one of many at once need not tell its strides
        ratio = cached_ratio(*geometry)
        return (grad * ((ratio != 0).to(ratio.dtype) - ratio)).sum((0, 2, 3))
    total = grad.new_zeros(grad.shape[1])
    for view, _, rest in strips(grad.shape, grad.stride(), False, *geometry):
        total = total + (view.of(grad) * rest).sum((0, *range(2, 2 + rest.dim())))
    return total
