"""A padded image put together from nine blocks of the image, in its memory format: for modes that move parts of it.

``F.pad(mode="circular")`` and concatenations make a contiguous image of a channels_last one, which the convolution then
turns back, and their gradient is a sum of full-size images.
"""

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from pcpad.padding.coverage import Pads


class Part(NamedTuple):
    """A part of one axis: where it goes in the padded image, where it comes from, and whether it is turned round."""

    into: slice
    source: slice
    flipped: bool


def parts(length: int, before: int, after: int, mirrored: bool) -> list[Part]:
    """The parts of an axis, the image itself first; its pads hold the near end mirrored, or else the far end."""
    first, last = slice(0, before), slice(length - after, length)
    if not mirrored:
        first, last = slice(length - before, length), slice(0, after)
    found = [Part(slice(before, before + length), slice(0, length), False)]
    if before:
        found.append(Part(slice(0, before), first, mirrored))
    if after:
        found.append(Part(slice(before + length, before + length + after), last, mirrored))
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
    def forward(ctx, x, pads, mirrored):
        top, bottom, left, right = pads
        height, width = x.shape[-2:]
        ctx.grid = list(product(parts(height, top, bottom, mirrored), parts(width, left, right, mirrored)))
        shape = (*x.shape[:-2], height + top + bottom, width + left + right)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))
        for row, col in ctx.grid:
            y[..., row.into, col.into] = turned(x[..., row.source, col.source], row, col)
        return y

    @staticmethod
    def backward(ctx, grad):
        row, col = ctx.grid[0]
        of_x = grad[..., row.into, col.into].clone()  # in the gradient's memory format
        for row, col in ctx.grid[1:]:
            of_x[..., row.source, col.source].add_(turned(grad[..., row.into, col.into], row, col))
        return of_x, None, None


def assemble(x: Tensor, pads: Pads, mirrored: bool) -> Tensor:
    """The image with its pads filled from its own ends, in the image's memory format.

    Args:
        x: ``(N, C, H, W)`` or ``(C, H, W)``, `eager`, no side shorter than a pad.
        pads: ``(top, bottom, left, right)``, in pixels.
        mirrored: whether a pad is the end next to it, mirrored (symmetric padding), or the opposite end (circular).
    """
    return Assemble.apply(x, pads, mirrored)
