"""Partial padding: a convolution that treats its padding as holes. `PartialConv2d`, and the same for any subclass."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from pcpad.padding.border import may_change, rescale, rescaled
from pcpad.padding.coverage import Pads, cached_ratio, conv_pads, num_windows, pair, ratio
from pcpad.padding.eager import eager
from pcpad.padding.holes import check_mask, rescale_known, select


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

    Computes ``(y - bias) * r + bias`` as ``y * r + bias * (1 - r)``, in one pass over y, with ``r = (K / n) ** power``
    where a window leaves the image, 0 where it sees no pixel, and the values of `y` everywhere else.

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
    if has_torch_function_variadic(y, x):  # a mixed-size batch: each image has a border of its own
        arguments = (y, x, bias, kernel_size, stride, dilation, pads, power)
        return handle_torch_function(rescale_border, (y, x), *arguments)
    size = (x.shape[-2], x.shape[-1])
    # A fake, traced or transformed tensor must not end up in the cache.
    make = cached_ratio if eager(x) else ratio
    if torch.jit.is_tracing():
        size = (int(size[0]), int(size[1]))
    r = make(size, kernel_size, stride, dilation, pads, power, y.dtype, y.device)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        # Generated code would compute it, in float64, for every element of y; of a strided view it makes a table first.
        r = r.as_strided(r.shape, r.stride())
    return rescaled(y, bias, r)


def sole_input(args: tuple, kwargs: dict) -> Tensor:
    """The one argument of a convolution's forward, whatever its class calls it."""
    given = (*args, *kwargs.values())
    if len(given) != 1:
        raise TypeError(f"a convolution takes one input, not {len(given)} arguments")
    return given[0]


def geometry_of(conv: nn.Conv2d, x: Tensor) -> tuple | None:
    """Geometry of a convolution that pads by `padding`, as `border.rescale` takes it; None where it pads nothing."""
    values = (x.shape[-2:], conv.kernel_size, conv.stride, conv.dilation, conv.padding, conv.pcpad_power)
    try:
        return known_geometry(*values)
    except TypeError:  # somebody put a list where torch puts a tuple
        return known_geometry.__wrapped__(*values)


@lru_cache(maxsize=1024)
def known_geometry(size, kernel_size, stride, dilation, padding, power) -> tuple | None:
    """`geometry_of` from a convolution's own attributes, remembered."""
    pads = conv_pads(padding, kernel_size, dilation)
    return (tuple(size), pair(kernel_size), pair(stride), pair(dilation), pads, power) if any(pads) else None


def check_pads(conv: nn.Conv2d, x: Tensor, y: Tensor, pads: Pads) -> None:
    """Raise ValueError where the pads that a class is said to use would make a map of another size than its own."""
    if not eager(x):
        return
    size = [pair(values) for values in (conv.kernel_size, conv.stride, conv.dilation)]
    own, made = tuple(y.shape[-2:]), []
    for axis in (0, 1):
        made.append(num_windows(x.shape[axis - 2], *(values[axis] for values in size), *pads[2 * axis : 2 * axis + 2]))
    if own != tuple(made):
        raise ValueError(
            f"pads of {type(conv).__bases__[-1].__qualname__}: {pads} at an input of {x.shape[-2]}x{x.shape[-1]} would "
            f"make a map of {made[0]}x{made[1]}, and its own is {own[0]}x{own[1]}; the function of pads that "
            "pcpad.register_conv was given is not how this class pads"
        )


class PartialPadding:
    """What partial padding adds to a convolution class: placed before it in a class's bases.

    The class's own forward runs with its zero padding, however it makes its weights, and the border is rescaled.
    """

    pcpad_power = 1.0
    pcpad_pads = None
    """For a class that does not pad by `padding`: a function of the convolution and its input's height and width."""
    pcpad_fresh = True
    """Whether the class's own forward returns a tensor that nobody else holds; of a user's class that is not known."""

    def forward(self, *args, mask: Tensor | None = None, **kwargs) -> Tensor | tuple[Tensor, Tensor]:
        if mask is None and len(args) == 2:
            *args, mask = args
        x = args[0] if len(args) == 1 and not kwargs else sole_input(args, kwargs)
        if mask is not None:
            check_mask(x, mask)
            x = select(x, mask)
        y, bias = super().forward(x), self.bias
        if mask is None and self.pcpad_pads is None and self.pcpad_fresh and may_change(y, x, bias):
            geometry = geometry_of(self, x)  # the way of most, in few calls
            return rescale(y, bias, geometry) if geometry else y
        if self.pcpad_pads is None:
            pads = conv_pads(self.padding, self.kernel_size, self.dilation)
        else:
            pads = tuple(type(self).pcpad_pads(self, x.shape[-2], x.shape[-1]))
            check_pads(self, x, y, pads)
        kernel_size, stride, dilation = pair(self.kernel_size), pair(self.stride), pair(self.dilation)
        if mask is not None:
            geometry = (self.in_channels, kernel_size, stride, dilation, pads, self.groups, self.pcpad_power)
            return rescale_known(y, mask, bias, *geometry)
        if not any(pads) and not has_torch_function_unary(x):
            return y
        if self.pcpad_fresh and may_change(y, x, bias):
            size = (x.shape[-2], x.shape[-1])
            return rescale(y, bias, (size, kernel_size, stride, dilation, pads, self.pcpad_power))
        return rescale_border(y, x, bias, kernel_size, stride, dilation, pads, self.pcpad_power)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", power={self.pcpad_power}" if self.pcpad_power != 1 else "")


class PartialConv2d(PartialPadding, nn.Conv2d):
    """An ``nn.Conv2d`` whose padding, and any pixel that a mask excludes, is a hole.

    ``y = (W . x) * (K / n) ** power + b``, where n of the K = kh * kw taps are known; y = 0 where none is. Without a
    mask the known pixels are the image and the padding is the hole: partial convolution based padding. Constructor,
    parameters and state dict are those of ``nn.Conv2d``, and where a window sees no hole the output is the plain
    convolution's, bit for bit.

    Call it as ``conv(x)``, which gives y, or as ``conv(x, mask)``, which gives ``(y, new_mask)``.

    Shapes: x ``(N, C, H, W)`` or ``(C, H, W)`` to y ``(N, C', H', W')`` or ``(C', H', W')``. Any floating dtype and
    memory format; the output has the dtype of the plain convolution, under autocast too. The mask is ``(N, 1, H, W)``,
    or ``(N, C, H, W)`` where channels have holes of their own; True or 1 is known. The new mask is bool and
    ``(N, 1, H', W')``, for a mask of C > 1 channels ``(N, C', H', W')``: True where a tap is known. Of a mask for each
    channel K and n count the channels of the group that an output channel sees. What lies in a hole is never read, NaN
    included; gradients reach x and the weights, and never the mask.

    Args:
        power: exponent of the ratio: 1 keeps the sum over the window (the paper), 0.5 its variance, 0 is zero
            padding.

    Raises:
        ValueError: `padding_mode` is not ``"zeros"`` (partial padding is the padding), or `power` is not a
            finite number of at least 0; in forward, the mask's shape or device do not fit x, or a floating-point mask
            holds another value than 0 and 1 (looked for on a CPU, and on a GPU under `pcpad.debug`).
        TypeError: in forward, the mask is neither bool nor floating point.

    Source: Liu et al., arXiv:1811.11718, equations 2 to 4, and arXiv:1804.07723, equations 1 and 2.

    >>> conv = PartialConv2d(1, 1, 3, padding=1, bias=False)
    >>> _ = nn.init.ones_(conv.weight)
    >>> conv(torch.ones(1, 1, 3, 3)).flatten().tolist()  # zero padding gives 4, 6 and 9
    [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]
    >>> mask = torch.zeros(1, 1, 3, 3)
    >>> mask[..., 0] = 1  # one column is known
    >>> y, new_mask = conv(torch.ones(1, 1, 3, 3), mask)
    >>> y[0, 0, 0].tolist(), new_mask[0, 0, 0].tolist()
    ([9.0, 9.0, 0.0], [True, True, False])
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
