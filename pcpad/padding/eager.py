"""Whether a tensor is computed with as it stands: the condition for steps that bring a gradient of their own."""

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def eager(x: Tensor) -> bool:
    """Whether `x` is a plain tensor, not compiled, traced, transformed (`torch.func`) or differentiated forwards.

    And whether nobody looks on, who may keep what an operation returns: selective activation checkpointing, a recorder
    of operations, fake tensors and ``make_fx`` are modes of torch's dispatcher.
    """
    if type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return peek_interpreter_stack() is None and forward_ad._current_level < 0 and not watched()


def watched() -> bool:
    """Whether a mode of the dispatcher or of functions is active; a default device is none that looks on."""
    if torch._C._len_torch_dispatch_stack():
        return True
    return any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
