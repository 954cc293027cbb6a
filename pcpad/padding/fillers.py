"""What a filling mode puts into the padding: functions of an image and its pads."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional as F

from pcpad.padding.blocks import assemble, layout
from pcpad.padding.coverage import Pads
from pcpad.padding.eager import eager


@dataclass(frozen=True)
class Filler:
    """How a mode fills the padding.

    Attributes:
        pad: function of an image ``(N, C, H, W)`` or ``(C, H, W)`` and its pads ``(top, bottom, left, right)`` in
            pixels to the image with H grown by top + bottom and W by left + right.
        smallest: function of a pad to the shortest side that can fill it, both in pixels.
    """

    pad: Callable[[Tensor, Pads], Tensor]
    smallest: Callable[[int], int] = lambda pad: 1

    def smallest_map(self, pads: Pads) -> tuple[int, int]:
        """The smallest map ``(height, width)`` that can fill these pads, in pixels; at least one."""
        top, bottom, left, right = pads
        return max(1, self.smallest(max(top, bottom))), max(1, self.smallest(max(left, right)))


def by_torch(mode: str) -> Callable[[Tensor, Pads], Tensor]:
    """``F.pad`` with one of its modes, in the image's dtype; the same from blocks where that is faster.

    Autocast on a CPU would compute padding in float32, so that a bfloat16 image is converted there and back.
    """

    def pad(x: Tensor, pads: Pads) -> Tensor:
        if few_channels(x) and eager(x):
            return assemble(x, pads, mode)
        top, bottom, left, right = pads
        sides = (left, right, top, bottom)
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return F.pad(x, sides, mode=mode)
        return F.pad(x, sides, mode=mode)

    return pad


def few_channels(x: Tensor) -> bool:
    """Whether an image is one on a CPU that ``F.pad`` takes channel by channel, and large enough for that to matter."""
    if type(x) is not Tensor or x.dim() != 4 or x.shape[1] > 4 or not x.is_cpu or is_compiling():
        return False
    return x.numel() >= 2**19 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def replicate(x: Tensor, pads: Pads) -> Tensor:
    """The outermost pixel repeated."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return repeat_edges(x, pads)
    return by_torch("replicate")(x, pads)


def repeat_edges(x: Tensor, pads: Pads) -> Tensor:
    """Replicate padding from views of the edges, for generated code.

    In torch 2.13 the compiled backward pass of ``F.pad(mode="replicate")`` stops at an assertion where feature maps are
    channels_last: the shape function of ``aten::replication_pad2d_backward`` predicts contiguous strides.

    Args:
        x: ``(N, C, H, W)`` or ``(C, H, W)``, no side of it 0.
        pads: ``(top, bottom, left, right)``, in pixels.

    Returns:
        As `replicate`.
    """
    top, bottom, left, right = pads
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        shape = list(x.shape)
        shape[dim] = before
        first = x.narrow(dim, 0, 1).expand(shape)
        shape[dim] = after
        x = torch.cat([first, x, x.narrow(dim, x.shape[dim] - 1, 1).expand(shape)], dim)
    return x


def circular(x: Tensor, pads: Pads) -> Tensor:
    """The opposite side of the image."""
    if eager(x) and (x.requires_grad or layout(x) == torch.channels_last):
        return assemble(x, pads, "circular")
    return by_torch("circular")(x, pads)


def symmetric(x: Tensor, pads: Pads) -> Tensor:
    """The image mirrored at its edge, so that the outermost pixel stands twice."""
    if eager(x):
        return assemble(x, pads, "symmetric")
    top, bottom, left, right = pads
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        first = x.narrow(dim, 0, before).flip(dim)
        last = x.narrow(dim, x.shape[dim] - after, after).flip(dim)
        x = torch.cat([first, x, last], dim)
    return x


def mean(x: Tensor, pads: Pads) -> Tensor:
    """The mean around the nearest pixel: of the pixels that are at most as far from it as the pad is wide."""
    top, bottom, left, right = pads
    reach = (max(top, bottom), max(left, right))
    window = (2 * reach[0] + 1, 2 * reach[1] + 1)
    around = F.avg_pool2d(x, window, 1, reach, count_include_pad=False)
    # Where the nearest pixel is the image's own it stays, elsewhere its mean is repeated.
    y = replicate(around, pads)
    inside = (*(slice(None),) * (x.dim() - 2), slice(top, top + x.shape[-2]), slice(left, left + x.shape[-1]))
    mask = torch.zeros(y.shape[-2:], dtype=torch.bool, device=x.device)
    mask[inside[-2:]] = True
    return torch.where(mask, F.pad(x, (left, right, top, bottom)), y)


FILLERS: dict[str, Filler] = {
    "reflect": Filler(by_torch("reflect"), lambda pad: pad + 1),
    "symmetric": Filler(symmetric, lambda pad: pad),
    "replicate": Filler(replicate),
    "circular": Filler(circular, lambda pad: pad),
    "mean": Filler(mean),
}
"""Mode to what it fills with; `pcpad.register_padding` adds to it."""
