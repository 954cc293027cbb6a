"""Each operation on a mixed-size batch gives what it gives for each image alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pcpad
from tests.ragged.alone import SIZES, check, make_batch, make_images

W = torch.Generator().manual_seed(7)


def weight(*shape):
    return torch.randn(*shape, generator=W, dtype=torch.float64)


W3, W2, WG, W1, WL, B6 = (
    weight(6, 4, 3, 3),
    weight(6, 4, 2, 4),
    weight(4, 2, 3, 3),
    weight(6, 4, 1, 1),
    weight(6, 4),
    weight(6),
)

WINDOWS = {
    "conv 3x3": lambda x: F.conv2d(x, W3, B6, padding=1),
    "conv stride 2": lambda x: F.conv2d(x, W3, B6, stride=2, padding=1),
    "conv no padding": lambda x: F.conv2d(x, W3, None, stride=(1, 2)),
    "conv even": lambda x: F.conv2d(x, W2, B6, stride=2, padding=(1, 3)),
    "conv dilated": lambda x: F.conv2d(x, W3, B6, padding=(2, 3), dilation=(2, 3)),
    "conv grouped": lambda x: F.conv2d(x, WG, None, padding=1, groups=2),
    "conv same": lambda x: F.conv2d(x, W2, B6, padding="same"),
    "conv pad above kernel": lambda x: F.conv2d(x, W2, B6, padding=5),
    "conv 1x1 stride 3": lambda x: F.conv2d(x, W1, B6, stride=3),
    "conv 1x1 padded": lambda x: F.conv2d(x, W1, B6, padding=1),
    "max 3 stride 2": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max ceil padded": lambda x: F.max_pool2d(x, (2, 3), (3, 2), (1, 1), ceil_mode=True),
    "max dilated": lambda x: F.max_pool2d(x, 2, 1, 1, dilation=2),
    "max twice": lambda x: F.max_pool2d(F.max_pool2d(x, 2), 2),
    "avg 3": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "avg ceil padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg ceil padded not counted": lambda x: F.avg_pool2d(x, (3, 4), (3, 2), (1, 2), True, False),
    "avg divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "pad": lambda x: F.conv2d(F.pad(x, (1, 2, 0, 3)), W3),
    "pad value": lambda x: F.max_pool2d(F.pad(x, (1, 0, 0, 1), value=-torch.inf), 2),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "adaptive 1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive 3x4": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive 7, more than there are": lambda x: F.adaptive_avg_pool2d(x, 7),
    "adaptive max 1": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive max 3x4": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
}
RESAMPLING = {
    "nearest x2": lambda x: F.interpolate(x, scale_factor=2),
    "nearest x1.7": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest to 11x6": lambda x: F.interpolate(x, (11, 6)),
    "nearest-exact to 11x6": lambda x: F.interpolate(x, (11, 6), mode="nearest-exact"),
    "bilinear x2": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear x1.6": lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear", align_corners=False),
    "bilinear recomputed": lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear", recompute_scale_factor=True),
    "bilinear aligned x2": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "bilinear to 8": lambda x: F.interpolate(x, 8, mode="bilinear"),
    "back to its size": lambda x: F.interpolate(F.max_pool2d(x, 2), x.shape[-2:], mode="bilinear") + x,
    "up and on": lambda x: F.conv2d(F.interpolate(x, scale_factor=2), W3, padding=1),
}
STATISTICS = {
    "mean": lambda x: x.mean((2, 3)),
    "mean keepdim": lambda x: x.mean([-2, -1], keepdim=True),
    "mean of all": lambda x: torch.mean(x, dim=(1, 2, 3)),
    "mean of channels": lambda x: x.mean(1),
    "mean of channels, kept": lambda x: F.conv2d(x.mean(1, True), WG[:1, :1]),
    "sum": lambda x: x.sum((2, 3)),
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "amin": lambda x: torch.amin(x, dim=(-1, -2)),
    "max of channels": lambda x: x.max(1, keepdim=True)[0],
    "var": lambda x: x.var((2, 3)),
    "var biased": lambda x: x.var((2, 3), unbiased=False, keepdim=True),
    "std correction": lambda x: x.std((1, 2, 3), correction=0),
    "var_mean": lambda x: torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True),
    "norm": lambda x: x.norm(p=2, dim=(2, 3), keepdim=True),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "logsumexp": lambda x: x.logsumexp((2, 3)),
    "batch_norm": lambda x: F.batch_norm(x, B6[:4], B6[:4] ** 2 + 1, B6[2:], B6[1:5]),
    "group_norm": lambda x: F.group_norm(x, 2, B6[:4], B6[2:]),
    "group_norm 1": lambda x: F.group_norm(x, 1),
    "layer_norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,), B6[:4], B6[2:]),
    "normalize": lambda x: F.normalize(x, dim=1),
    "softmax": lambda x: x.softmax(1),
    "local response": lambda x: F.local_response_norm(x, 3),
    "global response": lambda x: x / (x.norm(2, (2, 3), True).mean(1, keepdim=True) + 1e-6),
}
SHAPES = {
    "permute": lambda x: x.permute(0, 2, 3, 1).contiguous() * B6[:4],
    "linear": lambda x: F.linear(x.permute(0, 2, 3, 1), WL, B6).permute(0, 3, 1, 2),
    "matmul": lambda x: x.permute(0, 2, 3, 1) @ WL.T,
    "transpose": lambda x: F.conv2d(x.transpose(2, 3), W2, padding=2).transpose(-1, -2),
    "shuffle": lambda x: x.view(x.shape[0], 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.size()),
    "shuffle, flattened": lambda x: x.reshape(x.size(0), 2, -1, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2),
    "unflatten": lambda x: x.unflatten(1, (2, 2)).sum(1),
    "chunk": lambda x: x.chunk(2, 1),
    "split": lambda x: torch.split(x, [1, 3], dim=1),
    "unbind": lambda x: x.unflatten(1, (2, 2)).unbind(1),
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "cat across canvases": lambda x: torch.cat([F.max_pool2d(x, 3, 2), F.conv2d(x, WG, None, 2, 0, 1, 2)], 1),
    "stack": lambda x: torch.stack([x, -x], 1).sum(2),
    "getitem": lambda x: (x[:, 1:3], x[:, :, None], x[..., :2, :, :], x[:, 0]),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "squeeze": lambda x: x.mean(1, keepdim=True).squeeze(1).unsqueeze(1),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "expand_as": lambda x: x.mean((2, 3), True).expand_as(x) + x[:, :1].expand_as(x),
    "repeat": lambda x: x.repeat(1, 2, 1, 1).repeat_interleave(2, dim=1),
    "channels last": lambda x: F.conv2d(x.contiguous(memory_format=torch.channels_last), W3, B6, padding=1),
    "flatten of one position": lambda x: F.max_pool2d(F.adaptive_avg_pool2d(x, 2), 2).flatten(1),
}
ARITHMETIC = {
    "gate": lambda x: x * torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), WG[:4, :, :1, :1], groups=2)),
    "scalars": lambda x: 2 - (1 + x / 3) ** 2,
    "in place": lambda x: F.relu(x.clone().mul_(2).add_(x), inplace=True),
    "constants": lambda x: (x - B6[:4].view(-1, 1, 1)) / B6[:4].abs().view(1, -1, 1, 1),
    "activations": lambda x: F.gelu(F.silu(x)) + F.hardswish(x) * F.leaky_relu(x, 0.1) - F.softplus(x).tanh(),
    "prelu": lambda x: F.prelu(x, B6[:4]),
    "glu": lambda x: F.glu(x, 1),
    "clamp": lambda x: x.clamp(min=0).sqrt() + torch.clamp(x, 0, 6),
    "where": lambda x: torch.where(x > 0, x, x * 0.1),
    "maximum": lambda x: torch.maximum(x, -x),
    "dtype": lambda x: x.float().double() + x.to(torch.float32),
    "a number of its size": lambda x: x.sum((2, 3)) / 3 + (1 if x.shape[-1] > 4 else 0),
    "eval dropout": lambda x: F.dropout(x, 0.5, training=False),
}
CASES = WINDOWS | RESAMPLING | STATISTICS | SHAPES | ARITHMETIC


@pytest.mark.parametrize("name", CASES)
def test_equals_each_image_alone(name):
    check(CASES[name], make_images())


@pytest.mark.parametrize("name", ["conv stride 2", "max ceil", "avg ceil padded", "adaptive 3x4", "bilinear to 8"])
def test_images_of_one_pixel_beside_large_ones(name):
    small = {"max ceil": (3, 3)}.get(name, (1, 1))
    check(CASES[name], make_images([small, (40, 3), (3, 41), (8, 8)]))


@pytest.mark.parametrize("name", ["conv 3x3", "avg 3", "mean", "group_norm", "adaptive 3x4", "bilinear x2"])
def test_the_check_sees_a_batch_that_takes_the_canvas_for_the_image(name):
    images = make_images()
    batch = make_batch(images)
    dense = CASES[name](batch.filled(1))
    right = CASES[name](batch)
    wrong = right.like(dense) if hasattr(right, "like") else dense
    with pytest.raises(AssertionError):
        check(CASES[name], images, together=wrong)


@pytest.mark.parametrize("geometry", [(3, 1, 1, 1), (7, 2, 3, 1), (2, 1, 4, 1), (3, 2, 2, 2), (1, 1, 0, 1)])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_partial_padding_by_each_images_own_border(geometry, power):
    kernel, stride, padding, dilation = geometry
    for bias in (True, False):
        torch.manual_seed(0)
        conv = pcpad.PartialConv2d(4, 6, kernel, stride, padding, dilation, bias=bias, power=power, dtype=torch.float64)
        check(conv, make_images())


def test_subclasses_of_conv2d_and_pools_convert_too():
    from timm.layers import AvgPool2dSame, Conv2dSame, ScaledStdConv2dSame, StdConv2d

    torch.manual_seed(0)
    for mode in ("zeros", "partial"):
        net = nn.Sequential(
            StdConv2d(4, 4, 3, padding=1), Conv2dSame(4, 4, 3, stride=2), ScaledStdConv2dSame(4, 4, 5, stride=2),
            AvgPool2dSame(2, 2),
        ).double()  # fmt: skip
        pcpad.convert(net, mode, pools=mode == "partial")
        check(net, make_images([(8, 16), (24, 8), (16, 16)]))


def test_half_precision_sums_in_full():
    images = [image.to(torch.bfloat16) for image in make_images([(60, 50), (64, 64)])]
    for name in ("mean", "group_norm", "adaptive 3x4", "var"):
        function = CASES[name] if name != "group_norm" else lambda x: F.group_norm(x, 2)
        batch = function(make_batch(images))
        for i, image in enumerate(images):
            piece = batch.images()[i] if hasattr(batch, "images") else batch[i]
            assert piece.dtype == torch.bfloat16
            wanted = function(image[None].double())[0]
            assert (piece - wanted).abs().max() < 0.02


def test_sizes_are_read_as_they_are():
    batch = make_batch(make_images())
    assert batch.shape[:2] == (4, 4)
    assert batch.size(0) == len(batch) == 4
    assert [int(v) for v in batch.shape[2].values] == [h for h, _ in SIZES]
    seen = []
    check(lambda x: seen.append(x.shape) or x, make_images())
    assert seen[0][3].values == tuple(shape[3] for shape in seen[1:])
