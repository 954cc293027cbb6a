"""Average pools: counting the padding is zero padding, not counting it is partial padding."""

from torch import Tensor, nn

from pcpad.padding.coverage import same_pads
from pcpad.padding.handlers import base_class, derive, original_class, put_class, qualified
from pcpad.padding.padders import pads_something
from pcpad.padding.partial import rescale_border

SAME_POOL = "timm.layers.pool2d_same.AvgPool2dSame"


class PartialPooling:
    """What `pools=True` adds to timm's ``AvgPool2dSame``, whose forward pads before it pools and so always counts."""

    def forward(self, x: Tensor) -> Tensor:
        pads = same_pads(x.shape[-2:], self.kernel_size, self.stride, (1, 1))
        y = super().forward(x)
        return rescale_border(y, x, None, self.kernel_size, self.stride, (1, 1), pads, 1.0) if any(pads) else y


def is_average_pool(module: nn.Module) -> bool:
    """Whether `judge_pool` knows the module."""
    return base_class(module) is nn.AvgPool2d or qualified(original_class(module)) == SAME_POOL


def judge_pool(pool: nn.AvgPool2d, chosen: bool, wanted: bool) -> tuple[str, str] | None:
    """Action and reason for one average pool; None if it does not pad."""
    same = qualified(original_class(pool)) == SAME_POOL
    ours = hasattr(pool, "pcpad_counted_padding")
    if not same and not pads_something(pool.padding):
        return None
    if not same and pool.divisor_override is not None:
        return "left", "divides by its own divisor_override"
    if not chosen:
        return "left", "not selected"
    counts = ours or same or pool.count_include_pad
    if not counts:
        return "left", "does not count padding"
    if wanted:
        return ("kept" if ours else "converted"), "no longer counts its padding"
    if ours:
        return "restored", "counts its padding again"
    return "left", "counts its padding (pools=True changes that)"


def count_padding(pool: nn.AvgPool2d, counts: bool) -> None:
    """Let an average pool count its padding, or not."""
    if qualified(original_class(pool)) == SAME_POOL:
        put_class(pool, original_class(pool) if counts else derive(PartialPooling, original_class(pool)))
    else:
        pool.count_include_pad = counts
    if counts:
        del pool.pcpad_counted_padding
    else:
        pool.pcpad_counted_padding = True
