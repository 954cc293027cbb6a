"""Convolutions in float64, tap by tap, attached to each module: no surgery, no torch convolution, no pcpad.

What a class does with its weights and its padding is written down here a second time, from the papers and TensorFlow's
documentation; `tests/padding/oracle.py` is the same sum as plain loops over single numbers.
"""

import math
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

STANDARDIZED = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")


def pads_of(conv: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a convolution as its library defines it."""
    name = type(conv).__name__
    dynamic = name.startswith("Conv2dSame") or (name.endswith("StdConv2dSame") and conv.same_pad)
    pads = []
    for axis in (0, 1):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        if dynamic:  # TensorFlow: ceil(size / stride) outputs, the odd pixel behind
            outputs = math.ceil(size[axis] / conv.stride[axis])
            total = max(0, (outputs - 1) * conv.stride[axis] + reach + 1 - size[axis])
        elif conv.padding == "same":
            total = reach
        elif conv.padding == "valid":
            total = 0
        else:
            total = 2 * conv.padding[axis]
        pads += [total // 2, total - total // 2]
    return tuple(pads)


def weight_of(conv: nn.Conv2d) -> torch.Tensor:
    """The weights that a convolution convolves with."""
    w = conv.weight
    if type(conv).__name__ in STANDARDIZED:
        mean = w.mean((1, 2, 3), keepdim=True)
        variance = ((w - mean) ** 2).mean((1, 2, 3), keepdim=True)
        w = (w - mean) / torch.sqrt(variance + conv.eps)
        if hasattr(conv, "gain"):
            w = w * conv.gain * conv.scale  # gamma of the activation over the root of the fan-in
    return w


def sources(mode: str, size: int, outputs: int, stride: int, before: int, shift: int) -> tuple[list[int], list[bool]]:
    """For each window along one axis: the pixel that one of its taps takes, and whether there is one."""
    pixels, known = [], []
    for i in range(outputs):
        at = i * stride - before + shift
        inside = 0 <= at < size
        if not inside and mode == "replicate":
            at = max(0, min(size - 1, at))
        elif not inside and mode == "circular":
            at %= size
        elif not inside and mode == "symmetric":
            at = -1 - at if at < 0 else 2 * size - 1 - at
        elif not inside and mode == "reflect":
            at = -at if at < 0 else 2 * (size - 1) - at
        known.append(0 <= at < size)
        pixels.append(at if known[-1] else 0)
        assert known[-1] or mode in ("zeros", "partial", "partial_sqrt"), "the map is too small for the mode"
    return pixels, known


def fillable(size: tuple[int, int], pads: tuple[int, int, int, int], mode: str) -> bool:
    """Whether a map is large enough for its pads: a mirror needs one pixel more than the pad, a torus as many."""
    least = least_map(pads, mode)
    return least is None or all(least[i] <= size[i] for i in (0, 1))


def least_map(pads: tuple[int, int, int, int], mode: str) -> tuple[int, int] | None:
    """The smallest map, at least one pixel, that can fill these pads; None where any can."""
    spare = {"reflect": 1, "symmetric": 0, "circular": 0}.get(mode)
    return None if spare is None else tuple(max(1, max(pads[2 * i : 2 * i + 2]) + spare) for i in (0, 1))


def continued(x: torch.Tensor, pads: tuple[int, int, int, int]) -> torch.Tensor:
    """An image whose padding holds the mean around the nearest pixel, as far as the pads are wide."""
    (height, width), (top, bottom, left, right) = x.shape[2:], pads
    far = max(top, bottom), max(left, right)
    y = x.new_empty(*x.shape[:2], height + top + bottom, width + left + right)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            row, col = min(max(i - top, 0), height - 1), min(max(j - left, 0), width - 1)
            if (row, col) == (i - top, j - left):
                y[:, :, i, j] = x[:, :, row, col]
            else:
                rows, cols = (
                    slice(max(row - far[0], 0), row + far[0] + 1),
                    slice(max(col - far[1], 0), col + far[1] + 1),
                )
                y[:, :, i, j] = x[:, :, rows, cols].mean((2, 3))
    return y


@torch.no_grad()
def convolve(conv: nn.Conv2d, x: torch.Tensor, mode: str) -> torch.Tensor:
    """What a convolution must give under a padding mode; where the map is too small, what replication gives."""
    single = x.dim() == 3
    x = x[None] if single else x
    w, (n, c, height, width) = weight_of(conv), x.shape
    top, bottom, left, right = pads_of(conv, (height, width))
    (kh, kw), (sh, sw), (dh, dw), g = conv.kernel_size, conv.stride, conv.dilation, conv.groups
    mode = mode if fillable((height, width), (top, bottom, left, right), mode) else "replicate"
    if mode == "mean":
        x, mode = continued(x, (top, bottom, left, right)), "zeros"
        height, width = x.shape[2:]
        top = bottom = left = right = 0
    rows = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
    cols = (width + left + right - dw * (kw - 1) - 1) // sw + 1
    out, count = x.new_zeros(n, g, w.shape[0] // g, rows * cols), x.new_zeros(rows, cols)
    depthwise = w.shape[1] == 1 and w.shape[0] == g
    for a in range(kh):
        row, row_known = sources(mode, height, rows, sh, top, a * dh)
        if not any(row_known):
            continue
        band = x[:, :, row]
        for b in range(kw):
            col, col_known = sources(mode, width, cols, sw, left, b * dw)
            if not any(col_known):
                continue
            seen = torch.tensor(row_known)[:, None] & torch.tensor(col_known)
            tap = band[:, :, :, col].where(seen, 0.0).reshape(n, g, c // g, rows * cols)
            kernel = w[:, :, a, b].view(g, -1, c // g)
            out += tap * kernel if depthwise else kernel @ tap
            count += seen
    y = out.view(n, w.shape[0], rows, cols)
    bias = 0.0 if conv.bias is None else conv.bias[:, None, None]
    if mode in ("partial", "partial_sqrt"):
        factor = (kh * kw) / count.clamp(min=1)
        y = torch.where(count > 0, y * (factor if mode == "partial" else factor.sqrt()) + bias, 0.0)
    else:
        y = y + bias
    return y[0] if single else y


def padded_convs(model: nn.Module) -> dict[nn.Conv2d, str]:
    """Every convolution that pads an input of some size, each object once, to its first name."""
    return {
        m: name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and any(any(pads_of(m, (s, s))) for s in range(1, 2 * max(m.stride) + 1))
    }


@contextmanager
def hooked(convs, hook):
    """Forward hooks on convolutions, for a while."""
    handles = [conv.register_forward_hook(hook) for conv in convs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(convs, function):
    """In place of each convolution's forward, for a while, a function of the convolution and its input."""
    for conv in convs:
        assert "forward" not in vars(conv)
        conv.forward = partial(function, conv)
    try:
        yield
    finally:
        for conv in convs:
            del conv.forward


def oracle_run(model: nn.Module, convs, forward, mode: str):
    """The model's result with every padded convolution computed here; and (convolution, input, output) of each call."""
    calls = []

    def compute(conv, x):
        y = convolve(conv, x, mode)
        calls.append((conv, x.clone(), y.clone()))  # what follows may work in place
        return y

    with replaced(convs, compute):
        result = forward(model)
    return result, calls
