"""The DALI loader: decoding, resizing and augmentation in DALI's graph, on the GPU where there is one.

Evaluation gives the pixels of ``pcpad.data.reference``, with one exception on a GPU: at the border DALI repeats the
last pixel where PIL cuts the filter off, which shows in images of a few pixels. Training takes DALI's own conversion of
CMYK.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from nvidia.dali import __version__ as dali_version
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode

from pcpad.data.batch import Batch, EvalTransform, TrainTransform
from pcpad.data.cmyk import without_cmyk
from pcpad.data.contract import (
    Progress,
    as_tuple,
    check_crop,
    check_fingerprint,
    fingerprint,
    shuffled,
    steps_per_epoch,
)
from pcpad.data.dali_batches import GraphRun, read_batches, run_graph
from pcpad.data.dali_images import decoded, eval_images, native_images, native_train_images, seeds, train_images
from pcpad.data.dali_packed import BUFFER, packed, read_packed
from pcpad.data.native import NativeTrainTransform, NativeTransform, all_sides, eval_order, train_order


class EvalLoader:
    """Yields every image once, over all ranks together; can be iterated again and again.

    Rank r takes the files r, r + world, ... in order, or sorted by aspect ratio where they keep their own (a
    NativeTransform, which needs `sizes`). The last batch may be short, and a rank may have none. Of several transforms,
    all images are made of one decoding.

    Args:
        transform: one, or several with different labels; a batch then holds a dict of images by label.
        sizes: int64 ``(n, 2)``, height and width of each file's image.
        rows: of the files to evaluate; all if not given.

    Attributes:
        share_of_padding: by label of the transform, the share of the canvases' pixels that are no image's.

    Raises:
        ValueError: the crop is larger than the resized image.
        DamagedImageError: while iterating, naming the file; the loader then refuses further use.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: np.ndarray,
        transform: EvalTransform | Sequence[EvalTransform],
        *,
        batch_size: int,
        workers: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        sizes: np.ndarray | None = None,
        rows: Sequence[int] | None = None,
    ):
        self._transforms, self._several = as_tuple(transform), not isinstance(transform, EvalTransform)
        check_crop(self._transforms)
        rows = range(len(files)) if rows is None else rows
        own, self.share_of_padding = eval_order(self._transforms, rows, batch_size, rank, world, sizes)
        self._shards = packed(files, own, self._transforms)
        self._own, self._files = list(own), list(files)
        if not self._shards:
            for index, file in zip(self._own, without_cmyk([files[index] for index in self._own]), strict=True):
                self._files[index] = file
        self._labels, self._device = torch.tensor(labels, dtype=torch.int64), torch.device(device)
        self._batch_size, self._workers = batch_size, workers
        self._progress = Progress()

    def __len__(self) -> int:
        return -(-len(self._own) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self._progress.check_usable()
        if not self._own:
            return

        def graph() -> dict[str, DataNode]:
            if self._shards:
                encoded, index = read_packed(self._shards)
            else:
                own = [self._files[index] for index in self._own]
                encoded, index = fn.readers.file(files=own, labels=self._own, name="reader", pad_last_batch=True)
            images, made = decoded(encoded, self._device), {"index": index}
            for transform in self._transforms:
                if isinstance(transform, NativeTransform):
                    made[transform.label], made[f"sides {transform.label}"] = native_images(images, encoded, transform)
                else:
                    made[transform.label] = eval_images(images, encoded, transform)
            return made

        # A pipeline for each pass: between evaluations it would only hold memory that training needs.
        outputs = run_graph(graph, self._batch_size, self._workers, self._device)
        number = self._shards and self._shards.number
        for batch in read_batches(outputs, self._files, self._own, self._labels, self._device, self._progress, number):
            yield batch if self._several else batch._replace(images=batch.images[self._transforms[0].label])
        outputs.end()


class TrainLoader:
    """Yields shuffled, augmented, full batches, the same number per epoch on every rank.

    DALI shuffles all files anew in every epoch and deals them to the ranks; what does not fill a batch on
    every rank is left out. The number of threads changes nothing. A truncated image is found only by a crop
    that reaches beyond the cut: DALI decodes no further than the crop. Where images keep their aspect ratio (a
    NativeTrainTransform, which needs `sizes`, as in EvalLoader), those of a batch are of much the same shape; then the
    order is the torchvision loader's, and each epoch has a pipeline of its own. Packed images are read from front to
    back: an epoch takes the tar files in a random order, and its images through a buffer out of which they are drawn.

    Args:
        size_of: side of an epoch's images in pixels, where it is not the transform's in all of them.

    Attributes:
        steps_per_epoch: batches per epoch.

    Raises:
        ValueError: there are too few images for one step.
        DamagedImageError: while iterating, naming the file; the loader then refuses further use.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: np.ndarray,
        transform: TrainTransform,
        *,
        batch_size: int,
        workers: int,
        device: torch.device,
        seed: int,
        rank: int = 0,
        world: int = 1,
        sizes: np.ndarray | None = None,
        size_of: Callable[[int], int] | None = None,
    ):
        self.steps_per_epoch = steps_per_epoch(len(files), world, batch_size)
        shared = {"batch_size": batch_size, "seed": seed, "rank": rank, "world": world}
        self._fingerprint = fingerprint("dali", files, labels, **shared) | {"dali": dali_version}
        self._fingerprint["resize"] = "torch, on a CPU" if torch.device(device).type == "cpu" else "DALI, on a GPU"
        self._files, self._labels = files, torch.tensor(labels, dtype=torch.int64)
        self._transform, self._device = transform, torch.device(device)
        self._batch_size, self._workers = batch_size, workers
        self._seed, self._rank, self._world = seed, rank, world
        self._sides = all_sides(sizes, transform) if isinstance(transform, NativeTrainTransform) else None
        self._size_of, self._size = size_of, transform.size
        self._shards = packed(files, range(len(files)), (transform,))
        self._outputs: GraphRun | None = None  # made by the first epoch, so after restore
        self._checkpoint: bytes | None = None
        self._since = [0, world]  # epoch and number of ranks that the order of the files was drawn for
        self._progress = Progress()

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yields the batches of one epoch, after `restore` those that are left of it.

        Epochs come in order, and each is taken to its end.

        Raises:
            ValueError: another epoch is next.
        """
        done = self._progress.start(epoch)
        if self._sides is not None:
            return self._native_epoch(epoch, done)
        size = self._size_of(epoch) if self._size_of else self._size
        if self._shards:
            return self._packed_epoch(epoch, done, size)
        if self._outputs is None or size != self._size:  # what follows does not depend on the size of what went before
            self._outputs, self._size = None, size
            self._outputs = self._pipeline(self._graph)
        return self._epoch(done)

    def _pipeline(self, graph: Callable[[], dict[str, DataNode]], *epoch: int) -> GraphRun:
        # Checkpointing changes the order of the files: with it on from the start, resuming does not.
        settings = {"enable_checkpointing": True, "checkpoint": self._checkpoint}
        if self._transform.randaugment:
            settings |= {"conditionals": True, "seed": seeds(self._seed, self._rank, *self._since, *epoch)[2]}
        return run_graph(graph, self._batch_size, self._workers, self._device, **settings)

    def _epoch(self, done: int) -> Iterator[Batch]:
        own, outputs = range(len(self._files)), self._outputs
        batches = read_batches(outputs, self._files, own, self._labels, self._device, self._progress)
        for step, batch in enumerate(batches, done):
            if step < self.steps_per_epoch:
                self._progress.count()
                yield batch._replace(images=batch.images["images"])
        self._checkpoint = outputs.checkpoints()[0]
        self._progress.finish()

    def _native_epoch(self, epoch: int, done: int) -> Iterator[Batch]:
        taken = self.steps_per_epoch * self._batch_size
        own = shuffled(len(self._files), self._seed, epoch, self._rank, self._world, taken).tolist()
        own = train_order(own, self._sides, self._batch_size, np.random.default_rng([self._seed, epoch, 1]))
        files = [self._files[index] for index in own]

        def graph() -> dict[str, DataNode]:
            encoded, index = fn.readers.file(files=files, labels=own, name="reader", seed=0, pad_last_batch=True)
            draws = seeds(self._seed, self._rank, epoch)
            images, sides = native_train_images(encoded, self._transform, self._device, draws)
            return {"images": images, "index": index, "sides images": sides}

        self._outputs = self._pipeline(graph)
        own = own[done * self._batch_size :]
        for batch in read_batches(self._outputs, self._files, own, self._labels, self._device, self._progress):
            self._progress.count()
            yield batch._replace(images=batch.images["images"])
        self._outputs = self._checkpoint = None
        self._progress.finish()

    def _packed_epoch(self, epoch: int, done: int, size: int) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._shards.tars))
        draws = seeds(self._seed, self._rank, epoch)
        buffer = {"random_shuffle": True, "initial_fill": BUFFER, "seed": seeds(self._seed, self._rank, epoch, 1)[0]}
        dealt = {"shard_id": self._rank, "num_shards": self._world}

        def graph() -> dict[str, DataNode]:
            encoded, index = read_packed(self._shards, order, **buffer, **dealt)
            return {
                "images": train_images(encoded, replace(self._transform, size=size), self._device, draws),
                "index": index,
            }

        self._outputs = self._pipeline(graph, epoch)
        own, number = range(len(self._files)), self._shards.number
        batches = read_batches(self._outputs, self._files, own, self._labels, self._device, self._progress, number)
        for batch in islice(batches, self.steps_per_epoch - done):
            self._progress.count()
            yield batch._replace(images=batch.images["images"])
        self._outputs = self._checkpoint = None
        self._progress.finish()

    def _graph(self) -> dict[str, DataNode]:
        since = self._since if self._since[0] else []  # the draws of a run that never changed its world
        encoded, index = fn.readers.file(
            files=list(self._files),
            name="reader",
            shard_id=self._rank,
            num_shards=self._world,
            seed=0,  # not used, but saved
            shuffle_after_epoch=True,
            shuffle_after_epoch_seed=seeds(self._seed, *since)[0],  # all ranks have to shuffle alike
            pad_last_batch=True,
        )
        draws = seeds(self._seed, self._rank, *since)
        transform = replace(self._transform, size=self._size)
        return {"images": train_images(encoded, transform, self._device, draws), "index": index}

    def state(self) -> dict:
        """Returns what ``restore`` needs to go on after the batch that was taken last."""
        position = self._progress.position()
        blob = self._outputs.checkpoints()[0] if position["step"] and self._outputs else self._checkpoint
        return {**self._fingerprint, **position, "since": self._since, "checkpoint": blob}

    def restore(self, state: dict, other_world: bool = False) -> None:
        """Goes on where this rank's ``state`` was taken; call it before any epoch.

        Args:
            other_world: the state is that of any rank of another number of ranks, at the start of an epoch; the order
                of the files is drawn anew.

        Raises:
            ValueError: the state belongs to other files or settings, or to another rank.
        """
        if state.get("loader") == "dali" and "resize" not in state:  # of a time when DALI resized everywhere
            state = state | {"resize": "DALI" if self._device.type == "cpu" else self._fingerprint["resize"]}
        check_fingerprint(state, self._fingerprint, other_world)
        self._outputs, self._checkpoint = None, None if other_world else state["checkpoint"]
        self._since = [state["epoch"], self._world] if other_world else state["since"]
        self._progress.move(state["epoch"], state["step"])

    def close(self) -> None:
        """Frees the pipeline; the loader refuses further use."""
        self._outputs = None
        self._progress.stop("it was closed")
