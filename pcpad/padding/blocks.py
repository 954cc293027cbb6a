"""A padded image put together from copies of blocks, in the image's memory format: for modes that move parts of it.

``F.pad(mode="circular")`` and concatenations make a contiguous image of a channels_last one, which the convolution then
turns back, and their gradient is a sum of full-size images.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from pcpad.padding.coverage import Pads
from pcpad.padding.sources import outside
from pcpad.padding.views import View, part, stretch


class Part(NamedTuple):
    """A part of one axis: where it goes in the padded image, where it comes from, and whether it is turned round.

    A part of one source pixel may go to several places.
    """

    into: slice
    source: slice
    flipped: bool


def parts(length: int, before: int, after: int, mode: str) -> list[Part]:
    """The parts of an axis, the image itself first; its pads hold the near end, or in circular mode the far end."""
    edge = int(mode == "reflect")  # the outermost pixel stands once
    first, last = slice(edge, before + edge), slice(length - after - edge, length - edge)
    if mode == "circular":
        first, last = slice(length - before, length), slice(0, after)
    elif mode == "replicate":
        first, last = slice(0, 1), slice(length - 1, length)
    mirrored = mode in ("reflect", "symmetric")
    found = [Part(slice(before, before + length), slice(0, length), False)]
    if before:
        found.append(Part(slice(0, before), first, mirrored and before > 1))
    if after:
        found.append(Part(slice(before + length, before + length + after), last, mirrored and after > 1))
    return found


def turned(x: Tensor, row: Part, col: Part) -> Tensor:
    """`x`, mirrored along the axes on which its part is."""
    axes = [axis for axis, part in ((-2, row), (-1, col)) if part.flipped]
    return x.flip(axes) if axes else x


def layout(x: Tensor) -> torch.memory_format:
    """The memory format of an image; the default inside of `torch.func`, whose tensors do not tell."""
    if x.dim() != 4 or not (torch.compiler.is_compiling() or peek_interpreter_stack() is None):
        return torch.contiguous_format
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class Assemble(torch.autograd.Function):
    """`assemble` with its gradient; that can be differentiated again."""

    @staticmethod
    def forward(ctx, x, pads, mode):
        ctx.size, ctx.pads, ctx.mode = x.shape[-2:], pads, mode
        return assembled(x, pads, mode)

    @staticmethod
    def backward(ctx, grad):
        top, bottom, left, right = ctx.pads
        rows, cols = parts(ctx.size[0], top, bottom, ctx.mode), parts(ctx.size[1], left, right, ctx.mode)
        (row, col), *others = product(rows, cols)
        of_x = grad[..., row.into, col.into].clone()  # in the gradient's memory format
        for row, col in others:
            into = of_x[..., row.source, col.source]
            into.add_(turned(grad[..., row.into, col.into], row, col).sum_to_size(into.shape))
        return of_x, None, None


def assemble(x: Tensor, pads: Pads, mode: str) -> Tensor:
    """The image with its pads filled from its own ends, in the image's memory format.

    Args:
        x: ``(N, C, H, W)`` or ``(C, H, W)``, `eager`, no side too short for the mode to fill its pads.
        pads: ``(top, bottom, left, right)``, in pixels.
        mode: ``"reflect"``, ``"symmetric"``, ``"replicate"`` or ``"circular"``.
    """
    return Assemble.apply(x, pads, mode) if x.requires_grad and torch.is_grad_enabled() else assembled(x, pads, mode)


def assembled(x: Tensor, pads: Pads, mode: str) -> Tensor:
    """`assemble` without a gradient."""
    top, bottom, left, right = pads
    shape = (*x.shape[:-2], x.shape[-2] + top + bottom, x.shape[-1] + left + right)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))
    of_image, of_rows = copies(x.shape, x.stride(), y.stride(), pads, mode)
    start = x.storage_offset()
    for into, (size, stride, offset) in of_image:
        y.as_strided(*into).copy_(x.as_strided(size, stride, start + offset))
    for into, source in of_rows:
        y.as_strided(*into).copy_(y.as_strided(*source))
    return y


@lru_cache(maxsize=256)
def copies(shape, strides, strides_padded, pads: Pads, mode: str) -> tuple[list[tuple[View, View]], ...]:
    """Where to and where from: of the image into rows of the padded one, then within those into its columns."""
    height, width = shape[-2:]
    top, bottom, left, right = pads
    of_image, of_rows = [], []
    for into, count, source, step in [(top, height, 0, 1), *outside(mode, height, top, bottom)]:
        view = part(shape, strides_padded, stretch(into, count), stretch(left, width))
        of_image.append((view, part(shape, strides, stretch(source, count, step), stretch(0, width))))
    rows = stretch(0, height + top + bottom)
    for into, count, source, step in outside(mode, width, left, right):
        view = part(shape, strides_padded, rows, stretch(into, count))
        of_rows.append((view, part(shape, strides_padded, rows, stretch(left + source, count, step))))
    return of_image, of_rows
