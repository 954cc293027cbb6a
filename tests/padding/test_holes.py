"""PartialConv2d with a mask, against loops over every tap."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import pcpad
from pcpad import PartialConv2d

GEOMETRIES = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": (3, 2), "padding": (2, 3), "dilation": (2, 3)},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4, "bias": False},
    "same": {"kernel_size": (4, 3), "padding": "same"},
    "no padding": {"kernel_size": 2, "padding": 0},
    "pad above kernel": {"kernel_size": 2, "padding": 4},
}


def loops(conv: nn.Conv2d, x: torch.Tensor, mask: torch.Tensor, power: float = 1.0, all_channels: bool = False):
    """Output and new mask, tap by tap in float64; `all_channels` counts the mask as the reference code does."""
    w, bias = conv.weight.detach().double().numpy(), conv.bias
    b = np.zeros(len(w)) if bias is None else bias.detach().double().numpy()
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    if conv.padding == "same":
        top, left = dh * (kh - 1) // 2, dw * (kw - 1) // 2
        bottom, right = dh * (kh - 1) - top, dw * (kw - 1) - left
    else:
        (top, left), (bottom, right) = conv.padding, conv.padding
    x, mask = x.detach().double().numpy(), mask.numpy() != 0
    count, _, height, width = x.shape
    own = mask.shape[1] > 1
    mask = np.broadcast_to(mask, x.shape)
    rows = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
    cols = (width + left + right - dw * (kw - 1) - 1) // sw + 1
    per_group = x.shape[1] // conv.groups
    y = np.zeros((count, len(w), rows, cols))
    new = np.zeros((count, len(w), rows, cols), dtype=bool)
    for n, o, i, j in np.ndindex(*y.shape):
        group = o // (len(w) // conv.groups)
        total, known = 0.0, 0
        for c in range(x.shape[1]):
            inside = group * per_group <= c < (group + 1) * per_group
            if not inside and not all_channels:
                continue
            for u in range(kh):
                for v in range(kw):
                    p, q = i * sh - top + u * dh, j * sw - left + v * dw
                    if 0 <= p < height and 0 <= q < width and mask[n, c, p, q]:
                        known += 1
                        if inside:
                            total += w[o, c - group * per_group, u, v] * x[n, c, p, q]
        taps = kh * kw * (x.shape[1] if all_channels else per_group)
        if known:
            y[n, o, i, j] = total * (taps / known) ** power + b[o]
            new[n, o, i, j] = True
    return torch.from_numpy(y), torch.from_numpy(new if own else new[:, :1])


def make(options, power=1.0, per_channel=False, share=0.3):
    torch.manual_seed(0)
    conv = PartialConv2d(4, 8, **options, power=power, dtype=torch.float64)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    mask = torch.rand(2, 4 if per_channel else 1, 6, 7) < share
    mask[0, ..., :4, :5] = False  # windows that know nothing
    return conv, x, mask


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_equals_the_loops(name, per_channel):
    for power in (1.0, 0.5):
        conv, x, mask = make(GEOMETRIES[name], power, per_channel)
        wanted, known = loops(conv, x, mask, power)
        assert not known.all()
        for given in (mask, mask.double(), mask.half()):
            y, new_mask = conv(torch.where(mask, x, torch.nan), given)
            assert new_mask.dtype == torch.bool
            assert torch.equal(new_mask, known)
            torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
            assert (y[~known.expand_as(y)] == 0).all()


def test_unbatched():
    conv, x, mask = make(GEOMETRIES["grouped"], per_channel=True)
    y, new_mask = conv(x[0], mask[0])
    assert torch.equal(y, conv(x, mask)[0][0])
    assert torch.equal(new_mask, conv(x, mask=mask)[1][0])


def test_shapes_without_memory():
    """On the meta device, as torch's own layers: what a network gives is known before it is built."""
    conv = PartialConv2d(4, 6, 3, stride=2, padding=1, device="meta")
    x, mask = torch.empty(2, 4, 9, 8, device="meta"), torch.empty(2, 1, 9, 8, dtype=torch.bool, device="meta")
    y, new_mask = conv(x, mask)
    assert (y.shape, new_mask.shape, new_mask.dtype) == ((2, 6, 5, 4), (2, 1, 5, 4), torch.bool)
    assert conv(x).shape == y.shape


def test_a_grouped_count_is_not_the_reference_codes():
    conv, x, mask = make(GEOMETRIES["depthwise"], per_channel=True)
    wanted, _ = loops(conv, x, mask, all_channels=True)
    assert (conv(x, mask)[0] - wanted).abs().max() > 0.1


ORDINARY = ("3x3", "no bias", "depthwise")
"""bfloat16 convolutions of other geometry can crash the process on a CPU with AMX (torch 2.13)."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in GEOMETRIES for dtype in (torch.float64, torch.float32)]
    + [(name, torch.bfloat16) for name in ORDINARY],
)
def test_a_mask_of_ones_is_no_mask(name, dtype):
    for power in (1.0, 0.5):
        conv, x, _ = make(GEOMETRIES[name], power)
        conv, x = conv.to(dtype), x.to(dtype)
        for channels in (1, 4):
            y, new_mask = conv(x, torch.ones(2, channels, 6, 7, dtype=torch.bool))
            assert torch.equal(y, conv(x))
            assert y.dtype == dtype
            assert new_mask.all() == (name != "pad above kernel")


def test_gradients_reach_x_and_the_weights_and_not_the_mask():
    conv, x, mask = make(GEOMETRIES["grouped"], per_channel=True)
    x = torch.where(mask, x, torch.nan).requires_grad_()
    soft = mask.double().requires_grad_()
    y, _ = conv(x, soft)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    assert soft.grad is None
    assert (x.grad[~mask] == 0).all()
    assert torch.isfinite(conv.weight.grad).all()
    # the layer is linear in x and affine in the weights, so that differences of whole steps are exact
    step = torch.where(mask, torch.randn_like(x), 0)
    moved = conv(torch.where(mask, x.detach(), 0) + step, mask)[0] - conv(torch.where(mask, x.detach(), 0), mask)[0]
    torch.testing.assert_close((moved * upstream).sum(), (x.grad * step).sum(), rtol=1e-10, atol=1e-10)
    other, delta = copy.deepcopy(conv), torch.randn_like(conv.weight)
    with torch.no_grad():
        other.weight += delta
    moved = other(x.detach(), mask)[0] - conv(x.detach(), mask)[0]
    torch.testing.assert_close((moved * upstream).sum(), (conv.weight.grad * delta).sum(), rtol=1e-10, atol=1e-10)


def test_autocast_counts_in_full():
    torch.manual_seed(0)
    conv = PartialConv2d(64, 4, 7, padding=3)
    x, mask = torch.randn(1, 64, 20, 20), torch.rand(1, 64, 20, 20) < 0.9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, new_mask = conv(x, mask)
    assert y.dtype == torch.bfloat16
    assert new_mask.all()
    wanted, _ = conv.double()(x.double(), mask)
    assert ((y - wanted).abs().max() / wanted.abs().max()) < 0.02


def test_converted_subclasses_take_a_mask():
    from timm.layers import Conv2dSame, StdConv2d

    torch.manual_seed(0)
    x, mask = torch.randn(2, 4, 7, 8).double(), torch.rand(2, 1, 7, 8) < 0.5
    net = nn.ModuleList([StdConv2d(4, 8, 3, padding=1, bias=True), Conv2dSame(4, 8, 3, stride=2)]).double()
    pcpad.convert(net, "partial")
    std = nn.Conv2d(4, 8, 3, padding=1).double()
    flat = net[0].weight.detach().flatten(1)
    var, mean = torch.var_mean(flat, 1, correction=0, keepdim=True)
    std.weight.data = ((flat - mean) / (var + net[0].eps).sqrt()).view_as(std.weight)
    std.bias.data = net[0].bias.detach()
    wanted, known = loops(std, x, mask)
    y, new_mask = net[0](x, mask)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(new_mask, known)
    # 7 rows are padded by 1 and 1, 8 columns by 0 and 1
    same = nn.Conv2d(4, 8, 3, stride=2, padding=0).double()
    same.load_state_dict(net[1].state_dict())
    padded = [nn.functional.pad(t, (0, 1, 1, 1)) for t in (x, mask)]
    wanted, known = loops(same, *padded)
    y, new_mask = net[1](x, mask)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(new_mask, known)


def test_compiles_whole():
    conv, x, mask = make(GEOMETRIES["strided"], per_channel=True)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(compiled(x, mask), conv(x, mask), strict=True):
        assert torch.equal(got, wanted)


def test_what_is_wrong_with_a_mask():
    conv, x, mask = make(GEOMETRIES["3x3"])
    with pytest.raises(TypeError, match=r"must be a tensor, not list"):
        conv(x, [1])
    with pytest.raises(TypeError, match=r"must be bool \(True = known\) or floating point .* not torch.uint8"):
        conv(x, mask.byte())
    for wrong in (mask[:1], mask[..., :-1], mask[0], mask.expand(2, 3, 6, 7)):
        with pytest.raises(ValueError, match=r"but for an input of shape \(2, 4, 6, 7\) it must be \(2, 1, 6, 7\)"):
            conv(x, wrong)
    with pytest.raises(ValueError, match=r"the mask is on meta and the input on cpu: move one with"):
        conv(x, mask.to("meta"))
    for value in (0.5, torch.nan):
        with pytest.raises(ValueError, match=r"has 1 other values, (0.5|nan) first: give mask > threshold instead"):
            conv(x, mask.double().index_put((torch.tensor(0),) * 4, torch.tensor(value).double()))
    with pytest.raises(TypeError, match=r"takes one input"):
        conv(x, mask, mask)


@pytest.mark.gpu
def test_a_gpus_mask_is_checked_in_debug_only():
    conv, x, mask = make(GEOMETRIES["3x3"])
    conv, x, soft = conv.cuda(), x.cuda(), (mask.double() / 2).cuda()
    conv(x, soft)
    with pcpad.debug(), pytest.raises(ValueError, match=r"give mask > threshold instead"):
        conv(x, soft)
