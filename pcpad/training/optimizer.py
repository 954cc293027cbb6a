"""The optimizer, with weight decay by module type."""

import torch
from torch import nn

from pcpad.config import OptimSettings, nearest
from pcpad.training.fused import aligned, may_fuse

WITH_WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)
"""Modules whose `weight` decays under ``decay="weights"``; every other parameter does not."""


def parameter_groups(model: nn.Module, weight_decay: float, decay: str) -> list[dict]:
    """Trainable parameters, each once, as one group that decays and one that does not.

    Args:
        decay: ``"all"``: every parameter decays. ``"weights"``: only the weights of convolutions and linear layers,
            told by the type of the module that owns them, never by name.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay == "all":
        return [{"params": trainable, "weight_decay": weight_decay}]
    owned = [m for m in model.modules() if isinstance(m, WITH_WEIGHTS)]
    ids = {id(p) for m in owned for k, p in m.named_parameters() if k.split(".")[-1] != "bias"}
    groups = [
        {"params": [p for p in trainable if id(p) in ids], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in ids], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def peak_rate(settings: OptimSettings, batch_size: int) -> float:
    """The learning rate after warm-up: `lr`, or in proportion to the batch where `lr` is for a batch of another size.

    Args:
        batch_size: images of one optimizer step, over all processes.
    """
    if settings.lr_batch_size is None:
        return settings.lr
    return settings.lr * batch_size / settings.lr_batch_size


def check_optimizer(settings: OptimSettings, device: torch.device) -> None:
    """Raise ValueError for a name that timm does not know, or options that its optimizer cannot make a step with.

    Args:
        device: of the training; a step of one small parameter is tried there.
    """
    if settings.name == "sgd":
        return
    from timm.optim import get_optimizer_info, list_optimizers

    known = [name for name in list_optimizers() if not get_optimizer_info(name).second_order]
    if settings.name.removeprefix("lookahead_") not in known:
        near = nearest(settings.name, known)
        raise ValueError(f"optim.name {settings.name!r}: choose sgd or one of timm's: {', '.join(known)}{near}")
    tried = nn.Parameter(torch.zeros(2, 2, device=device))
    tried.grad = torch.ones_like(tried)
    try:
        timms_optimizer([{"params": [tried], "weight_decay": settings.weight_decay}], settings).step()
    except Exception as error:  # whatever an optimizer makes of its options
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"timm's optimizer {settings.name} with optim.options {settings.options}: {first}") from error


def timms_optimizer(groups: list[dict], settings: OptimSettings) -> torch.optim.Optimizer:
    """timm's, of torch's fused kernel where it can be; whatever it raises for its options."""
    from timm.optim import create_optimizer_v2, get_optimizer_info

    info = get_optimizer_info(settings.name.removeprefix("lookahead_"))
    fused = may_fuse(info.opt_class, groups, settings.options)
    if settings.options.get("fused") and not fused:
        raise ValueError("it cannot be fused, or not with these options: leave fused out, it is where it can be")
    rest = {"lr": settings.lr, "weight_decay": settings.weight_decay, "momentum": settings.momentum}
    rest |= {"fused": True} if fused else {}
    return aligned(create_optimizer_v2(groups, settings.name, **(rest | settings.options)))


def make_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable parameters; its learning rate is set before each step.

    Raises:
        ValueError: the model has none, or timm's optimizer does not know one of the options.
    """
    groups = parameter_groups(model, settings.weight_decay, settings.decay)
    if not any(group["params"] for group in groups):
        raise ValueError("the model has no trainable parameter")
    if settings.name != "sgd":
        check_optimizer(settings, groups[0]["params"][0].device)
        return timms_optimizer(groups, settings)
    how = {"momentum": settings.momentum, "nesterov": settings.nesterov, "fused": may_fuse(torch.optim.SGD, groups, {})}
    return aligned(torch.optim.SGD(groups, lr=settings.lr, **how))
