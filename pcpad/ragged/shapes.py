"""What reorders, splits, joins and reshapes axes other than those of the plane."""

from math import prod

import torch
from torch import Tensor

from pcpad.ragged.batch import RaggedBatch
from pcpad.ragged.dispatch import handles, refusal
from pcpad.ragged.extents import Axis, Extents
from pcpad.ragged.lengths import Length, RaggedError
from pcpad.ragged.pointwise import agreeing, bare, dims_of, operands


def batch_of(args, kwargs) -> RaggedBatch:
    """The first argument."""
    return args[0] if args else kwargs["input"]


def in_front(x: RaggedBatch, name: str, plane: tuple[int, int], order=(0,)) -> None:
    """Raise unless the batch axis stays the first."""
    if order[0] != 0 or 0 in plane:
        raise refusal(name, "it moves the batch axis")


@handles("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "adjoint")
def permute(func, name, args, kwargs):
    """Another order of the axes, the batch still first."""
    x = batch_of(args, kwargs)
    order = func(torch.empty([0, *range(1, x.dim())], device="meta"), *args[1:], **kwargs).shape
    in_front(x, name, (1, 1), tuple(order))
    plane = tuple(list(order).index(index) for index in x.plane)
    geometry = x.geometry
    if plane[0] > plane[1]:  # the image is turned about its diagonal: its columns are rows now
        plane, geometry = (plane[1], plane[0]), Extents(geometry.cols, geometry.rows, geometry.grow)
    return x.like(func(x.canvas, *args[1:], **kwargs), geometry, plane)


@handles("unsqueeze")
def unsqueeze(func, name, args, kwargs):
    """A new axis, not before the batch."""
    x = batch_of(args, kwargs)
    dim = (kwargs["dim"] if "dim" in kwargs else args[1]) % (x.dim() + 1)
    in_front(x, "unsqueeze", (dim, dim))
    return x.like(x.canvas.unsqueeze(dim), None, tuple(index + (dim <= index) for index in x.plane))


@handles("squeeze")
def squeeze(func, name, args, kwargs):
    """Without axes of length 1 that are none of the plane's."""
    x = batch_of(args, kwargs)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    dims = dims_of(x, dim)
    if dim is None:
        dims = tuple(d for d in dims if x.canvas.shape[d] == 1)
    if {0, *x.plane} & set(dims):
        raise refusal("squeeze", "it would drop the batch axis or a side of the plane")
    dims = tuple(d for d in dims if x.canvas.shape[d] == 1)
    return x.like(x.canvas.squeeze(dims), None, tuple(index - sum(d < index for d in dims) for index in x.plane))


@handles("chunk", "split", "unbind", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")
def split(func, name, args, kwargs):
    """Pieces along an axis that is neither the batch nor one of the plane."""
    x = batch_of(args, kwargs)
    position = 1 if name == "unbind" else 2
    dim = dims_of(x, kwargs.get("dim", args[position] if len(args) > position else 0))[0]
    if dim in (0, *x.plane):
        raise refusal(name, "it splits the batch or the plane")
    plane = x.plane if name != "unbind" else tuple(index - (dim < index) for index in x.plane)
    return tuple(x.like(piece, None, plane) for piece in func(x.canvas, *bare(args[1:]), **bare(kwargs)))


@handles("select", "narrow", "index_select")
def pick(func, name, args, kwargs):
    """Part of an axis that is neither the batch nor one of the plane."""
    x = batch_of(args, kwargs)
    dim = dims_of(x, kwargs.get("dim", args[1] if len(args) > 1 else None))[0]
    if dim in (0, *x.plane):
        raise refusal(name, "it takes part of the batch or the plane")
    plane = x.plane if name != "select" else tuple(index - (dim < index) for index in x.plane)
    return x.like(func(x.canvas, *args[1:], **kwargs), None, plane)


@handles("getitem")
def getitem(func, name, args, kwargs):
    """Indexing by slices, numbers and None, with whole slices for the batch and the plane."""
    x, index = args
    index = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(one, (Tensor, list, RaggedBatch)) for one in index):
        raise refusal("getitem", "only slices, numbers and None are followed")
    if Ellipsis in index:
        at = index.index(Ellipsis)
        missing = x.dim() - sum(one is not None for one in index) + 1
        index[at : at + 1] = [slice(None)] * missing
    index += [slice(None)] * (x.dim() - sum(one is not None for one in index))
    old, new, plane = 0, 0, [0, 0]
    for one in index:
        if one is None:
            if old == 0:
                raise refusal("getitem", "it puts an axis before the batch")
            new += 1
            continue
        if isinstance(one, bool) or not isinstance(one, (int, slice)):
            raise refusal("getitem", "only slices, numbers and None are followed")
        if old in (0, *x.plane) and one != slice(None):
            raise refusal("getitem", "it takes part of the batch or the plane")
        if old in x.plane:
            plane[x.plane.index(old)] = new
        new += isinstance(one, slice)
        old += 1
    return x.like(x.canvas[tuple(index)], None, tuple(plane))


@handles("cat", "concat", "concatenate", "stack", "hstack", "vstack")
def join(func, name, args, kwargs):
    """Batches of equal extents side by side, along an axis that is neither the batch nor one of the plane."""
    pieces = args[0] if args else kwargs.get("tensors", kwargs.get("input"))
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    if name in ("hstack", "vstack") or not all(isinstance(piece, RaggedBatch) for piece in pieces):
        raise refusal(name, "all its parts must be batches of the same extents")
    lead, ready = operands(name, list(pieces))
    new = name == "stack"
    dim %= lead.dim() + new
    if dim == 0 or (not new and dim in lead.plane):
        raise refusal(name, "it joins along the batch or the plane")
    plane = tuple(index + (new and dim <= index) for index in lead.plane)
    return lead.like(func(ready, dim), None, plane, any(piece.raw for piece in pieces))


@handles("expand", "expand_as", "broadcast_to")
def expand(func, name, args, kwargs):
    """Repeats of axes of length 1 that are neither the batch nor the plane's, without memory."""
    target = args[1] if name == "expand_as" else None
    if not isinstance(args[0], RaggedBatch):  # a gate of one value for each image and channel
        lead = agreeing(name, (args[0], target))
        return lead.like(args[0].expand_as(lead.canvas))
    x = args[0]
    if isinstance(target, RaggedBatch):
        agreeing(name, (x, target))
        return target.like(x.canvas.expand_as(target.canvas), raw=x.raw or target.raw)
    sizes = given_sizes(args[1:], kwargs)
    sides = canvas_sides(x, sizes, name)
    if len(sides) != x.dim() or any(sides[i] not in (-1, x.canvas.shape[i]) for i in (0, *x.plane)):
        raise refusal(name, "it expands the batch or the plane")
    return x.like(x.canvas.expand(sides))


def given_sizes(args, kwargs) -> list:
    """Sizes given one by one or as one sequence."""
    given = kwargs.get("shape", kwargs.get("size", args))
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = given[0]
    return list(given)


def canvas_sides(x: RaggedBatch, sizes, name: str) -> list[int]:
    """Sizes with the canvas's side for each length of the plane of `x`.

    Raises:
        RaggedError: a size that was computed from a side of the plane.
    """
    sides = []
    for size in sizes:
        if not isinstance(size, Length):
            sides.append(size)
            continue
        own = [i for i, axis in enumerate(axes_of(x)) if size.axis is not None and axis.alike(size.axis)]
        if not own:
            raise refusal(name, "it reshapes the plane")
        sides.append(x.canvas.shape[x.plane[own[0]]])
    return sides


def axes_of(x: RaggedBatch) -> tuple[Axis, Axis]:
    """Rows and columns."""
    return x.geometry.rows, x.geometry.cols


def check_side(size, axis: Axis, name: str) -> None:
    """Raise unless a size that was asked for is that of this side of the plane for every image."""
    if isinstance(size, Length):
        fits = axis.alike(size.axis)
    elif size == -1:
        fits = True  # what is left for it is that side
    else:  # a number in the network's code
        known = axis.twin if not torch.compiler.is_compiling() and axis.start is None else None
        fits = known is not None and bool((known.stop == size).all())
    if not fits:
        raise refusal(name, "it reshapes the plane")


@handles("view", "reshape", "flatten", "unflatten")
def reshape(func, name, args, kwargs):
    """Axes split and merged, those of the plane left as they are."""
    x = batch_of(args, kwargs)
    shape, given = list(x.canvas.shape), []
    if name == "flatten":
        first = dims_of(x, kwargs.get("start_dim", args[1] if len(args) > 1 else 0))[0]
        last = dims_of(x, kwargs.get("end_dim", args[2] if len(args) > 2 else -1))[0]
        sizes = [*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :]]
        kept = [*range(first), *[None], *range(last + 1, x.dim())]
    elif name == "unflatten":
        dim = dims_of(x, kwargs.get("dim", args[1] if len(args) > 1 else None))[0]
        inner = list(kwargs.get("sizes", args[2] if len(args) > 2 else ()))
        inner = canvas_sides(x, inner, name)
        sizes = [*shape[:dim], *inner, *shape[dim + 1 :]]
        kept = [*range(dim), *[None] * len(inner), *range(dim + 1, x.dim())]
    else:
        given = given_sizes(args[1:], kwargs)
        if len(given) == 1 and isinstance(given[0], torch.dtype):
            raise refusal(name, "it reinterprets the numbers")
        sizes, kept = canvas_sides(x, given, name), None
    if -1 in sizes:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = x.canvas.numel() // max(known, 1)
    if all(shape[index] == 1 for index in x.plane):  # one position, which is every image's
        return x.canvas.reshape(sizes)
    plane = (
        places(shape, sizes, x.plane)
        if kept is None
        else tuple(kept.index(index) if index in kept else None for index in x.plane)
    )
    if None in plane or sizes[0] != shape[0] or 0 in plane:
        raise refusal(name, "it reshapes the plane, or merges the batch with another axis")
    if kept is None:
        for position, axis in zip(plane, axes_of(x), strict=True):
            check_side(given[position], axis, name)
    return x.like(x.canvas.reshape(sizes) if name != "view" else x.canvas.view(sizes), None, plane)


def places(shape, sizes, plane) -> tuple[int | None, int | None]:
    """Where the sides of the plane stand in a new shape: an axis of the same length after as many elements."""
    found = []
    for index in plane:
        before = prod(shape[:index])
        after = [i for i in range(len(sizes)) if sizes[i] == shape[index] and prod(sizes[:i]) == before]
        found.append(after[-1] if after else None)
    return tuple(found)


@handles("repeat_interleave", "repeat")
def repeat(func, name, args, kwargs):
    """Copies along an axis that is neither the batch nor one of the plane."""
    x = batch_of(args, kwargs)
    if not isinstance(x, RaggedBatch):
        raise RaggedError(f"{name}: its counts are a mixed-size batch")
    if name == "repeat":
        counts = given_sizes(args[1:], kwargs)
        if len(counts) != x.dim() or any(counts[i] != 1 for i in (0, *x.plane)):
            raise refusal(name, "it repeats the batch or the plane")
        return x.like(x.canvas.repeat(counts))
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    if dim is None or dims_of(x, dim)[0] in (0, *x.plane):
        raise refusal(name, "it repeats the batch or the plane")
    return x.like(func(x.canvas, *args[1:], **kwargs))
