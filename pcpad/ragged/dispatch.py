"""Which torch functions a mixed-size batch goes through, and how: the one registry."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from pcpad.ragged.lengths import RaggedError

NAMESPACES = (torch.Tensor, torch, F, torch._C._nn, torch.special, torch.linalg)
"""Where torch's functions of one name are looked up; the first that has it names it."""

HANDLERS: dict[str, Callable] = {}
"""Name of a torch function, without underscores at its ends, to ``handler(func, name, args, kwargs)``."""
TABLE: dict[Callable, tuple[Callable, str]] = {}
"""The functions themselves, to handler and name: ``torch.relu``, ``Tensor.relu_`` and ``F.relu`` are three."""
IN_PLACE: dict[Callable, str] = {}
"""Those of them that write into their first argument, to the name with underscores."""

FIRST = ("input", "self", "tensors", "tensor")
"""What torch calls its first argument."""
RESHAPING = ("transpose", "swapaxes", "swapdims", "squeeze", "unsqueeze")
"""Handlers that could not tell the other holders of a batch what became of its axes."""

REASONS = {
    "matmul": "it mixes positions",
    "einsum": "it may mix positions",
    "scaled_dot_product_attention": "attention mixes positions, those outside an image too",
    "unfold": "it reshapes the plane",
    "fold": "it reshapes the plane",
    "roll": "it moves positions across the image's edge",
    "flip": "it moves the image to another corner of the canvas",
    "max_pool2d_with_indices": "its indices are those of the canvas",
    "bmm": "it mixes positions",
    "cumsum": "it mixes positions",
    "sort": "it mixes positions",
}
"""Why some functions are not followed, for the message."""


def handles(*names: str) -> Callable:
    """Decorator: register a handler for torch's functions of these names; one that is taken raises."""

    def register(handler: Callable) -> Callable:
        for name in names:
            if name in HANDLERS:
                raise AssertionError(f"{name} is handled twice")
            HANDLERS[name] = handler
        return handler

    return register


def fill_table() -> None:
    """Look up every function that a registered name stands for, in-place ones and operators too."""
    for space in NAMESPACES:
        for attribute in dir(space):
            name = attribute.strip("_")
            function = getattr(space, attribute, None)
            if name in HANDLERS and callable(function) and function is not torch.linalg.norm:  # a matrix norm
                TABLE.setdefault(function, (HANDLERS[name], name))
                operator = attribute.startswith("__i") and attribute != "__invert__"
                if operator or (attribute.endswith("_") and not attribute.startswith("__")):
                    IN_PLACE[function] = attribute


def name_of(func) -> str:
    """A function's name for a message."""
    return getattr(func, "__name__", str(func)).strip("_")


def dispatch(func, args: tuple, kwargs: dict):
    """Run a torch function of which an argument is a RaggedBatch; raises RaggedError for one that is not followed."""
    found = TABLE.get(func)
    if found is None:
        raise refusal(name_of(func))
    handler, name = found
    if func in IN_PLACE and name in RESHAPING:
        raise refusal(IN_PLACE[func], "use the form that is not in place")
    if not args:  # whoever gives the input by name
        key = next(key for key in FIRST if key in kwargs)
        args, kwargs = (kwargs[key],), {k: v for k, v in kwargs.items() if k != key}
    return handler(func, name, args, kwargs)


def refusal(name: str, why: str = "") -> RaggedError:
    """The error for an operation that is not followed."""
    why = why or REASONS.get(name, "it is not among the operations that are followed")
    return RaggedError(
        f"a mixed-size batch cannot go through {name}: {why}. Run the images one by one, or batches of one size as a "
        "plain tensor; pcpad/ragged/README.md lists what is followed"
    )
