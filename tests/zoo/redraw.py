"""Redraw every parameter and buffer of a model, so that no convolution is switched off by its initialisation."""

import torch
from torch import nn

PLACES = ("embed", "token", "table", "query", "pos", "prompt")
"""Parts of the names of parameters that are added to activations."""


@torch.no_grad()
def redraw(model: nn.Module, seed: int = 0, scale: float = 1.0) -> None:
    """Redraw in place: weights by their fan-in, biases small, gains 0.5 to 1, norm weights and variances 0.5 to 1.5.

    `scale` multiplies the weights of convolutions and linear layers: where many branches are summed, activations of
    unit-variance weights grow until every gate is saturated.

    Constant buffers (position tables, masks, filters) keep their signs and infinities and are scaled by 0.5 to 1.5.
    Integer and boolean buffers are indices and stay.
    """
    torch.manual_seed(seed)
    done = set()
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower() or hasattr(module, "running_var")
        for name, p in module._parameters.items():
            if p is None or id(p) in done:
                continue
            done.add(id(p))
            full = f"{prefix}.{name}".lower()
            is_added = p.dim() >= 2 and any(place in full.rsplit(".", 2)[-1] for place in PLACES)
            if name.endswith("bias") or name == "beta" or is_added:
                p.normal_(0, 0.2)
            elif p.dim() >= 2 and p.numel() > max(p.shape) and not is_norm:
                rows = (
                    getattr(module, "out_channels", 1) if "CondConv" in type(module).__name__ else 1
                )  # a row an expert
                bound = scale * (3 * rows / p[0].numel()) ** 0.5  # variance 1 / fan-in
                p.uniform_(-bound, bound)
            elif is_norm:
                p.uniform_(0.5, 1.5)
            else:
                p.uniform_(0.5, 1.0)
        for name, b in module._buffers.items():
            if b is None or id(b) in done or not b.is_floating_point():
                continue
            done.add(id(b))
            if name == "running_mean":
                b.normal_(0, 0.2)
            elif name == "running_var":
                b.uniform_(0.5, 1.5)
            elif b._is_view() or b.is_inference():
                continue
            else:
                b.mul_(torch.empty_like(b).uniform_(0.5, 1.5))
