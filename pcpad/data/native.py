"""Images at their own aspect ratio: the sides they are resized to, and an order that keeps their canvas small."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pcpad.data.batch import EvalTransform


@dataclass(frozen=True)
class NativeTransform(EvalTransform):
    """Resize the shorter side to ``size``, keep the aspect ratio, normalise: nothing is cut off.

    ``multiple`` rounds both sides to a multiple of that many pixels, for networks whose padding depends on the parity
    of their input. ``crop_pct`` and ``crop_mode`` have no meaning here.
    """

    multiple: int = 1

    @property
    def label(self) -> str:
        """The size as a record states it."""
        return f"native:{self.size}"

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in pixels, that an image is resized to: torchvision's rule, then the rounding."""
        shorter = min(height, width)
        return self._round(height * self.size // shorter), self._round(width * self.size // shorter)

    def _round(self, side: int) -> int:
        return max((side + self.multiple // 2) // self.multiple, 1) * self.multiple


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
    transform: EvalTransform, num_files: int, batch_size: int, rank: int, world: int, sizes: np.ndarray | None
) -> tuple[Sequence[int], float]:
    """The files that a rank evaluates, in order, and the share of its canvases that is padding."""
    own = range(rank, num_files, world)
    if not isinstance(transform, NativeTransform):
        return own, 0.0
    sides = np.array([transform.sides(*size) for size in np.asarray(sizes).tolist()], np.int64).reshape(-1, 2)
    order = order_by_shape(own, sides, batch_size)
    return order, share_of_padding(order, sides, batch_size)
