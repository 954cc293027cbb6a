"""Whether a tensor is computed with as it stands: the condition for steps that bring a gradient of their own."""

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad


def eager(x: Tensor) -> bool:
    """Whether `x` is a plain tensor, not compiled, traced, transformed (`torch.func`) or differentiated forwards."""
    if type(x) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return peek_interpreter_stack() is None and forward_ad._current_level < 0
