"""From weights of zero padding to another: recalibrated norms, a power that rises, the network as its own teacher."""

import copy
from collections.abc import Callable, Iterable
from math import floor

import numpy as np
import torch
from torch import Tensor, nn

from pcpad.config import TrainSettings
from pcpad.data.batch import Batch
from pcpad.origin import origin_of
from pcpad.padding import convert
from pcpad.padding.modes import power_of
from pcpad.training.distributed import World

LEVELS = 100
"""Values that the power takes on its way up: each costs a conversion, and one tensor of ratios a layer."""
BatchNorm = nn.modules.batchnorm._BatchNorm


def check_adapting(settings: TrainSettings) -> None:
    """Raise ValueError for settings that contradict each other."""
    adapt = settings.adapt
    if settings.weights is None and (adapt.recalibrate or adapt.distill or adapt.ramp_epochs):
        raise ValueError("adapt.recalibrate, adapt.distill and adapt.ramp_epochs start from weights: give --weights")
    if not settings.resume and (adapt.recalibrate or adapt.distill or adapt.ramp_epochs):
        known = origin_of(settings.weights)
        if known and known.padding != "zeros":
            raise ValueError(
                f"{settings.weights} was trained with {known.padding} padding, and weights of zero padding are what "
                "adapt.recalibrate, adapt.distill and adapt.ramp_epochs bring to another: train on with it by `pcpad "
                "train --weights`, without them"
            )
    if adapt.ramp_epochs and settings.padding not in ("partial", "partial_sqrt"):
        raise ValueError(f"adapt.ramp_epochs raises the power of partial padding; {settings.padding} has none")
    if adapt.ramp_epochs and adapt.recalibrate:
        raise ValueError(
            "adapt.recalibrate shifts the norms to the full power, and adapt.ramp_epochs begins without any: give "
            "--adapt.recalibrate 0 with it"
        )
    if adapt.ramp_epochs and settings.compile:
        raise ValueError(
            "adapt.ramp_epochs with --compile would compile the network anew for each power; use one of them"
        )
    if adapt.ramp_epochs > settings.epochs:
        raise ValueError(f"adapt.ramp_epochs must be at most epochs ({settings.epochs}), not {adapt.ramp_epochs:g}")


def power_after(step: int, settings: TrainSettings, steps_per_epoch: int) -> float:
    """The power that is in force after so many optimizer steps."""
    full, ramp = power_of(settings.padding, settings.power), settings.adapt.ramp_epochs * steps_per_epoch
    if step >= ramp:
        return full
    return full * floor(LEVELS * step / ramp) / LEVELS


def put_power(model: nn.Module, settings: TrainSettings, power: float) -> None:
    """Put a network of partial padding to a power; weights and everything else stay."""
    convert(model, "partial", power=power, on_small=settings.on_small)


def recalibration_rows(num_images: int, wanted: int, batch: int, seed: int) -> list[int]:
    """Which training images the norms are computed from: drawn at random, in full batches, in ascending order.

    Args:
        batch: images of one step over all processes.

    Raises:
        ValueError: they do not fill a batch.
    """
    count = min(wanted, num_images) // batch * batch
    if not count:
        raise ValueError(
            f"adapt.recalibrate={wanted} of {num_images:,} training images do not fill one batch of {batch}: lower "
            "--eval_batch_size"
        )
    return np.sort(np.random.default_rng([seed, 1]).permutation(num_images)[:count]).tolist()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The norms that have statistics to recalibrate."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]


@torch.no_grad()
def batch_statistics(
    model: nn.Module, batches: Iterable[Batch], world: World, layout: torch.memory_format, step: Callable = lambda: None
) -> list[tuple[Tensor, Tensor]]:
    """Of every batch norm's input the mean and variance of each channel, averaged over the batches; nothing is changed.

    Norms work with the statistics of the batch as in training, everything else of the network as in evaluation. All
    processes have to call it, with as many batches each.

    Args:
        batches: of a loader; labels are not looked at.
        step: called before each batch.

    Returns:
        ``(C,)`` each, in the order of `batch_norms`.
    """
    norms, was_training = batch_norms(model), model.training
    kept = [(n.momentum, {name: b.clone() for name, b in n.named_buffers(recurse=False)}) for n in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative average
        norm.train()
    try:
        for batch in batches:
            step()
            model(batch.images.to(memory_format=layout))
        return [tuple(world.sum(b) / world.size for b in (n.running_mean, n.running_var)) for n in norms]
    finally:
        for norm, (momentum, buffers) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            for name, before in buffers.items():
                getattr(norm, name).copy_(before)
        model.train(was_training)


@torch.no_grad()
def shift_statistics(model: nn.Module, before: list[tuple[Tensor, Tensor]], after: list[tuple[Tensor, Tensor]]) -> None:
    """Change the running statistics of every batch norm by what a conversion has changed on the same images.

    Of a channel with running mean and variance m, v and batch statistics m0, v0 before and m1, v1 after the conversion,
    the new ones are ``m + (m1 - m0) * sqrt(v / v0)`` and ``v * v1 / v0``. What is particular to these few images is in
    both, and drops out: statistics that did not change leave m and v as they are.
    """
    for norm, (mean0, var0), (mean1, var1) in zip(batch_norms(model), before, after, strict=True):
        safe = torch.where(var0 > 0, var0, 1)
        scale = torch.where(var0 > 0, norm.running_var / safe, 1)
        norm.running_mean += (mean1 - mean0) * scale.sqrt()
        norm.running_var.copy_(torch.where(var0 > 0, norm.running_var * (var1 / safe), norm.running_var))


def freeze_norms(model: nn.Module) -> None:
    """Let every batch norm of a network in training mode work with its running statistics, and keep them."""
    for norm in batch_norms(model):
        norm.eval()


def make_teacher(model: nn.Module) -> nn.Module:
    """A copy of a network with zero padding, in eval mode, that learns nothing."""
    teacher = copy.deepcopy(model)
    convert(teacher, "zeros")
    return teacher.eval().requires_grad_(False)


def towards_teacher(loss: Tensor, logits: Tensor, taught: Tensor, share: float) -> Tensor:
    """`loss` with a share of it replaced by the cross-entropy to the teacher's outputs.

    Args:
        loss: 0-d. logits, taught: ``(B, num_classes)``.
    """
    if share == 0:
        return loss
    soft = nn.functional.cross_entropy(logits, taught.to(logits.dtype).softmax(1))
    return (1 - share) * loss + share * soft
