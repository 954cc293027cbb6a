"""Where a padding changes an output in place or brings a gradient of its own: nobody else may notice."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pcpad
from pcpad.padding import partial
from pcpad.padding.border import may_change
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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_the_border(shape, bias):
    conv, x = conv_of(shape, bias), torch.randn(2, 4, 6, 5).double().requires_grad_()
    y = conv(x)
    assert "Rescale" in y.grad_fn.name()  # in place, and not the plain arithmetic

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


@pytest.mark.parametrize("trained", ["weight", "bias", "x"])
def test_only_one_of_them_wants_a_gradient(trained):
    conv, x = conv_of(SHAPES[0]), torch.randn(2, 4, 6, 5).double()
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(name == trained)
    x.requires_grad_(trained == "x")
    wanted = copy.deepcopy(conv)
    of = x if trained == "x" else getattr(conv, trained)
    conv(x).square().sum().backward()
    got, of.grad = of.grad, None
    # The plain arithmetic, by which a compiler and torch.func go.
    y = F.conv2d(x, wanted.weight, wanted.bias, 1, 1)
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1.0)
    partial.rescale_border(y, x, wanted.bias, *geometry).square().sum().backward()
    of_plain = x.grad if trained == "x" else getattr(wanted, trained).grad
    torch.testing.assert_close(got, of_plain, rtol=1e-12, atol=1e-12)


def test_the_gradient_that_comes_back_is_shared_and_stays():
    """The sum's gradient reaches both summands as one tensor: a residual branch must get it unchanged."""
    conv = conv_of(SHAPES[0], bias=False)
    x = torch.randn(2, 4, 6, 5).double().requires_grad_()
    branch = torch.randn(2, 4, 6, 5).double().requires_grad_()
    y = conv(x) + branch
    incoming = torch.randn_like(y)
    kept = incoming.clone()
    y.backward(incoming)
    assert torch.equal(incoming, kept)
    assert torch.equal(branch.grad, kept)


@pytest.mark.parametrize("mode", ["circular", "symmetric"])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (2, 0, 1, 3), (0, 0, 0, 2), (4, 4, 3, 3)])
def test_a_padded_image_from_blocks(mode, pads):
    x = torch.randn(2, 3, 4, 5).double().requires_grad_()
    wanted = np.pad(
        x.detach().numpy(),
        ((0, 0), (0, 0), pads[:2], pads[2:]),
        mode={"circular": "wrap", "symmetric": "symmetric"}[mode],
    )
    y = fill(x, pads, mode)
    assert "Assemble" in y.grad_fn.name()
    assert y.tolist() == wanted.tolist()
    assert torch.autograd.gradcheck(lambda x: fill(x, pads, mode), (x,))
    assert torch.autograd.gradgradcheck(lambda x: fill(x, pads, mode), (x,))
    wide = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = fill(wide, pads, mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.tolist() == wanted.tolist()
    incoming = torch.randn_like(y)
    kept = incoming.clone()
    y.backward(incoming)
    assert torch.equal(incoming, kept)
    assert wide.grad.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(wide.grad, torch.autograd.grad(fill(x, pads, mode), x, kept.contiguous())[0])


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


def test_an_output_that_others_hold_is_not_changed():
    """A class may end in something else than a convolution: then its result may be a tensor that is in use."""

    class Keeps(nn.Conv2d):
        def forward(self, x):
            self.kept = super().forward(x)
            return self.kept * 1

    x = torch.randn(1, 2, 5, 5)
    conv = Keeps(2, 2, 3, padding=1)
    y = conv(x)
    assert not may_change(y, x)  # made by a product
    assert may_change(conv.kept, x)  # made by the convolution
    assert not may_change(x, x)
