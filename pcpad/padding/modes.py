"""The padding modes: what each does to a convolution. The one registry."""

from dataclasses import dataclass
from difflib import get_close_matches

from pcpad.padding.filled import FilledPadding
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
    """

    name: str
    summary: str
    source: str
    behaviour: type | None
    padding_mode: str


PADDING_MODES: dict[str, PaddingMode] = {}


def register(mode: PaddingMode) -> None:
    """Add a mode to the registry; raises ValueError if the name is taken."""
    if mode.name in PADDING_MODES:
        raise ValueError(f"padding mode {mode.name!r} is registered already")
    PADDING_MODES[mode.name] = mode


register(PaddingMode("zeros", "zeros", "torch.nn.Conv2d", None, "zeros"))
register(
    PaddingMode(
        "partial",
        "holes: the sum over the taps that exist, scaled up by how many are missing",
        "Liu et al., arXiv:1811.11718",
        PartialPadding,
        "zeros",
    )
)
for _name, _summary in {
    "reflect": "the image mirrored at its outermost pixel",
    "replicate": "the outermost pixel repeated",
    "circular": "the opposite side of the image",
}.items():
    register(PaddingMode(_name, _summary, "torch.nn.Conv2d", FilledPadding, _name))


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
