"""Optimizer steps in one kernel: when they can be, and what torch's kernels take for granted of memory."""

import torch
from torch import Tensor

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers whose whole step torch has a kernel for."""
KNOWN = {"betas": object, "eps": object, "fused": bool, "amsgrad": bool, "maximize": bool, "nesterov": bool}
"""Options that such a kernel takes, with their types. Dampening is none: the first step is without it."""


def may_fuse(kind: type, groups: list[dict], options: dict) -> bool:
    """Whether an optimizer can make each step in one kernel, and no option is in its way or says that it should not.

    Such a kernel reads a parameter in the order of its memory, so each must fill it without a gap.

    Args:
        kind: class of the optimizer. options: those that it is made with.
    """
    parameters = [p for group in groups for p in group["params"]]
    return (
        kind in FUSED
        and all(isinstance(value, KNOWN.get(key, ())) for key, value in options.items())
        and options.get("fused", True)
        and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        and all(same_layout(torch.empty_like(p), p) for p in parameters)
    )


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether each of its steps is made in one kernel, which can be told on the device to change nothing."""
    return type(optimizer) in FUSED and all(group.get("fused") for group in optimizer.param_groups)


def same_layout(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether two tensors of one shape have their numbers in the same order in memory."""
    if tensor.stride() == parameter.stride():
        return True
    steps = zip(parameter.shape, tensor.stride(), parameter.stride(), strict=True)
    return all(a == b for size, a, b in steps if size > 1)


def laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor, or its numbers in the order in which those of a parameter of its shape are in memory."""
    if same_layout(tensor, parameter):
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def align_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    """Lay gradients out as their parameters are: torch's fused kernels pair the numbers in the order of memory."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and not same_layout(p.grad, p):
                p.grad = laid_out(p.grad, p)


def align_state(optimizer: torch.optim.Optimizer) -> None:
    """Bring the state of a fused optimizer, new or loaded, to what its kernel takes. It has no dampening.

    A checkpoint may be of a run in another memory format, on another device, or whose steps were not fused.
    The momentum of SGD begins as zeros, which gives the same first step: torch makes it at the first step of all
    parameters together, fails where one has its first gradient later, and fills it with nothing where that is skipped.
    """
    for group in optimizer.param_groups:
        group["fused"] = True
        for p in group["params"]:
            if group.get("momentum") and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
            own = optimizer.state.get(p, {})
            for key, value in own.items():
                if key == "step":
                    own[key] = value.to(p.device, torch.float32)
                elif isinstance(value, Tensor):
                    own[key] = laid_out(value, p)


def do_not_fuse(optimizer: torch.optim.Optimizer) -> None:
    """Undo what a state that was loaded says of it."""
    for group in optimizer.param_groups:
        group["fused"] = False


def aligned(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer; where it is fused, its state and gradients are laid out as its kernel takes them.

    It stays as it is, fused or not, when it loads the state of one that was made otherwise.
    """
    stepped = getattr(optimizer, "_base_optimizer", optimizer)  # of timm's Lookahead
    if is_fused(stepped):
        align_state(stepped)
        stepped.register_load_state_dict_post_hook(align_state)
        stepped.register_step_pre_hook(align_gradients)
    elif type(stepped) in FUSED:
        stepped.register_load_state_dict_post_hook(do_not_fuse)
    return optimizer
