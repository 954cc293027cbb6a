"""What is done to a batch between the loader and the network: random erasing, mixup and cutmix, all timm's."""

from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpad.config import TrainSettings
from pcpad.data.batch import Batch
from pcpad.data.randomness import drawn_from


def check_mixing(settings: TrainSettings, world: int) -> None:
    """Raise ValueError where timm's mixup cannot take the parts of a batch: it swaps the images of a pair."""
    part = settings.batch_size // (world * settings.accumulate)
    if (settings.mix.mixup or settings.mix.cutmix) and part % 2:
        raise ValueError(
            f"mixup and cutmix take an even number of images, and each part of batch_size={settings.batch_size} has "
            f"{part}: choose a multiple of {2 * world * settings.accumulate}"
        )


def make_mixing(settings: TrainSettings, num_classes: int, device: torch.device) -> Callable[..., Batch] | None:
    """A function of a batch of float32 images to the batch that is trained on; None where nothing is to be done.

    It is called with the batch and a key of whole numbers: ``mix(part, seed, epoch, step, rank, number)``. The key
    alone gives its random numbers: a run that goes on draws those of one that was never stopped, and the dropout of the
    step is what it is without mixing. Images are changed in place; labels are float32 ``(B, num_classes)`` where images
    are mixed.
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

    def change(batch: Batch, *key: int) -> Batch:
        images, labels = batch.images, batch.labels
        with drawn_from(*key, device=device):
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


def augmented_by(settings: TrainSettings) -> dict[str, str]:
    """Whose code augments, and how it is asked, by name of the augmentation: for a run and its records.

    Args:
        settings: of a run, whose loader is chosen.
    """
    augment, mix, timm = settings.augment, settings.mix, f"timm {version('timm')}"
    found = {}
    if augment.randaugment and settings.data.loader == "dali":
        from pcpad.data.dali import dali_version

        asked = f"n={augment.randaugment}, m={augment.magnitude} of 0..10, monotonic"
        found["randaugment"] = f"DALI {dali_version} rand_augment({asked})"
    elif augment.randaugment:
        found["randaugment"] = f"{timm} rand_augment_transform(rand-m{augment.magnitude}-n{augment.randaugment}-inc1)"
    if augment.erase:
        found["erase"] = f"{timm} RandomErasing({augment.erase:g}, pixel)"
    if mix.mixup or mix.cutmix:
        asked = f"{mix.mixup:g}, {mix.cutmix:g}, prob={mix.prob:g}, switch_prob={mix.switch_prob:g}, mode={mix.mode}"
        found["mix"] = f"{timm} Mixup({asked})"
    return found
