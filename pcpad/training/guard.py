"""What stops a training that has left the finite numbers, before its weights are touched."""

import torch
from torch import nn

from pcpad.data.batch import Batch
from pcpad.training.checkpoint import Shelf


def gradients_are_finite(model: nn.Module) -> bool:
    """Whether no gradient holds an infinity or a NaN."""
    found = [p.grad for p in model.parameters() if p.grad is not None]
    largest = torch._foreach_norm(found, float("inf")) if found else []
    return not len(largest) or bool(torch.stack(list(largest)).isfinite().all())


def not_finite(training, parts: list[Batch], loss: float) -> ValueError:
    """The error of a step whose loss or gradient is not finite; all processes have to call it.

    A gradient is that of all processes together: which of them it comes from, each finds out alone.

    Args:
        parts: this process's batches of the step. loss: their mean loss.
    """
    world, state = training.job.world, training.state
    fine = world.collect(loss if not abs(loss) < float("inf") else None)
    ranks = [rank for rank, value in enumerate(fine) if value is not None]
    what = f"the loss is {fine[ranks[0]]}" if ranks else "the gradient is not finite"
    if not ranks and world.size > 1:
        ranks = [rank for rank, bad in enumerate(world.collect(not own_gradient_is_finite(training, parts))) if bad]
    where = f"step {state.step + 1} (epoch {state.epoch + 1})"
    if world.size > 1:
        where += f", rank {' and '.join(map(str, ranks))}" if ranks else ", in the sum over all ranks"
    return diverged(training.shelf, f"{what} at {where}")


def own_gradient_is_finite(training, parts: list[Batch]) -> bool:
    """Whether this process's own gradient of a step is finite, computed once more, without the others."""
    training.state.optimizer.zero_grad(set_to_none=True)
    with training.model.no_sync():
        for part in parts:
            loss = nn.functional.cross_entropy(training.model(part.images).float(), part.labels)
            loss.backward()
    return gradients_are_finite(training.job.model)


def diverged(shelf: Shelf, what: str) -> ValueError:
    """The error of a training that has left the finite numbers."""
    saved = shelf.all()
    kept = f"the last checkpoint is kept ({saved[-1].path})" if saved else "there is no checkpoint yet"
    advice = "try a lower --optim.lr, a --schedule.warmup_epochs, or --amp off"
    return ValueError(f"{what}: training has diverged; {kept}; {advice}")
