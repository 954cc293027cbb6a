"""Try a model before the work starts: at a size, and on images of different sizes."""

import torch
from torch import nn

from pcpad.padding import PADDING_MODES
from pcpad.ragged import RaggedBatch, RaggedError

MULTIPLE = 32
"""What sides are rounded to where a network cannot take every one: the stride of most networks."""


def probe(model: nn.Module, name: str, padding: str, size: int) -> None:
    """Run one empty image through the model, so that a size it cannot take is known before the run starts."""
    was_training = model.training
    model.eval()
    weight = next(model.parameters())
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype))
    except ValueError as error:
        raise ValueError(f"{name} cannot run with {padding} padding at size {size}: {error}") from error
    except (RuntimeError, AssertionError, IndexError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} cannot run at size {size} ({first}); choose another --size") from error
    finally:
        model.train(was_training)


def refuse_filling(paddings: list[str]) -> None:
    """Raise ValueError for padding modes that images of native size cannot have."""
    filling = [padding for padding in paddings if PADDING_MODES[padding].fills]
    if filling:
        fit = ", ".join(name for name, mode in PADDING_MODES.items() if not mode.fills)
        raise ValueError(
            f"native sizes go with {fit}, not with {', '.join(filling)}: what is filled from the edge of an image "
            f"would be filled from the edge of a mixed-size batch; choose from {fit}"
        )


def probe_native(model: nn.Module, name: str, padding: str, size: int) -> int:
    """Run a batch of images of different sizes, so that what cannot be followed is known before the run starts.

    Returns:
        What the sides of images must be multiples of: 1, or 32 for networks whose padding or branches depend on the
        parity of their maps.

    Raises:
        ValueError: the network cannot take images of different sizes, or `size` is no such multiple.
    """
    weight = next(model.parameters())
    was_training = model.training
    model.eval()
    try:
        for multiple in (1, MULTIPLE):
            if size % multiple:
                raise ValueError(
                    f"{name} takes images of different sizes only where their sides are multiples of {multiple}: "
                    f"choose native:{max(round(size / multiple), 1) * multiple}, not native:{size}"
                )
            sides = [(size, size + multiple), (size + 3 * multiple, size), (size, size)]
            images = [torch.zeros(3, *one, device=weight.device, dtype=weight.dtype) for one in sides]
            try:
                with torch.no_grad():
                    model(RaggedBatch.from_images(images))
                return multiple
            except RaggedError:
                if multiple == MULTIPLE:
                    raise
        raise AssertionError("unreachable")
    except (RaggedError, RuntimeError, AssertionError, IndexError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} cannot take images of native size with {padding} padding: {first}") from error
    finally:
        model.train(was_training)
