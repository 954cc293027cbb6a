"""What stops a training that has left the finite numbers, before the process that has left them changes its weights.

A GPU is not waited for after each step: while it computes one, the next is given to it, and then the one before is
looked at. Where that was not finite, both have changed nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from pcpad.training.checkpoint import Shelf


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Those that its next step would use."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def all_finite(loss: Tensor, gradients: list[Tensor]) -> Tensor:
    """Whether the loss and the norm of each gradient are finite; 0-d bool on their device, which is not waited for.

    A norm holds every infinity and NaN of its gradient. In float32 and bfloat16 it is infinite too where the squares
    have no number, from about 1e19 on, which no training comes back from.

    Args:
        loss: 0-d.
        gradients: on the device of the loss, of any shapes and dtypes.
    """
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault(gradient.dtype, []).append(gradient)  # of one kind a GPU takes them in one go
    norms = [torch.stack(torch._foreach_norm(kind, 2)).isfinite().all() for kind in kinds.values()]
    return torch.stack([loss.isfinite(), *norms]).all()


@contextmanager
def only_if(fine: Tensor, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Steps of a fused optimizer change nothing where `fine` is False, and the device is not waited for to know it.

    This is how torch's GradScaler skips them: fused kernels look at `found_inf` themselves.

    Args:
        fine: 0-d bool on the device.
    """
    optimizer.found_inf = (~fine).float()
    try:
        yield
    finally:
        del optimizer.found_inf


class Later:
    """A 0-d bool of a device, read when it is computed: what the device is given to do after it is not waited for."""

    def __init__(self, value: Tensor):
        self.value, self._event = value, None
        if value.device.type == "cuda":
            self._read = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))

    def __bool__(self) -> bool:
        if self._event is None:
            return bool(self.value)
        self._event.synchronize()
        return bool(self._read)


class Step(NamedTuple):
    """A step that has been given to the device.

    Attributes:
        number: of optimizer steps with it. epoch: its own, from 1.
        fine: whether its loss and gradients are finite.
        loss: the mean over this process's images, 0-d on the device.
        alone: computes this process's own gradient of the step once more; None where there is one process.
    """

    number: int
    epoch: int
    fine: Later
    loss: Tensor
    alone: Callable[[], None] | None


def look_at(training, step: Step) -> None:
    """Wait for a step; all processes have to call it.

    Raises:
        ValueError: its loss or gradient is not finite, here or in another process.
    """
    if any(training.job.world.agree(not step.fine)):
        raise not_finite(training, step)


def not_finite(training, step: Step) -> ValueError:
    """The error of a step whose loss or gradient is not finite; all processes have to call it.

    A gradient is that of all processes together: which of them it comes from, each finds out alone.
    """
    world, state = training.job.world, training.state
    losses = world.collect(float(step.loss))
    ranks = [rank for rank, value in enumerate(losses) if not isfinite(value)]
    what = f"the loss is {losses[ranks[0]]}" if ranks else "the gradient's norm is not finite"
    if not ranks and step.alone:
        step.alone()
        fine = bool(all_finite(torch.zeros((), device=training.job.device), gradients(state.optimizer)))
        ranks = [rank for rank, well in enumerate(world.collect(fine)) if not well]
    where = f"step {step.number} (epoch {step.epoch})"
    if world.size > 1:
        where += f", rank {' and '.join(map(str, ranks))}" if ranks else ", in the sum over all ranks"
    return diverged(training.shelf, f"{what} at {where}")


def diverged(shelf: Shelf, what: str) -> ValueError:
    """The error of a training that has left the finite numbers."""
    saved = shelf.all()
    kept = f"the last checkpoint is kept ({saved[-1].path})" if saved else "there is no checkpoint yet"
    advice = "try a lower --optim.lr, a --schedule.warmup_epochs, or --amp off"
    return ValueError(f"{what}: training has diverged; {kept}; {advice}")
