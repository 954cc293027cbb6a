"""Checks that read values back from a GPU, and so are off there unless they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

_debugging: ContextVar[bool] = ContextVar("pcpad_debugging", default=False)


@contextmanager
def debug() -> Iterator[None]:
    """Check the values of masks and sizes on every device, for the calls inside the ``with``.

    On a CPU they are checked always. On a GPU a check waits for all work that was queued before it, so that it is
    left out of the hot path.

    >>> with debug():
    ...     pass
    """
    token = _debugging.set(True)
    try:
        yield
    finally:
        _debugging.reset(token)


def may_read(value: Tensor) -> bool:
    """Whether a tensor's values may be looked at here: not while it is traced or transformed, nor on a GPU unasked."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or peek_interpreter_stack() is not None:
        return False
    if type(value) not in (Tensor, torch.nn.Parameter) or value.device.type == "meta":
        return False
    return value.device.type == "cpu" or _debugging.get()
