"""What is not followed raises, naming the operation; what the images do not agree in names their sizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pcpad
from pcpad import RaggedBatch, RaggedError
from tests.ragged.alone import make_batch, make_images

E = torch.eye(4, dtype=torch.float64)
REFUSED = {
    "flatten of the plane": (lambda x: x.flatten(2), "flatten: it reshapes the plane"),
    "flatten of all": (lambda x: torch.flatten(x, 1), "flatten: it reshapes the plane"),
    "view of the plane": (lambda x: x.view(4, 4, -1), "view: it reshapes the plane"),
    "reshape by half sides": (lambda x: x.reshape(4, 4, x.shape[2] * x.shape[3]), "reshape: it reshapes the plane"),
    "unflatten of a side": (lambda x: x.unflatten(2, (1, -1)).unflatten(3, (3, 7)), "unflatten: it reshapes the plane"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention: attention mixes"),
    "matmul of maps": (lambda x: x @ x.transpose(-1, -2), "matmul: it mixes positions"),
    "matmul over positions": (lambda x: x @ torch.ones(15, 2, dtype=torch.float64), "matmul: it mixes positions"),
    "linear over positions": (lambda x: F.linear(x, torch.ones(2, 15, dtype=torch.float64)), "linear: it would mix"),
    "einsum": (lambda x: torch.einsum("bchw,dc->bdhw", x, E), "einsum: it may mix positions"),
    "roll": (lambda x: torch.roll(x, 1, 2), "roll: it moves positions"),
    "flip": (lambda x: x.flip(3), "flip: it moves the image"),
    "softmax over rows": (lambda x: x.softmax(2), "softmax: it mixes positions"),
    "mean of one side": (lambda x: x.mean(2), "mean: it reduces one side of the plane"),
    "mean of all": (lambda x: x.mean(), "mean: it would mix the images"),
    "sum over the batch": (lambda x: x.sum(0), "sum: it would mix the images"),
    "max of all": (lambda x: x.max(), "max: it would mix the images"),
    "slice of the plane": (lambda x: x[:, :, ::2, ::2], "getitem: it takes part of the batch or the plane"),
    "slice of the batch": (lambda x: x[1:], "getitem: it takes part of the batch or the plane"),
    "mask": (lambda x: x[x > 0], "getitem: only slices"),
    "cat of the plane": (lambda x: torch.cat([x, x], 2), "cat: it joins along the batch or the plane"),
    "cat with a tensor": (lambda x: torch.cat([x, torch.zeros(4, 1, 21, 15)], 1), "cat: all its parts must be"),
    "positions of its own": (lambda x: x + torch.zeros(21, 15), r"add: the other operand, of shape \(21, 15\), has"),
    "a row of its own": (lambda x: x * torch.zeros(15), "mul: the other operand"),
    "more axes": (lambda x: x * torch.zeros(2, 1, 1, 1, 1), r"mul: the other operand has more axes \(5\)"),
    "turned": (lambda x: x + x.permute(0, 2, 3, 1), "add: the two batches have their rows and columns in different"),
    "into a tensor": (lambda x: torch.zeros(4, 4, 21, 15).add_(x), "add_?: "),
    "the batch moved": (lambda x: x.permute(1, 0, 2, 3), "permute: it moves the batch axis"),
    "split of the plane": (lambda x: x.chunk(2, 3), "chunk: it splits the batch or the plane"),
    "pool indices": (
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        "max_pool2d_with_indices: its indices are those of the canvas",
    ),
    "layer norm over the plane": (lambda x: F.layer_norm(x, (4, 21, 15)), "layer_norm: it normalises over positions"),
    "reflect": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), r"pad\(mode='reflect'\): it fills from the edge"),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), r"interpolate\(mode='bicubic'\)"),
    "to a computed size": (lambda x: F.interpolate(x, (x.shape[2] // 2, 4)), "its size is computed from the size"),
    "transposed convolution": (lambda x: F.conv_transpose2d(x, torch.zeros(4, 4, 2, 2).double(), stride=2), "conv_tra"),
    "unfold": (lambda x: F.unfold(x, 3), "unfold: it reshapes the plane"),
    "channels last weights": (lambda x: F.conv2d(x.permute(0, 2, 3, 1), E[:, :, None, None]), r"\(N, C, H, W\) here"),
    "a method": (lambda x: x.cumsum(1), "cumsum: it mixes positions"),
    "bool": (lambda x: bool(x), "bool: its truth value is not defined"),
    "iteration": (lambda x: list(x), r"iter: use .images\(\)"),
    "numpy": (lambda x: x.numpy(), "numpy: it is not among the operations"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name(name):
    function, message = REFUSED[name]
    with pytest.raises(RaggedError, match=message):
        function(make_batch(make_images()))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_filling_modes_are_refused(mode):
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)).double()
    pcpad.convert(net, mode)
    with pytest.raises(RaggedError, match=rf"pad\(mode='{mode}'\): it fills from the edge of the image"):
        net(make_batch(make_images()))


def test_different_extents_do_not_meet():
    a, b = make_batch(make_images()), make_batch(make_images([(9, 12), (14, 8), (5, 5), (16, 13)]))
    with pytest.raises(
        RaggedError, match=r"add: the images of the two batches have different extents.*image 1: 14x7 and 14x8"
    ):
        a + b
    again = RaggedBatch(a.canvas, a.extents)
    assert torch.equal((a + again).extents, a.extents)


def test_an_image_that_is_too_small_is_named():
    conv = nn.Conv2d(4, 4, 3, stride=2).double()
    batch = make_batch(make_images([(30, 30), (30, 6)]))
    with pytest.raises(RaggedError, match=r"conv2d: image 1 of the batch, 6 pixels wide, .* its map is 2 pixels wide"):
        conv(conv(batch))


def test_tf_same_pads_name_the_sizes_that_clash():
    from timm.layers import Conv2dSame

    for mode in ("zeros", "partial"):
        net = nn.Sequential(Conv2dSame(4, 4, 3, stride=2)).double()
        pcpad.convert(net, mode)
        with pytest.raises(
            RaggedError, match=r"must agree in .* for an image of 32 pixels and .* of 33 .* multiples of 32"
        ):
            net(make_batch(make_images([(32, 32), (33, 32)])))
        net(make_batch(make_images([(31, 32), (33, 40)])))


def test_numbers_of_the_sizes():
    batch = make_batch(make_images([(8, 12), (8, 9)]))
    height, width = batch.shape[2:]
    assert (int(height), height + 1 == 9, range(height)[-1]) == (8, True, 7)
    assert (width > 8, width < 20) == (True, True)
    for use in (
        lambda: int(width),
        lambda: range(width),
        lambda: width > 10,
        lambda: width == 12,
        lambda: float(width),
    ):
        with pytest.raises(RaggedError, match=r"12 pixels and .* for one of 9"):
            use()
    half = -(-(width + 1) // 2) * 1.5 - width % 3
    assert half.values == (7 * 1.5 - 0, 5 * 1.5 - 0)
    with pytest.raises(TypeError):
        torch.arange(width)
    grown = F.max_pool2d(make_batch(make_images(), "grow"), 2)
    with pytest.raises(RaggedError, match="by rule 'grow', a mixed-size batch has no such numbers"):
        grown.shape[2] + 1
