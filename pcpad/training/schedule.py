"""The learning rate as a pure function of the step."""

from collections.abc import Callable
from functools import partial
from math import cos, pi

from pcpad.config import ScheduleSettings


def make_schedule(settings: ScheduleSettings, lr: float, epochs: int, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate as a function of the step: `learning_rate`, or one of timm's schedules.

    Raises:
        ValueError: timm's does not take the options.
    """
    if settings.name.startswith("timm/"):
        return timm_schedule(settings, lr, epochs, steps_per_epoch)
    return partial(learning_rate, settings=settings, lr=lr, epochs=epochs, steps_per_epoch=steps_per_epoch)


def timm_schedule(settings: ScheduleSettings, lr: float, epochs: int, steps_per_epoch: int) -> Callable[[int], float]:
    """A schedule of timm's, advanced by steps and not by epochs.

    timm computes the value of a step from its number alone, noise included, so that there is no state to save.
    """
    import torch
    from timm.scheduler import create_scheduler_v2

    name = settings.name.removeprefix("timm/")
    stated = {"sched", "num_epochs", "warmup_epochs", "min_lr", "step_on_epochs", "updates_per_epoch"}
    for option in stated & set(settings.options):
        raise ValueError(f"schedule.options: {option} follows from the other settings, and cannot be given here")
    held = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    try:
        scheduler, _ = create_scheduler_v2(
            held,
            sched=name,
            num_epochs=epochs,
            warmup_epochs=settings.warmup_epochs,
            min_lr=settings.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **settings.options,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"schedule.options: timm's schedule {name} does not take them: {error}") from error

    def rate(step: int) -> float:
        scheduler.step_update(step)
        return float(held.param_groups[0]["lr"])

    try:
        for step in (0, epochs * steps_per_epoch - 1):
            rate(step)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"schedule.options: timm's schedule {name} cannot use them: {error}") from error
    return rate


def learning_rate(step: int, settings: ScheduleSettings, lr: float, epochs: int, steps_per_epoch: int) -> float:
    """Learning rate of one optimizer step.

    A warm-up rises linearly and reaches `lr` at its last step. After it, ``step`` multiplies by gamma at every
    multiple of step_epochs (counted from the start of training), and ``cosine`` falls from `lr` to min_lr at the
    last step.

    Args:
        step: 0 for the first optimizer step, at most ``epochs * steps_per_epoch - 1``.
        lr: the peak.

    >>> plan = ScheduleSettings(name="step", step_epochs=30, gamma=0.1)
    >>> [round(learning_rate(e * 10, plan, 0.1, 100, 10), 6) for e in (0, 29, 30, 60, 99)]
    [0.1, 0.1, 0.01, 0.001, 0.0001]
    """
    total = epochs * steps_per_epoch
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return lr * (step + 1) / warmup
    if settings.name == "step":
        return lr * settings.gamma ** int(step / steps_per_epoch / settings.step_epochs)
    rest = max(total - 1 - warmup, 1)
    return settings.min_lr + (lr - settings.min_lr) * (1 + cos(pi * (step - warmup) / rest)) / 2
