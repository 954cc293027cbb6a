"""The Triton kernels, run by Triton's interpreter on the CPU, against torch's and numpy's own padding."""

import importlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pcpad.padding import gpu, gpu_depthwise
from pcpad.padding.coverage import ratio
from tests.padding import oracle

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton compiles here: test_kernels_gpu has the kernels on the GPU",
)
loops = pytest.mark.skipif(
    np.lib.NumpyVersion(triton.__version__) < "3.7.0" and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="from NumPy 2.4 on the interpreter of Triton before 3.7 runs no loop to a number that a kernel computes",
)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
NUMPY = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}


@pytest.fixture(scope="module")
def kernels():
    """The kernels, made for the interpreter."""
    return importlib.import_module("pcpad.padding.kernels")


@pytest.fixture
def on_cpu(kernels, monkeypatch):
    """`gpu` with tensors of the CPU."""
    monkeypatch.setattr(gpu, "kernels", lambda device: kernels)
    monkeypatch.setattr(gpu, "current", lambda device: nullcontext())


@loops
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("mode", NUMPY)
@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        ((2, 3, 5, 4), (1, 1, 1, 1)),
        ((1, 130, 4, 6), (3, 0, 2, 3)),
        ((2, 1, 9, 7), (0, 2, 0, 1)),
        ((1, 2, 64, 40), (3, 3, 3, 3)),
    ],
)
def test_an_image_and_its_gradient(on_cpu, layout, mode, shape, pads):
    top, bottom, left, right = pads
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    y = gpu.fill(x, pads, mode)
    sides = ((0, 0), (0, 0), (top, bottom), (left, right))
    assert np.array_equal(y.detach().numpy(), np.pad(x.detach().numpy(), sides, mode=NUMPY[mode]))
    assert y.is_contiguous(memory_format=FORMATS[layout])
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, grad)
    # the padding is linear: the gradient of pixel q is the sum over the padded pixels that hold its number
    numbers = np.pad(np.arange(shape[2] * shape[3]).reshape(shape[2:]), sides[2:], mode=NUMPY[mode]).ravel()
    expected = np.zeros((*shape[:2], shape[2] * shape[3]))
    for place, number in enumerate(numbers):
        expected[..., number] += grad.flatten(2)[..., place].numpy()
    np.testing.assert_allclose(found.numpy().reshape(expected.shape), expected, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=FORMATS[layout])


@loops
@pytest.mark.parametrize("mode", NUMPY)
def test_the_gradient_can_be_differentiated(on_cpu, mode):
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: gpu.fill(v, (1, 2, 1, 1), mode), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: gpu.fill(v, (1, 2, 1, 1), mode).square(), (x,), fast_mode=True)


DEPTHWISE = [  # size, kernel, stride, dilation, pads
    ((6, 7), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    ((9, 8), (5, 3), (2, 2), (1, 1), (2, 2, 1, 1)),
    ((5, 5), (7, 7), (1, 1), (1, 1), (3, 3, 3, 3)),  # windows that leave the map on both sides
    ((7, 6), (3, 3), (1, 2), (2, 1), (2, 2, 0, 0)),
    ((4, 5), (2, 2), (1, 1), (1, 1), (1, 1, 2, 2)),  # windows that see no pixel
    ((8, 8), (2, 2), (2, 2), (1, 1), (0, 0, 0, 0)),  # none leaves the map
]


@loops
@pytest.mark.parametrize("layouts", [(a, b) for a in FORMATS for b in FORMATS])
@pytest.mark.parametrize("mode", NUMPY)
@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "pads"), DEPTHWISE)
def test_taps_outside_a_depthwise_convolution(on_cpu, layouts, mode, size, kernel, stride, dilation, pads):
    channels = 130 if size == (9, 8) else 3
    x = torch.randn(2, channels, *size, dtype=torch.float64).contiguous(memory_format=FORMATS[layouts[0]])
    weight = torch.randn(channels * kernel[0] * kernel[1] + 1, dtype=torch.float64)[1:].view(channels, 1, *kernel)
    bias = torch.randn(channels, dtype=torch.float64)
    y = F.conv2d(x, weight, bias, stride, (pads[0], pads[2]), dilation, channels)
    y = y.contiguous(memory_format=FORMATS[layouts[1]])
    before, geometry = y.clone(), (kernel, stride, dilation, pads, mode)
    gpu_depthwise.add(x, y, weight, geometry)
    how = {"stride": stride, "pads": pads, "dilation": dilation, "groups": channels}
    expected = oracle.conv2d(x.numpy(), weight.numpy(), bias.numpy(), mode=mode, **how)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    inner = ratio(size, kernel, stride, dilation, pads, 1.0, torch.float64, "cpu") == 1
    assert torch.equal(y[..., inner], before[..., inner])
    assert inner.all() == np.allclose(before.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@loops
def test_taps_outside_are_rounded_once(on_cpu, dtype):
    x, weight = torch.randn(2, 5, 8, 6, dtype=dtype), torch.randn(5, 1, 3, 3, dtype=dtype)
    y = F.conv2d(x.double(), weight.double(), None, padding=1, groups=5).to(dtype)
    padded = F.conv2d(F.pad(x.double(), (1, 1, 1, 1), mode="reflect"), weight.double(), None, groups=5)
    inside = F.conv2d(x.double(), weight.double(), None, padding=1, groups=5)
    wanted = y.double() + padded - inside
    gpu_depthwise.add(x, y, weight, ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "reflect"))
    torch.testing.assert_close(y.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)


@loops
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_shows_that_it_is_right_whatever_the_caller_has_set(on_cpu, dtype):
    kept = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert gpu_depthwise.is_right.__wrapped__(torch.device("cpu"))
    finally:
        torch.set_default_dtype(kept)


@pytest.mark.parametrize(("shape", "taken"), [((1, 64, 4096, 4096), True), ((1, 64, 4097, 4096), False)])
def test_an_image_whose_channels_32_bits_do_not_count_is_left_to_torch(on_cpu, monkeypatch, shape, taken):
    """Two of the smaller are fine: images are counted in 64."""

    class Map:
        """The looks of a map on a GPU."""

        def __init__(self, *shape):
            self.shape, self.device = shape, torch.device("cuda", 0)

        def numel(self):
            return int(np.prod(self.shape))

        def __len__(self):
            return self.shape[0]

    monkeypatch.setattr(gpu, "fits", lambda x: True)
    assert gpu.worth(Map(*shape)) is taken
    assert gpu.worth(Map(2, *shape[1:])) is taken


def test_a_window_that_does_not_fit_is_left_to_the_convolution():
    geometry = ((5, 5), (1, 1), (1, 1), (1, 1, 1, 1), "replicate")
    assert not gpu_depthwise.worth(torch.ones(1, 1, 1, 100), geometry)


@loops
def test_a_kernel_that_computes_something_else_is_not_used(on_cpu, kernels, monkeypatch):
    assert gpu_depthwise.is_right.__wrapped__(torch.device("cpu"))
    original = kernels.outside
    monkeypatch.setattr(kernels, "outside", lambda *args: lambda *tensors: None)
    with pytest.warns(UserWarning, match="pad their images, some percent slower: a kernel computed something else"):
        assert not gpu_depthwise.is_right.__wrapped__(torch.device("cpu"))

    def half(*args):
        run = original(*args)
        return lambda x, y, weight, *where: run(x, y, weight / 2, *where)

    monkeypatch.setattr(kernels, "outside", half)
    with pytest.warns(UserWarning, match="something else"):
        assert not gpu_depthwise.is_right.__wrapped__(torch.device("cpu"))


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "pads"), DEPTHWISE)
def test_how_many_taps_lie_outside(size, kernel, stride, dilation, pads):
    seen = F.conv2d(torch.ones(1, 1, *size), torch.ones(1, 1, *kernel), None, stride, (pads[0], pads[2]), dilation)
    geometry = (kernel, stride, dilation, pads, "replicate")
    assert gpu_depthwise.number(size, *geometry) == seen.numel() * kernel[0] * kernel[1] - seen.sum()


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "worth"),
    [(112, 3, 1, True), (7, 3, 1, True), (5, 3, 1, False), (56, 5, 2, True), (28, 5, 1, False), (56, 7, 1, False)],
)
def test_where_the_taps_outside_are_few(side, kernel, stride, worth):
    geometry = ((kernel, kernel), (stride, stride), (1, 1), (kernel // 2,) * 4, "reflect")
    assert gpu_depthwise.worth(torch.ones(1, 1, side, side), geometry) == worth


@loops
def test_what_the_benchmark_times_is_the_same_in_all_ways(on_cpu, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"))
    benchmark = importlib.import_module("kernels")
    x = torch.rand(1, 3, 5, 6) + 1
    before, ways = x.clone(), benchmark.ways(x)
    wanted = ways["border, product"]()
    for name in ("border, slices", "border, kernel"):
        x.copy_(before)
        ways[name]()
        assert torch.equal(x, wanted)
    assert not torch.equal(x, before)
    for a, b in (("kernel", "F.pad"), ("blocks, circular", "F.pad, circular")):
        assert torch.equal(ways[f"pad, {a}"](), ways[f"pad, {b}"]())
        assert [g.shape for g in ways[f"gradient, {a}"]()] == [x.shape]
    x, weight = torch.randn(2, 3, 7, 7), torch.randn(3, 1, 5, 5)
    results = {name: run() for name, run in benchmark.depthwise_ways(x, weight, 2).items()}
    torch.testing.assert_close(results["added"], results["padded"])
    assert not torch.allclose(results["added"], results["zeros"])


GEOMETRIES = [((6, 7), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), ((9, 8), (7, 5), (2, 2), (1, 1), (3, 3, 2, 2))]
GEOMETRIES += [((5, 5), (3, 3), (1, 2), (2, 1), (2, 2, 0, 1)), ((3, 3), (3, 3), (1, 1), (1, 1), (4, 4, 4, 4))]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "kernel", "stride", "dilation", "pads"), GEOMETRIES)
def test_a_border_in_place(on_cpu, layout, biased, dtype, size, kernel, stride, dilation, pads):
    r = ratio(size, kernel, stride, dilation, pads, 1.0, torch.float64, "cpu")
    y = torch.randn(2, 5, *r.shape, dtype=dtype).contiguous(memory_format=FORMATS[layout])
    bias = torch.randn(5) if biased else None
    shift = (bias.double() if biased else torch.zeros(5, dtype=torch.float64)).view(-1, 1, 1)
    with torch.no_grad():
        y = torch.where(r == 0, shift.to(dtype), y).contiguous(memory_format=FORMATS[layout])
    before = y.double()
    expected = torch.where(r == 0, 0, (before - shift) * r + shift)
    found = gpu.rescale(y, bias, (size, kernel, stride, dilation, pads, 1.0))
    assert found is y
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=2 * eps, atol=8 * eps)
    inner = (r == 1).expand_as(before)
    assert torch.equal(y.double()[inner], before[inner])


@pytest.mark.parametrize(
    "bias", [torch.arange(10.0)[::2], torch.tensor(0.5).expand(5), torch.arange(10.0).view(5, 2)[:, 1]]
)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_a_bias_whose_numbers_lie_apart(on_cpu, bias, with_gradient):
    """A view of other numbers, or one number for all channels, as a parametrization may give it."""
    size, kernel, ones, pads = (6, 5), (3, 3), (1, 1), (1, 1, 1, 1)
    y = torch.randn(2, 5, 6, 5, requires_grad=with_gradient)
    shift = bias.view(-1, 1, 1)
    r = ratio(size, kernel, ones, ones, pads, 1.0, y.dtype, "cpu")
    expected = (y.detach() - shift) * r + shift
    found = gpu.rescale(y.clone(), bias, (size, kernel, ones, ones, pads, 1.0))
    torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_of_a_rescaled_convolution(on_cpu, layout):
    size, pads = (6, 5), (1, 1, 1, 1)
    conv = torch.nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64).to(memory_format=FORMATS[layout])
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    r = ratio(size, (3, 3), (1, 1), (1, 1), pads, 1.0, torch.float64, "cpu")
    inputs = (x, conv.weight, conv.bias)
    y = F.conv2d(x, conv.weight, None, padding=1) * r + conv.bias.view(-1, 1, 1)
    upstream = torch.randn_like(y)
    expected = torch.autograd.grad(y, inputs, upstream)
    kept = upstream.clone()
    z = gpu.rescale(conv(x), conv.bias, (size, (3, 3), (1, 1), (1, 1), pads, 1.0))
    torch.testing.assert_close(z, y, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(z, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert torch.equal(upstream, kept)

    def function(x, weight, bias):
        out = F.conv2d(x, weight, bias, padding=1)
        return gpu.rescale(out, bias, (size, (3, 3), (1, 1), (1, 1), pads, 1.0)).square()

    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_a_wrong_table_is_seen(on_cpu, monkeypatch):
    """The measure itself."""
    monkeypatch.setattr(gpu, "tables", lambda size, pads, mode, device: (torch.zeros(63, dtype=torch.int32),))
    x = torch.randn(1, 1, 7, 5)
    with torch.no_grad():
        assert not torch.equal(gpu.fill(x, (1, 1, 1, 1), "reflect"), F.pad(x, (1, 1, 1, 1), mode="reflect"))


@pytest.mark.parametrize("mode", [*(pytest.param(mode, marks=loops) for mode in NUMPY), "partial"])
def test_many_gradients_at_once(on_cpu, mode):
    """`is_grads_batched` brings gradients that hold no memory, which no kernel can read."""
    conv = torch.nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64)
    geometry = ((4, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1.0)

    def function(x, bias):
        if mode == "partial":
            return gpu.rescale(F.conv2d(x, conv.weight, bias, padding=1), bias, geometry)
        return gpu.fill(x, (1, 2, 1, 1), mode) + bias.view(-1, 1, 1)

    inputs = (torch.randn(1, 2, 4, 5, dtype=torch.float64), conv.bias.detach())
    one, many = (torch.autograd.functional.jacobian(function, inputs, vectorize=v) for v in (False, True))
    torch.testing.assert_close(one, many)


def test_without_triton_one_warning_says_why(monkeypatch):
    gpu.kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "pcpad.padding.kernels", None)
    monkeypatch.delattr("pcpad.padding.kernels", raising=False)
    with pytest.warns(UserWarning, match="without its Triton kernels.*kernels"):
        assert gpu.kernels(torch.device("cuda", 0)) is None
    assert gpu.kernels(torch.device("cuda", 0)) is None  # and no second one
    gpu.kernels.cache_clear()


def test_maps_that_the_kernels_do_not_take():
    x = torch.randn(2, 3, 8, 8)
    assert gpu.fits(x)
    assert gpu.fits(x.contiguous(memory_format=torch.channels_last))
    assert not gpu.fits(x[0])
    assert not gpu.fits(x.transpose(2, 3))
    assert not gpu.fits(x.int())
    assert not gpu.fits(torch.randn(2 * 3 * 64 + 1)[1:].view(2, 3, 8, 8))  # begins 4 bytes too late
    assert not gpu.worth(x)  # on a CPU


def test_from_the_second_call_on_what_was_compiled_is_started(kernels):
    calls = []

    class Jit:
        """Records who is called with what, as Triton's objects would be."""

        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *arguments: calls.append((self.name, grid, arguments)) or Jit("compiled")

    run = kernels.prepared(Jit("looks"), (4, 2), (7, 8), (True,))
    for tensor in "abc":
        run(tensor)
    assert calls == [
        ("looks", (4, 2), ("a", 7, 8, True)),
        ("compiled", (4, 2, 1), ("b", 7, 8, True)),
        ("compiled", (4, 2, 1), ("c", 7, 8, True)),
    ]
