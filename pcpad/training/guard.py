"""What stops a training that has left the finite numbers, before its weights are touched."""

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor, nn

from pcpad.training.checkpoint import Shelf


def gradients(model: nn.Module) -> list[Tensor]:
    """Those that are there."""
    return [p.grad for p in model.parameters() if p.grad is not None]


def are_finite(tensors: list[Tensor]) -> bool:
    """Whether none holds an infinity or a NaN; a GPU is waited for once where all is well."""

    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)  # of one kind a GPU takes them in one go

    def finite(order: float) -> bool:
        norms = [norm for kind in kinds.values() for norm in torch._foreach_norm(kind, order)]
        return bool(torch.stack(norms).isfinite().all())

    # An infinity or a NaN is in the sum of squares too, which is fast; so may be finite numbers of 1e19, so look again.
    return not tensors or finite(2) or finite(float("inf"))


def not_finite(training, loss: float, alone: Callable[[], None]) -> ValueError:
    """The error of a step whose loss or gradient is not finite; all processes have to call it.

    A gradient is that of all processes together: which of them it comes from, each finds out alone.

    Args:
        loss: this process's mean loss.
        alone: computes this process's own gradient of the step once more.
    """
    world, state = training.job.world, training.state
    losses = world.collect(loss)
    ranks = [rank for rank, value in enumerate(losses) if not isfinite(value)]
    what = f"the loss is {losses[ranks[0]]}" if ranks else "the gradient is not finite"
    if not ranks and world.size > 1:
        alone()
        ranks = [rank for rank, fine in enumerate(world.collect(are_finite(gradients(training.job.model)))) if not fine]
    where = f"step {state.step + 1} (epoch {state.epoch + 1})"
    if world.size > 1:
        where += f", rank {' and '.join(map(str, ranks))}" if ranks else ", in the sum over all ranks"
    return diverged(training.shelf, f"{what} at {where}")


def diverged(shelf: Shelf, what: str) -> ValueError:
    """The error of a training that has left the finite numbers."""
    saved = shelf.all()
    kept = f"the last checkpoint is kept ({saved[-1].path})" if saved else "there is no checkpoint yet"
    advice = "try a lower --optim.lr, a --schedule.warmup_epochs, or --amp off"
    return ValueError(f"{what}: training has diverged; {kept}; {advice}")
