"""What acts on each position by itself: activations, arithmetic, channel mixing."""

import torch
from torch import Tensor

from pcpad.ragged.batch import RaggedBatch
from pcpad.ragged.dispatch import IN_PLACE, handles, refusal
from pcpad.ragged.lengths import Length, RaggedError

ELEMENTWISE = """
abs acos asin atan bernoulli celu ceil clamp clamp_max clamp_min clip clone contiguous cos cosh detach digamma double
dropout dropout1d dropout2d dropout3d elu erf erfc exp exp2 expm1 float floor gelu half bfloat16 hardshrink hardsigmoid
hardswish hardtanh alpha_dropout feature_alpha_dropout feature_dropout isfinite isinf isnan leaky_relu log log10 log1p
log2 logical_not logit logsigmoid mish nan_to_num neg pos positive ones_like zeros_like full_like empty_like rand_like
randn_like reciprocal relu relu6 round rrelu rsqrt selu sigmoid sign silu sin sinh softplus softshrink softsign sqrt
square tan tanh tanhshrink threshold trunc invert
add addcdiv addcmul and atan2 div divide eq floor_divide floordiv fmax fmin fmod ge greater greater_equal gt iadd iand
idiv ifloordiv imul ior ipow isub itruediv le lerp less less_equal logical_and logical_or lt maximum minimum mod mul
multiply ne or pow radd rdiv remainder rfloordiv rmod rmul rpow rsub rtruediv sub subtract true_divide truediv where xor
"""
SINGULAR_NAMES = """
acos addcdiv asin atan2 digamma div divide exp exp2 expm1 floor_divide floordiv fmod idiv ifloordiv ipow itruediv log
log10 log1p log2 logit mod pow rdiv reciprocal remainder rfloordiv rmod rpow rsqrt rtruediv sinh cosh sqrt tan
true_divide truediv
"""
SINGULAR = frozenset(SINGULAR_NAMES.split())
"""What is not finite, or has a derivative that is not, at some number, as at the 0 outside of an image."""
HARMLESS = 0.5
"""A number at which none of them is singular."""
SUMS = ("add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "cat", "concat", "concatenate", "stack")
"""Where by rule ``"grow"`` a position is valid once it is in any operand; what the others lack is 0."""


def tensors(value):
    """The tensors and batches among arguments, inside lists and tuples too."""
    if isinstance(value, (list, tuple)):
        return [found for one in value for found in tensors(one)]
    if isinstance(value, dict):
        return [found for one in value.values() for found in tensors(one)]
    return [value] if isinstance(value, (Tensor, RaggedBatch)) else []


def batches(values) -> list[RaggedBatch]:
    """The batches among arguments."""
    return [one for one in tensors(values) if isinstance(one, RaggedBatch)]


def bare(value, sides: tuple[int, int] | None = None, fill: float | None = None):
    """Arguments with each batch replaced by its canvas, and each Length by the number that its images agree in.

    Args:
        sides: height and width to which each canvas is cropped.
        fill: what to put outside the images; None leaves it as it is.
    """
    if isinstance(value, RaggedBatch):
        value = value if fill is None else value.like(value.filled(fill))
        return value.canvas if sides is None else cropped(value, sides)
    if isinstance(value, Length):
        return value.agreed()
    if isinstance(value, (list, tuple)):
        return type(value)(bare(one, sides, fill) for one in value)
    if isinstance(value, dict):
        return {key: bare(one, sides, fill) for key, one in value.items()}
    return value


def cropped(x: RaggedBatch, sides: tuple[int, int]) -> Tensor:
    """The canvas without the rows and columns beyond `sides`; no extent may reach further."""
    canvas = x.canvas
    for index, side in zip(x.plane, sides, strict=True):
        canvas = canvas.narrow(index, 0, side) if canvas.shape[index] != side else canvas
    return canvas


def sides_of(canvas: Tensor, plane: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a canvas."""
    return canvas.shape[plane[0]], canvas.shape[plane[1]]


def smallest(values) -> tuple[int, int]:
    """Height and width that all canvases among arguments have."""
    found = [sides_of(one.canvas, one.plane) for one in batches(values)]
    return min(one[0] for one in found), min(one[1] for one in found)


def agreeing(name: str, values) -> RaggedBatch:
    """The first batch among arguments, all of which must fit it position by position; its extents are the result's.

    Raises:
        RaggedError: two batches of different extents, or a tensor that has positions of its own.
    """
    found = tensors(values)
    lead = next(one for one in found if isinstance(one, RaggedBatch))
    places = [index - lead.dim() for index in lead.plane]
    for other in found:
        if other is lead:
            continue
        if isinstance(other, RaggedBatch):
            if [index - other.dim() for index in other.plane] != places or other.dim() != lead.dim():
                raise refusal(name, "the two batches have their rows and columns in different places")
            if not lead.geometry.same(other.geometry):
                union = lead.geometry.union(other.geometry) if name in SUMS else None
                if union is not None:
                    lead = lead.like(lead.canvas, union)
                    continue
                raise RaggedError(
                    f"{name}: the images of the two batches have different extents, for example {example(lead, other)}"
                )
        elif other.dim() > lead.dim():
            raise refusal(name, f"the other operand has more axes ({other.dim()}) than the batch ({lead.dim()})")
        elif any(other.dim() >= -place and other.shape[place] != 1 for place in places):
            raise refusal(
                name,
                f"the other operand, of shape {tuple(other.shape)}, has values for each position of the canvas",
            )
    return lead


def example(a: RaggedBatch, b: RaggedBatch) -> str:
    """The first image whose extents differ, in words."""
    for i, (x, y) in enumerate(zip(a.extents.tolist(), b.extents.tolist(), strict=True)):
        if x != y:
            return f"image {i}: {x[0]}x{x[1]} and {y[0]}x{y[1]}"
    return "their rules or starts"


def operands(name: str, values) -> tuple[RaggedBatch, list | tuple | dict]:
    """What carries the result's extents, and the arguments ready for torch: canvases of one size.

    Branches may round the canvas differently, so that it differs by a pixel where the extents do not: it is cropped.
    What lies outside is replaced where it would be part of a sum (rule ``"grow"``) or make a gradient NaN.
    """
    lead = agreeing(name, values)
    found, sides = batches(values), smallest(values)
    if lead.geometry.grow:
        if any(sides_of(one.canvas, one.plane) != sides for one in found):
            raise refusal(name, "by rule 'grow' the two maps must have one size")
        if not all(lead.geometry.same(one.geometry) for one in found):
            return lead, bare(values, sides, 0)
    if torch.is_grad_enabled() and name in SINGULAR:
        return lead, bare(values, sides, HARMLESS)
    if any(one.raw for one in found) and any(one.requires_grad for one in tensors(values)):
        return lead, bare(values, sides, 0)
    return lead, bare(values, sides)


@handles(*ELEMENTWISE.split())
def pointwise(func, name, args, kwargs):
    """Any function of each element; other tensors must not vary over the plane."""
    if "out" in kwargs:
        raise refusal(name, "out= is not followed")
    lead, ready = operands(name, (args, kwargs))
    if func in IN_PLACE and not isinstance(args[0], RaggedBatch):
        raise refusal(IN_PLACE[func], "it would write a mixed-size batch into a tensor in place")
    y = func(*ready[0], **ready[1])
    if y is NotImplemented:
        return y
    if not isinstance(y, Tensor) or y.dim() != lead.dim() or sides_of(y, lead.plane) != smallest((args, kwargs)):
        raise refusal(name, "its result is no map of these images")
    raw = name in SINGULAR or any(one.raw for one in batches((args, kwargs)))
    if func in IN_PLACE:  # whoever holds the batch sees what became of it
        x = args[0]
        if ready[0][0] is not x.canvas and y.shape == x.canvas.shape:
            y = x.canvas.copy_(y)  # and whoever holds a view of its canvas
        x.canvas, x.geometry, x.raw = y, lead.geometry, raw
        return x
    return lead.like(y, raw=raw)


@handles("type_as")
def type_as(func, name, args, kwargs):
    """The dtype and device of another: a plain tensor stays one."""
    x, other = args[0], bare(args[1])
    return x.like(x.canvas.type_as(other)) if isinstance(x, RaggedBatch) else x.type_as(other)


@handles("type")
def type_of(func, name, args, kwargs):
    """The tensor type's name, or another type."""
    x = args[0]
    return x.like(x.canvas.type(*args[1:], **kwargs)) if len(args) > 1 or kwargs else x.canvas.type()


@handles("linear")
def linear(func, name, args, kwargs):
    """Mixing of the last axis, which must not be one of the plane."""
    x = args[0]
    if batches((args[1:], kwargs)):
        raise refusal("linear", "its weights must be plain tensors")
    if x.dim() - 1 in x.plane:
        raise refusal("linear", "it would mix positions: its last axis is a side of the plane")
    return x.like(func(x.finite(), *args[1:], **kwargs), raw=False)


@handles("prelu")
def prelu(func, name, args, kwargs):
    """A slope for each channel, which must be the second axis."""
    x, slope = args[0], kwargs["weight"] if kwargs else args[1]
    if not isinstance(x, RaggedBatch) or isinstance(slope, RaggedBatch) or 1 in x.plane:
        raise refusal(name, "its second axis are not channels")
    return x.like(func(x.finite(), slope), raw=False)


@handles("matmul")
def matmul(func, name, args, kwargs):
    """A matrix that mixes the last axis, which must not be one of the plane."""
    x, matrix = args[0], kwargs["other"] if kwargs else args[1]
    if not isinstance(x, RaggedBatch) or not isinstance(matrix, Tensor) or matrix.dim() != 2 or x.dim() - 1 in x.plane:
        raise refusal("matmul")
    return x.like(func(x.finite(), matrix), raw=False)


def dims_of(x: RaggedBatch, dim) -> tuple[int, ...]:
    """An argument `dim` as indices from 0; all axes for None."""
    if dim is None:
        return tuple(range(x.dim()))
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    return tuple(d % x.dim() for d in dims)


@handles("softmax", "log_softmax", "normalize", "glu", "softmin")
def along_one_axis(func, name, args, kwargs):
    """A function along one axis, which must not be one of the plane."""
    default = {"normalize": 1, "glu": -1}.get(name)
    position = 2 if name == "normalize" else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else default)
    x = args[0]
    if not isinstance(x, RaggedBatch) or dim is None or {0, *x.plane} & set(dims_of(x, dim)):
        raise refusal(name, "it mixes positions")
    return x.like(func(x.canvas, *args[1:], **kwargs))


@handles("local_response_norm")
def local_response_norm(func, name, args, kwargs):
    """Normalisation by the neighbouring channels at the same position."""
    x = args[0]
    if x.plane != (2, 3):
        raise refusal("local_response_norm", "its channels are not the second axis")
    return x.like(func(x.canvas, *args[1:], **kwargs))
