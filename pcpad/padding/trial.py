"""One forward pass of a copy of a model, by itself or on the meta device: what is called, with maps of which size."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from pcpad.padding.filled import FilledPadding
from pcpad.padding.functions import FunctionWatch
from pcpad.padding.handlers import behaviour_of
from pcpad.padding.surgery import Wanted, put_mode


def stand_in(model: nn.Module, on_meta: bool) -> nn.Module:
    """A copy to run, with zeros, so that whatever a forward or ``eval()`` does to its module is not done to the model.

    Partial padding stays, which may be called with masks.

    Args:
        on_meta: take every tensor that the modules hold to the meta device, which needs no memory.

    Raises:
        ValueError: the model cannot be copied.
    """
    memo: dict[int, Tensor] = {}
    for module in model.modules():
        for tensor in tensors_of((module._parameters, module._buffers, vars(module))):
            if on_meta:
                bare = tensor.detach().to("meta")
                memo[id(tensor)] = nn.Parameter(bare, False) if isinstance(tensor, nn.Parameter) else bare
            elif not tensor.is_leaf:  # which deepcopy refuses: kept from a forward pass
                memo[id(tensor)] = tensor.detach().clone()
    try:
        copied = copy.deepcopy(model, memo).eval()
    except Exception as error:  # whatever an attribute raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(model).__qualname__} cannot be copied ({first}), and a copy is what runs, so that the model stays "
            "as it is: take what cannot be copied off its attributes, or inspect a newly built one"
        ) from error
    for name, module in copied.named_modules():
        if isinstance(module, nn.Conv2d) and behaviour_of(module) is FilledPadding and "forward" not in vars(module):
            put_mode(module, name, Wanted("zeros"))
    return copied


def tensors_of(value, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors in a value and in the dicts, lists and tuples in it."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(one, seen)


def conv_calls(model: nn.Module, inputs: tuple, watch: FunctionWatch | None = None) -> dict[nn.Conv2d, list]:
    """Run a stand-in and note the input size of every call of every convolution.

    Args:
        inputs: the positional arguments of the model.
    """
    calls: dict[nn.Conv2d, list[tuple[int, int]]] = {}

    def note(conv, args, kwargs):
        x = (*args, *kwargs.values())[0]
        calls.setdefault(conv, []).append((int(x.shape[-2]), int(x.shape[-1])))

    def enter(module, _):
        watch.stack.append(module)

    def leave(module, _, __):
        watch.stack.pop()

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            if watch:
                stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(torch.no_grad())
        if watch:
            stack.enter_context(watch)
        model(*inputs)
    return calls
