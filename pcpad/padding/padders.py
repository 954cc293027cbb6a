"""Modules other than Conv2d that pad: what they are and what their padding means, for the report."""

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.padding import _CircularPadNd, _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

TF_SAME_POOLS = ("timm.layers.pool2d_same.AvgPool2dSame", "timm.layers.pool2d_same.MaxPool2dSame")
"""Pools that pad as TensorFlow's "SAME" does, whatever their `padding` says."""


def pads_something(padding) -> bool:
    """Whether a `padding` attribute, of any form that the field uses, pads."""
    if isinstance(padding, (tuple, list)):
        return any(pads_something(one) for one in padding)
    if isinstance(padding, str):
        return padding.lower() not in ("", "valid", "none")
    return isinstance(padding, int) and padding > 0  # a negative one crops


def describe(module: nn.Module) -> str | None:
    """What the padding of a module other than Conv2d means; None if it pads nothing that its attributes tell of.

    Padding inside a forward (``F.pad`` and its like) leaves no attribute: `pcpad.inspect` finds it by running.
    """
    padding = getattr(module, "padding", None)
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if getattr(module, "dynamic_padding", False) or kind in TF_SAME_POOLS:
        pads = True
    else:
        pads = pads_something(padding)
    if not pads:
        return None
    if isinstance(module, _MaxPoolNd):
        return "pads with -inf, which no maximum takes: benign"
    if isinstance(module, _AvgPoolNd):
        return "an average pool that convert does not know"
    if type(module).__name__ == "CondConv2d":
        return "not a Conv2d: mixes its weights for each image, and pads zeros"
    if isinstance(module, _ConvTransposeNd):
        return "transposed: its padding crops the output"
    if isinstance(module, _ConvNd):
        return f"not a 2d convolution: pads {module.padding_mode}"
    if isinstance(module, nn.Unfold):
        return "unfolds, with zeros in the padding"
    if isinstance(module, nn.Fold):
        return "folds: its padding crops the output"
    if isinstance(module, _ConstantPadNd):
        return f"pads with {getattr(module, 'value', 0):g} ahead of another module"
    if isinstance(module, (_ReflectionPadNd, _ReplicationPadNd, _CircularPadNd)):
        return "fills from the image by its own design"
    if isinstance(getattr(module, "pad_mode", None), str):
        return f"pads with {module.pad_mode!r} by its own design"
    return "not a Conv2d, and not known to pcpad"
