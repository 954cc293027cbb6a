"""Padding by functions inside a forward, which a walk over modules does not see: found by watching a forward pass."""

from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pcpad.padding.padders import describe, pads_something

FUNCTIONS = {
    F.pad: ("pad", 1, ()),
    torch.constant_pad_nd: ("pad", 1, ()),
    F.unfold: ("padding", 3, 0),
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d, F.fold, torch.convolution], ("padding", 4, 0)),
    **dict.fromkeys([F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d], ("padding", 4, 0)),
    **dict.fromkeys([F.avg_pool1d, F.avg_pool2d, F.avg_pool3d], ("padding", 3, 0)),
    **dict.fromkeys([torch.max_pool1d, torch.max_pool2d, torch.max_pool3d], ("padding", 3, 0)),
    **dict.fromkeys([F.max_pool1d_with_indices, F.max_pool2d_with_indices], ("padding", 3, 0)),
}
"""Functions that pad: the name, the position and the default of the argument that says by how much."""


class FunctionWatch(TorchFunctionMode):
    """Notes every call of a function that pads, with the module that made it."""

    def __init__(self, names: dict[nn.Module, list[str]]):
        super().__init__()
        self.names, self.stack, self.found = names, [], Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in FUNCTIONS and self.stack:
            owner = self.stack[-1]
            option, position, default = FUNCTIONS[func]
            padding = args[position] if len(args) > position else kwargs.get(option, default)
            known = isinstance(owner, nn.Conv2d) or describe(owner) is not None
            if pads_something(padding) and not known:
                mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant") if func is F.pad else ""
                kind = type(owner).__qualname__
                self.found[(self.names[owner][0], kind, func.__name__, str(padding).replace(" ", ""), mode)] += 1
        return func(*args, **kwargs)
