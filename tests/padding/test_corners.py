"""Corners that users reach: odd calls, odd attributes, errors in the middle, modules that keep state."""

import copy
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import pcpad
from pcpad.padding.coverage import cached_ratio
from pcpad.padding.handlers import behaviour_of
from tests.padding.test_folding import Fusable


def image(*shape):
    return torch.randn(shape or (1, 3, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["partial", "reflect"])
def test_a_convolution_called_by_keyword(mode):
    conv, x = nn.Conv2d(3, 3, 3, padding=1), image()
    pcpad.convert(conv, mode)
    assert torch.equal(conv(input=x), conv(x))
    given = (x,) * (3 if mode == "partial" else 2)  # of partial padding the second is a mask
    with pytest.raises(TypeError, match=f"takes one input, not {len(given)}"):
        conv(*given)
    assert pcpad.inspect(nn.Sequential(conv), mode, 8).geometry


@pytest.mark.parametrize(("attribute", "value"), [("padding", 2), ("stride", 2), ("dilation", 2), ("stride", [2, 1])])
@pytest.mark.parametrize("mode", ["partial", "replicate"])
def test_attributes_set_after_construction(attribute, value, mode):
    """torch takes an int, or a list, where the constructor would have made a pair."""
    wanted = nn.Conv2d(3, 3, 3, **({"padding": 1} | {attribute: tuple(value) if isinstance(value, list) else value}))
    conv = copy.deepcopy(wanted)
    setattr(conv, attribute, value)
    for one in (wanted, conv):
        pcpad.convert(one, mode)
    assert torch.equal(conv(image()), wanted(image()))
    assert (
        pcpad.inspect(conv, mode, 9).geometry[0].border_share == pcpad.inspect(wanted, mode, 9).geometry[0].border_share
    )


def test_a_forward_set_on_the_object_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    old = net[1].forward
    net[1].forward = lambda *a, **k: old(*a, **k)
    with pytest.raises(ValueError, match=r"layer '1' has a forward of its own.*exclude='1'"):
        pcpad.convert(net, "partial")
    assert type(net[0]) is nn.Conv2d
    pcpad.convert(net, "zeros")
    assert pcpad.convert(net, "partial", exclude="1").converted == ["0"]


def test_pools_that_are_not_selected_stay_as_they_are():
    net = nn.ModuleDict({k: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(3, 1, 1)) for k in "ab"})
    pcpad.convert(net, "partial", include="a.*", pools=True)
    pcpad.convert(net, "partial", include="b.*", pools=True)
    assert not net["a"][1].count_include_pad
    assert not net["b"][1].count_include_pad
    pcpad.convert(net, "zeros", exclude="a.*")
    assert [net[k][1].count_include_pad for k in "ab"] == [False, True]


def test_a_new_power_is_reported():
    conv, x = nn.Conv2d(3, 3, 3, padding=1), image()
    pcpad.convert(conv, "partial")
    before = conv(x)
    report = pcpad.convert(conv, "partial", power=0.5)
    assert (report.converted, report.layers[0].reason) == ([""], "power 1.0 -> 0.5")
    assert not torch.equal(conv(x), before)
    assert pcpad.convert(conv, "partial", power=0.5).layers[0].action == "kept"
    pcpad.convert(conv, "reflect")
    assert pcpad.convert(conv, "reflect", on_small="replicate").layers[0].reason == "on_small raise -> replicate"


def test_zeros_takes_every_class_back():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    pcpad.convert(conv, "reflect")
    conv.padding = (0, 0)
    pcpad.convert(conv, "zeros")
    assert (type(conv), conv.padding_mode) == (nn.Conv2d, "zeros")


def test_two_classes_of_one_name_are_two_classes():
    def make(factor):
        class Own(nn.Conv2d):
            def forward(self, x):
                return F.conv2d(x, factor * self.weight, self.bias, self.stride, self.padding)

        return Own

    first, second = make(2), make(5)
    pcpad.register_conv(first, weight=lambda conv: 2 * conv.weight)
    with pytest.raises(ValueError, match="does not know"):
        pcpad.convert(second(3, 3, 3, padding=1), "reflect")
    pcpad.register_conv(second, weight=lambda conv: 5 * conv.weight)  # as a notebook's cell that is run again does
    conv, x = second(3, 3, 3, padding=1), image()
    inside = conv(x)[..., 1:-1, 1:-1]
    pcpad.convert(conv, "reflect")
    torch.testing.assert_close(conv(x)[..., 1:-1, 1:-1], inside)


def test_an_error_in_the_middle_changes_nothing():
    class Strict(nn.Conv2d):
        def __init_subclass__(cls, *, tag):
            pass

    pcpad.register_conv(Strict)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Strict(3, 3, 3, padding=1))
    with pytest.raises(TypeError, match="tag"):
        pcpad.convert(net, "partial")
    assert [type(m) for m in net] == [nn.Conv2d, Strict]
    folded = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    folded.reparam_conv = nn.Conv2d(3, 3, 3, padding=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="looks folded"):
            pcpad.convert(folded, "partial")
    assert behaviour_of(folded[0]) is None


def test_folding_follows_what_is_converted_now():
    root = Fusable()
    root.inner = Fusable()
    pcpad.convert(root, "reflect")
    pcpad.convert(root.inner, "zeros")
    pcpad.convert(root, "zeros", include="conv")
    assert root.fuse() is root.conv  # nothing below is converted any more, whatever convert was called on
    pcpad.convert(root, "reflect")
    twin = copy.deepcopy(root)
    pcpad.convert(root, "zeros")
    with pytest.raises(ValueError, match="is refused"):
        twin.fuse()
    own = Fusable()
    own.fuse = lambda: "mine"
    pcpad.convert(own, "reflect")
    pcpad.convert(own, "zeros")
    assert own.fuse() == "mine"


def test_a_subclass_of_a_wrapper_is_refused():
    class Own(nn.DataParallel):
        pass

    with pytest.raises(ValueError, match=r"Own\): convert model\.module"):
        pcpad.convert(Own(nn.Conv2d(3, 3, 3, padding=1)), "partial")
    with pytest.raises(ValueError, match="unknown padding mode"):
        pcpad.convert(nn.Conv2d(3, 3, 3, padding=1), ["partial"])


def test_transforms_leave_nothing_in_the_cache():
    conv = pcpad.PartialConv2d(1, 1, 3, padding=1)
    cached_ratio.cache_clear()
    x = image(1, 1, 5, 7)
    grad = torch.func.grad(lambda x: conv(x).sum())(x)
    assert cached_ratio.cache_info().currsize == 0
    x.requires_grad_()
    conv(x).sum().backward()
    torch.testing.assert_close(grad, x.grad)
    many = torch.stack([x.detach(), 2 * x.detach()])
    torch.testing.assert_close(torch.func.vmap(conv)(many), torch.stack([conv(m) for m in many]))


class Merging(nn.Module):
    """As LoRA layers do: eval() merges into the weights; and a tensor is kept from the first forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.kept, self.merged = nn.Conv2d(3, 3, 3, padding=1), None, False

    def train(self, mode=True):
        if not mode and not self.merged:
            self.merged = True
            with torch.no_grad():
                self.conv.weight.mul_(2)
        return super().train(mode)

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.zeros_like(x)
        return self.conv(x + self.kept)


def test_inspect_runs_on_a_stand_in():
    net = Merging()
    before = net.conv.weight.clone()
    pcpad.inspect(net, "partial", 16)
    assert torch.equal(net.conv.weight, before)
    assert (net.kept, net.merged, net.training) == (None, False, True)
    net(image())
    pcpad.inspect(net, "partial", 8)  # with a tensor that is neither a parameter nor a buffer
    assert net.kept.device.type == "cpu"


@torch.no_grad()
def test_inspect_leaves_a_detector_as_it_was():
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    net = build(weights=None, weights_backbone=None, min_size=64, max_size=64).eval()
    net([image(3, 64, 64)])
    with pytest.raises(ValueError, match="does not run at 64x64"):
        pcpad.inspect(net, "partial", 64)
    net([image(3, 64, 64)])
    assert len(pcpad.inspect(net, "partial", inputs=([image(3, 64, 64)],)).geometry) > 10


def test_inspect_says_what_it_cannot():
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=3)
    with pytest.raises(TypeError, match=r"inputs is the tuple .* not Tensor"):
        pcpad.inspect(conv, "partial", inputs=image(1, 1, 4, 4))
    found = pcpad.inspect(conv, "partial", inputs=(image(1, 1, 4, 6),))
    assert found.size is None
    assert "Conv2d on the given inputs" in str(found)
    blind = pcpad.inspect(nn.Conv2d(1, 1, 1, stride=2, padding=1), "partial", 1, channels=1)
    assert blind.geometry[0].largest_ratio is None  # every window lies outside
    with torch.device("meta"):
        assert pcpad.inspect(conv, "partial", 8, channels=1).geometry

    class Crop(nn.Module):
        def forward(self, x):
            x = F.max_pool2d(x, 3, 1, 1, return_indices=True)[0]
            return F.pad(x, (-1, -1))

    assert [f.function for f in pcpad.inspect(nn.Sequential(conv, Crop()), "partial", 9, channels=1).functional] == [
        "max_pool2d_with_indices"
    ]
