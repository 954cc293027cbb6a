"""The learning rate as a pure function of the step."""

from math import cos, pi

from pcpad.config import ScheduleSettings


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
