"""Images at their own aspect ratio: the sides they are resized to, and an order that keeps their canvas small."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pcpad.data.batch import EvalTransform, TrainTransform

WINDOW = 32
"""Batches within which training images change places, so that those of a batch have much the same shape."""


def native_sides(height: int, width: int, size: int, multiple: int = 1) -> tuple[int, int]:
    """Height and width of an image whose shorter side is made `size`, in pixels: torchvision's rule.

    Args:
        multiple: both are rounded to a multiple of it.
    """
    shorter = min(height, width)
    sides = (height * size // shorter, width * size // shorter)
    return tuple(max((side + multiple // 2) // multiple, 1) * multiple for side in sides)


def all_sides(sizes: np.ndarray | None, transform: "NativeTransform | NativeTrainTransform") -> np.ndarray:
    """`native_sides` of every image: int64 ``(n, 2)``, of height and width as the files have them."""
    if sizes is None:
        raise ValueError("images of native size need their sizes: give sizes=image_sizes(manifest, workers)")
    rows = [native_sides(*size, transform.size, transform.multiple) for size in np.asarray(sizes).tolist()]
    return np.array(rows, np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class NativeTransform(EvalTransform):
    """Resize the shorter side to ``size``, keep the aspect ratio, normalise: nothing is cut off.

    ``multiple`` rounds both sides to a multiple of that many pixels, for networks that cannot take every side.
    ``crop_pct`` and ``crop_mode`` have no meaning here.
    """

    multiple: int = 1

    @property
    def label(self) -> str:
        """The size as a record states it."""
        return f"native:{self.size}"


def native_transform(square: EvalTransform, multiple: int = 1) -> NativeTransform:
    """The native form of an evaluation's preprocessing: same size, filter, mean and std."""
    return NativeTransform(**vars(replace(square, crop_pct=1.0, crop_mode="center")), multiple=multiple)


@dataclass(frozen=True)
class NativeTrainTransform(TrainTransform):
    """A random crop of the image's own aspect ratio, its shorter side resized to ``size``; flip, normalise.

    ``scale`` is the range of the crop's share of the image area; ``ratio`` has no meaning here. ``multiple`` is that
    of `NativeTransform`.
    """

    multiple: int = 1


def order_by_shape(order: Sequence[int], sides: np.ndarray, batch_size: int, window: int | None = None) -> list[int]:
    """Sort images by aspect ratio, so that those of a batch need little more canvas than they fill.

    Args:
        order: rows of `sides`, in the order in which they would come.
        sides: int64 ``(n, 2)``, height and width of each image in pixels.
        batch_size: images of a batch.
        window: batches within which images may change places; all if None.

    Returns:
        `order`, sorted by height / width, then by area, within each window.
    """
    span = len(order) if window is None else window * batch_size
    out: list[int] = []
    for start in range(0, len(order), max(span, 1)):
        part = np.asarray(order[start : start + span], dtype=np.int64)
        height, width = sides[part].astype(np.float64).T
        out += part[np.lexsort((height * width, height / width))].tolist()
    return out


def share_of_padding(order: Sequence[int], sides: np.ndarray, batch_size: int) -> float:
    """Share of all canvases' pixels that are no image's, for batches of consecutive images of `order`."""
    canvas, images = 0, 0
    for start in range(0, len(order), batch_size):
        part = sides[np.asarray(order[start : start + batch_size], dtype=np.int64)]
        canvas += len(part) * int(part[:, 0].max()) * int(part[:, 1].max())
        images += int(part.prod(1).sum())
    return 1 - images / canvas if canvas else 0.0


def eval_order(
    transforms: Sequence[EvalTransform],
    rows: Sequence[int],
    batch_size: int,
    rank: int,
    world: int,
    sizes: np.ndarray | None,
) -> tuple[Sequence[int], dict[str, float]]:
    """The files that a rank evaluates, in order, and by transform the share of its canvases that is padding.

    Args:
        rows: of the files to evaluate, over all ranks.
        sizes: int64 ``(n, 2)``, height and width of every file's image; needed where one of the transforms is native.
    """
    own = rows[rank::world]
    sides = {t.label: all_sides(sizes, t) for t in transforms if isinstance(t, NativeTransform)}
    if sides:
        own = order_by_shape(own, next(iter(sides.values())), batch_size)
    shares = {
        t.label: share_of_padding(own, sides[t.label], batch_size) if t.label in sides else 0.0 for t in transforms
    }
    return own, shares


def train_order(own: Sequence[int], sides: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[int]:
    """The order of one epoch's images on one rank: batches of much the same shape, in no order of shape.

    Args:
        own: rows of `sides` in random order; full batches.
        sides: int64 ``(n, 2)``.
    """
    order = order_by_shape(own, sides, batch_size, WINDOW)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    shuffled: list[int] = []
    for start in range(0, len(batches), WINDOW):
        for i in rng.permutation(len(batches[start : start + WINDOW])).tolist():
            shuffled += batches[start + i]
    return shuffled
