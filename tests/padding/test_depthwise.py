"""Depthwise convolutions with filled padding: without a padded image, the same numbers and gradients."""

import numpy as np
import pytest
import torch
from timm.layers import StdConv2d
from torch import nn
from torch.nn import functional as F

import pcpad
from pcpad.padding import depthwise
from pcpad.padding.filled import fill
from tests.padding import oracle

MODES = ["reflect", "symmetric", "replicate", "circular"]
SHAPES = [  # kernel, stride, padding, dilation, size
    ((3, 3), (1, 1), (1, 1), (1, 1), (5, 6)),
    ((3, 3), (2, 2), (1, 1), (1, 1), (6, 8)),  # no window leaves the bottom or the right
    ((5, 5), (1, 1), (2, 2), (1, 1), (6, 5)),
    ((5, 3), (2, 3), (2, 1), (1, 1), (7, 6)),
    ((3, 3), (1, 1), (2, 2), (2, 2), (5, 4)),
    ((7, 7), (1, 1), (3, 3), (1, 1), (4, 4)),  # windows that leave the map on both sides
    ((1, 5), (1, 1), (0, 2), (1, 1), (3, 4)),
    ((2, 2), (1, 1), (1, 2), (1, 1), (3, 4)),  # windows that see no pixel
]


@pytest.fixture
def always(monkeypatch):
    """For small maps too."""
    monkeypatch.setattr(depthwise, "WORTH", 0)
    monkeypatch.setattr(depthwise, "LEAST", 0)


def layer(shape, mode: str, bias: bool = True, kind=nn.Conv2d) -> nn.Module:
    kernel, stride, padding, dilation, _ = shape
    torch.manual_seed(0)
    conv = kind(3, 3, kernel, stride=stride, padding=padding, dilation=dilation, groups=3, bias=bias).double()
    pcpad.convert(conv, mode)
    return conv


def image(shape, images: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(images, 3, *shape[-1]).double().contiguous(memory_format=torch.channels_last)


def taken(y: torch.Tensor) -> bool:
    return "Depthwise" in y.grad_fn.name()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_loops(shape, mode):
    conv, x = layer(shape, mode, bias=shape[0] != (3, 3)), image(shape)
    y = conv(x)
    assert taken(y)
    assert y.is_contiguous(memory_format=torch.channels_last)
    _, stride, padding, dilation, _ = shape

    def by_loops(mode):
        bias = None if conv.bias is None else conv.bias.detach().numpy()
        pads = (padding[0], padding[0], padding[1], padding[1])
        geometry = {"stride": stride, "pads": pads, "dilation": dilation, "groups": 3}
        return oracle.conv2d(x.numpy(), conv.weight.detach().numpy(), bias, mode=mode, **geometry)

    np.testing.assert_allclose(y.detach().numpy(), by_loops(mode), rtol=1e-12, atol=1e-12)
    assert not np.allclose(y.detach().numpy(), by_loops("zeros"), rtol=1e-3)
    with torch.no_grad():
        assert torch.equal(conv(x), y)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape, mode):
    """By finite differences; once and, by way of a padded image, twice."""
    conv, x = layer(shape, mode), image(shape, images=1).requires_grad_()

    def of(x, weight, bias):
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, x)

    inputs = (x, *(p.detach().requires_grad_() for p in conv.parameters()))
    assert taken(of(*inputs))
    assert torch.autograd.gradcheck(of, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(of, inputs, fast_mode=True)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("parts", [("x",), ("weight",), ("bias",), ("weight", "bias"), ("weight", "bias", "x")])
def test_gradients_of_some_parts(parts):
    """Those of a padded image; the incoming gradient, also an expanded one, stays as it is."""
    conv, x = layer(SHAPES[0], "reflect"), image(SHAPES[0])
    tensors = dict(conv.named_parameters()) | {"x": x}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name in parts)
    for incoming in (torch.randn(2, 3, 5, 6).double(), torch.randn(2, 3, 5, 1).double().expand(2, 3, 5, 6)):
        kept = incoming.clone()
        some = [tensors[name] for name in parts]
        y = conv(x)
        assert taken(y)
        found = torch.autograd.grad(y, some, incoming)
        assert torch.equal(incoming, kept)
        plain = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias, groups=3)
        for got, wanted in zip(found, torch.autograd.grad(plain, some, incoming), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("mode", MODES)
def test_many_gradients_at_once(mode):
    conv, x = layer(SHAPES[0], mode), image(SHAPES[0], images=1)
    one, many = (torch.autograd.functional.jacobian(conv, x, vectorize=vectorize) for vectorize in (False, True))
    torch.testing.assert_close(one, many)


@pytest.mark.usefixtures("always")
def test_a_part_of_a_larger_batch():
    conv, x = layer(SHAPES[0], "circular"), image(SHAPES[0], images=3)
    torch.testing.assert_close(conv(x[1:]), conv(x)[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_a_weight_made_on_the_fly():
    conv, x = layer(SHAPES[0], "reflect", kind=StdConv2d), image(SHAPES[0])
    y = conv(x)
    assert taken(y)
    plain = StdConv2d(3, 3, 3, padding=1, groups=3, bias=True).double()
    plain.load_state_dict(conv.state_dict())
    plain.padding = (0, 0)
    wanted = plain(F.pad(x, (1, 1, 1, 1), mode="reflect"))
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    for made, net in ((y, conv), (wanted, plain)):
        made.square().sum().backward()
        assert net.weight.grad.abs().max() > 0
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_where_it_is_not_taken():
    """A dense or grouped convolution, other layouts and dtypes, pads that differ, autocast, a transform."""
    x = image(SHAPES[0])

    def taken_by(conv, x):
        pcpad.convert(conv, "reflect")
        return taken(conv(x))

    assert taken_by(nn.Conv2d(3, 3, 3, padding=1, groups=3).double(), x)
    assert not taken_by(nn.Conv2d(3, 3, 3, padding=1).double(), x)
    assert not taken_by(nn.Conv2d(3, 6, 3, padding=1, groups=3).double(), x)
    assert not taken_by(nn.Conv2d(3, 3, (3, 4), padding="same", groups=3).double(), x)
    upright = nn.Conv2d(3, 3, (4, 3), padding="same", groups=3).double()
    assert not taken_by(upright, x)
    wanted = F.conv2d(F.pad(x, (1, 1, 1, 2), mode="reflect"), upright.weight, upright.bias, groups=3)
    torch.testing.assert_close(upright(x), wanted, rtol=1e-12, atol=1e-12)
    conv = nn.Conv2d(3, 3, 3, padding=1, groups=3).double()
    assert not taken_by(conv, x.contiguous())
    assert not taken_by(conv, x[0])
    pcpad.convert(conv, "mean")
    assert not taken(conv(x))
    single = nn.Conv2d(3, 3, 3, padding=1, groups=3)
    assert taken_by(single, x.float())
    assert not taken_by(single.bfloat16(), x.bfloat16())
    single.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = single(x.float())
    assert y.dtype is torch.bfloat16
    assert not taken(y)
    slopes = torch.func.vmap(torch.func.grad(lambda x: single(x).square().sum()))(x.float()[:, None])
    one = x.float()[:1].requires_grad_()
    torch.testing.assert_close(slopes[0], torch.autograd.grad(single(one).square().sum(), one)[0])


@pytest.mark.usefixtures("always")
def test_a_weight_that_is_part_of_another_tensor():
    """Tap after tap in memory, as another network may have made it, and not at its start."""
    conv, x = layer(SHAPES[0], "reflect"), image(SHAPES[0])
    weight = torch.randn(2, 9, 3).double()[1].t().reshape(3, 1, 3, 3).requires_grad_()
    assert weight.storage_offset() > 0
    plain = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, conv.bias, groups=3)
    y = torch.func.functional_call(conv, {"weight": weight}, x)
    assert taken(y)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(z.square().sum(), weight)[0] for z in (y, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kept", ["planes", "part of a larger batch", "checkpoint"])
def test_what_is_kept_for_the_gradient(kept):
    """Hooks of saved tensors may bring back another layout."""
    conv, x = layer(SHAPES[0], "replicate"), image(SHAPES[0], images=3)[1:]
    hooks = {
        "planes": (lambda t: t.contiguous(), lambda t: t),
        "part of a larger batch": (lambda t: torch.cat([t, t]), lambda t: t[len(t) // 2 :]),
    }
    if kept == "checkpoint":
        y = torch.utils.checkpoint.checkpoint(conv, x, use_reentrant=False)
    else:
        with torch.autograd.graph.saved_tensors_hooks(*hooks[kept]):
            y = conv(x)
        assert taken(y)
    plain = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), conv.weight, conv.bias, groups=3)
    found, wanted = (torch.autograd.grad(z.square().sum(), conv.weight)[0] for z in (y, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_an_image_from_inference_mode_can_still_train():
    conv = layer(SHAPES[0], "reflect")
    with torch.inference_mode():
        x = image(SHAPES[0])
        inside = conv(x)
    y = conv(x)
    assert not taken(y)
    torch.testing.assert_close(y, inside, rtol=1e-12, atol=1e-12)
    y.sum().backward()
    assert conv.weight.grad.abs().max() > 0


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("groups", [3, 1])
def test_traced_and_compiled(groups):
    """By a symbolic trace, `torch.jit.trace` and Dynamo: what they record is the convolution of a padded image."""
    conv = nn.Conv2d(3, 6, 3, padding=1, groups=groups).double().requires_grad_(False)
    net, x = nn.Sequential(conv, nn.Conv2d(6, 6, 3, padding=1, groups=6)).double(), image(SHAPES[0])
    pcpad.convert(net, "reflect")
    wanted = net(x)
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(x), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.jit.trace(net, x)(x), wanted, rtol=1e-12, atol=1e-12)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("always")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")  # torch's own, inside of dual numbers
def test_differentiated_forwards():
    conv, x = layer(SHAPES[0], "circular"), image(SHAPES[0])
    tangent = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        y = conv(torch.autograd.forward_ad.make_dual(x, tangent))
        slope = torch.autograd.forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(slope, conv(x + tangent) - conv(x), rtol=1e-9, atol=1e-9)  # it is linear


@pytest.mark.parametrize("mode", MODES)
def test_steps_are_counted_without_making_them(mode):
    """A kernel of 31x31 has ten thousands of them, and would for each size of an image."""
    for kernel, stride, padding, dilation, size in SHAPES:
        geometry = (kernel, stride, dilation, (padding[0], padding[0], padding[1], padding[1]), mode)
        assert depthwise.number(size, *geometry) == len(depthwise.steps((2, 3, *size), *geometry))
    made = depthwise.steps.cache_info().currsize
    conv = nn.Conv2d(64, 64, 31, padding=15, groups=64)
    pcpad.convert(conv, mode)
    with torch.no_grad():
        conv(torch.zeros(2, 64, 41, 43).contiguous(memory_format=torch.channels_last))
    assert depthwise.steps.cache_info().currsize == made


@pytest.mark.usefixtures("always")
def test_a_map_that_is_too_small():
    conv, x = nn.Conv2d(3, 3, 5, padding=2, groups=3).double(), image(((2, 6),))
    net = nn.Sequential(conv)
    pcpad.convert(net, "reflect")
    with pytest.raises(ValueError, match=r"cannot fill layer '0': its input map is 2x6"):
        net(x)
    pcpad.convert(net, "reflect", on_small="replicate")
    wanted = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), conv.weight, conv.bias, groups=3)
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_layer_of_a_mobilenet(mode):
    """In float32 and of a size for which it is meant, against torch's own padding."""
    conv = nn.Conv2d(96, 96, 3, stride=2, padding=1, groups=96, bias=False, padding_mode=mode)
    ours = nn.Conv2d(96, 96, 3, stride=2, padding=1, groups=96, bias=False)
    ours.load_state_dict(conv.state_dict())
    pcpad.convert(ours, mode)
    x = torch.randn(2, 96, 112, 112).contiguous(memory_format=torch.channels_last)
    y = ours(x)
    assert taken(y)
    assert not taken(ours(x[..., :16, :16].contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(y, conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_an_image_of_few_channels_is_padded_from_blocks(mode):
    """Large enough, in channels_last; the same bits as from torch."""
    x = torch.randn(3, 3, 256, 240).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = fill(x, (1, 2, 2, 1), mode)
    assert "Assemble" in y.grad_fn.name()
    assert torch.equal(y, F.pad(x, (2, 1, 1, 2), mode=mode))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (
        "Assemble"
        not in fill(x[..., :64].contiguous(memory_format=torch.channels_last), (1, 1, 1, 1), mode).grad_fn.name()
    )
