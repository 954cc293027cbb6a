"""The report lists every module that pads; average pools change on request only."""

import json

import pytest
import torch
from timm.layers import AvgPool2dSame, BlurPool2d, CondConv2d
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

import pcpad
from tests.padding.test_handlers import tensorflow_pads

PADDING = {
    "max": (nn.MaxPool2d(3, 2, 1), "benign"),
    "max_same": (MaxPool2dSame(3, 2), "benign"),
    "avg": (nn.AvgPool2d(3, 2, 1), r"pools=True changes that"),
    "avg_own": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "does not count padding"),
    "avg_divisor": (nn.AvgPool2d(3, 2, 1, divisor_override=7), "divisor_override"),
    "avg_same": (AvgPool2dSame(3, 2), r"pools=True changes that"),
    "transposed": (nn.ConvTranspose2d(3, 3, 4, 2, 1), "crops the output"),
    "unfold": (nn.Unfold(3, padding=1), "unfolds"),
    "fold": (nn.Fold((4, 4), 3, padding=1), "folds"),
    "zero": (nn.ZeroPad2d(1), "pads with 0"),
    "constant": (nn.ConstantPad2d((0, 1, 0, 1), -1.0), "pads with -1"),
    "mirror": (nn.ReflectionPad2d(1), "by its own design"),
    "repeat": (nn.ReplicationPad2d(1), "by its own design"),
    "wrap": (nn.CircularPad2d(1), "by its own design"),
    "line": (nn.Conv1d(3, 3, 3, padding=1), "not a 2d convolution"),
    "blur": (BlurPool2d(3), "pads with 'reflect' by its own design"),
    "cond": (CondConv2d(3, 3, 3, padding=1, num_experts=2), "mixes its weights"),
    "cond_same": (CondConv2d(3, 3, 3, stride=2, padding="same", num_experts=2), "mixes its weights"),
}
SILENT = {
    "max": nn.MaxPool2d(2),
    "avg": nn.AvgPool2d(2),
    "unfold": nn.Unfold(3),
    "transposed": nn.ConvTranspose2d(3, 3, 2, 2),
    "cond": CondConv2d(3, 3, 1, num_experts=2),
    "norm": nn.BatchNorm2d(3),
}


@pytest.mark.parametrize("name", PADDING)
def test_what_pads_is_listed(name):
    module, reason = PADDING[name]
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 3, 3, padding=1), name: module})
    report = pcpad.convert(net, "reflect")
    (entry,) = [layer for layer in report.layers if layer.name == name]
    assert entry.action == "left"
    assert reason in entry.reason
    assert not entry.is_conv
    assert report.num_convs == 1
    assert name in str(report)
    assert json.loads(json.dumps(report.to_dict()))["layers"][1]["name"] == name


@pytest.mark.parametrize("name", SILENT)
def test_what_does_not_pad_is_not(name):
    report = pcpad.convert(nn.ModuleDict({"conv": nn.Conv2d(3, 3, 3, padding=1), name: SILENT[name]}), "reflect")
    assert [layer.name for layer in report.layers] == ["conv"]


def mean_of_known(x, kernel, stride, pads):
    """The mean of the pixels that a window sees, one window at a time."""
    height, width = x.shape
    rows = (height + pads[0] + pads[1] - kernel) // stride + 1
    cols = (width + pads[2] + pads[3] - kernel) // stride + 1
    out = torch.zeros(rows, cols, dtype=x.dtype)
    for i in range(rows):
        for j in range(cols):
            top, left = i * stride - pads[0], j * stride - pads[2]
            out[i, j] = x[max(top, 0) : top + kernel, max(left, 0) : left + kernel].mean()
    return out


@pytest.mark.parametrize("size", [(7, 8), (9, 6)])
@pytest.mark.parametrize("kind", [nn.AvgPool2d, AvgPool2dSame])
def test_pools_stop_counting_on_request(kind, size):
    pool = kind(3, 2, padding=1) if kind is nn.AvgPool2d else kind(3, 2)
    pads = (1, 1, 1, 1) if kind is nn.AvgPool2d else tensorflow_pads(size, (3, 3), (2, 2), (1, 1))
    net = nn.Sequential(nn.Conv2d(1, 1, 1, padding=1, bias=False), pool).double()
    x = torch.randn(1, 1, *size, dtype=torch.float64)
    counting = pool(x)
    assert pcpad.convert(net, "partial").converted == ["0"]
    assert torch.equal(pool(x), counting)
    for again in ("converted", "kept"):
        report = pcpad.convert(net, "partial", pools=True)
        assert {layer.name: layer.action for layer in report.layers}["1"] == again
        torch.testing.assert_close(pool(x)[0, 0], mean_of_known(x[0, 0], 3, 2, pads), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(pool(x), counting)
    assert {layer.name: layer.action for layer in pcpad.convert(net, "zeros").layers}["1"] == "restored"
    assert torch.equal(pool(x), counting)
    assert type(pool) is kind
