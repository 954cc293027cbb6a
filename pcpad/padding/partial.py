"""Partial padding: a convolution that treats its padding as holes. `PartialConv2d`, and the same for any subclass."""

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack

from pcpad.padding.coverage import Pads, cached_ratio, conv_pads, pair, ratio


@torch.fx.wrap  # one node in a symbolic trace, so that a trace does not depend on the input size
def rescale_border(
    y: Tensor,
    x: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: Pads,
    power: float,
) -> Tensor:
    """Turn the output of a zero-padded convolution into that of partial padding.

    Computes ``(y - bias) * r + bias`` with ``r = (K / n) ** power`` where a window leaves the image, 0 where it
    sees no pixel, and returns `y` itself, bit for bit, everywhere else.

    Args:
        y: ``(N, C', H', W')`` or ``(C', H', W')``, bias included; any floating or complex dtype.
        x: the input of the convolution; only its height and width are read.
        bias: ``(C',)`` or None, any dtype.
        kernel_size, stride, dilation: ``(height, width)`` each.
        pads: ``(top, bottom, left, right)``, in pixels.
        power: exponent of the ratio; 0 is zero padding, but for windows that see no pixel.

    Returns:
        Like `y` in shape, dtype and memory format.
    """
    size = (x.shape[-2], x.shape[-1])
    plain = type(x) in (Tensor, nn.Parameter) and not torch.jit.is_tracing()
    # A fake, traced or transformed tensor must not end up in the cache, and a compiler folds the arithmetic anyway.
    apart = torch.compiler.is_compiling() or not plain or peek_interpreter_stack() is not None
    make = ratio if apart else cached_ratio
    if torch.jit.is_tracing():
        size = (int(size[0]), int(size[1]))
    r = make(size, kernel_size, stride, dilation, pads, power, y.dtype, y.device)
    if bias is None:
        return y * r  # times 1 changes no bit, and times 0 only meets the 0 of a window without taps
    b = bias.to(y.dtype).view(-1, 1, 1)
    return torch.where(r == 1, y, (y - b) * r + b * (r != 0))


def sole_input(args: tuple, kwargs: dict) -> Tensor:
    """The one argument of a convolution's forward, whatever its class calls it."""
    given = (*args, *kwargs.values())
    if len(given) != 1:
        raise TypeError(f"a convolution takes one input, not {len(given)} arguments")
    return given[0]


class PartialPadding:
    """What partial padding adds to a convolution class: placed before it in a class's bases.

    The class's own forward runs with its zero padding, however it makes its weights, and the border is rescaled.
    """

    pcpad_power = 1.0
    pcpad_pads = None
    """For a class that does not pad by `padding`: a function of the convolution and its input's height and width."""

    def forward(self, *args, **kwargs) -> Tensor:
        x = sole_input(args, kwargs)
        y = super().forward(x)
        if self.pcpad_pads is None:
            pads = conv_pads(self.padding, self.kernel_size, self.dilation)
        else:
            pads = type(self).pcpad_pads(self, x.shape[-2], x.shape[-1])
        if not any(pads):
            return y
        kernel_size, stride, dilation = pair(self.kernel_size), pair(self.stride), pair(self.dilation)
        return rescale_border(y, x, self.bias, kernel_size, stride, dilation, pads, self.pcpad_power)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", power={self.pcpad_power}" if self.pcpad_power != 1 else "")


class PartialConv2d(PartialPadding, nn.Conv2d):
    """An ``nn.Conv2d`` whose zero padding is replaced by partial convolution based padding.

    ``y = (W . x) * (K / n) ** power + b``, where n of the K = kh * kw taps lie inside the image; y = 0 where none
    does. Constructor, parameters and state dict are those of ``nn.Conv2d``, and where a window lies inside the
    image the output is the plain convolution's, bit for bit.

    Shapes: ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, C', H', W')`` or ``(C', H', W')``. Any floating dtype and
    memory format; the output has the dtype of the plain convolution, under autocast too.

    Args:
        power: exponent of the ratio: 1 keeps the sum over the window (the paper), 0.5 its variance, 0 is zero
            padding.

    Raises:
        ValueError: `padding_mode` is not ``"zeros"`` (partial padding is the padding), or `power` is not a
            finite number of at least 0.

    Source: Liu et al., arXiv:1811.11718, equations 2 to 4.

    >>> conv = PartialConv2d(1, 1, 3, padding=1, bias=False)
    >>> _ = nn.init.ones_(conv.weight)
    >>> conv(torch.ones(1, 1, 3, 3)).flatten().tolist()  # zero padding gives 4, 6 and 9
    [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        device=None,
        dtype=None,
        power=1.0,
    ):
        if padding_mode != "zeros":
            raise ValueError(
                f"PartialConv2d replaces the padding, so padding_mode must stay 'zeros', not {padding_mode!r}; "
                f"for that mode use nn.Conv2d(..., padding_mode={padding_mode!r})"
            )
        self.check_power(power)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device, dtype
        )
        self.pcpad_power = float(power)

    @staticmethod
    def check_power(power: float) -> None:
        """Raise ValueError unless `power` is a finite number of at least 0."""
        if not isinstance(power, (int, float)) or not 0 <= power < float("inf"):
            raise ValueError(f"power must be a finite number of at least 0 (1 is the paper's), not {power!r}")

    @property
    def power(self) -> float:
        """Exponent of the ratio."""
        return self.pcpad_power
