"""The Triton kernels on an NVIDIA GPU: used where they should be, and equal to torch's own operations there."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pcpad
from pcpad.padding import gpu, gpu_depthwise
from pcpad.padding.coverage import ratio

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
FORMATS = [torch.contiguous_format, torch.channels_last]
MODES = ["partial", "reflect", "symmetric", "replicate", "circular"]
NUMPY = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}


def results(conv: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
    """Output and all gradients, of copies."""
    conv, x = copy.deepcopy(conv), x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *conv.parameters()], upstream)]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("groups", [1, 32])
@pytest.mark.parametrize("mode", MODES)
def test_the_kernels_compute_what_torch_does(mode, groups, layout, monkeypatch):
    """float64, with and without them, to rounding; the incoming gradient is left as it was."""
    conv = nn.Conv2d(32, 32, 5, stride=2, padding=2, groups=groups).double().cuda().to(memory_format=layout)
    pcpad.convert(conv, mode)
    x = torch.randn(16, 32, 65, 66, dtype=torch.float64, device="cuda").contiguous(memory_format=layout)
    with torch.no_grad():
        upstream = torch.randn_like(conv(x))
    kept = upstream.clone()
    monkeypatch.setattr(gpu, "LARGE", 0)
    assert gpu.worth(x)
    ours = results(conv, x, upstream)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), ours[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(upstream, kept)
    monkeypatch.setattr(gpu, "LARGE", 2**62)
    assert not gpu.worth(x)
    for a, b in zip(ours, results(conv, x, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype(dtype, layout):
    """Padding and border to one rounding of the dtype, odd channels, against torch in float64."""
    x = torch.randn(3, 37, 130, 121, device="cuda", dtype=dtype).contiguous(memory_format=layout)
    padded = gpu.fill(x, (2, 1, 3, 0), "reflect")
    assert padded.is_contiguous(memory_format=layout)
    assert torch.equal(padded, F.pad(x.double(), (3, 0, 2, 1), mode="reflect").to(dtype))
    geometry = ((130, 121), (5, 3), (1, 1), (1, 1), (2, 2, 1, 1), 1.0)
    r = ratio(*geometry, torch.float64, "cuda")
    bias = torch.randn(37, device="cuda")
    wanted = x.double() * r + bias.double().view(-1, 1, 1) * (1 - r)
    y = gpu.rescale(x.clone(memory_format=torch.preserve_format), bias, geometry)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), wanted, rtol=2 * eps, atol=4 * eps)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, "autocast"])
@pytest.mark.parametrize("mode", MODES[1:])
def test_a_depthwise_convolution_without_a_padded_image(mode, dtype, layout, monkeypatch):
    """In inference; the same in float64 of the rounded image and weights, to two roundings."""
    low = torch.bfloat16 if dtype == "autocast" else dtype
    conv = nn.Conv2d(40, 40, 3, padding=1, groups=40).cuda().to(memory_format=layout)
    x = torch.randn(8, 40, 90, 101, device="cuda").contiguous(memory_format=layout)
    if dtype != "autocast":
        conv, x = conv.to(dtype), x.to(dtype)
    pcpad.convert(conv, mode)
    added = []
    original = gpu_depthwise.add
    monkeypatch.setattr(gpu_depthwise, "add", lambda *args: added.append(original(*args)))
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=dtype == "autocast"), exact:
        y = conv(x)
    assert len(added) == 1
    assert y.dtype == low
    padded = torch.from_numpy(np.pad(x.to(low).double().cpu().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), NUMPY[mode]))
    weight, bias = (p.detach().to(low).double().cpu() for p in (conv.weight, conv.bias))
    wanted = F.conv2d(padded, weight, bias, groups=40)
    eps = torch.finfo(low).eps
    torch.testing.assert_close(y.double().cpu(), wanted, rtol=2 * eps, atol=16 * eps)
    assert conv(x.requires_grad_()).requires_grad
    assert len(added) == 1  # with a gradient the image is padded


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "symmetric"])
def test_gradients_are_the_same_bits_every_time(mode):
    """torch's own backward passes of reflect and replicate padding add in any order."""
    x = torch.randn(8, 64, 40, 40, device="cuda", requires_grad=True)
    upstream = torch.randn(8, 64, 46, 46, device="cuda")
    first, *others = (torch.autograd.grad(gpu.fill(x, (3, 3, 3, 3), mode), x, upstream)[0] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("side", [16, 256])
def test_the_first_use_on_one_stream_serves_another(side):
    """What is remembered of a geometry is there for all streams, whatever the first has still to do."""
    conv = pcpad.PartialConv2d(32, 32, 3, padding=1, power=0.75).cuda()  # a power that nobody else has asked for
    x = torch.randn(1, 32, side, side, device="cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.no_grad():
        with torch.cuda.stream(first):
            torch.cuda._sleep(10**9)
            one = conv(x)
        with torch.cuda.stream(second):
            other = conv(x)
        torch.cuda.synchronize()
        assert torch.equal(one, other)
        assert torch.equal(other, conv(x))


def test_a_captured_graph_replays():
    """torch.cuda.graph records the kernels like any others."""
    conv = pcpad.PartialConv2d(32, 32, 3, padding=1).cuda()
    x = torch.randn(16, 32, 64, 64, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            wanted = conv(x)
            conv(x)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = conv(x)
        y.zero_()
        graph.replay()
    torch.testing.assert_close(y, wanted)
