"""Where a padding changes an output in place, or brings a gradient of its own, nobody else may notice."""

import numpy as np
import pytest
import torch
from torch import nn

import pcpad
from pcpad.padding.blocks import assemble
from pcpad.padding.border import may_change, strips
from pcpad.padding.filled import fill
from tests.padding import oracle

SHAPES = [  # kernel, stride, padding, dilation, groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((3, 5), (2, 3), (1, 2), (1, 1), 2),
    ((3, 3), (1, 2), (6, 2), (2, 1), 4),  # the first row of windows sees no pixel
    ((7, 7), (2, 2), (3, 3), (1, 1), 1),  # wider than the map of 5 pixels
]


def conv_of(shape, bias: bool = True) -> pcpad.PartialConv2d:
    kernel, stride, padding, dilation, groups = shape
    torch.manual_seed(0)
    return pcpad.PartialConv2d(4, 4, kernel, stride, padding, dilation, groups, bias).double()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_the_border(shape, bias):
    conv, x = conv_of(shape, bias), torch.randn(2, 4, 6, 5).double().requires_grad_()
    y = conv(x)
    with torch.no_grad():
        assert torch.equal(conv(x), y)  # in place there

    def of(x, *parameters):
        return torch.func.functional_call(conv, dict(zip(dict(conv.named_parameters()), parameters, strict=True)), x)

    inputs = (x, *(p.detach().requires_grad_() for p in conv.parameters()))
    assert torch.autograd.gradcheck(of, inputs)
    assert torch.autograd.gradgradcheck(of, inputs, fast_mode=True)
    _, stride, padding, dilation, groups = shape
    wanted = oracle.conv2d(
        x.detach().numpy(),
        conv.weight.detach().numpy(),
        conv.bias.detach().numpy() if bias else None,
        stride=stride,
        pads=(padding[0], padding[0], padding[1], padding[1]),
        dilation=dilation,
        groups=groups,
        mode="partial",
    )
    np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dims", [4, 3])
@pytest.mark.parametrize("parts", [("bias",), ("weight",), ("weight", "bias"), ("weight", "bias", "x")])
def test_a_border_with_a_bias_and_a_gradient(parts, dims):
    """In place; the gradients are those of a product with the whole ratio, and the incoming one is left as it is."""
    conv, x = conv_of(SHAPES[0]), torch.randn(2, 4, 6, 5).double()[: 2 if dims == 4 else 1]
    x = x if dims == 4 else x[0]
    for name, tensor in (*conv.named_parameters(), ("x", x)):
        tensor.requires_grad_(name in parts)
    y, incoming = conv(x), torch.randn(2, 4, 6, 5).double()[: 2 if dims == 4 else 1].reshape(conv(x).shape)
    assert ("RescaleStrips" in y.grad_fn.name()) == (dims == 4)
    kept = incoming.clone()
    y.backward(incoming)
    assert torch.equal(incoming, kept)
    found = {name: tensor.grad for name, tensor in (*conv.named_parameters(), ("x", x))}

    taps = np.full((6, 5), 9.0)
    taps[[0, -1]] = 6
    taps[:, [0, -1]] *= 6 / 9
    r = torch.from_numpy(9 / taps)
    weight, bias, image = (t.detach().clone().requires_grad_() for t in (conv.weight, conv.bias, x))
    plain = torch.nn.functional.conv2d(image, weight, padding=1) * r + bias.view(-1, 1, 1)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    plain.backward(incoming)
    for name, wanted in {"weight": weight.grad, "bias": bias.grad, "x": image.grad}.items():
        if name in parts:
            torch.testing.assert_close(found[name], wanted, rtol=1e-12, atol=1e-12)
        else:
            assert found[name] is None


@pytest.mark.parametrize("mode", ["circular", "symmetric", "reflect", "replicate"])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (2, 0, 1, 3), (0, 0, 0, 2), (3, 3, 4, 4), (4, 4, 3, 3)])
def test_a_padded_image_from_blocks(mode, pads):
    if mode == "reflect" and max(pads[:2]) == 4:
        pytest.skip("reflect cannot fill 4 pixels from 4 rows")
    x = torch.randn(2, 3, 4, 5).double().requires_grad_()
    as_numpy = {"circular": "wrap", "symmetric": "symmetric", "reflect": "reflect", "replicate": "edge"}
    wanted = np.pad(x.detach().numpy(), ((0, 0), (0, 0), pads[:2], pads[2:]), mode=as_numpy[mode])
    y = assemble(x, pads, mode)
    assert "Assemble" in y.grad_fn.name()
    assert y.tolist() == wanted.tolist()
    if mode in ("circular", "symmetric"):
        assert "Assemble" in fill(x, pads, mode).grad_fn.name()
    assert (
        assemble(x.detach()[:, :, 1:, 2:][0], (1, 1, 1, 1), mode).tolist()
        == np.pad(x.detach().numpy()[0, :, 1:, 2:], ((0, 0), (1, 1), (1, 1)), mode=as_numpy[mode]).tolist()
    )  # a part of an image, and one without a batch
    assert torch.autograd.gradcheck(lambda x: assemble(x, pads, mode), (x,))
    assert torch.autograd.gradgradcheck(lambda x: assemble(x, pads, mode), (x,))
    wide = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = assemble(wide, pads, mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.tolist() == wanted.tolist()
    incoming = torch.randn_like(y)
    kept = incoming.clone()
    y.backward(incoming)
    assert torch.equal(incoming, kept)
    assert wide.grad.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(wide.grad, torch.autograd.grad(assemble(x, pads, mode), x, kept.contiguous())[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")  # torch's own, inside of jvp
@pytest.mark.parametrize("mode", ["partial", "circular", "symmetric"])
def test_under_a_transform_nothing_is_changed_in_place(mode):
    conv = nn.Conv2d(2, 2, 3, padding=1).double()
    pcpad.convert(conv, mode)
    x, tangent = torch.randn(2, 2, 2, 5, 5).double()
    slope = torch.func.jvp(conv, (x,), (tangent,))[1]
    numeric = (conv(x + 1e-6 * tangent) - conv(x - 1e-6 * tangent)) / 2e-6
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-8)
    each = torch.func.vmap(torch.func.grad(lambda x: conv(x).square().sum()))(x)
    for one, got in zip(x, each, strict=True):
        one.requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(conv(one).square().sum(), one)[0], got)


def test_what_may_be_changed_in_place():
    x, bias = torch.randn(1, 2, 5, 5), nn.Parameter(torch.randn(2))
    y = torch.randn(1, 2, 5, 5)
    assert may_change(y, x, None)
    assert may_change(y, x, bias)  # the result has a gradient, if only of the bias
    assert not may_change(x, x, None)
    assert not may_change(torch.randn(1, 1, 2, 5, 5)[0].requires_grad_(), x, bias)  # a view, whose base others hold
    assert not may_change(y.requires_grad_(), x, None)
    with torch.no_grad():
        assert may_change(torch.randn(1, 2, 5, 5), x, bias)
    with torch.inference_mode():
        assert may_change(torch.randn(1, 2, 5, 5), x, bias)


@pytest.mark.parametrize("mode", ["partial", "circular", "symmetric"])
def test_many_gradients_at_once(mode):
    """`is_grads_batched`, and by it a vectorized jacobian, brings tensors that do not tell their memory format."""
    conv = nn.Conv2d(2, 2, 3, padding=1).double()
    pcpad.convert(conv, mode)
    x = torch.randn(1, 2, 4, 4).double()
    one, many = (torch.autograd.functional.jacobian(conv, x, vectorize=vectorize) for vectorize in (False, True))
    torch.testing.assert_close(one, many)


def test_many_gradients_of_a_bias_at_once():
    conv, x = conv_of(SHAPES[0]), torch.randn(1, 4, 6, 5).double()
    y, incoming = conv(x), torch.randn(3, 1, 4, 6, 5).double()
    assert "RescaleStrips" in y.grad_fn.name()
    (many,) = torch.autograd.grad(y, conv.bias, incoming, is_grads_batched=True, retain_graph=True)
    for got, one in zip(many, incoming, strict=True):
        torch.testing.assert_close(got, torch.autograd.grad(y, conv.bias, one, retain_graph=True)[0])


def test_a_class_of_the_users_may_keep_its_output():
    class Keeps(nn.Conv2d):
        def forward(self, x):
            self.kept = super().forward(x)
            return self.kept

    pcpad.register_conv(Keeps)
    conv, x = Keeps(2, 2, 3, padding=1), torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        plain = conv(x)
        pcpad.convert(conv, "partial")
        y = conv(x)
        assert torch.equal(conv.kept, plain)
        assert not torch.equal(y, plain)


@pytest.mark.usefixtures("both_ways")
def test_lists_where_torch_puts_tuples():
    conv, x = pcpad.PartialConv2d(2, 2, 3, padding=1), torch.randn(1, 2, 9, 11)
    with torch.no_grad():
        wanted = conv(x)
        conv.padding, conv.stride, conv.dilation = [1, 1], [1, 1], [1, 1]
        assert torch.equal(conv(x), wanted)
        conv.padding = (0, 0)
        assert torch.equal(conv(x), nn.functional.conv2d(x, conv.weight, conv.bias))


@pytest.mark.usefixtures("both_ways")
def test_under_another_default_device():
    conv, x = pcpad.PartialConv2d(2, 2, 3, padding=1), torch.randn(1, 2, 9, 11)
    with torch.no_grad():
        wanted = conv(x + 1)
        strips.cache_clear()
        with torch.device("meta"):
            assert torch.equal(conv(x + 1), wanted)


@pytest.mark.usefixtures("both_ways")
def test_frozen_layers_and_gradients_of_the_input():
    """In place where nothing is differentiated, and only there; the result is the same."""
    conv, x = conv_of(SHAPES[0]), torch.randn(2, 4, 6, 5).double()
    kept = x.clone()
    wanted = conv(x).detach()
    conv.requires_grad_(False)
    assert torch.equal(conv(x), wanted)
    assert torch.equal(conv(x.requires_grad_()), wanted)
    conv(x).sum().backward()
    assert torch.equal(x, kept)
    assert x.grad is not None


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "replicate", "circular", "mean"])
def test_autocast_leaves_the_dtype_of_the_image(mode):
    """torch's own list of operations would give float32, which the convolution then makes bfloat16 again."""
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(2, 3, 6, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)
        wanted = fill(x, (1, 2, 2, 1), mode)
        with torch.autocast("cpu", torch.bfloat16):
            y = fill(x, (1, 2, 2, 1), mode)
        assert y.dtype is dtype
        assert torch.equal(y, wanted)
