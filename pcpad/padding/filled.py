"""Filled padding: a convolution whose padding is taken from the image (reflect, replicate, circular and others)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcpad.padding import depthwise, gpu
from pcpad.padding.coverage import Pads, conv_pads, pair
from pcpad.padding.eager import eager
from pcpad.padding.fillers import FILLERS
from pcpad.padding.partial import sole_input
from pcpad.padding.sources import MAPPED


@torch.fx.wrap  # one node in a symbolic trace, so that a trace does not depend on the input size
def fill(x: Tensor, pads: Pads, mode: str, on_small: str = "raise", layer: str = "") -> Tensor:
    """Pad an image with values of its own.

    Args:
        x: ``(N, C, H, W)`` or ``(C, H, W)``.
        pads: ``(top, bottom, left, right)``, in pixels.
        mode: a name of `fillers.FILLERS`.
        on_small: what to do with a map that is too small for the mode: ``"raise"`` or ``"replicate"``.
        layer: name of the layer, for the message.

    Returns:
        `x` with H grown by top + bottom and W by left + right.

    Raises:
        ValueError: the map is too small to fill the pads and `on_small` is ``"raise"``; or the mode is not known here.
    """
    mode = fitting(x, pads, mode, on_small, layer)
    if x.device.type == "cuda" and mode in MAPPED and eager(x) and gpu.worth(x):
        return gpu.fill(x, pads, mode)
    return FILLERS[mode].pad(x, pads)


def fitting(x: Tensor, pads: Pads, mode: str, on_small: str, layer: str) -> str:
    """The mode with which `fill` fills: `mode`, or `on_small` where the map is too small for it; raises as `fill`."""
    if mode not in FILLERS:
        raise ValueError(
            f"padding mode {mode!r} is not known to this process: call pcpad.register_padding first, as where the "
            f"model was converted; known are {', '.join(FILLERS)}"
        )
    need = FILLERS[mode].smallest_map(pads)
    if x.shape[-2] < need[0] or x.shape[-1] < need[1]:
        if on_small == "raise":
            where = f"layer {layer!r}" if layer else "a convolution"
            raise ValueError(
                f"padding mode {mode!r} cannot fill {where}: its input map is {x.shape[-2]}x{x.shape[-1]} and its "
                f"pads (top, bottom, left, right) are {pads}, which need at least {need[0]}x{need[1]}; "
                "use a larger input, or convert with on_small='replicate'"
            )
        return on_small
    return mode


class FilledPadding:
    """What a filling mode adds to a convolution class: placed before it in a class's bases.

    The padded input is convolved with the class's weights, so a class that makes its weights on the fly must say how
    (`handlers.ConvHandler`). The mode is the instance's ``padding_mode``.
    """

    pcpad_on_small = "raise"
    pcpad_layer = ""
    pcpad_pads = None
    """For a class that does not pad by `padding`: a function of the convolution and its input's height and width."""
    pcpad_weight = None
    """For a class that does not convolve with `weight`: a function of the convolution."""

    def forward(self, *args, **kwargs) -> Tensor:
        x = sole_input(args, kwargs)
        if self.pcpad_pads is None:
            pads = conv_pads(self.padding, self.kernel_size, self.dilation)
        else:
            pads = tuple(type(self).pcpad_pads(self, x.shape[-2], x.shape[-1]))
        weight = self.weight if self.pcpad_weight is None else type(self).pcpad_weight(self)
        filling = (x, pads, self.padding_mode, self.pcpad_on_small, self.pcpad_layer)
        if depthwise.may_add(x, weight, self.bias, self.groups, pads, self.padding_mode):
            geometry = (weight.shape[-2:], pair(self.stride), pair(self.dilation), pads, self.padding_mode)
            if depthwise.worth(x, geometry) and fitting(*filling) == self.padding_mode:
                return depthwise.convolve(x, weight, self.bias, geometry)
        x = fill(*filling)
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)


class FilledConv2d(FilledPadding, nn.Conv2d):
    """An ``nn.Conv2d`` that fills its padding from the image and explains itself where the image is too small.

    The same numbers as ``nn.Conv2d(..., padding_mode=mode)`` where torch has the mode, with the same state dict; to
    rounding, where a large depthwise convolution adds its border in another order (`depthwise`; on a GPU in inference
    alone, where the border is rounded twice). Made by `pcpad.convert`.

    Attributes:
        pcpad_on_small: ``"raise"`` or ``"replicate"``: what happens where a map is too small for the mode.
        pcpad_layer: the layer's name in its model, for the message.

    Shapes: ``(N, C, H, W)`` or ``(C, H, W)``; any dtype that ``F.pad`` takes.

    Raises (in forward):
        ValueError: the map is too small to fill the pads and `pcpad_on_small` is ``"raise"``.
    """
