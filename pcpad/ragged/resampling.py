"""What maps a plane of one size to another: adaptive pooling and interpolation, by each image's own sizes."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from pcpad.ragged.batch import RaggedBatch
from pcpad.ragged.dispatch import handles, refusal
from pcpad.ragged.extents import Axis, Extents
from pcpad.ragged.lengths import Length
from pcpad.ragged.windows import pair, plane_last, wide


def bins(axis: Axis, length: int, cells: int) -> Tensor:
    """Which rows belong to each of `cells` bins of each image: bool ``(N, cells, length)``, as torch's own bins."""
    side = axis.lengths()[:, None]
    start = torch.zeros_like(side) if axis.start is None else axis.start[:, None]
    cell = torch.arange(cells, device=side.device)
    first = cell * side // cells + start
    stop = -(-(cell + 1) * side // cells) + start
    place = torch.arange(length, device=side.device)
    return (place >= first[..., None]) & (place < stop[..., None])


def mix(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Weighted sums over rows and columns of each image: ``(N, C, H, W)`` by ``(N, a, H)``, ``(N, b, W)``."""
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        return torch.matmul(torch.matmul(rows[:, None].to(x.dtype), x), cols[:, None].transpose(-1, -2).to(x.dtype))


@handles("adaptive_avg_pool2d")
def adaptive_avg_pool2d(func, name, args, kwargs):
    """Average over the bins of each image: a plain tensor."""
    x, cells = adaptive(args, kwargs, "adaptive_avg_pool2d")
    if cells == (1, 1):
        return x.mean((2, 3), keepdim=True)
    sides = zip((x.geometry.rows, x.geometry.cols), x.canvas.shape[2:], cells, strict=True)
    weights = [bins(axis, length, count).to(wide(x.canvas[:0]).dtype) for axis, length, count in sides]
    weights = [w / w.sum(-1, keepdim=True) for w in weights]
    return mix(wide(x.filled()), *weights).to(x.dtype)


@handles("adaptive_max_pool2d")
def adaptive_max_pool2d(func, name, args, kwargs):
    """Maximum over the bins of each image: a plain tensor."""
    x, cells = adaptive(args, kwargs, "adaptive_max_pool2d")
    y = x.filled(-torch.inf)
    for dim, axis, count in ((2, x.geometry.rows, cells[0]), (3, x.geometry.cols, cells[1])):
        test = bins(axis, y.shape[dim], count)  # (N, cells, length)
        shape = [len(test), 1, 1, 1]
        shape[dim] = y.shape[dim]
        y = torch.cat([y.masked_fill(~test[:, i].view(shape), -torch.inf).amax(dim, True) for i in range(count)], dim)
    return y


def adaptive(args, kwargs, name: str) -> tuple[RaggedBatch, tuple[int, int]]:
    """The batch and the cells of an adaptive pool."""
    x = plane_last(args[0] if args else kwargs["input"], name)
    size = kwargs.get("output_size", args[1] if len(args) > 1 else None)
    if kwargs.get("return_indices", False) or len(args) > 2:
        raise refusal(name, "its indices would be those of the canvas")
    cells = pair(size)
    if None in cells or any(isinstance(one, Length) for one in cells):
        raise refusal(name, "it keeps a side of the plane")
    return x, cells


@handles("interpolate", "upsample")
def interpolate(func, name, args, kwargs):
    """Interpolation by each image's own sizes: nearest and bilinear."""
    return resample(*args, **kwargs)


def resample(
    input,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
):
    """`interpolate` by the names of ``F.interpolate``: to a size that all share (a plain tensor), to the sizes of
    another map, or by a factor."""
    x = plane_last(input, "interpolate")
    if mode not in ("nearest", "nearest-exact", "bilinear") or antialias:
        raise refusal(f"interpolate(mode={mode!r}{', antialias=True' if antialias else ''})")
    if x.geometry.grow:
        raise refusal("interpolate", "it is followed by rule 'own' only")
    goals = pair(size) if size is not None else (None, None)
    factors = pair(scale_factor) if scale_factor is not None else (None, None)
    mixes, axes = [], []
    for axis, length, goal, factor in zip(
        (x.geometry.rows, x.geometry.cols), x.canvas.shape[2:], goals, factors, strict=True
    ):
        own = axis.stop[:, None]
        if isinstance(goal, Length):
            if goal.axis is None:
                raise refusal("interpolate", "its size is computed from the size of a map")
            new, count = goal.axis, goal.canvas
        elif goal is not None:
            new, count = None, int(goal)
        else:
            new, count = scaled(axis, length, factor)
        target = torch.full_like(own, count) if new is None else new.stop[:, None]
        exact = factor is not None and not recompute_scale_factor
        mixes.append(weights(own, target, count, length, mode, bool(align_corners), factor if exact else None))
        axes.append(new)
    y = mix(wide(x.filled()), *mixes).to(x.dtype)
    if None in axes:
        if axes != [None, None]:
            raise refusal("interpolate", "it gives one side of the plane a size of its own")
        return y
    geometry = Extents(axes[0], axes[1])
    geometry.check_not_empty(x.geometry, "interpolate")
    return x.like(y, geometry, raw=False)


def scaled(axis: Axis, length: int, factor: float) -> tuple[Axis, int]:
    """The axis scaled by a factor, rounded down as torch does, and the canvas's side."""
    count = int(length * factor)
    stop = (axis.stop.double() * factor).floor().long()
    new = Axis(stop, None, ((axis.key, factor), 0, 1), axis.root)
    if axis.twin is not None and not torch.compiler.is_compiling():
        new.twin = new if axis.twin is axis else Axis((axis.twin.stop.double() * factor).floor().long())
    return new, count


def weights(own, target, count: int, length: int, mode: str, align: bool, factor: float | None) -> Tensor:
    """Weights of the input's pixels in each output pixel: float64 ``(N, count, length)``.

    Args:
        own, target: int64 ``(N, 1)``: lengths before and after.
        count, length: the canvas's sides after and before.
        factor: the scale factor where torch computes with it instead of the sizes' quotient.

    Source: torch's ``area_pixel_compute_source_index``.
    """
    last = own.double() - 1
    if mode == "bilinear":
        place = torch.arange(count, device=own.device).double()
        scale = own.double() / target.clamp(min=1)
        if factor is not None:  # torch copies where the length stays the same, whatever the factor
            scale = torch.where(target == own, scale, 1.0 / factor)
        if align:
            at = place * torch.where(target > 1, last / (target - 1).clamp(min=1), 0.0)
        else:
            at = ((place + 0.5) * scale - 0.5).clamp(min=0)
        at = torch.minimum(at.expand(len(own), count), last)
        low = at.floor()
        share = (at - low)[..., None]
        high = torch.minimum(low + 1, last)
        return F.one_hot(low.long(), length) * (1 - share) + F.one_hot(high.long(), length) * share
    place = torch.arange(count, device=own.device).float()  # torch finds the nearest pixel in float32
    scale = own.float() / target.clamp(min=1)
    if factor is not None:  # torch takes shorter ways where the length stays the same or doubles
        plain = (target == own) | (target == 2 * own) if mode == "nearest" else target < 0
        scale = torch.where(plain, scale, 1.0 / factor)
    at = (place + (0.5 if mode == "nearest-exact" else 0)) * scale
    return F.one_hot(torch.minimum(at.floor().double().expand(len(own), count), last).long(), length).double()
