"""The padding modes: what each does to a convolution. The one registry."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor

from pcpad.padding.coverage import Pads
from pcpad.padding.filled import FilledPadding
from pcpad.padding.fillers import FILLERS, Filler
from pcpad.padding.partial import PartialPadding


@dataclass(frozen=True)
class PaddingMode:
    """One padding mode.

    Attributes:
        name: torch's name of the mode, where torch has it.
        summary: what stands in the padding, in one line.
        source: where the mode comes from.
        behaviour: what the mode adds to a convolution class; None where the class itself does it.
        padding_mode: the ``padding_mode`` attribute of a convolution in this mode.
        power: exponent of the ratio, of a mode that rescales.
    """

    name: str
    summary: str
    source: str
    behaviour: type | None
    padding_mode: str
    power: float = 1.0

    @property
    def fills(self) -> bool:
        """Whether it takes the padding from the image, which then must be large enough."""
        return self.behaviour is FilledPadding


PADDING_MODES: dict[str, PaddingMode] = {}


def register(mode: PaddingMode) -> None:
    """Add a mode to the registry; raises ValueError if the name is taken."""
    if mode.name in PADDING_MODES:
        raise ValueError(f"padding mode {mode.name!r} is registered already")
    PADDING_MODES[mode.name] = mode


def register_padding(
    name: str,
    pad: Callable[[Tensor, Pads], Tensor],
    *,
    summary: str,
    source: str = "",
    smallest: Callable[[int], int] = lambda pad: 1,
) -> None:
    """Add a padding mode that fills the padding, for `pcpad.convert`, `pcpad.inspect` and the command line of a script.

    Args:
        name: of the mode.
        pad: function of the input ``(N, C, H, W)`` or ``(C, H, W)`` of a convolution and its pads ``(top, bottom, left,
            right)`` in pixels to the padded input, H grown by top + bottom and W by left + right.
        summary: what stands in the padding, in one line. source: where the mode comes from.
        smallest: function of a pad to the shortest side that can fill it, both in pixels.

    Raises:
        ValueError: the name is taken, or cannot be given on a command line; in a forward pass, where `pad` returns
            another size. TypeError: `pad` cannot be called.
    """
    if not callable(pad):
        raise TypeError(f"register_padding takes a function of an image and its pads, not {pad!r}")
    if not name.isidentifier():
        raise ValueError(f"a padding mode is named in letters, digits and _, not {name!r}")
    if name == "zero":
        raise ValueError("padding mode 'zero' is another name of 'zeros': give yours a name of its own")

    def checked(x: Tensor, pads: Pads) -> Tensor:
        y, (top, bottom, left, right) = pad(x, pads), pads
        wanted = (*x.shape[:-2], x.shape[-2] + top + bottom, x.shape[-1] + left + right)
        if tuple(y.shape) != wanted:
            raise ValueError(
                f"padding mode {name!r} made {tuple(y.shape)} of {tuple(x.shape)} with the pads (top, bottom, left, "
                f"right) {tuple(pads)}, which must give {wanted}"
            )
        return y

    register(PaddingMode(name, summary, source, FilledPadding, name))
    FILLERS[name] = Filler(checked, smallest)


PARTIAL = "Liu et al., arXiv:1811.11718"
register(PaddingMode("zeros", "zeros", "torch.nn.Conv2d", None, "zeros"))
register(
    PaddingMode(
        "partial",
        "holes: the sum over the taps that exist, scaled up by how many are missing",
        PARTIAL,
        PartialPadding,
        "zeros",
    )
)
register(
    PaddingMode(
        "partial_sqrt",
        "holes: scaled up by the root of that, which keeps the variance of the sum and not the sum",
        f"{PARTIAL}, with power 0.5",
        PartialPadding,
        "zeros",
        power=0.5,
    )
)
for _name, (_summary, _source) in {
    "reflect": ("the image mirrored at its outermost pixel", "torch.nn.Conv2d"),
    "symmetric": ("the image mirrored at its edge, the outermost pixel twice", "Alsallakh et al., arXiv:2010.02178"),
    "replicate": ("the outermost pixel repeated", "torch.nn.Conv2d"),
    "circular": ("the opposite side of the image", "torch.nn.Conv2d"),
    "mean": (
        "the mean around the nearest pixel, as far as the pad is wide",
        "after Nguyen et al., Distribution Padding in Convolutional Neural Networks, ICIP 2019, which interpolates it",
    ),
}.items():
    register(PaddingMode(_name, _summary, _source, FilledPadding, _name))


def canonical(name: str) -> str:
    """The registered name of a padding mode; ``"zero"`` is accepted for ``"zeros"``.

    Raises:
        ValueError: an unknown name; the message lists the choices and the nearest.
    """
    name = "zeros" if name == "zero" else name
    if not isinstance(name, str) or name not in PADDING_MODES:
        near = get_close_matches(str(name), PADDING_MODES, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown padding mode {name!r}: choose from {', '.join(PADDING_MODES)}{hint}")
    return name


def power_of(name: str, power: float) -> float:
    """Exponent of the ratio in a mode: of ``"partial"`` it is `power`, of any other the mode's own."""
    return power if name == "partial" else PADDING_MODES[name].power
