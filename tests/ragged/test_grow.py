"""Rule "grow" against the textbook: a full mask beside every map, convolved in every layer."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import pcpad
from pcpad import PartialConv2d, RaggedBatch, RaggedError
from tests.ragged import networks
from tests.ragged.alone import make_batch, make_images

FAMILIES = ["resnet18", "densenet121", "mobilenet_v2", "regnet_y_400mf", "squeezenet1_1", "mnasnet0_5"]


class Map:
    """A map ``(1, C, H, W)`` and the mask ``(1, 1, H, W)`` of what is known of it."""

    def __init__(self, x, mask):
        self.x, self.mask = x, mask.double()


class Textbook(fx.Interpreter):
    """Runs a network on a Map, layer by layer, with the formulas of arXiv:1804.07723 on whole masks."""

    def call_module(self, target, args, kwargs):
        module = self.fetch_attr(target)
        if not isinstance(args[0], Map):
            return module(*args, **kwargs)
        x, mask = args[0].x, args[0].mask
        if isinstance(module, nn.Conv2d):
            geometry = (module.stride, module.padding, module.dilation)
            total = F.conv2d(mask, torch.ones(1, 1, *module.kernel_size), None, *geometry)
            y = F.conv2d(torch.where(mask > 0, x, 0), module.weight, None, *geometry, module.groups)
            if isinstance(module, PartialConv2d):
                y = y * (module.kernel_size[0] * module.kernel_size[1]) / total.clamp(min=1)
            if module.bias is not None:
                y = y + module.bias.view(-1, 1, 1)
            return Map(torch.where(total > 0, y, 0), total > 0)
        if isinstance(module, nn.MaxPool2d):
            geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
            return Map(F.max_pool2d(torch.where(mask > 0, x, -torch.inf), *geometry), F.max_pool2d(mask, *geometry))
        if isinstance(module, nn.AvgPool2d):  # counts its padding, and so the holes
            return Map(module(torch.where(mask > 0, x, 0)), F.max_pool2d(mask, module.kernel_size, module.stride))
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return self.mean(args[0])
        assert isinstance(module, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout, nn.Identity)), module
        return Map(module(x), mask)

    @staticmethod
    def mean(pair):
        return torch.where(pair.mask > 0, pair.x, 0).sum((2, 3), True) / pair.mask.sum((2, 3), True)

    def call_method(self, target, args, kwargs):
        if not isinstance(args[0], Map):
            return super().call_method(target, args, kwargs)
        assert (target, args[1]) == ("mean", [2, 3])
        return self.mean(args[0]).flatten(1)

    def call_function(self, target, args, kwargs):
        pairs = [a for one in args for a in (one if isinstance(one, (list, tuple)) else [one]) if isinstance(a, Map)]
        if not pairs:
            return super().call_function(target, args, kwargs)
        if target is F.adaptive_avg_pool2d:
            return self.mean(pairs[0])
        assert target.__name__ in ("add", "iadd", "mul", "cat", "relu"), target

        def known(one):
            return torch.where(one.mask > 0, one.x, 0) if isinstance(one, Map) else one

        bare = [[known(a) for a in one] if isinstance(one, (list, tuple)) else known(one) for one in args]
        return Map(target(*bare, **kwargs), torch.stack([pair.mask for pair in pairs]).amax(0))


class Tracer(fx.Tracer):
    """Traces every convolution as one node."""

    def is_leaf_module(self, module, name):
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def textbook(model, batch: RaggedBatch) -> torch.Tensor:
    """Logits of each image of a batch, alone on the canvas with a full mask."""
    traced, rows = fx.GraphModule(model, Tracer().trace(model)), []
    for sheet, (height, width) in zip(batch.canvas, batch.extents.tolist(), strict=True):
        mask = torch.zeros(1, 1, *sheet.shape[-2:])
        mask[..., :height, :width] = 1
        result = Textbook(traced).run(Map(sheet[None], mask))
        rows.append(result.x[0] if isinstance(result, Map) else result[0])
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def difference(a, b) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_textbook(name):
    model = networks.build(f"torchvision/{name}", "partial")
    images = make_images([(60, 47), (33, 90), (41, 35)], channels=3)
    with torch.no_grad():
        wanted = textbook(model, make_batch(images, "grow"))
        assert difference(model(make_batch(images, "grow")), wanted) < 1e-10
        # the two rules are not one: maps that grow see more of the padding
        assert difference(model(make_batch(images, "own")), wanted) > 1e-6


def test_padding_above_the_kernel():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=5), nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2, padding=4), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, (3, 1), padding=(4, 2), bias=False), nn.AvgPool2d(2), nn.Conv2d(8, 6, 3, 3, padding=2),
    ).eval()  # fmt: skip
    pcpad.convert(net, "partial")
    for sizes in ([(9, 12), (14, 7), (5, 5)], [(1, 1), (20, 2)]):
        batch = make_batch(make_images(sizes), "grow", margin=(3, 8))
        with torch.no_grad():
            wanted, got = textbook(net, batch), net(batch)
        valid = got.inside().expand_as(got.canvas)
        torch.testing.assert_close(got.canvas[valid], wanted[valid], rtol=1e-10, atol=1e-10)
        assert not valid.all()
        assert (wanted[~valid] == 0).all()
        assert (got.starts > 0).any()


def test_what_a_window_sees_is_mapped_exactly():
    for kernel, stride, padding, dilation in [(3, 1, 1, 1), (3, 2, 5, 1), (2, 3, 1, 1), (5, 2, 2, 2), (1, 2, 0, 1)]:
        conv = PartialConv2d(1, 1, kernel, stride, padding, dilation)
        batch = make_batch(make_images([(9, 12), (14, 7), (5, 5)], channels=1), "grow", margin=(6, 4))
        mask = batch.inside()
        _, known = conv(batch.filled(), mask)
        got = conv(batch)
        assert torch.equal(got.inside(), known)
        again = conv(got)
        assert torch.equal(again.inside(), conv(got.filled(), known)[1])


def test_gaps_are_refused():
    conv = nn.Conv2d(4, 4, 3, padding=4, dilation=4)
    with pytest.raises(RaggedError, match=r"dilation 4 leaves gaps between the positions that an image of 3 pixels"):
        conv(make_batch(make_images([(9, 3), (8, 8)]), "grow"))
    conv(make_batch(make_images([(9, 4), (8, 8)]), "grow"))
