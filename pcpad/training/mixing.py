"""Random erasing, mixup and CutMix of the images of a step: timm's, with random numbers of the step's own."""

from collections.abc import Callable
from importlib.metadata import version

import torch

from pcpad.config import TrainSettings, parse_randaugment
from pcpad.data.batch import Batch
from pcpad.data.randomness import drawn_from


def make_mixer(settings: TrainSettings, num_classes: int, device: torch.device) -> Callable[..., Batch] | None:
    """What is done to a part of a batch before the network sees it, or None where nothing is.

    The result is called with a Batch and a key of whole numbers: ``mixer(part, seed, epoch, step, rank, number)``. The
    key alone gives the random numbers, so that a run that goes on draws those of one that was never stopped, and the
    dropout of the step is not disturbed. Images are changed in place. Where anything is mixed, labels become shares of
    the classes, float32 ``(B, num_classes)``, label smoothing included.

    Raises:
        ValueError: timm mixes an image with its mirror place in the batch, which needs an even number.
    """
    augment, mix = settings.augment, settings.mix
    if not (augment.erase or mix.on):
        return None
    from timm.data import Mixup
    from timm.data.random_erasing import RandomErasing

    erase = mixup = None
    if augment.erase:
        erase = RandomErasing(augment.erase, mode=augment.erase_mode, device=device)
    if mix.on:
        mixup = Mixup(
            mixup_alpha=mix.mixup,
            cutmix_alpha=mix.cutmix,
            prob=mix.prob,
            switch_prob=mix.switch_prob,
            mode=mix.mode,
            label_smoothing=settings.label_smoothing,
            num_classes=num_classes,
        )

    def mixer(part: Batch, *key: int) -> Batch:
        images, labels = part.images, part.labels
        with drawn_from(*key, device=device):
            if erase:
                images = erase(images)
            if mixup:
                images, labels = mixup(images, labels)
        return part._replace(images=images, labels=labels)

    return mixer


def check_mixing(settings: TrainSettings, world: int, loader: str) -> None:
    """Refuse an odd number of images to mix, and what DALI's RandAugment does not have.

    Raises:
        ValueError: says what to choose.
    """
    share = settings.batch_size // world // settings.accumulate
    if settings.mix.on and share % 2:
        raise ValueError(
            f"mix: images are mixed in pairs, and batch_size={settings.batch_size} over {world} processes in "
            f"{settings.accumulate} parts gives {share} of them: choose a batch size that gives an even number"
        )
    wanted = settings.augment.randaugment and parse_randaugment(settings.augment.randaugment)
    if wanted and loader == "dali" and (wanted.std is not None or wanted.prob is not None):
        raise ValueError(
            f"augment.randaugment={settings.augment.randaugment}: DALI's RandAugment has no mstd and no p: leave them "
            "out, or use --data.loader torchvision, whose RandAugment is timm's"
        )


def augmented_by(settings: TrainSettings) -> dict[str, str]:
    """Whose code augments, and how it was asked for, by name of the augmentation; for the run and its records.

    Args:
        settings: of a run, whose loader is chosen.
    """
    augment, mix, timm = settings.augment, settings.mix, f"timm {version('timm')}"
    dali = settings.data.loader == "dali"
    if dali:
        from pcpad.data.dali import dali_version
    found = {}
    if augment.randaugment:
        wanted = parse_randaugment(augment.randaugment)
        found["randaugment"] = f"{timm} rand_augment_transform({wanted.text})"
        if dali:
            asked = f"m={wanted.magnitude} of 0..10, n={wanted.number}, monotonic_mag={wanted.increasing}"
            found["randaugment"] = f"DALI {dali_version} auto_aug.rand_augment({asked})"
    if augment.color_jitter:
        jitter = f"DALI {dali_version} color_twist" if dali else f"torchvision {version('torchvision')} ColorJitter"
        found["color_jitter"] = f"{jitter}({augment.color_jitter:g})"
    if augment.erase:
        found["erase"] = f"{timm} RandomErasing({augment.erase:g}, {augment.erase_mode})"
    if mix.on:
        asked = f"{mix.mixup:g}, {mix.cutmix:g}, prob={mix.prob:g}, switch_prob={mix.switch_prob:g}, mode={mix.mode}"
        found["mix"] = f"{timm} Mixup({asked})"
    return found
