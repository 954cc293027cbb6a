"""Extents: which rows and columns of a canvas are the image's, as integers mapped through each layer's geometry."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcpad.ragged.lengths import Length, RaggedError


@dataclass(frozen=True)
class Window:
    """One axis of a sliding window. `before` and `after` are padding; `ceil` is a pool's ``ceil_mode``."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    ceil: bool = False

    @property
    def reach(self) -> int:
        """Pixels from the first tap to the last, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def shift(self) -> int:
        """The b of ``output length = (length + b) // stride``.

        With ``ceil`` one window more may stand partly in the padding, if it starts left of the padding after: of the
        two bounds the smaller.
        """
        ends = self.before + self.after - self.reach
        if self.ceil:
            return min(ends + 2 * self.stride - 1, self.before + self.stride - 1)
        return ends + self.stride

    def positions(self, count: int, device) -> Tensor:
        """Where the first tap of each of `count` windows lies, in image coordinates: int64 ``(count,)``."""
        return torch.arange(count, device=device) * self.stride - self.before


class Axis:
    """One side of the maps of a batch: image n's pixels are those from ``start[n]`` to before ``stop[n]``.

    Attributes:
        start: int64 ``(N,)``, or None where all are 0, as they always are by rule ``"own"``.
        stop: int64 ``(N,)``, on the canvas's device.
        key: how it follows from the images' own axis, without their sizes: equal keys of one root, equal numbers. It
            is ``(way, b, s)`` for a length of ``(length + b) // s`` after the way; by rule ``"own"`` any sequence of
            windows is one such pair of b and s.
        root: the images' own axis.
        checked: whether it is known that no image is empty.
        memo: of a root: key to axis, so that a geometry is mapped once; not used under ``torch.compile``.
        tests: what `test` and `taps` have found; not used under ``torch.compile``.
        twin: the same on the CPU, to be looked at without waiting for a GPU; None under ``torch.compile``.
    """

    def __init__(self, stop: Tensor, start: Tensor | None = None, key: tuple = ((), 0, 1), root: "Axis | None" = None):
        self.stop, self.start, self.key = stop, start, key
        self.root = self if root is None else root
        self.memo: dict = {}
        self.tests: dict = {}
        self.twin: Axis | None = None
        self.checked = False

    def with_twin(self, host: Tensor | None = None) -> "Axis":
        """Itself, knowing its numbers on the CPU: `host` if they are given, its own if it is there."""
        if host is not None:
            self.twin = Axis(host)
        elif self.stop.device.type == "cpu":
            self.twin = self
        return self

    def through(self, window: Window, grow: bool, length: int) -> "Axis":
        """The axis after a sliding window; `length` is the canvas's after it."""
        if torch.compiler.is_compiling():
            return self.mapped(window, grow, length)
        key = self.next_key(window, grow, length)
        if key not in self.root.memo:
            with torch.inference_mode(False):  # what is remembered in evaluation must be of use in training
                axis = self.mapped(window, grow, length)
                axis.twin = axis if self.twin is self else self.twin and self.twin.mapped(window, grow, length)
            self.root.memo[key] = axis
        return self.root.memo[key]

    def next_key(self, window: Window, grow: bool, length: int) -> tuple:
        """The key after a sliding window."""
        if grow:
            return ((self.key, window, length), 0, 1)
        way, shift, stride = self.key
        return (way, shift + window.shift * stride, stride * window.stride)

    def mapped(self, window: Window, grow: bool, length: int) -> "Axis":
        """`through`, computed."""
        key = self.next_key(window, grow, length)
        if not grow:
            return Axis((self.stop + window.shift) // window.stride, None, key, self.root)
        start = torch.zeros_like(self.stop) if self.start is None else self.start
        first = (start + window.before - window.reach + window.stride) // window.stride
        last = (self.stop - 1 + window.before) // window.stride
        first, stop = first.clamp(min=0), (last + 1).clamp(max=length)
        return Axis(stop, first, key, self.root)

    def shifted(self, before: int, after: int, grow: bool) -> "Axis":
        """The axis after padding by hand: by rule ``"grow"`` what is padded is no part of the image."""
        if not grow:
            return self.through(Window(1, 1, 1, before, after), False, 0)
        start = before if self.start is None else self.start + before
        start = torch.full_like(self.stop, start) if isinstance(start, int) else start
        axis = Axis(self.stop + before, start, ((self.key, before), 0, 1), self.root)
        if self.twin is not None and not torch.compiler.is_compiling():
            axis.twin = axis if self.twin is self else self.twin.shifted(before, after, grow)
        return axis

    def test(self, length: int) -> Tensor:
        """Which of the canvas's `length` rows (or columns) are each image's: bool ``(N, length)``."""
        if torch.compiler.is_compiling():
            return self.tested(length)
        if length not in self.tests:
            with torch.inference_mode(False):
                self.tests[length] = self.tested(length)
        return self.tests[length]

    def tested(self, length: int) -> Tensor:
        """`test`, computed."""
        places = torch.arange(length, device=self.stop.device)
        test = places < self.stop[:, None]
        return test if self.start is None else test & (places >= self.start[:, None])

    def taps(self, window: Window, count: int, margin: tuple[int, int] = (0, 0)) -> Tensor:
        """Number of taps of each of `count` windows that lie inside each image: int64 ``(N, count)``.

        Args:
            margin: pixels before and after the image that count as inside.
        """
        if torch.compiler.is_compiling():
            return self.counted(window, count, margin)
        key = (window, count, margin)
        if key not in self.tests:
            with torch.inference_mode(False):
                self.tests[key] = self.counted(window, count, margin)
        return self.tests[key]

    def counted(self, window: Window, count: int, margin: tuple[int, int]) -> Tensor:
        """`taps`, computed."""
        place = window.positions(count, self.stop.device)
        start = -margin[0] if self.start is None else self.start[:, None] - margin[0]
        first = -((place - start) // window.dilation)  # the ceiling of (start - place) / dilation
        last = (self.stop[:, None] + margin[1] - 1 - place) // window.dilation
        return (last.clamp(max=window.kernel - 1) - first.clamp(min=0) + 1).clamp(min=0)

    def lengths(self) -> Tensor:
        """Number of pixels of each image: int64 ``(N,)``."""
        return self.stop if self.start is None else self.stop - self.start

    def length(self, canvas: int) -> Length:
        """What a network's code gets for this side of the shape; `canvas` is the canvas's."""
        if torch.compiler.is_compiling() or self.twin is None or self.start is not None:
            return Length(None, None, self, canvas)
        return Length(tuple(self.twin.stop.tolist()), tuple(self.root.twin.stop.tolist()), self, canvas)

    def begin(self) -> Tensor:
        """First pixel of each image: int64 ``(N,)``."""
        return torch.zeros_like(self.stop) if self.start is None else self.start

    def contains(self, other: "Axis") -> Tensor:
        """Whether each image's pixels are all among this axis's too: bool ``(N,)``."""
        return (self.begin() <= other.begin()) & (self.stop >= other.stop)

    def union(self, other: "Axis") -> "Axis":
        """From the earlier start to the later stop."""
        key = ((self.key, other.key), 0, 1)
        axis = Axis(torch.maximum(self.stop, other.stop), torch.minimum(self.begin(), other.begin()), key, self.root)
        if self.twin is not None and other.twin is not None:
            axis.twin = axis if self.twin is self else self.twin.union(other.twin)
        return axis

    def alike(self, other: "Axis") -> bool:
        """Whether both follow from the images' own side in the same way, so that all images agree."""
        return self is other or (self.root is other.root and self.key == other.key)

    def same(self, other: "Axis") -> bool:
        """Whether all images agree; raises RaggedError where that cannot be told (under ``torch.compile``)."""
        if self.alike(other):
            return True
        if torch.compiler.is_compiling() or self.twin is None or other.twin is None:
            raise RaggedError(
                "two maps that reached their sizes by different ways meet; whether they agree cannot be told under "
                "torch.compile: run uncompiled"
            )
        mine, theirs = self.twin, other.twin
        return torch.equal(mine.stop, theirs.stop) and torch.equal(mine.begin(), theirs.begin())


@dataclass(frozen=True, eq=False)
class Extents:
    """The valid height and width of every image of a batch inside their canvas.

    Attributes:
        rows, cols: one axis each.
        grow: rule ``"grow"``: a position is the image's once any tap of its window was; else rule ``"own"``: the
            positions that the image has when it is alone.
    """

    rows: Axis
    cols: Axis
    grow: bool = False

    def through(self, rows: Window, cols: Window, shape: tuple[int, int], what: str) -> "Extents":
        """The extents after a sliding window.

        Args:
            shape: height and width of the canvas after it.
            what: the operation, for the message.

        Raises:
            RaggedError: an image is smaller than the window, or smaller than the gaps of a dilated one.
        """
        for axis, window in ((self.rows, rows), (self.cols, cols)):
            check_gaps(axis, window, self.grow, what)
        new = Extents(
            self.rows.through(rows, self.grow, shape[0]), self.cols.through(cols, self.grow, shape[1]), self.grow
        )
        new.check_not_empty(self, what)
        return new

    def check_not_empty(self, before: "Extents", what: str) -> None:
        """Raise RaggedError if an image has no position left."""
        if torch.compiler.is_compiling():
            return
        for axis, old, side in ((self.rows, before.rows, "high"), (self.cols, before.cols, "wide")):
            if axis.twin is None or axis.checked:
                continue
            short = (axis.twin.lengths() < 1).nonzero().flatten().tolist()
            if short:
                i = short[0]
                raise RaggedError(
                    f"{what}: image {i} of the batch, {axis.root.twin.stop[i]} pixels {side}, is too small for the "
                    f"network: its map is {old.twin.lengths()[i]} pixels {side} here, and nothing of it is left; leave "
                    "it out, or enlarge it"
                )
            axis.checked = True

    def same(self, other: "Extents") -> bool:
        """Whether all images have the same extents in both."""
        return self.grow == other.grow and self.rows.same(other.rows) and self.cols.same(other.cols)

    def union(self, other: "Extents") -> "Extents | None":
        """The extents of what is valid in either; None where that is no rectangle for some image (rule ``"grow"``)."""
        if (
            not self.grow
            or not other.grow
            or None in (self.rows.twin, self.cols.twin, other.rows.twin, other.cols.twin)
        ):
            return None
        mine = self.rows.twin.contains(other.rows.twin) & self.cols.twin.contains(other.cols.twin)
        theirs = other.rows.twin.contains(self.rows.twin) & other.cols.twin.contains(self.cols.twin)
        if not (mine | theirs).all():
            return None
        return Extents(self.rows.union(other.rows), self.cols.union(other.cols), True)

    def sizes(self) -> Tensor:
        """Height and width of every image: int64 ``(N, 2)``."""
        return torch.stack([self.rows.lengths(), self.cols.lengths()], 1)

    def starts(self) -> Tensor:
        """First row and column of every image in the canvas: int64 ``(N, 2)``; zeros by rule ``"own"``."""
        return torch.stack([self.rows.begin(), self.cols.begin()], 1)


def check_gaps(axis: Axis, window: Window, grow: bool, what: str) -> None:
    """Raise RaggedError where a dilated window would leave gaps in what it makes valid."""
    if not grow or window.dilation == 1 or window.kernel == 1:
        return
    if torch.compiler.is_compiling() or axis.twin is None:
        raise RaggedError(f"{what}: dilated windows by rule 'grow' must see the sizes: run uncompiled")
    if (axis.twin.lengths() < window.dilation).any():
        raise RaggedError(
            f"{what}: by rule 'grow' a window of dilation {window.dilation} leaves gaps between the positions that an "
            f"image of {int(axis.twin.lengths().min())} pixels makes valid; use larger images, or rule 'own'"
        )
