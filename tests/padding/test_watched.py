"""Partial padding changes outputs in place: not where a mode of torch's dispatcher keeps what an operation returned."""

from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import pcpad
from pcpad.padding.border import may_change

CONV = torch.ops.aten.convolution.default


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).double()
    pcpad.convert(net, "partial")
    return net


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def keep_convolutions(_, op, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if op == CONV else CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize("allowed", [False, True])
def test_selective_checkpointing_gives_the_gradients_without_it(net, x, allowed):
    """Convolutions' outputs are kept; torch raises where a kept one was changed, and where told not to takes it so."""
    contexts = partial(
        create_selective_checkpoint_contexts, keep_convolutions, allow_cache_entry_mutation=allowed
    )  # fmt: skip
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    y = checkpoint(net, x.clone().requires_grad_(), use_reentrant=False, context_fn=contexts)
    for ours, expected in zip(torch.autograd.grad(y.square().sum(), list(net.parameters())), plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


class Dispatched(TorchDispatchMode):
    """Keeps what convolutions return, and a copy of it."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func == CONV:
            self.kept.append((result, result.clone()))
        return result


class Called(TorchFunctionMode):
    """The same, of calls of functions."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, nn.functional.conv2d):
            self.kept.append((result, result.clone()))
        return result


@pytest.mark.parametrize("mode", [Dispatched, Called])
@pytest.mark.parametrize("grad", [True, False])
def test_a_recorder_s_outputs_stay(net, x, mode, grad):
    with torch.set_grad_enabled(grad), mode() as recorder:
        net(x)
    assert len(recorder.kept) == 2
    assert all(torch.equal(output, copy) for output, copy in recorder.kept)


def test_fake_tensors_do_not_stay(x):
    """A geometry that a fake tensor has seen first gives real tensors afterwards."""
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    pcpad.convert(conv, "partial")
    real = torch.randn(1, 3, 23, 29)
    with FakeTensorMode(allow_non_fake_inputs=True):
        conv(real)
    assert type(conv(real)) is torch.Tensor


def test_make_fx_traces_with_real_tensors():
    """Of a geometry that was not seen before."""
    x = torch.randn(1, 3, 21, 33, dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).double().requires_grad_(False)
    pcpad.convert(net, "partial")
    torch.testing.assert_close(make_fx(net)(x)(x), net(x), rtol=1e-14, atol=0)


def test_a_default_device_is_no_watcher(x):
    y = torch.nn.functional.conv2d(x, torch.ones(4, 3, 3, 3, dtype=torch.float64))
    with torch.device("cpu"):
        assert may_change(y, x, None)
        with Called():
            assert not may_change(y, x, None)
