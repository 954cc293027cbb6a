"""What is done to a batch between the loader and the network: random erasing, mixup and cutmix, all timm's."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpad.config import TrainSettings
from pcpad.data.batch import Batch


def check_mixing(settings: TrainSettings, world: int) -> None:
    """Raise ValueError where timm's mixup cannot take the parts of a batch: it swaps the images of a pair."""
    part = settings.batch_size // (world * settings.accumulate)
    if (settings.mix.mixup or settings.mix.cutmix) and part % 2:
        raise ValueError(
            f"mixup and cutmix take an even number of images, and each part of batch_size={settings.batch_size} has "
            f"{part}: choose a multiple of {2 * world * settings.accumulate}"
        )


def make_mixing(settings: TrainSettings, num_classes: int, device: torch.device) -> Callable[[Batch], Batch] | None:
    """A function of a batch of float32 images to the batch that is trained on; None where nothing is to be done.

    Its labels are ``(B, num_classes)``, float32, where images are mixed. It draws from the global random generators of
    Python, numpy and torch, which an epoch seeds and a checkpoint keeps.
    """
    mix, erase = settings.mix, None
    if settings.augment.erase:
        from timm.data.random_erasing import RandomErasing

        erase = RandomErasing(settings.augment.erase, mode="pixel", device=str(device))
    mixup = None
    if mix.mixup or mix.cutmix:
        from timm.data import Mixup

        mixup = Mixup(
            mixup_alpha=mix.mixup,
            cutmix_alpha=mix.cutmix,
            prob=mix.prob,
            switch_prob=mix.switch_prob,
            mode=mix.mode,
            label_smoothing=0.0,  # the loss smooths
            num_classes=num_classes,
        )
    if erase is None and mixup is None:
        return None

    def change(batch: Batch) -> Batch:
        images, labels = batch.images, batch.labels
        if erase is not None:
            images = erase(images)
        if mixup is not None:
            images, labels = mixup(images, labels)
        return batch._replace(images=images, labels=labels)

    return change


def loss_of(logits: Tensor, labels: Tensor, kind: str, label_smoothing: float) -> Tensor:
    """Mean loss of a batch, 0-d.

    Args:
        logits: ``(B, C)``. labels: int64 ``(B,)``, or shares of the classes, float32 ``(B, C)``.
        kind: ``"ce"``, or ``"bce"``: the mean over images and classes of the binary cross-entropy, as timm's.
    """
    if kind == "ce":
        target = labels if labels.dim() == 1 else labels.to(logits.dtype)
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    target = F.one_hot(labels, logits.shape[1]) if labels.dim() == 1 else labels
    target = target.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return F.binary_cross_entropy_with_logits(logits, target)


def hits_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of images whose largest output is their label, of mixed ones that with the larger share; 0-d int64."""
    wanted = labels if labels.dim() == 1 else labels.argmax(1)
    return (logits.argmax(1) == wanted).sum()
