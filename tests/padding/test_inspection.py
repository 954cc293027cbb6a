"""inspect: geometry against counting window by window, functional padding, the smallest input, nothing changed."""

import json
import threading

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import pcpad


class Net(nn.Module):
    """A network that pads in every way there is."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (5, 3), stride=2, padding=(2, 1))
        self.same = nn.Conv2d(8, 8, (2, 4), padding="same")
        self.shared = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.point = nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.idle = nn.Conv2d(8, 8, 3, padding=1)
        self.kernel = nn.Parameter(torch.ones(8, 1, 3, 3))

    def forward(self, x):
        x = self.same(self.stem(x))
        y = self.pool(self.shared(x))
        x = self.point(self.shared(y)) + y
        x = F.pad(x, (1, 0, 0, 2), mode="replicate")
        x = F.conv2d(x, self.kernel, padding=1, groups=8)
        x = F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1), 1)
        return F.unfold(x, 3, padding=1).mean((1, 2))


def count(size, kernel, stride, dilation, pads):
    """Share of windows that leave the image and largest K / n, one tap at a time."""
    rows = (size[0] + pads[0] + pads[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    cols = (size[1] + pads[2] + pads[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    known = []
    for i in range(rows):
        for j in range(cols):
            inside = 0
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    y, x = i * stride[0] - pads[0] + a * dilation[0], j * stride[1] - pads[2] + b * dilation[1]
                    inside += 0 <= y < size[0] and 0 <= x < size[1]
            known.append(inside)
    taps = kernel[0] * kernel[1]
    return sum(n < taps for n in known), len(known), taps / min(n for n in known if n)


def test_geometry_equals_counting():
    found = pcpad.inspect(Net(), "partial", 21)
    geometry = {g.name: g for g in found.geometry}
    assert list(geometry) == ["stem", "same", "shared"]
    for name, size, conv in (
        ("stem", (21, 21), ((5, 3), (2, 2), (1, 1), (2, 2, 1, 1))),
        ("same", (11, 11), ((2, 4), (1, 1), (1, 1), (0, 1, 1, 2))),
    ):
        border, total, ratio = count(size, *conv)
        assert geometry[name].maps == (size,)
        assert geometry[name].border_share == pytest.approx(border / total)
        assert geometry[name].largest_ratio == pytest.approx(ratio)
    assert geometry["shared"].maps == ((11, 11), (6, 6))  # one convolution on two maps counts for both
    both = [count(size, (3, 3), (1, 1), (2, 2), (2, 2, 2, 2)) for size in ((11, 11), (6, 6))]
    assert geometry["shared"].border_share == pytest.approx(sum(b[0] for b in both) / sum(b[1] for b in both))
    assert found.idle == ("idle",)
    assert found.surgery.converted == ["stem", "same", "shared", "idle"]


def test_padding_by_functions_is_found():
    found = {(f.function, f.padding, f.mode) for f in pcpad.inspect(Net(), "partial", 21).functional}
    assert found == {
        ("pad", "(1,0,0,2)", "replicate"),
        ("conv2d", "1", ""),
        ("avg_pool2d", "1", ""),
        ("unfold", "1", ""),
    }
    none = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(3, 1, 1), nn.ZeroPad2d(1))
    assert pcpad.inspect(none, "partial", 8).functional == ()  # modules say so themselves


def test_nothing_is_changed_or_left_behind():
    net = Net()
    net.stem.eval()
    flags = {name: m.training for name, m in net.named_modules()}
    identities = {name: id(p) for name, p in net.named_parameters()}
    classes = {name: type(m) for name, m in net.named_modules()}
    pcpad.inspect(net, "reflect", 21)
    assert {name: m.training for name, m in net.named_modules()} == flags
    assert {name: id(p) for name, p in net.named_parameters()} == identities
    assert {name: type(m) for name, m in net.named_modules()} == classes
    assert all(p.device.type == "cpu" for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(("mode", "wanted"), [("reflect", 33), ("circular", 1), ("partial", 1)])
def test_the_smallest_input_is_the_smallest(mode, wanted):
    net = timm.create_model("tf_mobilenetv3_small_minimal_100").eval()
    found = pcpad.inspect(net, mode)
    assert found.smallest_input == wanted
    each = {g.name: g.smallest_input for g in found.geometry}
    assert max(each.values()) == wanted
    pcpad.convert(net, mode)
    assert pcpad.inspect(net, mode).smallest_input == wanted  # converted or not
    with torch.no_grad():
        net(torch.zeros(1, 3, wanted, wanted))
        if wanted > 1:
            with pytest.raises(ValueError, match="cannot fill layer '") as error:
                net(torch.zeros(1, 3, wanted - 1, wanted - 1))
            assert each[str(error.value).split("layer '")[1].split("'")[0]] == wanted


def test_a_class_that_is_not_known_is_no_obstacle_to_zeros():
    class Own(nn.Conv2d):
        """One that nobody registered."""

    found = pcpad.inspect(nn.Sequential(Own(3, 4, 3, padding=2)), "zeros", 8)
    assert (found.smallest_input, found.geometry[0].border_share) == (1, 64 / 100)
    with pytest.raises(ValueError, match="does not know"):
        pcpad.inspect(nn.Sequential(Own(3, 4, 3, padding=2)), "partial", 8)


def test_a_layer_that_keeps_its_own_padding_asks_for_no_more():
    """Circular padding fills four pixels from four, reflection would take five."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 9, padding=4, padding_mode="circular"))
    found = pcpad.inspect(net, "reflect", 4, channels=1)
    assert found.smallest_input == 4
    assert "map too small" not in str(found)
    pcpad.convert(net, "reflect")
    assert net(torch.ones(1, 1, 4, 4)).shape == (1, 1, 4, 4)
    with pytest.raises(RuntimeError):
        net(torch.ones(1, 1, 3, 3))


def test_a_layer_with_a_forward_of_its_own_keeps_its_needs():
    """As accelerate's hooks set it."""
    net = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2))
    pcpad.convert(net, "reflect")
    net[0].forward = net[0].forward
    assert [layer.smallest_map for layer in pcpad.inspect(net, "reflect", 8, channels=1).geometry] == [(3, 3)]


def test_a_network_that_passes_masks_on():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (pcpad.PartialConv2d(3, 3, 3, padding=1) for _ in range(2))

        def forward(self, x):
            return self.second(*self.first(x, torch.ones_like(x[:, :1])))[0]

    net = Two()
    found = pcpad.inspect(net, "partial", 8)
    assert [layer.maps for layer in found.geometry] == [((8, 8),)] * 2
    assert net(torch.ones(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_a_map_that_is_too_small_is_shown():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8, padding=1), nn.Conv2d(4, 4, 5, padding=2))
    text = str(pcpad.inspect(net, "reflect", 16))
    assert "map too small, needs 3x3" in text
    assert "smallest square input for reflect: 17 pixels" in text
    never = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 3, padding=1))
    assert "on_small='replicate'" in str(pcpad.inspect(never, "reflect", 16))
    assert pcpad.inspect(never, "reflect", 16).smallest_input is None


def test_it_prints_and_serialises():
    found = pcpad.inspect(Net(), "partial", 21)
    text = str(found)
    for words in (
        "Net at 21x21, partial padding: 4 of 5",
        "stem",
        "11x11 +1",
        "benign",
        "pad, but were not called: idle",
    ):
        assert words in text
    assert "point" not in text  # what pads nothing is only counted
    assert json.loads(json.dumps(found.to_dict()))["geometry"][0]["maps"] == [[21, 21]]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown padding mode 'partail'"):
        pcpad.inspect(Net(), "partail")
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, not 0"):
        pcpad.inspect(Net(), "partial", 0)
    with pytest.raises(ValueError, match=r"Sequential does not run at 2x2 .* choose another size"):
        pcpad.inspect(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(4)), "partial", 2)
    with pytest.raises(ValueError, match=r"with 3 channels .* number of channels"):
        pcpad.inspect(nn.Conv2d(1, 1, 3, padding=1), "partial", 8)
    assert pcpad.inspect(nn.Conv2d(1, 1, 3, padding=1), "partial", 8, channels=1).geometry


def test_inputs_of_another_kind_are_really_run():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, pair):
            return self.conv(pair["a"]) + float(pair["b"].sum())

    found = pcpad.inspect(Pair(), "reflect", inputs=({"a": torch.zeros(1, 1, 4, 6), "b": torch.ones(2)},))
    assert found.geometry[0].maps == ((4, 6),)
    assert not found.searched


@pytest.mark.parametrize("mode", ["zeros", "partial", "reflect", "circular"])
@pytest.mark.parametrize("first", ["partial", "reflect", "circular"])
def test_a_converted_model_is_inspected_as_an_unconverted_one(first, mode):
    """Its own mode's limits are not those of the mode that is asked for."""
    net = Net()
    expected = pcpad.inspect(net, mode, 21)
    pcpad.convert(net, first)
    found = pcpad.inspect(net, mode, 21)
    assert (found.geometry, found.smallest_input) == (expected.geometry, expected.smallest_input)
    assert found.functional == expected.functional
    assert pcpad.convert(net, first).converted == []  # the model itself has kept its mode


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_models_that_keep_a_forward_s_tensors_are_inspected():
    """Tensors with a history, which deepcopy refuses: features kept in a list, torch's older weight norm."""
    conv = torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
    net = nn.Sequential(conv, nn.Conv2d(4, 4, 3, padding=1))
    net.kept = [{"features": (net(torch.ones(1, 3, 8, 8)),)}]
    for inputs in (None, (torch.ones(1, 3, 8, 8),)):
        found = pcpad.inspect(net, "partial", 8, inputs=inputs)
        assert [layer.maps for layer in found.geometry] == [((8, 8),)] * 2
    assert net.kept[0]["features"][0].requires_grad  # the model's own


def test_a_model_that_cannot_be_copied_is_named():
    net = Net()
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Net cannot be copied \(cannot pickle.*take what cannot be copied off"):
        pcpad.inspect(net, "partial", 21)
