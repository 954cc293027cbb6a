"""What both loaders promise alike: the length and order of epochs, what may be resumed, what is refused."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from pcpad.data.batch import EvalTransform


def check_crop(transform: EvalTransform) -> None:
    """Refuses an evaluation whose crop is larger than the resized image.

    Raises:
        ValueError: naming crop_pct.
    """
    if not 0 < transform.crop_pct <= 1:
        raise ValueError(f"crop_pct is {transform.crop_pct}: it has to be above 0 and at most 1")


def steps_per_epoch(num_files: int, world: int, batch_size: int) -> int:
    """Full batches that every rank can take from one epoch: ``floor(floor(N / world) / batch_size)``.

    Raises:
        ValueError: there is none.
    """
    steps = num_files // world // batch_size
    if steps == 0:
        raise ValueError(
            f"no training step: {num_files} images over {world} ranks do not fill one batch of {batch_size} "
            "on each rank; lower the batch size or use fewer ranks"
        )
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


def check_fingerprint(saved: dict, own: dict) -> None:
    """Refuses a saved state whose fingerprint is not the loader's own.

    Raises:
        ValueError: naming every difference.
    """
    others = [key for key in own if saved.get(key) != own[key]]
    if others:
        differences = "; ".join(f"{key} was {saved.get(key)!r}, is {own[key]!r}" for key in others)
        raise ValueError(
            "the saved state of the loader belongs to other data or settings and would give other images: "
            f"{differences}; resume with the former settings, or start a new run"
        )


class Progress:
    """Where a loader stands: which epoch is next, and whether it can be used at all."""

    def __init__(self) -> None:
        self._next: int | None = 0
        self._stopped: str | None = None

    def check_usable(self) -> None:
        """Raises RuntimeError where the loader was closed or has met an error."""
        if self._stopped is not None:
            raise RuntimeError(f"this loader cannot go on ({self._stopped}); make a new one")

    def start(self, epoch: int) -> None:
        """Begins an epoch; raises ValueError where another one is next."""
        self.check_usable()
        if self._next is None:
            raise ValueError(f"epoch {epoch} cannot start: the epoch before it was not taken to its end")
        if epoch != self._next:
            raise ValueError(f"epoch {epoch} cannot start: epochs come in order, and {self._next} is next")
        self._next = None

    def finish(self, epoch: int) -> None:
        """Marks the end of an epoch, or of all epochs before a resumed one."""
        self._next = epoch + 1

    def stop(self, why: str) -> None:
        """Refuses all further use."""
        self._stopped = why

    def next_epoch(self) -> int:
        """Returns the number of the next epoch; raises RuntimeError where one is under way."""
        self.check_usable()
        if self._next is None:
            raise RuntimeError("a loader has a state only between epochs; take this one to its end first")
        return self._next
