"""PartialConv2d against the tap-by-tap oracle, and against the plain convolution where they must be one."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pcpad import PartialConv2d
from pcpad.padding.coverage import conv_pads, coverage
from tests.padding.oracle import conv2d

GEOMETRIES = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "7x7 stride 2": {"kernel_size": 7, "padding": 3, "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise 5x5": {"kernel_size": 5, "padding": 2, "groups": 4, "bias": False},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "same": {"kernel_size": (4, 3), "padding": "same"},
    "same dilated": {"kernel_size": (2, 5), "padding": "same", "dilation": (3, 1)},
    "uneven": {"kernel_size": (1, 7), "padding": (0, 3), "stride": (2, 1)},
    "even kernel": {"kernel_size": 2, "padding": 1, "stride": 2},
    "stride above kernel": {"kernel_size": 2, "padding": 1, "stride": 3},
    "pad above kernel": {"kernel_size": 2, "padding": 4},
    "pad above kernel, no bias": {"kernel_size": 2, "padding": 4, "bias": False},
}


def make(options, power=1.0, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    conv = PartialConv2d(4, 4, **options, power=power, dtype=dtype)
    return conv, torch.randn(2, 4, 6, 7, dtype=dtype)


def plain(conv: PartialConv2d) -> nn.Conv2d:
    twin = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        dtype=conv.weight.dtype,
    )
    twin.load_state_dict(conv.state_dict(), strict=True)
    return twin


def oracle(conv, x, mode="partial"):
    bias = None if conv.bias is None else conv.bias.detach().double().numpy()
    y = conv2d(
        x.detach().double().numpy(),
        conv.weight.detach().double().numpy(),
        bias,
        stride=conv.stride,
        pads=conv_pads(conv.padding, conv.kernel_size, conv.dilation),
        dilation=conv.dilation,
        groups=conv.groups,
        mode=mode,
        power=conv.power,
    )
    return torch.from_numpy(y)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_equals_the_oracle(name, power):
    conv, x = make(GEOMETRIES[name], power)
    wanted, wide = oracle(conv, x), x.contiguous(memory_format=torch.channels_last)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(conv(x), wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(conv(wide), wanted, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(conv(x[0]), wanted[0], rtol=1e-12, atol=1e-12)


def test_the_oracle_tells_partial_from_zeros():
    conv, x = make(GEOMETRIES["3x3"])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(conv(x), oracle(conv, x, mode="zeros"), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["3x3", "no bias", "7x7 stride 2", "grouped", "depthwise 5x5", "dilated"])
def test_interior_is_the_plain_convolution_bit_for_bit(name, dtype):
    conv, _ = make(GEOMETRIES[name], dtype=dtype)
    x = torch.randn(2, 4, 13, 12, dtype=dtype)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, 37.0)  # a bias far larger than the sums would show a detour through y - b
    y, y_plain = conv(x), plain(conv)(x)
    inside = interior(conv, x)
    assert inside.any()
    assert not inside.all()
    assert y.dtype == dtype
    assert torch.equal(y[..., inside], y_plain[..., inside])
    assert not torch.equal(y[..., ~inside], y_plain[..., ~inside])


def interior(conv, x):
    pads = conv_pads(conv.padding, conv.kernel_size, conv.dilation)
    n = coverage(tuple(x.shape[-2:]), conv.kernel_size, conv.stride, conv.dilation, pads)
    return n == conv.kernel_size[0] * conv.kernel_size[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", ["3x3", "no bias", "depthwise 5x5"])
def test_low_precision_stays_near_the_oracle(name, dtype, tolerance):
    conv, x = make(GEOMETRIES[name], dtype=dtype)
    torch.testing.assert_close(conv(x).double(), oracle(conv, x), rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("both_ways")
def test_the_interior_beside_an_infinite_bias():
    conv = PartialConv2d(1, 1, 3, padding=1)
    nn.init.constant_(conv.bias, float("inf"))
    with torch.no_grad():
        assert conv(torch.ones(1, 1, 3, 3))[0, 0, 1, 1] == float("inf")


def test_an_overflowed_interior_stays_infinite():
    for bias in (True, False):
        conv = PartialConv2d(1, 1, 3, padding=1, bias=bias, dtype=torch.float16)
        nn.init.constant_(conv.weight, 60000.0)
        y = conv(torch.full((1, 1, 5, 5), 60000.0, dtype=torch.float16))
        assert torch.isposinf(y).all()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients(name):
    conv, x = make(GEOMETRIES[name])
    x = x[:1, :, :4, :5].clone().requires_grad_()
    parameters = tuple(conv.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *parameters), fast_mode=True)


def test_autocast_and_cast_do_not_promote():
    conv, x = make(GEOMETRIES["3x3"], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16 == plain(conv)(x).dtype
    assert conv.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["3x3", "no bias"])
def test_memory_format_is_kept(name):
    conv, x = make(GEOMETRIES[name], dtype=torch.float32)
    conv.to(memory_format=torch.channels_last)
    y = conv(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), oracle(conv, x), rtol=1e-5, atol=1e-5)


def test_an_incoming_gradient_is_not_modified():
    """With a residual branch the gradient is shared; the numbers must be those of the float64 formula."""
    conv, x = make(GEOMETRIES["3x3"])
    x.requires_grad_()
    (conv(x) + x).sum().backward()
    through_conv = torch.autograd.grad(conv(x).sum(), x)[0]
    torch.testing.assert_close(x.grad, through_conv + 1)


def test_cache_survives_inference_mode():
    """A ratio first made in inference mode must serve a training step later."""
    conv = PartialConv2d(1, 1, 3, padding=1, dtype=torch.float64)
    x = torch.randn(1, 1, 11, 13, dtype=torch.float64)  # a size no other test uses
    with torch.inference_mode():
        conv(x)
    conv(x).sum().backward()
    assert conv.weight.grad is not None


def test_state_dict_copy_pickle():
    conv, x = make(GEOMETRIES["3x3"], power=0.5)
    assert list(conv.state_dict()) == list(plain(conv).state_dict())
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert type(twin) is PartialConv2d
        assert torch.equal(twin(x), conv(x))
    assert "power=0.5" in repr(conv)


@pytest.mark.parametrize("name", ["3x3", "no bias", "same"])
def test_compile_without_graph_break(name):
    conv, x = make(GEOMETRIES[name])
    compiled = torch.compile(conv, fullgraph=True, backend="eager", dynamic=True)
    for size in ((6, 7), (9, 5)):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), oracle(conv, x), rtol=1e-12, atol=1e-12)


def test_export_and_symbolic_trace():
    conv, x = make(GEOMETRIES["3x3"])
    net = nn.Sequential(conv, nn.ReLU())
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), net(x), rtol=1e-12, atol=1e-12)
    traced = torch.fx.symbolic_trace(net)
    other = torch.randn(1, 4, 9, 5, dtype=torch.float64)  # the trace must not have kept the size
    torch.testing.assert_close(traced(other), net(other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [{"padding_mode": "reflect"}, {"power": -1}, {"power": float("nan")}, {"power": "x"}])
def test_mistakes_are_named(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        PartialConv2d(1, 1, 3, **bad)
