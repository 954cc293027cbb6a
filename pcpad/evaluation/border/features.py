"""Features of the convolutions that pad, of a crop and of the same place inside a larger image."""

import math
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcpad.padding import convert
from pcpad.padding.trial import stand_in

GROWTH = 2**7 * 3 * 5 * 7
"""Pixels that an input is enlarged by to see the stride of a layer: every stride in use divides it."""


@dataclass(frozen=True)
class Place:
    """One call of one convolution, and where the crop's features lie in those of the larger image.

    Attributes:
        layer: name of the convolution; of a later call in one forward pass with `` (call 2)`` behind it.
        stride: pixels of the input to one feature position.
        height, width: of the crop's map, in positions.
        channels: of the output.
    """

    layer: str
    stride: int
    channels: int
    height: int
    width: int

    @property
    def module(self) -> str:
        """Name of the convolution, whichever of its calls this is."""
        return self.layer.split(" (call ")[0]

    def window(self, features: Tensor, margin: int) -> Tensor:
        """The crop's place in features of the larger image, ``margin`` pixels from its top and left."""
        first = margin // self.stride
        return features[..., first : first + self.height, first : first + self.width]


def padded_layers(model: nn.Module) -> list[str]:
    """Names of the convolutions that a padding mode changes, in the order of registration."""
    return [layer.name for layer in convert(model, "partial").layers if layer.is_conv and layer.action != "left"]


def features(model: nn.Module, layers: list[str], images: Tensor, keep=lambda call, y: y) -> dict[str, Tensor]:
    """What some layers give for a batch, in one forward pass.

    Args:
        keep: function of a call's name and its output to what is kept of it, which is copied: an activation behind the
            layer may change the output in place.

    Returns:
        Name of each call to its output, in the order of the calls.
    """
    found: dict[str, Tensor] = {}
    calls = dict.fromkeys(layers, 0)

    def note(name: str):
        def hook(module, args, output):
            calls[name] += 1
            call = name if calls[name] == 1 else f"{name} (call {calls[name]})"
            kept = keep(call, output)
            found[call] = kept.clone() if isinstance(kept, Tensor) else kept

        return hook

    with ExitStack() as stack:
        for name in layers:
            stack.callback(model.get_submodule(name).register_forward_hook(note(name)).remove)
        model(images)
    return found


def find_places(model: nn.Module, layers: list[str], size: int) -> list[Place]:
    """Stride and map of every call of the layers, from passes without computation.

    Raises:
        ValueError: the model cannot take a larger image, or no layer's map grows with the image.
    """
    bare = stand_in(model, on_meta=True)
    weight = next(bare.parameters())

    def shapes(side: int) -> dict[str, torch.Size]:
        images = torch.empty(1, 3, side, side, device="meta", dtype=weight.dtype)
        with torch.no_grad():
            return {call: y.shape for call, y in features(bare, layers, images).items()}

    try:
        small, large = shapes(size), shapes(size + GROWTH)
    except Exception as error:  # whatever a model raises for an input that it cannot take
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(model).__qualname__} cannot be compared with itself on a larger image, since it does not run at "
            f"{size} and at {size + GROWTH} pixels: {first}"
        ) from error
    places = []
    for call, (_, channels, height, width) in small.items():
        grown = [large[call][axis] - small[call][axis] for axis in (-2, -1)]
        if grown[0] == grown[1] > 0 and GROWTH % grown[0] == 0:  # else its positions are no places in the image
            places.append(Place(call, GROWTH // grown[0], channels, height, width))
    if not places:
        raise ValueError(f"no padded convolution of {type(model).__qualname__} has a map that grows with the image")
    return places


def total_stride(places: list[Place]) -> int:
    """Pixels by which the image must move so that the positions of every map move by whole ones."""
    return math.lcm(*(place.stride for place in places))


def choose_margin(asked: int | None, size: int, stride: int) -> int:
    """Pixels of context on each side of the crop.

    By a multiple of the total stride the grids of positions are the same in the crop and in the larger image, and so
    are the pads of TensorFlow's "SAME", which depend on the remainder of a map's size by the stride.

    Raises:
        ValueError: `asked` is no multiple of the stride; names the nearest ones.
    """
    if asked is None:
        return -(-(size // 2) // stride) * stride or stride
    if asked % stride:
        below, above = asked // stride * stride, -(-asked // stride) * stride
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"margin must be a multiple of the network's stride of {stride} pixels, so that the features of the crop "
            f"lie on those of the larger image: {near}, not {asked}"
        )
    return asked


def reaches(model: nn.Module, places: list[Place], size: int, margin: int) -> dict[str, int | None]:
    """How far each layer sees, from one pass of an image whose outermost pixels are NaN, which whatever sees them is.

    Args:
        model: with zero padding, in eval mode.

    Returns:
        Name of each call to the distance in pixels, in steps of its stride, from the border of an image to the
        innermost feature that its outermost pixels reach, and so padding; None where they reach the whole map of the
        larger image.
    """
    weight = next(model.parameters())
    side = size + 2 * margin
    image = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    image[..., [0, -1], :] = torch.nan
    image[..., :, [0, -1]] = torch.nan
    layers = list(dict.fromkeys(place.module for place in places))
    with torch.inference_mode():
        seen = features(model, layers, image, lambda _, y: y.isnan().any(1)[0])
    found = {}
    for place in places:
        clean = ~seen[place.layer]
        rows, cols = clean.any(1).nonzero(), clean.any(0).nonzero()
        if len(rows) == 0:
            found[place.layer] = None
            continue
        edges = (rows[0], cols[0], clean.shape[0] - 1 - rows[-1], clean.shape[1] - 1 - cols[-1])
        found[place.layer] = int(max(edges)) * place.stride
    return found
