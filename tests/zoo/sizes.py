"""The sides of the input at which a model is proved, found on the meta device."""

import torch
from torch import nn

from pcpad.padding.sizes import smallest_size
from tests.zoo import models, oracle


def demands(entry: models.Entry, model: nn.Module, size, device) -> list[tuple] | None:
    """Input size and pads of every call of a padded convolution, or None where the model does not run."""
    calls = []

    def hook(conv, inputs, _):
        height, width = inputs[0].shape[-2:]
        calls.append(((height, width), oracle.pads_of(conv, (height, width))))

    try:
        with torch.no_grad(), oracle.hooked(oracle.padded_convs(model), hook):
            models.run(entry, model, size, device)
    except Exception:  # whatever a library raises for a size that it cannot take
        return None
    return calls


def find_sizes(entry: models.Entry, modes) -> tuple[dict, dict, tuple[int, int] | None]:
    """For each mode the smallest side at which the model runs and fills, and the next smaller one that runs.

    Third, an input of reflect's height that is wider, if the model takes one: there every map is larger than its
    pads, and left cannot be taken for right, nor rows for columns, as on a map of one pixel.
    """
    device, model = "meta", models.build_on_meta(entry)
    own = models.own_size(entry, model)
    if demands(entry, model, own, device) is None and demands(entry, model, 2 * own, device) is None:
        device, model = "cpu", models.build(entry)  # detectors look at the values of their boxes
    known: dict[int, list | None] = {}

    def calls(size: int):
        if size not in known:
            fixed = models.fixed_size(entry) and size != own
            known[size] = None if fixed else demands(entry, model, size, device)
        return known[size]

    def fit(made: list | None, mode: str) -> bool | None:
        return None if made is None else all(oracle.fillable(size, pads, mode) for size, pads in made)

    sizes, below = {}, {}
    for mode in modes:
        found = smallest_size(lambda s, mode=mode: fit(calls(s), mode), own)
        sizes[mode], below[mode] = found
        if sizes[mode] is None and models.fixed_size(entry):
            below[mode] = own
    wide, side = None, sizes.get("reflect")
    if side:
        widths = [side + more for more in (1, 2, 3, 4, 8, 16, 32)] if not models.fixed_size(entry) else []
        fitting = (w for w in widths if fit(demands(entry, model, (side, w), device), "reflect"))
        wide = (side, next(fitting, side))
    return sizes, below, wide
