"""The torchvision loader: PIL decoding and PIL resizing, the reference that the DALI loader has to match."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pcpad.data.batch import Batch, EvalTransform, TrainTransform
from pcpad.data.contract import (
    Progress,
    as_tuple,
    check_crop,
    check_fingerprint,
    fingerprint,
    shuffled,
    steps_per_epoch,
)
from pcpad.data.damage import DamagedImageError, open_rgb
from pcpad.data.native import NativeTrainTransform, NativeTransform, all_sides, eval_order, train_order
from pcpad.data.pil_images import eval_pixels, native_pixels, train_pixels
from pcpad.data.workers import heed_only, start_method
from pcpad.ragged import RaggedBatch


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
        many = as_tuple(transform)
        check_crop(many)
        rows = range(len(files)) if rows is None else rows
        self._keys = _Keys(files, batch_size)
        self._keys.order, self.share_of_padding = eval_order(many, rows, batch_size, rank, world, sizes)
        self._finish = _Finish(labels, transform, device)
        self._loader = _data_loader(_Samples(many), self._keys, workers, device, world, keep_workers=False)
        self._progress = Progress()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        self._progress.check_usable()
        for item in self._loader:
            if isinstance(item, DamagedImageError):
                self._progress.stop(str(item))
                raise item
            yield self._finish(item)


class TrainLoader:
    """Yields shuffled, augmented, full batches, the same number per epoch on every rank.

    Seed and epoch give one order, of which rank r takes the entries r, r + world, ...; seed, epoch and index
    give the augmentation of an image. The number of workers changes nothing, and torch's own random state is
    neither read nor changed. Where images keep their aspect ratio (a NativeTrainTransform, which needs `sizes`, as in
    EvalLoader), those of a batch are of much the same shape.

    Args:
        size_of: side of an epoch's images in pixels, where it is not the transform's in all of them; it can be pickled.

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
        self._fingerprint = fingerprint(
            "torchvision", files, labels, batch_size=batch_size, seed=seed, rank=rank, world=world
        )
        self._seed, self._rank, self._world = seed, rank, world
        self._num_taken = self.steps_per_epoch * batch_size
        self._num_files, self._batch_size = len(files), batch_size
        self._sides = all_sides(sizes, transform) if isinstance(transform, NativeTrainTransform) else None
        self._keys = _Keys(files, batch_size)
        self._finish = _Finish(labels, transform, device)
        self._loader = _data_loader(
            _Samples((transform,), seed, size_of), self._keys, workers, device, world, keep_workers=True
        )
        self._progress = Progress()

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yields the batches of one epoch, after `restore` those that are left of it.

        Epochs come in order, and each is taken to its end.

        Raises:
            ValueError: another epoch is next.
        """
        return self._batches(epoch, self._progress.start(epoch))

    def _batches(self, epoch: int, done: int) -> Iterator[Batch]:
        order = shuffled(self._num_files, self._seed, epoch, self._rank, self._world, self._num_taken).tolist()
        if self._sides is not None:
            order = train_order(order, self._sides, self._batch_size, np.random.default_rng([self._seed, epoch, 1]))
        self._keys.order = order[done * self._batch_size :]
        self._keys.epoch = epoch
        for item in self._loader:
            if isinstance(item, DamagedImageError):
                self.close()
                self._progress.stop(str(item))
                raise item
            self._progress.count()
            yield self._finish(item)
        self._progress.finish()

    def state(self) -> dict:
        """Returns what ``restore`` needs to go on after the batch that was taken last."""
        return {**self._fingerprint, **self._progress.position()}

    def restore(self, state: dict, other_world: bool = False) -> None:
        """Goes on where ``state`` was taken; call it before the first epoch.

        Args:
            other_world: the state is that of any rank of another number of ranks, at the start of an epoch.

        Raises:
            ValueError: the state belongs to other files or settings.
        """
        check_fingerprint(state, self._fingerprint, other_world)
        self._progress.move(state["epoch"], state["step"])

    def close(self) -> None:
        """Ends the worker processes; the loader refuses further use."""
        self._loader = None
        self._progress.stop("it was closed")


class _Keys:
    """A batch sampler of ``(path, index, epoch)``, so that workers need neither the file list nor a clock."""

    def __init__(self, files: Sequence[str], batch_size: int):
        self._files, self._batch_size = files, batch_size
        self.order: Sequence[int] = ()
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.order) // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        for start in range(0, len(self.order), self._batch_size):
            batch = self.order[start : start + self._batch_size]
            yield [(self._files[index], index, self.epoch) for index in batch]


class _Samples:
    """Decodes and transforms one image; the only part of a loader that runs in the workers."""

    def __init__(
        self,
        transforms: tuple[EvalTransform | TrainTransform, ...],
        seed: int = 0,
        size_of: Callable[[int], int] | None = None,
    ):
        self.transforms, self._seed, self._size_of = transforms, seed, size_of

    def __getitem__(self, key: tuple[str, int, int]) -> tuple[list[Tensor], int] | DamagedImageError:
        path, index, epoch = key
        try:
            image = open_rgb(path)
        except DamagedImageError as error:
            return error  # raised, torch would bury it in the text of a worker's traceback
        return [self._pixels(image, transform, index, epoch) for transform in self.transforms], index

    def _pixels(self, image: Image.Image, transform: EvalTransform | TrainTransform, index: int, epoch: int) -> Tensor:
        if isinstance(transform, NativeTransform):
            return native_pixels(image, transform)
        if isinstance(transform, EvalTransform):
            return eval_pixels(image, transform)
        if self._size_of is not None:
            transform = replace(transform, size=self._size_of(epoch))
        return train_pixels(image, transform, np.random.default_rng([self._seed, epoch, index]))


class _Finish:
    """Makes a Batch of what the workers give: labels, the way to the device, normalisation there."""

    def __init__(self, labels: np.ndarray, transform, device: torch.device):
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._device = device
        self._names = None if isinstance(transform, (EvalTransform, TrainTransform)) else [t.label for t in transform]
        self._scales = [
            [torch.tensor(values, device=device).view(3, 1, 1) for values in (one.mean, one.std)]
            for one in as_tuple(transform)
        ]

    def __call__(self, item: tuple[list[tuple[Tensor, Tensor | None]], Tensor]) -> Batch:
        made, index = item
        images = [self._normalised(*one, *scale) for one, scale in zip(made, self._scales, strict=True)]
        labels = self._labels[index].to(self._device, non_blocking=True)
        return Batch(dict(zip(self._names, images, strict=True)) if self._names else images[0], labels, index)

    def _normalised(self, pixels: Tensor, sides: Tensor | None, mean: Tensor, std: Tensor) -> Tensor | RaggedBatch:
        images = pixels.to(self._device, non_blocking=True).to(torch.float32)
        images.div_(255).sub_(mean).div_(std)
        return images if sides is None else RaggedBatch(images, sides)


def _collate(
    samples: list, ragged: tuple[bool, ...]
) -> tuple[list[tuple[Tensor, Tensor | None]], Tensor] | DamagedImageError:
    for sample in samples:
        if isinstance(sample, DamagedImageError):
            return sample
    pixels, index = zip(*samples, strict=True)
    made = [_stack(images, own) for images, own in zip(zip(*pixels, strict=True), ragged, strict=True)]
    return made, torch.tensor(index, dtype=torch.int64)


def _stack(images: Sequence[Tensor], ragged: bool) -> tuple[Tensor, Tensor | None]:
    if not ragged:
        return torch.stack(list(images)), None
    batch = RaggedBatch.from_images(images)
    return batch.canvas, batch.extents


def _data_loader(
    samples: _Samples,
    keys: _Keys,
    workers: int,
    device: torch.device,
    world: int,
    keep_workers: bool,
) -> DataLoader:
    ragged = tuple(isinstance(one, (NativeTransform, NativeTrainTransform)) for one in samples.transforms)
    return DataLoader(
        samples,
        batch_sampler=keys,
        collate_fn=partial(_collate, ragged=ragged),
        num_workers=workers,
        multiprocessing_context=start_method(world) if workers > 0 else None,
        persistent_workers=keep_workers and workers > 0,
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=partial(heed_only, os.getpid()),
        # Without one of its own, a DataLoader draws its base seed from torch's global generator.
        generator=torch.Generator(),
    )
