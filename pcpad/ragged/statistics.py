"""What reads a whole plane: means and other reductions, and the normalisations made of them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pcpad.ragged.batch import RaggedBatch
from pcpad.ragged.dispatch import handles, refusal
from pcpad.ragged.pointwise import dims_of, pointwise, tensors
from pcpad.ragged.windows import wide

FILL = {"max": -torch.inf, "amax": -torch.inf, "min": torch.inf, "amin": torch.inf, "prod": 1, "any": 0, "all": 1}
"""What stands outside an image so that a reduction does not see it; 0 where it is not named."""
MOMENTS = ("mean", "var", "std", "var_mean", "std_mean")

ROOTS = ("std", "std_mean", "norm", "vector_norm", "linalg_vector_norm")
"""Reductions whose derivative is not finite where all values are equal, or 0, as they are outside an image."""


def ramp(x: RaggedBatch) -> Tensor:
    """Different numbers along every axis but the batch and the plane: of as many axes as the canvas."""
    shape = [1 if d in (0, *x.plane) else side for d, side in enumerate(x.canvas.shape)]
    count = 1
    for side in shape:
        count = count * side
    return torch.linspace(0.5, 1.5, count, dtype=x.dtype, device=x.device).view(shape)


def area(x: RaggedBatch, dims, keepdim: bool = True) -> Tensor:
    """Number of elements of each image that a reduction over `dims`, the plane among them, takes together.

    Returns:
        int64, of as many axes as the canvas, 1 long but for the batch; without the reduced axes if not `keepdim`.
    """
    others = 1
    for d in dims:
        if d not in x.plane:
            others = others * x.canvas.shape[d]
    count = x.geometry.rows.lengths() * x.geometry.cols.lengths() * others
    left = x.dim() if keepdim else x.dim() - len(dims)
    return count.view([-1] + [1] * (left - 1))


@handles(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "norm", "prod", "logsumexp",
    "any", "all", "vector_norm", "linalg_vector_norm", "argmax", "argmin", "nanmean", "count_nonzero", "aminmax",
)  # fmt: skip
def reduction(func, name, args, kwargs):
    """A reduction over the whole plane of each image (and perhaps channels), or over channels alone."""
    if name in ("max", "min") and len(tensors((args, kwargs))) == 2:
        return pointwise(func, name, args, kwargs)
    x, rest, options = args[0], list(args[1:]), dict(kwargs)
    if not isinstance(x, RaggedBatch):
        raise refusal(name, "its first argument is a plain tensor")
    position = 1 if name in ("norm", "vector_norm", "linalg_vector_norm") else 0
    if name == "norm" and "p" in options:
        position = 0
    key = next((one for one in ("dim", "axis") if one in options), None)
    dim = options[key] if key else (rest[position] if len(rest) > position else None)
    if isinstance(dim, bool):
        raise refusal(name, "its axes are not given")
    dims = dims_of(x, dim)
    met = set(dims) & set(x.plane)
    if 0 in dims:
        raise refusal(name, "it would mix the images of the batch; reduce over rows and columns (2, 3) first")
    if not met:
        rooted = torch.is_grad_enabled() and name in ROOTS
        result = func(torch.where(x.inside(), x.canvas, ramp(x)) if rooted else x.canvas, *rest, **options)
        kept = (result[0] if isinstance(result, tuple) else result).dim() == x.dim()
        plane = x.plane if kept else tuple(index - sum(d < index for d in dims) for index in x.plane)
        return wrap_all(x, result, plane)
    if len(met) == 1:
        raise refusal(name, "it reduces one side of the plane and not the other")
    if position == 1 or name == "norm":
        order = options.get("p", options.get("ord", rest[0] if rest else 2))
        if isinstance(order, (int, float)) and order < 0:
            raise refusal(name, f"of order {order} it would see the zeros outside")
    if name in MOMENTS:
        options.pop(key, None)
        return moments(name, x, dims, rest[1:] if not key else rest, options)
    if name in ("argmax", "argmin", "max", "min", "nanmean", "aminmax", "count_nonzero"):
        raise refusal(name, "over the plane it is not followed; amax and amin are")
    return func(x.filled(FILL.get(name, -torch.inf if name == "logsumexp" else 0)), *rest, **options)


def wrap_all(x: RaggedBatch, result, plane):
    """A result, or each of several, as a batch with the extents of `x`."""
    if isinstance(result, tuple):
        parts = [x.like(one, None, plane) for one in result]
        return type(result)(parts) if hasattr(result, "n_fields") else tuple(parts)
    return x.like(result, None, plane)


def moments(name: str, x: RaggedBatch, dims, rest, options) -> Tensor | tuple[Tensor, Tensor]:
    """Mean, variance or standard deviation over the plane of each image, by torch's arguments without `dim`."""
    options = dict(options)
    if name == "mean":
        keepdim = options.pop("keepdim", rest[0] if rest else False)
        dtype = options.pop("dtype", None)
        if options or len(rest) > 1:
            raise refusal(name, f"its arguments {sorted(options)} are not followed")
        dtype = dtype or x.dtype
        total = x.filled().sum(dims, keepdim=keepdim, dtype=wide(x.canvas[:0]).dtype)
        return (total / area(x, dims, keepdim).to(total.dtype)).to(dtype)
    correction = options.pop("correction", None)
    unbiased = options.pop("unbiased", None)
    keepdim = options.pop("keepdim", None)
    given = list(rest)
    if given and isinstance(given[0], bool) and unbiased is None and correction is None:
        unbiased = given.pop(0)
    if given and keepdim is None:
        keepdim = given.pop(0)
    if options or given:
        raise refusal(name, f"its arguments {sorted(options)} are not followed")
    correction = correction if correction is not None else int(unbiased is not False)
    mean, var = mean_and_variance(x, dims, correction)
    var = var.to(x.dtype)
    mean = mean.to(x.dtype)
    spread = var.sqrt() if name.startswith("std") else var
    if not keepdim:
        mean, spread = squeeze_all(mean, dims), squeeze_all(spread, dims)
    return (spread, mean) if name.endswith("_mean") else spread


def squeeze_all(t: Tensor, dims) -> Tensor:
    """Without the axes `dims`, each 1 long."""
    for d in sorted(dims, reverse=True):
        t = t.squeeze(d)
    return t


def mean_and_variance(x: RaggedBatch, dims, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance over the plane of each image and perhaps channels; the reduced axes stay, 1 long."""
    values, inside, count = wide(x.filled()), x.inside(), area(x, dims)
    mean = values.sum(dims, keepdim=True) / count.to(values.dtype)
    off = torch.where(inside, values - mean, 0)
    return mean, (off * off).sum(dims, keepdim=True) / (count - correction).clamp(min=0).to(values.dtype)


def channels_second(x, name: str) -> RaggedBatch:
    """`x` if it is a batch whose second axis are channels."""
    if not isinstance(x, RaggedBatch) or 1 in x.plane:
        raise refusal(name, "its second axis are not channels")
    return x


@handles("batch_norm")
def batch_norm(func, name, args, kwargs):
    """Batch normalisation; in training by the statistics of all valid positions of the batch."""
    if func is not F.batch_norm:
        raise refusal("torch.batch_norm", "use torch.nn.functional.batch_norm")
    return normalise_batch(*args, **kwargs)


def normalise_batch(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> RaggedBatch:
    """`batch_norm` by the names of ``F.batch_norm``; updates the running statistics in training."""
    x = channels_second(input, "batch_norm")
    if not training:
        y = F.batch_norm(x.finite(), running_mean, running_var, weight, bias, False, momentum, eps)
        return x.like(y, raw=False)
    dims = [d for d in range(x.dim()) if d != 1]
    values, inside = wide(x.filled()), x.inside()
    check_more_than_one(x)
    count = (x.geometry.rows.lengths() * x.geometry.cols.lengths()).sum().to(values.dtype)
    mean = values.sum(dims, keepdim=True) / count
    off = torch.where(inside, values - mean, 0)
    var = (off * off).sum(dims, keepdim=True) / count
    if running_mean is not None:
        with torch.no_grad():
            unbiased = var.flatten() * count / (count - 1).clamp(min=1)
            running_mean.lerp_(mean.detach().flatten().to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.detach().to(running_var.dtype), momentum)
    return x.like(affine(x, (values - mean) * (var + eps).rsqrt(), weight, bias).to(x.dtype), raw=False)


def check_more_than_one(x: RaggedBatch) -> None:
    """Raise for a single value in each channel, as torch does."""
    rows, cols = x.geometry.rows.twin, x.geometry.cols.twin
    if torch.compiler.is_compiling() or rows is None or cols is None:
        return
    if int((rows.lengths() * cols.lengths()).sum()) < 2:
        raise ValueError("Expected more than 1 value per channel when training, got one image of 1x1")


def affine(x: RaggedBatch, y: Tensor, weight, bias) -> Tensor:
    """``y * weight + bias`` along the second axis, where they are given."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    y = y if weight is None else y * weight.to(y.dtype).view(shape)
    return y if bias is None else y + bias.to(y.dtype).view(shape)


@handles("group_norm")
def group_norm(func, name, args, kwargs):
    """Group normalisation by the statistics of each image's own positions."""
    return normalise_groups(*args, **kwargs)


def normalise_groups(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True) -> RaggedBatch:
    """`group_norm` by the names of ``F.group_norm``."""
    x = channels_second(input, "group_norm")
    grouped = x.like(x.canvas.unflatten(1, (num_groups, -1)), None, (x.plane[0] + 1, x.plane[1] + 1))
    mean, var = mean_and_variance(grouped, tuple(range(2, grouped.dim())))
    y = (wide(grouped.filled()) - mean) * (var + eps).rsqrt()
    return x.like(affine(x, y.flatten(1, 2), weight, bias).to(x.dtype), raw=False)


@handles("layer_norm", "rms_norm")
def layer_norm(func, name, args, kwargs):
    """Normalisation over the last axes, none of which may be one of the plane."""
    x = args[0]
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    last = range(x.dim() - len(tuple(shape)), x.dim())
    if not isinstance(x, RaggedBatch) or set(last) & {0, *x.plane}:
        raise refusal(name, "it normalises over positions")
    return x.like(func(x.finite(), *args[1:], **kwargs), raw=False)
