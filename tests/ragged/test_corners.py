"""Corners where a wrong answer would be easy: shortcuts of torch, aliases, odd spellings, what is singular at 0."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pcpad
from pcpad import PartialConv2d, RaggedBatch, RaggedError
from tests.ragged.alone import check, make_batch, make_images

WEIGHT = torch.randn(4, 4, 1, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
GAMMA = torch.linspace(0.5, 2, 4, dtype=torch.float64).view(1, 4, 1, 1)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear"])
def test_factors_that_leave_or_double_a_side(mode):
    sizes = [(2, 3), (16, 5), (9, 9), (3, 1)]
    for factor in (1.05, 1.3, 2.3, 2.0, 1.99, 0.6, (1.04, 2.4)):
        if factor != 0.6:
            check(lambda x, f=factor: F.interpolate(x, scale_factor=f, mode=mode), make_images(sizes))
    check(lambda x: F.interpolate(x, scale_factor=0.6, mode=mode), make_images([(5, 9), (7, 2)]))


SPELLINGS = {
    "type_as": lambda x: x * GAMMA.float().type_as(x),
    "type": lambda x: x.type(torch.float32).type_as(GAMMA),
    "std, positional": lambda x: F.conv2d(x.std(1, False, True).expand(-1, 4, -1, -1), WEIGHT),
    "std, unbiased": lambda x: x.std(1, True).mean((1, 2)),
    "keepdims": lambda x: x.mean(axis=1, keepdims=True).mean((2, 3)),
    "max of channels": lambda x: x.max(1).values + x.max(1).indices,
    "mean by name": lambda x: torch.mean(input=x, dim=(2, 3)),
    "chunk by name": lambda x: torch.chunk(input=x, chunks=2, dim=1),
    "permute by name": lambda x: torch.permute(input=x, dims=(0, 2, 3, 1)),
    "cat by name": lambda x: torch.cat(tensors=[x, x], dim=1),
    "prelu by name": lambda x: F.prelu(input=x, weight=GAMMA.flatten()),
    "linear by name": lambda x: F.linear(input=x.permute(0, 2, 3, 1), weight=WEIGHT[:, :, 0, 0]),
    "pool by name": lambda x: F.max_pool2d(input=x, kernel_size=2, stride=(2,)),
    "tuples of one": lambda x: F.avg_pool2d(F.conv2d(x, WEIGHT, padding=(1,)), (2,)),
    "rfloordiv": lambda x: 2 // (x.abs() + 1),
    "add in place": lambda x: (lambda y: (y.add_(x), y)[1])(x.clone()),
    "an alias sees it": lambda x: (lambda y: (lambda w: (y.__iadd__(x), w)[1])(y))(x.clone()),
    "a part sees it": lambda x: (lambda y: (y.chunk(2, 1)[0].mul_(3), y)[1])(x.clone()),
    "dropped path": lambda x: x * x.new_ones((x.shape[0],) + (1,) * (x.ndim - 1)).div_(2),
    "norm of order 1": lambda x: x.norm(1, (2, 3)),
    "number of the sides": lambda x: x.sum((2, 3)) / (1 + divmod(x.shape[1], 3)[0]),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name):
    check(SPELLINGS[name], make_images([(9, 12), (4, 7), (12, 9)]))


SQUARE = [(4, 6), (6, 4), (5, 5)]


def exchanged(x):
    n, c, h, w = x.shape
    return F.conv2d(x.reshape(n, c, w, h), WEIGHT).mean((2, 3))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (exchanged, "reshape: it reshapes the plane"),
        (lambda x: x.permute(0, 3, 2, 1).reshape(x.shape[0], x.shape[2], x.shape[3], -1), "reshape: it reshapes"),
        (lambda x: x.reshape(3, 2, 2, 6, 6), "reshape: it reshapes the plane"),
        (lambda x: x.clone().transpose_(2, 3), "transpose_: use the form that is not in place"),
        (lambda x: x.clone().unsqueeze_(1), "unsqueeze_: use the form"),
        (lambda x: torch.where(x > 0), "where: its result is no map"),
        (lambda x: x.norm(p=-float("inf"), dim=(2, 3)), "norm: of order -inf it would see the zeros outside"),
        (lambda x: torch.linalg.vector_norm(x, ord=-2, dim=(2, 3)), "of order -2"),
        (lambda x: torch.linalg.norm(x, dim=(2, 3)), "norm: "),
        (lambda x: x[:, True], "getitem: only slices, numbers and None"),
        (lambda x: F.pad(x, (-2, -2, -2, -2)), "pad: image 0 of the batch, 4 pixels high, is too small"),
        (lambda x: F.interpolate(x, scale_factor=0.2), "interpolate: image 0 of the batch, 4 pixels high"),
    ],
)
def test_what_would_be_wrong_is_refused(function, message):
    batch = RaggedBatch.from_images(make_images(SQUARE))
    with pytest.raises(RaggedError, match=message):
        function(batch)


def test_a_reshape_by_numbers_is_followed_where_all_images_have_them():
    images = make_images([(6, 6), (6, 6)])

    def split(x):
        return x.reshape(x.shape[0], 2, 2, 6, 6).sum(1)

    check(split, images, together=split(RaggedBatch.from_images(images)))


def test_comparing_with_nothing():
    batch = RaggedBatch.from_images(make_images(SQUARE))
    assert (batch == None) is False  # noqa: E711  some code does
    assert not hasattr(batch, "numel")
    assert batch.type() == "torch.DoubleTensor"
    assert torch.equal((np.float64(2) * batch).canvas, 2 * batch.canvas)


def test_extents_are_the_batchs_own():
    extents = torch.tensor([[4, 6], [6, 4]])
    batch = RaggedBatch(torch.rand(2, 3, 6, 6), extents)
    conv = nn.Conv2d(3, 3, 3, padding=1)
    conv(batch)
    extents[0, 0] = 1
    assert batch.extents.tolist() == conv(batch).extents.tolist() == [[4, 6], [6, 4]]
    with pytest.raises(ValueError, match=r"extents must be int64 .*not torch.float"):
        RaggedBatch(torch.rand(1, 3, 8, 8), [(6.9, 8)])


@pytest.mark.parametrize("rule", ["own", "grow"])
def test_in_place_sums_are_seen_by_whoever_holds_the_batch(rule):
    batch = make_batch(make_images(SQUARE), rule)
    conv = PartialConv2d(4, 4, 3, padding=1, dtype=torch.float64).requires_grad_(False)
    a, b = conv(batch), conv(batch)
    wanted = (a + b).filled()
    held = a
    a.add_(b)
    assert torch.equal(held.filled(), wanted)
    c = conv(batch)
    held = c
    c += b
    assert held is c
    assert torch.equal(c.filled(), wanted)
    wider, narrow = conv(conv(batch)), conv(batch)  # by rule grow their extents differ
    wanted = (narrow + wider).filled()
    held = narrow
    narrow += wider
    assert torch.equal(held.filled(), wanted)


def test_half_precision_does_not_overflow():
    image = torch.full((1, 8, 8), 20000.0, dtype=torch.half)
    for options in ({}, {"count_include_pad": False}, {"divisor_override": 16}):
        got = F.avg_pool2d(RaggedBatch.from_images([image]), 4, **options)
        assert torch.equal(got.canvas, F.avg_pool2d(image[None], 4, **options))
    whole = RaggedBatch.from_images([torch.arange(12).view(1, 3, 4), torch.arange(6).view(1, 2, 3)])
    assert whole.amax((2, 3)).tolist() == [[11], [5]]
    assert whole.amax((2, 3)).dtype == torch.int64


def test_batch_norm_of_a_single_value_is_an_error():
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        norm(make_batch(make_images([(1, 1)], dtype=torch.float32)))
    assert norm.running_var.isfinite().all()


def test_images_that_need_gradients_are_stacked():
    images = [image.requires_grad_() for image in make_images(SQUARE)]
    RaggedBatch.from_images(images).mean((2, 3)).sum().backward()
    for image in images:
        expected = torch.full_like(image, 1 / image[0].numel())
        torch.testing.assert_close(image.grad, expected)


class Gamma(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 4, 1, 1, dtype=torch.float64))

    def forward(self, x):
        return x * self.gamma


FIRST = {
    "1x1 convolution": lambda: nn.Conv2d(4, 4, 1),
    "1x1 partial convolution": lambda: PartialConv2d(4, 4, 1),
    "no bias": lambda: nn.Conv2d(4, 4, 1, bias=False),
    "batch norm": lambda: nn.BatchNorm2d(4).eval(),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "prelu": lambda: nn.PReLU(4),
    "gain": Gamma,
}
THEN = {
    "nothing": lambda y: y,
    "norm by hand": lambda y: y / y.norm(dim=1, keepdim=True),
    "deviation": lambda y: (y - y.mean(1, True)) / y.std(1, keepdim=True),
    "root": lambda y: y.abs().sqrt(),
    "log": lambda y: y.abs().log(),
    "rms": lambda y: y / y.pow(2).sum(1, True).sqrt(),
    "convolution": lambda y: F.conv2d(y, WEIGHT, padding=(0, 1)),
}


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("first", FIRST)
def test_gradients_of_what_is_singular_outside(first, then):
    """With NaN outside, and with zeros: the gradients are the sum of those of the images alone."""
    torch.manual_seed(0)
    net, images = FIRST[first]().double(), make_images(SQUARE)

    def gradients(results):
        total = sum(THEN[then](y).mean((2, 3)).sum() for y in results)
        return torch.autograd.grad(total, list(net.parameters()))

    wanted = gradients([net(image[None]) for image in images])
    for batch in (make_batch(images), RaggedBatch.from_images(images)):
        batch.canvas.requires_grad_()
        y = THEN[then](net(batch)).mean((2, 3)).sum()
        got = torch.autograd.grad(y, [*net.parameters(), batch.canvas])
        for a, b in zip(got[:-1], wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert got[-1].isfinite().all()


JOINED = {
    "gate": lambda x, y: x * y.sigmoid(),
    "gate before": lambda x, y: y.sigmoid() * x,
    "beside": lambda x, y: F.conv2d(torch.cat([y, x], 1), WIDE),
    "behind": lambda x, y: F.conv2d(torch.cat([x, y], 1), WIDE),
    "stacked": lambda x, y: torch.stack([y, x], 1).sum(1) * y,
    "expanded": lambda x, y: x[:, :1].expand_as(y) * y,
}
WIDE = torch.linspace(-1, 1, 16, dtype=torch.float64).view(2, 8, 1, 1).requires_grad_()


@pytest.mark.parametrize("join", JOINED)
def test_gradients_of_two_maps_of_which_one_is_not_a_number_outside(join):
    """The images themselves with a map made of them, as gates and skip connections take them."""
    torch.manual_seed(0)
    net, images = nn.Conv2d(4, 4, 3, padding=1).double(), make_images(SQUARE)

    def gradients(batches):
        total = sum(JOINED[join](x, net(x)).mean((2, 3)).sum() for x in batches)
        return torch.autograd.grad(total, [*net.parameters(), WIDE], materialize_grads=True)

    wanted = gradients([image[None] for image in images])
    for a, b in zip(gradients([make_batch(images)]), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_stochastic_depth_trains():
    from timm.layers import DropPath
    from torchvision.ops import StochasticDepth

    batch = make_batch(make_images(SQUARE * 8))
    for layer in (DropPath(0.5).train(), StochasticDepth(0.5, "row").train()):
        torch.manual_seed(0)
        got = layer(batch).mean((2, 3))
        plain = batch.mean((2, 3))
        kept = (got != 0).any(1)
        assert 4 < kept.sum() < 20
        torch.testing.assert_close(got[kept], 2 * plain[kept])


def test_a_mask_and_a_batch_do_not_go_together():
    conv = PartialConv2d(4, 4, 3, dtype=torch.float64)
    batch = make_batch(make_images([(9, 9)]))
    with pytest.raises(TypeError, match="not with a RaggedBatch, whose extents are its mask"):
        conv(batch, batch.inside())
    pcpad.convert(conv, "zeros")
