"""The border of a convolution's output, rescaled in place: most of a map has the ratio 1 and is not touched."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pcpad.padding.coverage import Pads, cached_ratio, tap_counts
from pcpad.padding.eager import eager


class Strip(NamedTuple):
    """A part of an output map.

    Attributes:
        rows, cols: where it lies.
        ratio: (K / n) ** power there, ``(h, w)``.
        rest: what of the bias is to be added: 1 - ratio, but 0 where a window sees no pixel; ``(h, w)``.
    """

    rows: slice
    cols: slice
    ratio: Tensor
    rest: Tensor


@lru_cache(maxsize=1024)
def strips(size, kernel_size, stride, dilation, pads: Pads, power, dtype, device) -> tuple[Strip, ...]:
    """Strips that cover the windows which leave the image, each window once; arguments as of `coverage.ratio`."""
    ratio = cached_ratio(size, kernel_size, stride, dilation, pads, power, dtype, device)
    (top, bottom), (left, right) = (
        whole(tap_counts(size[i], kernel_size[i], stride[i], dilation[i], *pads[2 * i : 2 * i + 2]), kernel_size[i])
        for i in (0, 1)
    )
    inner = slice(top, bottom)
    places = [(slice(0, top), slice(None)), (slice(bottom, None), slice(None)), (inner, slice(0, left))]
    places.append((inner, slice(right, None)))
    with torch.inference_mode(False), torch.no_grad():
        parts = [(rows, cols, ratio[rows, cols].contiguous()) for rows, cols in places]
        return tuple(Strip(*part, (part[2] != 0).to(dtype) - part[2]) for part in parts if part[2].numel())


def whole(taps: Tensor, kernel: int) -> tuple[int, int]:
    """The range of windows along one axis that see the whole kernel; an empty range at the end where none does."""
    found = (taps == kernel).nonzero().flatten()
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (len(taps), len(taps))


def may_change(y: Tensor, x: Tensor) -> bool:
    """Whether a convolution's output may be changed in place, and whether that is worth while.

    It may where y is a convolution's own result, which nothing but its reader holds, and nobody traces, transforms or
    differentiates forwards. On a GPU the strips would cost more starts of kernels than they save.
    """
    if not eager(x) or type(y) is not Tensor or y is x or y.device.type != "cpu":
        return False
    return y.grad_fn is None or y.grad_fn.name().startswith(("ConvolutionBackward", "ThnnConv", "MkldnnConv"))


def rescale(y: Tensor, bias: Tensor | None, where: tuple[Strip, ...]) -> Tensor:
    """`y` itself, its strips times ratio plus bias * rest; a gradient that comes back is not changed in place.

    Args:
        y: ``(N, C', H', W')`` or ``(C', H', W')``, of which `may_change` holds.
        bias: ``(C',)`` or None, any dtype.
    """
    if not y.requires_grad and (bias is None or not bias.requires_grad or not torch.is_grad_enabled()):
        return change(y, None if bias is None else bias.to(y.dtype).view(-1, 1, 1), where)
    return Rescale.apply(y, bias, where)


def change(y: Tensor, bias: Tensor | None, where: tuple[Strip, ...]) -> Tensor:
    """`rescale` for autograd not to see; `bias` is ``(C', 1, 1)`` and of y's dtype, or None."""
    for rows, cols, ratio, rest in where:
        part = y[..., rows, cols]
        if bias is None:
            part.mul_(ratio)
        else:
            torch.addcmul(bias * rest, part, ratio, out=part)
    return y


class Rescale(torch.autograd.Function):
    """`rescale` with its gradient; that can be differentiated again."""

    @staticmethod
    def forward(ctx, y, bias, where):
        ctx.mark_dirty(y)
        ctx.where = where
        ctx.bias = None if bias is None else (bias.dtype, y.dim())
        return change(y, None if bias is None else bias.to(y.dtype).view(-1, 1, 1), where)

    @staticmethod
    def backward(ctx, grad):
        of_y = of_bias = None
        if ctx.needs_input_grad[0]:
            of_y = grad.clone()  # the gradient itself may be that of a residual branch too
            for rows, cols, ratio, _ in ctx.where:
                of_y[..., rows, cols].mul_(ratio)  # and not *=, which copies the strip onto itself
        if ctx.needs_input_grad[1]:
            dtype, dims = ctx.bias
            axes = (-2, -1) if dims == 3 else (0, -2, -1)
            parts = ((grad[..., rows, cols] * rest).sum(axes) for rows, cols, _, rest in ctx.where)
            of_bias = sum(parts).to(dtype)
        return of_y, of_bias, None
