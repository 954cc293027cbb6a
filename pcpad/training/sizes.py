"""What training images become, and how large they are in which epoch."""

from itertools import groupby

from pcpad.config import TrainSettings, parse_randaugment
from pcpad.data.batch import EvalTransform, Growth, TrainTransform


def train_transform(settings: TrainSettings, transform: EvalTransform) -> TrainTransform:
    """The transform of training images, for square ones; mean and std are those of evaluation."""
    augment = settings.augment
    return TrainTransform(
        size=settings.size,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        interpolation=augment.interpolation,
        mean=transform.mean,
        std=transform.std,
        randaugment=parse_randaugment(augment.randaugment) if augment.randaugment else None,
        color_jitter=augment.color_jitter,
        growth=Growth(settings.progressive, settings.epochs) if settings.progressive.start is not None else None,
    )


def side_of(settings: TrainSettings, epoch: int) -> int:
    """Side in pixels of the training images of an epoch, 0 for the first."""
    return settings.progressive.side(epoch, settings.epochs, settings.size)


def sides_of(settings: TrainSettings) -> list[int]:
    """Every side in pixels that the network will see in a run, in ascending order."""
    return sorted({settings.size, *(side_of(settings, epoch) for epoch in range(settings.epochs))})


def which_sizes(settings: TrainSettings) -> str:
    """The sizes of training images by epoch as one line, and what they save: ``cost`` is in pixels, computed."""
    sides = [side_of(settings, epoch) for epoch in range(settings.epochs)]
    spans, first = [], 1
    for side, group in groupby(sides):
        last = first + len(list(group)) - 1
        spans.append(f"{side} in epoch{'s' * (last > first)} {first}{f' to {last}' if last > first else ''}")
        first = last + 1
    share = sum(side**2 for side in sides) / (settings.size**2 * settings.epochs)
    return f"training images: {', '.join(spans)} pixels; {share:.0%} of the pixels of training at {settings.size}"
