"""On a GPU: a border changed in place, and padding filled in one pass that keeps the memory format, by Triton kernels.

Where Triton is not there or cannot compile (it needs a C compiler), torch's own operations compute the same.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from pcpad.padding.blocks import layout
from pcpad.padding.coverage import Pads, cached_ratio
from pcpad.padding.eager import eager

LARGE = 2**20
"""Elements from which on a kernel's start, some 20 us of a CPU, is worth while."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def worth(x: Tensor) -> bool:
    """Whether the kernels take a map, and are faster there than torch's operations."""
    if x.device.type != "cuda" or x.numel() < LARGE or x.dim() != 4 or x.dtype not in DTYPES or not eager(x):
        return False
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return dense and kernels(x.device) is not None


@lru_cache(maxsize=64)
def kernels(device: torch.device) -> ModuleType | None:
    """`pcpad.padding.kernels`, None with one warning where they do not run on a device."""
    try:
        from pcpad.padding import kernels

        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            y = torch.ones(1, 2, 1, 2, device=device)
            table = torch.ones(1, dtype=torch.int32, device=device)
            kernels.rescale_border(y, None, table, 2 * table.float(), table.float())
            if y.flatten().tolist() != [1, 2, 1, 2]:
                raise RuntimeError("a kernel computed something else")
    except Exception as error:  # whatever keeps them from running, torch's operations are there
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"padding runs without its Triton kernels, some percent slower: {reason[-1]}", stacklevel=2)
        return None
    return kernels


def current(device: torch.device) -> AbstractContextManager:
    """A context in which a device is the current one, as Triton wants it."""
    if device.index == torch.cuda.current_device():
        return nullcontext()  # some microseconds less
    return torch.cuda.device(device)


class Border(NamedTuple):
    """The windows that leave an image: int32 ``row * width + column``, ratio, and what of the bias is to be added."""

    places: Tensor
    ratio: Tensor
    rest: Tensor


@lru_cache(maxsize=1024)
def border(size, kernel_size, stride, dilation, pads: Pads, power, dtype, device) -> Border:
    """Border of a convolution's output; arguments as of `coverage.ratio`."""
    ratio = cached_ratio(size, kernel_size, stride, dilation, pads, power, dtype, device)
    with torch.inference_mode(False), torch.no_grad():
        ratio = ratio.flatten()
        places = (ratio != 1).nonzero().flatten()
        ratio = ratio[places]
        return Border(places.int(), ratio, (ratio != 0).to(dtype) - ratio)


def has_memory(x: Tensor) -> bool:
    """Whether a tensor holds elements, which those that `is_grads_batched` and `torch.func` bring do not."""
    try:
        return eager(x) and x.data_ptr() is not None
    except RuntimeError:
        return False


class RescaleBorder(torch.autograd.Function):
    """The border of a convolution's fresh output changed in place; the incoming gradient is not."""

    @staticmethod
    def forward(ctx, y, bias, geometry):
        rescale(y, bias, geometry)
        ctx.mark_dirty(y)
        ctx.geometry, ctx.bias = (*geometry, y.dtype, y.device), None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx, grad):
        of_bias = None
        if ctx.bias is not None and ctx.needs_input_grad[1]:
            where = border(*ctx.geometry)
            at_border = grad.flatten(2).index_select(2, where.places)
            of_bias = (at_border * where.rest).sum((0, 2), dtype=ctx.bias)
        return grad * cached_ratio(*ctx.geometry), of_bias, None


def rescale(y: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """`y` itself, its border times ratio plus bias times rest, differentiable.

    Args:
        y: ``(N, C', H', W')``, of which `worth` holds, and which nobody else reads.
        bias: ``(C',)`` or None, any dtype.
        geometry: size, kernel_size, stride, dilation, pads, power, as of `coverage.ratio`.
    """
    if torch.is_grad_enabled() and (y.requires_grad or (bias is not None and bias.requires_grad)):
        return RescaleBorder.apply(y, bias, geometry)
    where = border(*geometry, y.dtype, y.device)
    if len(where.places):
        with current(y.device):
            kernels(y.device).rescale_border(y, bias, *where)
    return y


def sources(mode: str, length: int, before: int, after: int) -> Tensor:
    """For each pixel of a padded axis the one of the image that it shows, int64."""
    index = torch.arange(-before, length + after, device="cpu")
    if mode == "replicate":
        return index.clamp(0, length - 1)
    if mode == "circular":
        return index % length
    period = max(2 * length - (2 if mode == "reflect" else 0), 1)
    index = index % period
    return torch.minimum(index, period - index - int(mode == "symmetric"))


MAPPED = ("reflect", "symmetric", "replicate", "circular")
"""Modes that `sources` knows."""


@lru_cache(maxsize=1024)
def tables(size: tuple[int, int], pads: Pads, mode: str, device: torch.device) -> tuple[Tensor, ...]:
    """Of a padded image the source of each pixel; and of each source its own pixel, and where its others begin."""
    (height, width), (top, bottom, left, right) = size, pads
    rows, cols = sources(mode, height, top, bottom), sources(mode, width, left, right)
    source = (rows[:, None] * width + cols).flatten()
    padded = torch.arange(len(source), device="cpu").view(len(rows), len(cols))
    own = padded[top : top + height, left : left + width].flatten()
    outside = torch.ones(len(source), dtype=torch.bool, device="cpu")
    outside[own] = False
    others = padded.flatten()[outside]
    order = torch.argsort(source[others], stable=True)
    counts = torch.bincount(source[others], minlength=height * width)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    with torch.inference_mode(False):
        return tuple(t.int().to(device) for t in (source, own, starts, others[order]))


class Fill(torch.autograd.Function):
    """An image padded from its own pixels, in its memory format."""

    @staticmethod
    def forward(ctx, x, pads, mode):
        top, bottom, left, right = ctx.pads = pads
        ctx.mode, ctx.size = mode, tuple(x.shape[-2:])
        shape = (*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))
        source, *_ = tables(ctx.size, pads, mode, x.device)
        with current(x.device):
            kernels(x.device).pad(x, y, source)
        return y

    @staticmethod
    def backward(ctx, grad):
        if has_memory(grad):
            return Unfill.apply(grad, ctx.size, ctx.pads, ctx.mode), None, None
        source, *_ = tables(ctx.size, ctx.pads, ctx.mode, grad.device)
        of_x = grad.new_zeros((*grad.shape[:2], ctx.size[0] * ctx.size[1])).index_add(2, source, grad.flatten(2))
        return of_x.unflatten(2, ctx.size), None, None


class Unfill(torch.autograd.Function):
    """The gradient of `Fill`: at each pixel the sum over its copies, always in the same order."""

    @staticmethod
    def forward(ctx, grad, size, pads, mode):
        ctx.pads, ctx.mode = pads, mode
        grad = grad.contiguous(memory_format=layout(grad))
        x = torch.empty((*grad.shape[:2], *size), dtype=grad.dtype, device=grad.device, memory_format=layout(grad))
        _, *where = tables(size, pads, mode, grad.device)
        with current(x.device):
            kernels(x.device).unpad(x, grad, *where)
        return x

    @staticmethod
    def backward(ctx, grad):
        if has_memory(grad):
            return Fill.apply(grad.contiguous(memory_format=layout(grad)), ctx.pads, ctx.mode), None, None, None
        source, *_ = tables(tuple(grad.shape[-2:]), ctx.pads, ctx.mode, grad.device)
        top, bottom, left, right = ctx.pads
        size = (grad.shape[-2] + top + bottom, grad.shape[-1] + left + right)
        return grad.flatten(2).index_select(2, source).unflatten(2, size), None, None, None


def fill(x: Tensor, pads: Pads, mode: str) -> Tensor:
    """`x` with its padding filled by a mode of `MAPPED`, differentiable; of `x` must hold `worth`."""
    return Fill.apply(x, pads, mode)
