"""The DALI loader: decoding, resizing and augmentation in DALI's threads, on the GPU where there is one.

Evaluation gives the pixels of ``pcpad.data.reference``, with one exception: at the border DALI repeats the last pixel
where PIL cuts the filter off, which shows in images of a few pixels. Training takes DALI's own conversion of CMYK.
"""

import gc
import os
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from nvidia.dali import __version__ as dali_version
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from pcpad.data.batch import Batch, EvalTransform, TrainTransform
from pcpad.data.cmyk import without_cmyk
from pcpad.data.contract import Progress, check_crop, check_fingerprint, fingerprint, steps_per_epoch
from pcpad.data.damage import DamagedImageError, first_damaged
from pcpad.data.native import NativeTransform, eval_order
from pcpad.ragged import RaggedBatch

_FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
_FORMATS = ("JPEG", "MPO", "JPEG2000", "PNG", "BMP", "TIFF", "WEBP", "PPM")  # in PIL's words
Transform = EvalTransform | TrainTransform

# A forked process must not collect a pipeline of its parent's: it would wait for threads it does not have.
os.register_at_fork(after_in_child=gc.freeze)


class EvalLoader:
    """Yields every image once, over all ranks together; can be iterated again and again.

    Rank r takes the files r, r + world, ... in order, or sorted by aspect ratio where they keep their own (a
    NativeTransform, which needs `sizes`). The last batch may be short, and a rank may have none.

    Args:
        sizes: int64 ``(n, 2)``, height and width of each file's image.

    Attributes:
        share_of_padding: share of the canvases' pixels that are no image's.

    Raises:
        ValueError: the crop is larger than the resized image.
        DamagedImageError: while iterating, naming the file; the loader then refuses further use.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: np.ndarray,
        transform: EvalTransform,
        *,
        batch_size: int,
        workers: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        sizes: np.ndarray | None = None,
    ):
        check_crop(transform)
        own, self.share_of_padding = eval_order(transform, len(files), batch_size, rank, world, sizes)
        self._files, self._own = without_cmyk(files), list(own)
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._transform, self._device = transform, torch.device(device)
        self._batch_size, self._workers = batch_size, workers
        self._progress = Progress()

    def __len__(self) -> int:
        return -(-len(self._own) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self._progress.check_usable()
        if not self._own:
            return

        def graph() -> tuple[DataNode, ...]:
            own = [self._files[index] for index in self._own]
            encoded, index = fn.readers.file(files=own, labels=self._own, name="reader", pad_last_batch=True)
            if isinstance(self._transform, NativeTransform):
                images, sides = _native_images(encoded, self._transform, self._device)
                return images, index, sides
            return _eval_images(encoded, self._transform, self._device), index

        # A pipeline for each pass: between evaluations it would only hold memory that training needs.
        outputs = _outputs(graph, self._batch_size, self._workers, self._device)
        yield from _batches(outputs, self._files, self._own, self._labels, self._device, self._progress)


class TrainLoader:
    """Yields shuffled, augmented, full batches, the same number per epoch on every rank.

    DALI shuffles all files anew in every epoch and deals them to the ranks; what does not fill a batch on
    every rank is left out. The number of threads changes nothing. A truncated image is found only by a crop
    that reaches beyond the cut: DALI decodes no further than the crop.

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
    ):
        self.steps_per_epoch = steps_per_epoch(len(files), world, batch_size)
        shared = {"batch_size": batch_size, "seed": seed, "rank": rank, "world": world}
        self._fingerprint = fingerprint("dali", files, labels, **shared) | {"dali": dali_version}
        self._files, self._labels = files, torch.tensor(labels, dtype=torch.int64)
        self._transform, self._device = transform, torch.device(device)
        self._batch_size, self._workers = batch_size, workers
        self._seed, self._rank, self._world = seed, rank, world
        self._outputs: DALIGenericIterator | None = None  # made by the first epoch, so after restore
        self._checkpoint: bytes | None = None
        self._progress = Progress()

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yields the batches of one epoch. Epochs come in order, and each is taken to its end.

        Raises:
            ValueError: another epoch is next.
        """
        self._progress.start(epoch)
        if self._outputs is None:
            # Checkpointing changes the order of the files: with it on from the start, resuming does not.
            settings = {"enable_checkpointing": True, "checkpoint": self._checkpoint}
            self._outputs = _outputs(self._graph, self._batch_size, self._workers, self._device, **settings)
        return self._epoch(epoch)

    def _epoch(self, epoch: int) -> Iterator[Batch]:
        own, outputs = range(len(self._files)), self._outputs
        batches = _batches(outputs, self._files, own, self._labels, self._device, self._progress)
        for step, batch in enumerate(batches):
            if step < self.steps_per_epoch:
                yield batch
        self._checkpoint = outputs.checkpoints()[0]
        self._progress.finish(epoch)

    def _graph(self) -> tuple[DataNode, DataNode]:
        encoded, index = fn.readers.file(
            files=list(self._files),
            name="reader",
            shard_id=self._rank,
            num_shards=self._world,
            shuffle_after_epoch=True,
            shuffle_after_epoch_seed=_seeds(self._seed)[0],  # all ranks have to shuffle alike
            pad_last_batch=True,
        )
        return _train_images(encoded, self._transform, self._device, _seeds(self._seed, self._rank)), index

    def state(self) -> dict:
        """Returns what ``restore`` needs to go on with the next epoch; only between epochs."""
        return {**self._fingerprint, "epoch": self._progress.next_epoch(), "checkpoint": self._checkpoint}

    def restore(self, state: dict) -> None:
        """Goes on after the epoch at whose end this rank's ``state`` was taken; call it before any epoch.

        Raises:
            ValueError: the state belongs to other files or settings, or to another rank.
        """
        check_fingerprint(state, self._fingerprint)
        self._outputs, self._checkpoint = None, state["checkpoint"]
        self._progress.finish(state["epoch"] - 1)

    def close(self) -> None:
        """Frees the pipeline; the loader refuses further use."""
        self._outputs = None
        self._progress.stop("it was closed")


def _eval_images(encoded: DataNode, transform: EvalTransform, device: torch.device) -> DataNode:
    """Decodes, resizes, crops and normalises, with torchvision's integers for every size and offset."""
    images = fn.decoders.image(encoded, **_decoder(device))
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    height, width = shape[0], shape[1]
    shorter = math.min(height, width)
    by_height, by_width = (shorter, shorter) if transform.crop_mode == "center" else (height, width)
    new_height, new_width = height * transform.resize // by_height, width * transform.resize // by_width
    images = _resize_as_pil(images, (height, width), (new_height, new_width), transform)
    start = fn.stack(_half(new_height - transform.size), _half(new_width - transform.size))
    images = fn.slice(images, start=start, shape=[transform.size, transform.size], axis_names="HW")
    return _normalise(images, transform)


def _resize_as_pil(
    images: DataNode, old: tuple[DataNode, DataNode], new: tuple[DataNode, DataNode], transform: EvalTransform
) -> DataNode:
    """Resizes one side after the other and rounds to 8 bits in between, as PIL does and one fn.resize does not.

    The width comes first, unless the height shrinks by more than twice as many pixels (Pillow 13, Resample.c).
    """
    (height, width), (new_height, new_width) = old, new
    height_first = (height > new_height) & (height - new_height > 2 * (width - new_width))
    first_height = height + height_first * (new_height - height)
    first_width = new_width + height_first * (width - new_width)
    for size in ((first_height, first_width), (new_height, new_width)):
        images = _resize(images, fn.cast(fn.stack(*size), dtype=types.FLOAT), transform)
    return images


def _native_images(encoded: DataNode, transform: NativeTransform, device: torch.device) -> tuple[DataNode, DataNode]:
    """Decodes, resizes and normalises at the image's own aspect ratio, on a canvas of the batch; and the sides."""
    images = fn.decoders.image(encoded, **_decoder(device))
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    height, width = shape[0], shape[1]
    shorter = math.min(height, width)
    new_height, new_width = (_round(side * transform.size // shorter, transform.multiple) for side in (height, width))
    images = _resize_as_pil(images, (height, width), (new_height, new_width), transform)
    images = _normalise(images, transform)
    return fn.pad(images, axis_names="HW", fill_value=0), fn.stack(new_height, new_width)


def _round(side: DataNode, multiple: int) -> DataNode:
    """A side as `NativeTransform` rounds it."""
    return math.max((side + multiple // 2) // multiple, 1) * multiple


def _train_images(
    encoded: DataNode,
    transform: TrainTransform,
    device: torch.device,
    seeds: list[int],
) -> DataNode:
    """Crops, resizes, flips and normalises at random; the crop follows torchvision's law."""
    images = fn.decoders.image_random_crop(
        encoded,
        random_area=list(transform.scale),
        random_aspect_ratio=list(transform.ratio),
        num_attempts=10,
        seed=seeds[0],
        **_decoder(device),
    )
    images = _resize(images, [transform.size, transform.size], transform)
    mirror = fn.random.coin_flip(probability=transform.hflip, seed=seeds[1])
    return _normalise(images, transform, mirror=mirror)


def _decoder(device: torch.device) -> dict:
    args = {"device": "cpu", "adjust_orientation": False}  # PIL does not turn images by EXIF either
    if device.type == "cpu":
        return args
    # Chroma as PIL's libjpeg has it; and no hardware decoder, whose pixels are not those of the kernels, so
    # that an image does not depend on which of the two it went to.
    return args | {"device": "mixed", "jpeg_fancy_upsampling": True, "hw_decoder_load": 0.0}


def _resize(images: DataNode, size: DataNode | list[int], transform: Transform) -> DataNode:
    return fn.resize(images, size=size, interp_type=_FILTERS[transform.interpolation], antialias=True)


def _half(excess: DataNode) -> DataNode:
    """Half of a number from 0 up, rounded as Python's round does in torchvision: ties to even."""
    return fn.cast((excess + (excess // 2 & 1)) // 2, dtype=types.INT32)


def _normalise(images: DataNode, transform: Transform, **mirror: DataNode) -> DataNode:
    scaled = {"mean": [255 * mean for mean in transform.mean], "std": [255 * std for std in transform.std]}
    return fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", **scaled, **mirror)


def _seeds(*key: int) -> list[int]:
    """Two independent seeds that DALI takes (31 bits)."""
    return [int(seed) >> 1 for seed in np.random.SeedSequence(key).generate_state(2)]


def _outputs(
    graph: Callable[[], tuple[DataNode, ...]],
    batch_size: int,
    workers: int,
    device: torch.device,
    **settings,
) -> DALIGenericIterator:
    device_id = None if device.type == "cpu" else torch.empty(0, device=device).get_device()
    pipeline = Pipeline(batch_size=batch_size, num_threads=max(workers, 1), device_id=device_id, **settings)
    with pipeline:
        outputs = graph()
        pipeline.set_outputs(*outputs)
    return DALIGenericIterator(
        pipeline,
        ["images", "index", "sides"][: len(outputs)],
        reader_name="reader",
        auto_reset=True,
        # With the reader's padding the only policy that neither repeats nor loses a file.
        last_batch_policy=LastBatchPolicy.PARTIAL,
        prepare_first_batch=False,
    )


def _batches(
    outputs: DALIGenericIterator,
    files: Sequence[str],
    own: Sequence[int],
    labels: torch.Tensor,
    device: torch.device,
    progress: Progress,
) -> Iterator[Batch]:
    """Yields batches to the epoch's end; a failure of DALI becomes the error of the file that caused it."""
    seen = np.zeros(len(files), dtype=bool)
    while True:
        try:
            (output,) = next(outputs)
        except StopIteration:
            return
        except Exception as error:  # whatever it is, the pipeline is no longer valid
            damage = _find_damage(str(error), [files[index] for index in own if not seen[index]])
            progress.stop(str(damage or "DALI has failed"))
            if damage is None:
                raise
            try:
                raise damage from error
            finally:
                del damage  # with its traceback it would hold this frame, and so the pipeline
        index = output["index"].flatten().to(torch.int64)
        seen[index.numpy()] = True
        images, sides = output["images"], output.get("sides")
        if sides is not None:
            images = RaggedBatch(images, sides.cpu().to(torch.int64))
        yield Batch(images, labels[index].to(device, non_blocking=True), index)


def _find_damage(text: str, suspects: Sequence[str]) -> DamagedImageError | None:
    """Finds the damaged file behind the text of DALI's error, which may name it; None where there is none."""
    named = max((file for file in suspects if file in text), key=len, default=None)
    reading = re.search(r"operator `nvidia\.dali\.fn\.(readers|decoders|peek)", text)
    if named is None and (not reading or re.search(r"out of memory|alloc", text)):
        return None  # a search through all the files would only delay the news
    found = first_damaged(suspects if named is None else [named], _FORMATS)
    return None if found is None else DamagedImageError.of(*found)
