"""Views of a tensor that are made in one call, from numbers known beforehand.

Beside a small map the start of each operation counts: between two convolutions its code has left the processor's cache.
A view by slices is two or three operations.
"""

from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """Arguments of ``Tensor.as_strided``; the offset is from the tensor's own first element."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, x: Tensor) -> Tensor:
        """That view of a tensor."""
        return x.as_strided(self.size, self.stride, x.storage_offset() + self.offset)


class Places(NamedTuple):
    """Some places along an axis: the first, and how many there are in which distance, once or twice: of two groups.

    ``Places(0, ((2, 9), (3, 1)))`` are 0, 1, 2 and 9, 10, 11.
    """

    first: int
    counts: tuple[tuple[int, int], ...]


def part(shape, strides, rows: Places, cols: Places) -> View:
    """Rows and columns of a map.

    Args:
        shape, strides: of the map, ``(..., H, W)``.

    Returns:
        A view ``(..., *rows, *cols)``, with an axis for each count.
    """
    size, stride = list(shape[:-2]), list(strides[:-2])
    for places, one in ((rows, strides[-2]), (cols, strides[-1])):
        size += [count for count, _ in places.counts]
        stride += [step * one for _, step in places.counts]
    return View(tuple(size), tuple(stride), rows.first * strides[-2] + cols.first * strides[-1])


def stretch(first: int, count: int, step: int = 1) -> Places:
    """Places in equal distances."""
    return Places(first, ((count, step),))
