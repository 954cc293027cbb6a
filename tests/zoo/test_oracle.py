"""The zoo's oracle against loops over single numbers."""

import pytest
import torch
from torch import nn

from pcpad.padding import PADDING_MODES
from tests.padding.oracle import conv2d
from tests.padding.test_handlers import GEOMETRIES, TIMM, expected, timm_conv
from tests.zoo import oracle

MODES = list(PADDING_MODES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1), "groups": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4, "bias": False},
        {"kernel_size": (2, 4), "padding": "same", "dilation": (1, 2)},
        {"kernel_size": 1, "padding": 2, "stride": 3},
    ],
    ids=str,
)
def test_plain_convolutions(options, mode):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 8, **options).double(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        pads = (totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2)
    else:
        pads = (conv.padding[0], conv.padding[0], conv.padding[1], conv.padding[1])
    geometry = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups, "pads": pads}
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    wanted = torch.from_numpy(conv2d(x.numpy(), conv.weight.detach().numpy(), bias, mode=mode, **geometry))
    torch.testing.assert_close(oracle.convolve(conv, x, mode), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TIMM)
@pytest.mark.parametrize("geometry", GEOMETRIES[:5:2], ids=str)
def test_timm_convolutions(kind, geometry, mode):
    kernel, stride, dilation, groups, size = geometry
    conv, x = timm_conv(kind, *geometry[:4]), torch.randn(2, 4, *size, dtype=torch.float64)
    wanted = expected(conv, kind, x, mode, size, kernel, stride, dilation, groups)
    torch.testing.assert_close(oracle.convolve(conv, x, mode), wanted, rtol=1e-12, atol=1e-12)


def test_a_map_too_small_gives_what_replication_gives():
    conv, x = nn.Conv2d(1, 1, 5, padding=2).double(), torch.randn(1, 1, 2, 9, dtype=torch.float64)
    assert torch.equal(oracle.convolve(conv, x, "reflect"), oracle.convolve(conv, x, "replicate"))
    assert not torch.equal(oracle.convolve(conv, x, "circular"), oracle.convolve(conv, x, "replicate"))
