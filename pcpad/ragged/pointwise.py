"""What acts on each position by itself: activations, arithmetic, channel mixing, normalisation by known statistics."""

from torch import Tensor

from pcpad.ragged.batch import RaggedBatch
from pcpad.ragged.dispatch import IN_PLACE, handles, refusal
from pcpad.ragged.lengths import Length, RaggedError

ELEMENTWISE = """
abs acos asin atan bernoulli celu ceil clamp clamp_max clamp_min clip clone contiguous cos cosh detach digamma double
dropout dropout1d dropout2d dropout3d elu erf erfc exp exp2 expm1 float floor gelu half bfloat16 hardshrink hardsigmoid
hardswish hardtanh alpha_dropout feature_alpha_dropout feature_dropout isfinite isinf isnan leaky_relu log log10 log1p
log2 logical_not logit logsigmoid mish nan_to_num neg positive ones_like zeros_like full_like empty_like rand_like
randn_like reciprocal relu relu6 requires_grad round rrelu rsqrt selu sigmoid sign silu sin sinh softplus
softshrink softsign sqrt square tan tanh tanhshrink threshold trunc type type_as invert
add addcdiv addcmul and atan2 div divide eq floor_divide floordiv fmax fmin fmod ge greater greater_equal gt iadd iand
idiv ifloordiv imul ior ipow isub itruediv le lerp less less_equal logical_and logical_or lt maximum minimum mod mul
multiply ne or pow radd rdiv remainder rmul rpow rsub rtruediv sub subtract true_divide truediv where xor
"""


SUMS = ("add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "cat", "concat", "concatenate", "stack")
"""Where by rule ``"grow"`` a position is valid once it is in any operand; what the others lack is 0."""


def tensors(value):
    """The tensors and batches among arguments, inside lists and tuples too."""
    if isinstance(value, (list, tuple)):
        return [found for one in value for found in tensors(one)]
    if isinstance(value, dict):
        return [found for one in value.values() for found in tensors(one)]
    return [value] if isinstance(value, (Tensor, RaggedBatch)) else []


def bare(value, sides: tuple[int, int] | None = None, fill: bool = False):
    """Arguments with each batch replaced by its canvas, and each Length by the number that its images agree in.

    Args:
        sides: height and width to which each canvas is cropped.
        fill: put 0 outside the images.
    """
    if isinstance(value, RaggedBatch):
        value = value.like(value.filled()) if fill else value
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
            if not lead.layout.same(other.layout):
                layout = lead.layout.union(other.layout) if name in SUMS else None
                if layout is not None:
                    lead = lead.like(lead.canvas, layout)
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


def operands(name: str, values) -> tuple[RaggedBatch, list | tuple | dict]:
    """What carries the result's extents, and the arguments ready for torch: canvases of one size.

    Branches may round the canvas differently, so that it differs by a pixel where the extents do not: it is cropped.
    """
    lead = agreeing(name, values)
    batches = [one for one in tensors(values) if isinstance(one, RaggedBatch)]
    sides = tuple(min(one.canvas.shape[one.plane[i]] for one in batches) for i in (0, 1))
    if lead.layout.grow and any(cropped(one, sides) is not one.canvas for one in batches):
        raise refusal(name, "by rule 'grow' the two maps must have one size")
    fill = any(one.layout is not lead.layout for one in batches) and lead.layout.grow
    return lead, bare(values, sides, fill)


def example(a: RaggedBatch, b: RaggedBatch) -> str:
    """The first image whose extents differ, in words."""
    for i, (x, y) in enumerate(zip(a.extents.tolist(), b.extents.tolist(), strict=True)):
        if x != y:
            return f"image {i}: {x[0]}x{x[1]} and {y[0]}x{y[1]}"
    return "their rules or starts"


@handles(*ELEMENTWISE.split())
def pointwise(func, name, args, kwargs):
    """Any function of each element; other tensors must not vary over the plane."""
    if "out" in kwargs:
        raise refusal(name, "out= is not followed")
    lead, ready = operands(name, (args, kwargs))
    if func in IN_PLACE and not isinstance(args[0], RaggedBatch):
        raise refusal(IN_PLACE[func], "it would write a mixed-size batch into a tensor in place")
    y = func(*ready[0], **ready[1])
    if func in IN_PLACE and args[0].layout is not lead.layout:
        args[0].canvas, args[0].layout = y, lead.layout
        return args[0]
    return lead.like(y)


@handles("linear")
def linear(func, name, args, kwargs):
    """Mixing of the last axis, which must not be one of the plane."""
    x = args[0]
    if any(isinstance(one, RaggedBatch) for one in tensors((args[1:], kwargs))):
        raise refusal("linear", "its weights must be plain tensors")
    if x.dim() - 1 in x.plane:
        raise refusal("linear", "it would mix positions: its last axis is a side of the plane")
    return x.like(func(x.canvas, *args[1:], **kwargs))


@handles("prelu")
def prelu(func, name, args, kwargs):
    """A slope for each channel, which must be the second axis."""
    x, slope = args
    if not isinstance(x, RaggedBatch) or isinstance(slope, RaggedBatch) or 1 in x.plane:
        raise refusal(name, "its second axis are not channels")
    return x.like(func(x.canvas, slope))


@handles("matmul", "rmatmul")
def matmul(func, name, args, kwargs):
    """A matrix that mixes the last axis, which must not be one of the plane."""
    x, matrix = args[0], args[1]
    if not isinstance(x, RaggedBatch) or not isinstance(matrix, Tensor) or matrix.dim() != 2 or x.dim() - 1 in x.plane:
        raise refusal("matmul")
    return x.like(func(x.canvas, matrix, **kwargs))


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
