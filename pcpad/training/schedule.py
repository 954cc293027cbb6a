"""The learning rate as a pure function of the step."""

from functools import lru_cache
from math import cos, pi

from pcpad.config import ScheduleSettings


def learning_rate(step: int, settings: ScheduleSettings, lr: float, epochs: int, steps_per_epoch: int) -> float:
    """Learning rate of one optimizer step.

    A warm-up rises linearly and reaches `lr` at its last step. After it, ``step`` multiplies by gamma at every
    multiple of step_epochs (counted from the start of training), and ``cosine`` falls from `lr` to min_lr at the
    last step. Any other is timm's, counted from the start of training too, without timm's own warm-up.

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
    if settings.name != "cosine":
        return timm_rate(
            step, settings.name, tuple(settings.options.items()), lr, settings.min_lr, epochs, steps_per_epoch
        )
    rest = max(total - 1 - warmup, 1)
    return settings.min_lr + (lr - settings.min_lr) * (1 + cos(pi * (step - warmup) / rest)) / 2


def check_schedule(settings: ScheduleSettings, epochs: int) -> None:
    """Raise ValueError where timm does not know the schedule or one of its options; known before the first step."""
    if settings.name not in ("step", "cosine"):
        try:
            timm_rate(0, settings.name, tuple(settings.options.items()), 1.0, settings.min_lr, max(epochs, 1), 1)
        except (TypeError, ZeroDivisionError) as error:  # a mapping, a word in place of a number
            raise ValueError(f"timm's schedule {settings.name} cannot use {settings.options}: {error}") from error


def timm_rate(
    step: int, name: str, options: tuple, lr: float, min_lr: float, epochs: int, steps_per_epoch: int
) -> float:
    """What timm's schedule of a name gives after so many updates; the same for the same arguments.

    Raises:
        ValueError: timm does not know the schedule or one of its options.
    """
    frozen = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in options)
    optimizer, schedule = timm_schedule(name, frozen, lr, min_lr, epochs, steps_per_epoch)
    schedule.step_update(step)
    return optimizer.param_groups[0]["lr"]


@lru_cache(maxsize=8)
def timm_schedule(name: str, options: tuple, lr: float, min_lr: float, epochs: int, steps_per_epoch: int):
    """timm's schedule, in updates, of an optimizer that is there for its learning rate alone."""
    import torch
    from timm.scheduler import create_scheduler_v2

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
    stated = {"num_epochs": epochs, "min_lr": min_lr, "step_on_epochs": False, "updates_per_epoch": steps_per_epoch}
    try:
        schedule, _ = create_scheduler_v2(optimizer, name, **(stated | dict(options)))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(f"timm's schedule {name} with schedule.options {dict(options)}: {error}") from error
    if schedule is None:
        raise ValueError(f"this timm has no schedule {name!r}: update it, or choose step or cosine")
    return optimizer, schedule
