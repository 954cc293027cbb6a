"""Whether a tensor is computed with as it stands: the condition for steps that bring a gradient of their own.

Asked at every convolution, so in few calls: beside a small map each line of Python counts.
"""

from torch import Tensor, nn
from torch._C import _is_tracing, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def eager(x: Tensor) -> bool:
    """Whether `x` is a plain tensor, not compiled, traced, transformed (`torch.func`) or differentiated forwards.

    And whether nobody looks on, who may keep what an operation returns: selective activation checkpointing, a recorder
    of operations, fake tensors and ``make_fx`` are modes of torch's dispatcher.
    """
    kind = type(x)
    if (kind is not Tensor and kind is not nn.Parameter) or is_compiling() or _is_tracing():
        return False
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0 or _len_torch_dispatch_stack():
        return False
    return not (_len_torch_function_stack() and looked_on())


def has_memory(x: Tensor) -> bool:
    """Whether a tensor holds elements, which those that `is_grads_batched` and `torch.func` bring do not."""
    try:
        return eager(x) and x.data_ptr() is not None
    except RuntimeError:
        return False


def looked_on() -> bool:
    """Whether a mode of functions is active; a default device is none that looks on."""
    return any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
