"""Accuracy as exact integer counts over every image once."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pcpad.data.batch import Batch
from pcpad.training.distributed import World

MIN_CLASSES_TOP5 = 5
"""Below this many classes top-5 is always right, and is left out."""


@dataclass(frozen=True)
class Counts:
    """Result of one evaluation.

    Attributes:
        n: images seen.
        top1, top5: images whose label is the first, one of the first five; top5 is None below 5 classes.
        index: int64 ``(n,)``, manifest row of each image, ascending.
        label: int64 ``(n,)``.
        predictions: int32 ``(n, k)``, the classes of the k = min(5, classes) largest outputs, the largest first.
        loss: mean cross-entropy.
        seconds: wall time, data included.
    """

    n: int
    top1: int
    top5: int | None
    index: np.ndarray
    label: np.ndarray
    predictions: np.ndarray
    loss: float
    seconds: float


class Tally:
    """What one process has seen of an evaluation so far.

    Args:
        num_classes: outputs of the model.
    """

    def __init__(self, num_classes: int):
        self.num_classes, self.k = num_classes, min(5, num_classes)
        self.index, self.label = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
        self.predictions = [torch.zeros(0, self.k, dtype=torch.int32)]
        self.losses = [torch.zeros((), dtype=torch.float64)]
        self.seconds = 0.0

    def add(self, logits: Tensor, batch: Batch) -> None:
        """Count a batch; `logits` are ``(B, num_classes)``."""
        logits = logits.float()
        self.losses.append(nn.functional.cross_entropy(logits, batch.labels, reduction="sum").cpu().double())
        self.predictions.append(logits.topk(self.k, dim=1).indices.to("cpu", torch.int32))
        self.label.append(batch.labels.cpu())
        self.index.append(batch.index)  # the last: what was interrupted before it does not count

    def whole(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index, label, predictions and sum of losses of the batches that were counted to their end."""
        cut = len(self.index)
        index, label, top = (torch.cat(part[:cut]) for part in (self.index, self.label, self.predictions))
        return index, label, top, torch.stack(self.losses[:cut]).sum()

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays; index, label and top5 as in a record's .npz."""
        arrays = zip(("index", "label", "top5", "loss"), self.whole(), strict=True)
        return {name: array.numpy() for name, array in arrays} | {"seconds": np.float64(self.seconds)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        arrays = [[torch.from_numpy(state[name])] for name in ("index", "label", "top5")]
        self.index, self.label, self.predictions = arrays
        self.losses, self.seconds = [torch.tensor(float(state["loss"]), dtype=torch.float64)], float(state["seconds"])

    def counts(self, expected: int, world: World | None = None) -> Counts:
        """The result over all processes, which have to ask for it together.

        Raises:
            RuntimeError: the images seen are not each of `expected` once.
        """
        world = world or World()
        *parts, loss = self.whole()
        seen, labels, top = (world.gather(part) for part in parts)
        order = torch.argsort(seen)
        seen, labels, top = seen[order], labels[order], top[order]
        if not torch.equal(seen, torch.arange(expected)):
            raise RuntimeError(f"saw {len(seen)} images, {len(seen.unique())} of them different, of {expected}")
        hits = top == labels[:, None]
        return Counts(
            n=expected,
            top1=int(hits[:, 0].sum()),
            top5=int(hits.sum()) if self.num_classes >= MIN_CLASSES_TOP5 else None,
            index=seen.numpy(),
            label=labels.numpy(),
            predictions=top.numpy(),
            loss=float(world.sum(loss)) / expected,
            seconds=self.seconds,
        )


class Interrupted(Exception):
    """An evaluation was asked to stop.

    Attributes:
        code: what the question was answered with.
    """

    def __init__(self, code: int):
        super().__init__("the evaluation was asked to stop")
        self.code = code


def count(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    expected: int,
    num_classes: int,
    device: torch.device,
    amp: str = "off",
    channels_last: bool = True,
    world: World | None = None,
    progress: Callable[[], None] | None = None,
    stop: Callable[[], int] | None = None,
) -> Counts:
    """Evaluate a model: integer counts over exactly `expected` images.

    The model is put into eval mode for the time and back into the mode it had. Each process looks at its own shard;
    what it saw is joined once.

    Args:
        batches: of this process's shard; may be empty.
        expected: images of the whole split.
        num_classes: outputs of the model.
        amp: ``"off"``, ``"bf16"`` or ``"fp16"``.
        progress: called after each batch.
        stop: asked before each batch; all processes stop where one answers other than 0.

    Raises:
        RuntimeError: an image was seen twice or not at all. Interrupted: `stop` said so. ValueError, OSError: a process
            could not read an image; on all of them.
    """
    world, tally = world or World(), Tally(num_classes)
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in in_step(batches, world, stop):
            if len(batch.index) == 0:
                continue
            images = batch.images.to(memory_format=torch.channels_last) if channels_last else batch.images
            with autocast(device, amp):
                logits = model(images)
            tally.add(logits, batch)
            if progress:
                progress()
    model.train(was_training)
    tally.seconds = time.perf_counter() - start
    return tally.counts(expected, world)


def in_step(batches: Iterable[Batch], world: World, stop: Callable[[], int] | None) -> Iterator[Batch]:
    """This process's batches, while all processes take theirs: they end together where one fails or is to stop."""
    iterator = iter(batches)
    while True:
        batch, error = None, None
        try:
            batch = next(iterator, None)
        except Exception as failure:
            error = failure
        more, failed, code = world.agree(batch is not None, error is not None, stop() if stop else 0)
        if code:
            raise Interrupted(code)
        if failed:
            world.share(error)
        if batch is not None:
            yield batch
        elif not more:
            return


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The autocast context of ``amp``: off, bf16 or fp16."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.float16 if amp == "fp16" else torch.bfloat16)
