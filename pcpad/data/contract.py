"""What both loaders promise alike: the length and order of epochs, what may be resumed, what is refused."""

import gc
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from pcpad.data.batch import EvalTransform

# A forked worker must not collect a pipeline or a process group of its parent's: it would wait for threads that it does
# not have.
os.register_at_fork(after_in_child=gc.freeze)


def as_tuple(transform) -> tuple:
    """One transform, or several, as a tuple."""
    return tuple(transform) if isinstance(transform, (list, tuple)) else (transform,)


def check_crop(transforms: Sequence[EvalTransform]) -> None:
    """Refuses an evaluation whose crop is larger than the resized image, and two of one label.

    Raises:
        ValueError: naming crop_pct, or the label.
    """
    for transform in transforms:
        if not 0 < transform.crop_pct <= 1:
            raise ValueError(f"crop_pct is {transform.crop_pct}: it has to be above 0 and at most 1")
    labels = [transform.label for transform in transforms]
    if len(set(labels)) < len(labels):
        raise ValueError(f"transforms of one batch must have different sizes, not {', '.join(labels)}")


def steps_per_epoch(num_files: int, world: int, batch_size: int) -> int:
    """Full batches that every rank can take from one epoch: ``floor(floor(N / world) / batch_size)``.

    Raises:
        ValueError: there is none.
    """
    steps = num_files // world // batch_size
    if steps == 0:
        if world == 1:
            told = f"do not fill one batch of {batch_size}: lower --batch_size"
        else:
            told = f"of {world} processes do not fill one batch of {batch_size} on each: lower --batch_size, or --gpus"
        raise ValueError(f"no training step: {num_files} training images {told}")
    return steps


def shuffled(num_files: int, seed: int, epoch: int, rank: int, world: int, num_taken: int) -> np.ndarray:
    """The files that a rank takes in an epoch: of one order for all ranks the entries rank, rank + world, ..."""
    return np.random.default_rng([seed, epoch]).permutation(num_files)[rank::world][:num_taken]


def fingerprint(
    loader: str,
    files: Sequence[str],
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    rank: int,
    world: int,
) -> dict[str, str | int]:
    """What has to be the same for a loader's saved state to give the same data.

    ``files`` becomes a digest of the labels and of the file names below their common folder: a data set that
    was moved still resumes.
    """
    root = len(os.path.commonpath((min(files), max(files)))) + 1
    digest = hashlib.sha256(b"\0".join(os.fsencode(file[root:]) for file in files))
    digest.update(np.ascontiguousarray(labels, dtype=np.int64))
    settings = {"batch_size": batch_size, "seed": seed, "rank": rank, "world": world}
    return {"loader": loader, "files": digest.hexdigest(), **settings}


def check_fingerprint(saved: dict, own: dict, other_world: bool = False) -> None:
    """Refuses a saved state whose fingerprint is not the loader's own.

    Args:
        other_world: another number of ranks may share the images; possible at the start of an epoch only.

    Raises:
        ValueError: naming every difference.
    """
    free = ("rank", "world", "batch_size") if other_world else ()
    others = [key for key in own if key not in free and saved.get(key) != own[key]]
    if others:
        differences = "; ".join(f"{key} was {saved.get(key)!r}, is {own[key]!r}" for key in others)
        raise ValueError(
            "the saved state of the loader belongs to other data or settings and would give other images: "
            f"{differences}; resume with the former settings, or start a new run"
        )


class Progress:
    """Where a loader stands: in which epoch, after which batch, and whether it can be used at all."""

    def __init__(self) -> None:
        self._epoch, self._step = 0, 0
        self._under_way = False
        self._stopped: str | None = None

    def check_usable(self) -> None:
        """Raises RuntimeError where the loader was closed or has met an error."""
        if self._stopped is not None:
            raise RuntimeError(f"this loader cannot go on ({self._stopped}); make a new one")

    def start(self, epoch: int) -> int:
        """Begins an epoch, or what is left of it; returns the number of batches that were taken before.

        Raises:
            ValueError: another epoch is next.
        """
        self.check_usable()
        if self._under_way:
            raise ValueError(f"epoch {epoch} cannot start: the epoch before it was not taken to its end")
        if epoch != self._epoch:
            raise ValueError(f"epoch {epoch} cannot start: epochs come in order, and {self._epoch} is next")
        self._under_way = True
        return self._step

    def count(self) -> None:
        """Marks a batch as taken."""
        self._step += 1

    def finish(self) -> None:
        """Marks the end of the epoch."""
        self._epoch, self._step, self._under_way = self._epoch + 1, 0, False

    def move(self, epoch: int, step: int) -> None:
        """Goes on in an epoch after so many batches."""
        self._epoch, self._step, self._under_way = epoch, step, False

    def stop(self, why: str) -> None:
        """Refuses all further use."""
        self._stopped = why

    def position(self) -> dict[str, int]:
        """Returns the epoch and the number of its batches that were taken."""
        self.check_usable()
        return {"epoch": self._epoch, "step": self._step}
