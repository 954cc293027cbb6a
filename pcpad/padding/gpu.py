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

from pcpad.padding.coverage import Pads, cached_ratio
from pcpad.padding.eager import has_memory
from pcpad.padding.sources import sources

LARGE = 2**21
"""Elements from which on the kernels are used: below, torch's operations end sooner than a kernel is started."""
MOST = 2**30
"""Elements of one image up to which they are used: they count its channels in 32 bits, those of the padded one too."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def worth(x: Tensor) -> bool:
    """Whether the kernels take a map, and it is large enough for them; of x must hold `eager`."""
    if x.device.type != "cuda" or not LARGE <= x.numel() <= MOST * len(x):
        return False
    return fits(x) and kernels(x.device) is not None


def fits(x: Tensor) -> bool:
    """Whether a map has the layout and dtype that the kernels take."""
    if x.dim() != 4 or x.dtype not in DTYPES or x.data_ptr() % 16:
        return False
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def fitting(x: Tensor) -> Tensor:
    """The map itself, or a copy that `fits`."""
    return x if fits(x) else x.clone(memory_format=torch.contiguous_format)


@lru_cache(maxsize=64)
def kernels(device: torch.device) -> ModuleType | None:
    """`pcpad.padding.kernels`, None where they do not run on a device, which one warning tells."""
    try:
        from pcpad.padding import kernels

        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            y = torch.ones(1, 2, 1, 2, device=device)
            place, ratio = torch.ones(1, dtype=torch.int32, device=device), torch.full((1,), 2.0, device=device)
            run = kernels.border(tuple(y.shape), True, y.dtype, None, 1, device)
            run(y, place, ratio, ratio, y)
            run(y, place, ratio, ratio, y)  # the second start is another path
            if y.flatten().tolist() != [1, 4, 1, 4]:
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
    ratio = cached_ratio(size, kernel_size, stride, dilation, pads, power, dtype, torch.device("cpu"))
    with torch.inference_mode(False), torch.no_grad():
        ratio = ratio.flatten()
        places = (ratio != 1).nonzero().flatten()
        ratio = ratio[places]
        found = Border(places.int(), ratio, (ratio != 0).to(dtype) - ratio)
        return Border(*(t.to(device) for t in found))  # each copy is waited for: any stream may use it


def rescale(y: Tensor, bias: Tensor | None, geometry: tuple) -> Tensor:
    """`y` itself, its border times ratio plus bias times rest, differentiable.

    Args:
        y: ``(N, C', H', W')``, of which `worth` holds, and which nobody else reads.
        bias: ``(C',)`` or None, any dtype.
        geometry: size, kernel_size, stride, dilation, pads, power, as of `coverage.ratio`.
    """
    if torch.is_grad_enabled() and (y.requires_grad or (bias is not None and bias.requires_grad)):
        return RescaleBorder.apply(y, bias, geometry)
    change(y, bias, geometry)
    return y


def change(y: Tensor, bias: Tensor | None, geometry: tuple) -> None:
    """`rescale` without a gradient."""
    device, dtype = y.device, y.dtype
    where = border(*geometry, dtype, device)
    if count := len(where.places):
        kind = None if bias is None else bias.dtype
        with current(device):
            run = kernels(device).border(tuple(y.shape), y.is_contiguous(), dtype, kind, count, device)
            run(y, *where, y if bias is None else bias.contiguous())  # a view's numbers may lie apart


class RescaleBorder(torch.autograd.Function):
    """The border of a convolution's fresh output changed in place; the incoming gradient is not."""

    @staticmethod
    def forward(ctx, y, bias, geometry):
        change(y, bias, geometry)
        ctx.mark_dirty(y)
        ctx.geometry, ctx.bias = (*geometry, y.dtype, y.device), None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx, grad):
        of_bias = None
        if ctx.bias is not None and ctx.needs_input_grad[1]:
            of_bias = bias_gradient(grad, border(*ctx.geometry)).to(ctx.bias)
        ratio = cached_ratio(*ctx.geometry)
        return Scale.apply(grad, ratio) if has_memory(grad) else grad * ratio, of_bias, None


def bias_gradient(grad: Tensor, where: Border) -> Tensor:
    """What the rest of the bias adds to its gradient, which the convolution has summed already: ``(C',)``."""
    if has_memory(grad) and grad.is_contiguous(memory_format=torch.channels_last):
        at_border = grad.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, where.places)
        return torch.matmul(where.rest, at_border).sum(0)
    pixels = grad.reshape(*grad.shape[:2], -1)  # flatten has no rule for the gradients of `is_grads_batched`
    return torch.matmul(pixels.index_select(2, where.places), where.rest).sum(0)


class Scale(torch.autograd.Function):
    """A map ``(N, C, H, W)`` times a ratio ``(H, W)``, which has no gradient."""

    @staticmethod
    def forward(ctx, x, ratio):
        ctx.ratio, x = ratio, fitting(x)
        y = torch.empty_like(x)
        with current(x.device):
            kernels(x.device).scale(tuple(x.shape), x.is_contiguous(), x.dtype, x.device)(x, y, ratio)
        return y

    @staticmethod
    def backward(ctx, grad):
        return Scale.apply(grad, ctx.ratio) if has_memory(grad) else grad * ctx.ratio, None


@lru_cache(maxsize=256)  # of large maps some 0.5 MB of the GPU's memory each
def tables(size: tuple[int, int], pads: Pads, mode: str, device: torch.device) -> tuple[Tensor, ...]:
    """Of a padded image the source of each pixel; of each source its own pixel, where its others begin, and them."""
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


def fill(x: Tensor, pads: Pads, mode: str) -> Tensor:
    """`x` with its padding filled by a mode of `MAPPED`, in its memory format, differentiable; `worth` must hold."""
    if torch.is_grad_enabled() and x.requires_grad:
        return Fill.apply(x, pads, mode)
    return filled(x, pads, mode)


def filled(x: Tensor, pads: Pads, mode: str) -> Tensor:
    """`fill` without a gradient."""
    (top, bottom, left, right), contiguous = pads, x.is_contiguous()
    small = images, channels, height, width = tuple(x.shape)
    large = (images, channels, height + top + bottom, width + left + right)
    layout = torch.contiguous_format if contiguous else torch.channels_last
    y = torch.empty(large, dtype=x.dtype, device=x.device, memory_format=layout)
    source, *_ = tables((height, width), pads, mode, x.device)
    with current(x.device):
        kernels(x.device).pad(small, large, contiguous, x.dtype, x.device)(x, y, source)
    return y


class Fill(torch.autograd.Function):
    """An image padded from its own pixels."""

    @staticmethod
    def forward(ctx, x, pads, mode):
        ctx.pads, ctx.mode, ctx.size = pads, mode, tuple(x.shape[-2:])
        return filled(fitting(x), pads, mode)

    @staticmethod
    def backward(ctx, grad):
        if has_memory(grad):
            return Unfill.apply(grad, ctx.size, ctx.pads, ctx.mode), None, None
        source, *_ = tables(ctx.size, ctx.pads, ctx.mode, grad.device)
        start, pixels = grad.shape[:2], grad.reshape(*grad.shape[:2], -1)
        of_x = grad.new_zeros((*start, ctx.size[0] * ctx.size[1])).index_add(2, source, pixels)
        return of_x.reshape(*start, *ctx.size), None, None


class Unfill(torch.autograd.Function):
    """The gradient of `Fill`: at each pixel the sum over its copies, always in the same order."""

    @staticmethod
    def forward(ctx, grad, size, pads, mode):
        ctx.pads, ctx.mode, grad = pads, mode, fitting(grad)
        contiguous, small = grad.is_contiguous(), (*grad.shape[:2], *size)
        layout = torch.contiguous_format if contiguous else torch.channels_last
        x = torch.empty(small, dtype=grad.dtype, device=grad.device, memory_format=layout)
        _, *where = tables(size, pads, mode, grad.device)
        with current(x.device):
            kernels(x.device).unpad(small, tuple(grad.shape), contiguous, x.dtype, x.device)(grad, x, *where)
        return x

    @staticmethod
    def backward(ctx, grad):
        if has_memory(grad):
            return Fill.apply(grad, ctx.pads, ctx.mode), None, None, None
        source, *_ = tables(tuple(grad.shape[-2:]), ctx.pads, ctx.mode, grad.device)
        top, bottom, left, right = ctx.pads
        size = (grad.shape[-2] + top + bottom, grad.shape[-1] + left + right)
        pixels = grad.reshape(*grad.shape[:2], -1).index_select(2, source)
        return pixels.reshape(*grad.shape[:2], *size), None, None, None
