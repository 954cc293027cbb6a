"""Features of a crop against those of a larger image: equal wherever no padding is seen, and nowhere by accident."""

import pytest
import timm
import torch
from torch import nn

import pcpad
from pcpad.evaluation.border.features import (
    choose_margin,
    features,
    find_places,
    padded_layers,
    reaches,
    total_stride,
)
from pcpad.evaluation.border.rings import FidelitySums, wide
from tests.zoo.redraw import redraw


def whole_weights(model: nn.Module) -> nn.Module:
    """Small whole numbers as weights, so that float64 sums are exact in any order."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape))
    return model.eval()


def test_an_activation_in_place_does_not_change_what_was_kept():
    torch.manual_seed(0)
    conv, images = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        found = features(nn.Sequential(conv, nn.ReLU(inplace=True)), ["0"], images)
        part = features(nn.Sequential(conv, nn.ReLU(inplace=True)), ["0"], images, lambda _, y: y[..., 1:3, 2:4])
        assert torch.equal(found["0"], conv(images))
        assert torch.equal(part["0"], conv(images)[..., 1:3, 2:4])


def test_sums_on_devices_without_float64():
    """As Apple's GPUs: what is summed goes to the CPU first."""

    class There:
        device = torch.device("mps")

        def double(self):
            raise TypeError("the MPS framework doesn't support float64")

        def cpu(self):
            return torch.ones(2)

    assert wide(There()).dtype == torch.float64


def fidelity_sums(model, layers, size, margin, moved=0):
    """Sums of every layer for two images of whole numbers; `moved` cuts the crop so many pixels beside its place."""
    places = find_places(model, layers, size)
    side = size + 2 * margin
    images = torch.randint(-3, 4, (2, 3, side, side), generator=torch.Generator().manual_seed(1)).double()
    first = margin + moved
    with torch.no_grad():
        true = features(model, layers, images)
        own = features(model, layers, images[..., first : first + size, first : first + size])
    found = {}
    for place in places:
        sums = FidelitySums(place.height, place.width)
        sums.add(own[place.layer], place.window(true[place.layer], margin))
        found[place.layer] = sums.error
    return places, found


def tiny(padding: int = 1) -> nn.Module:
    """Three 3x3 convolutions, the second with stride 2."""
    return whole_weights(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=padding),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, 2, padding=padding),
            nn.Conv2d(4, 2, 3, padding=padding),
        )
    )


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_the_error_is_0_beyond_the_receptive_field(mode, size):
    """Layer 1 pads one ring; by stride 2 it stays one at the top and the left; the last layer makes it two."""
    model = tiny()
    layers = padded_layers(model)
    pcpad.convert(model, mode)
    places, found = fidelity_sums(model, layers, size, 8)
    assert [(p.layer, p.stride, p.height) for p in places] == [
        ("0", 1, size),
        ("2", 2, 8 + size % 2),
        ("3", 2, 8 + size % 2),
    ]
    for layer, rings in (("0", 1), ("2", 1), ("3", 2)):
        assert (found[layer][:rings] > 0).all(), layer
        assert found[layer][rings:].tolist() == [0] * (len(found[layer]) - rings), layer


def test_a_network_without_padding_has_no_error_anywhere():
    model = tiny(padding=0)
    places, found = fidelity_sums(model, ["0", "2", "3"], 16, 8)
    assert [(p.stride, p.height) for p in places] == [(1, 14), (2, 6), (2, 4)]
    assert all(not sums.any() for sums in found.values())
    _, moved = fidelity_sums(model, ["0", "2", "3"], 16, 8, moved=1)
    assert all((sums > 0).all() for sums in moved.values())  # the control: beside its place every ring differs


def test_reach_is_what_the_kernels_add_up_to():
    model = whole_weights(nn.Sequential(*(nn.Conv2d(3, 3, k, padding=k // 2) for k in (3, 5, 3))))
    layers = padded_layers(model)
    pcpad.convert(model, "zeros")
    places = find_places(model, layers, 12)
    # The outermost pixel is 1 deep, and is seen 1, 2 and 1 positions further.
    assert reaches(model, places, 12, 6) == {"0": 2, "1": 4, "2": 5}
    assert reaches(model, places, 4, 0) == {"0": None, "1": None, "2": None}


class Gate(nn.Module):
    """Multiplies by what it sees of the whole map, as squeeze and excitation does."""

    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


def test_what_sees_the_whole_map_reaches_everywhere():
    model = whole_weights(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Gate(), nn.Conv2d(3, 3, 3, padding=1)))
    layers = padded_layers(model)
    pcpad.convert(model, "zeros")
    assert reaches(model, find_places(model, layers, 8), 8, 4) == {"0": 2, "2": None}


@pytest.mark.parametrize(("size", "mode"), [(96, "zeros"), (97, "partial")])
def test_networks_that_pad_as_tensorflow_does_are_aligned(size, mode):
    """Their pads depend on the map's size; 8 of the convolutions see far less than the crop."""
    model = timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=3).eval().double()
    redraw(model)
    layers = padded_layers(model)
    pcpad.convert(model, "zeros")
    places = find_places(model, layers, size)
    assert (len(places), total_stride(places)) == (12, 32)
    reach = reaches(model, places, size, 64)
    pcpad.convert(model, mode)
    places, found = fidelity_sums(model, layers, size, 64)
    inner = 0
    for place in places:
        errors = found[place.layer]
        first = len(errors) if reach[place.layer] is None else reach[place.layer] // place.stride
        assert errors[0] > 1e-6
        assert (errors[first:] <= 1e-20 * errors[0]).all()
        inner += len(errors[first:])
    assert inner > 30
    _, moved = fidelity_sums(model, layers, size, 64, moved=16)
    last = next(place.layer for place in places if place.stride == 32)
    assert (moved[last] > 1e-6).all()  # the control: 16 pixels beside, the grid of stride 32 is another one


class Twice(nn.Module):
    """Calls one convolution two times."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x))


def test_every_call_of_a_shared_convolution_counts():
    model = whole_weights(Twice())
    layers = padded_layers(model)
    pcpad.convert(model, "zeros")
    places, found = fidelity_sums(model, layers, 8, 4)
    assert [(place.layer, place.module) for place in places] == [("conv", "conv"), ("conv (call 2)", "conv")]
    with torch.no_grad():
        kept = features(model, layers, torch.zeros(1, 3, 8, 8).double(), lambda call, y: (call, y.shape[-1]))
    assert kept == {"conv": ("conv", 8), "conv (call 2)": ("conv (call 2)", 8)}
    assert [(sums > 0).tolist() for sums in found.values()] == [[True, False, False, False], [True, True, False, False]]
    assert reaches(model, places, 8, 4) == {"conv": 2, "conv (call 2)": 3}


def test_a_map_that_does_not_grow_with_the_image_is_left_out():
    model = whole_weights(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 3, 3, padding=1))
    )
    assert [place.layer for place in find_places(model, ["0", "2"], 8)] == ["0"]
    with pytest.raises(ValueError, match="no padded convolution of Sequential has a map that grows"):
        find_places(model, ["2"], 8)


def test_a_network_of_one_size_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 8 * 8, 2))
    with pytest.raises(
        ValueError,
        match=r"Sequential cannot be compared with itself on a larger image, since it does not run at 8 and at 1",
    ):
        find_places(model, ["0"], 8)


def test_the_margin_is_a_multiple_of_the_stride():
    assert [choose_margin(None, size, 32) for size in (224, 256, 32, 20)] == [128, 128, 32, 32]
    assert choose_margin(64, 224, 32) == 64
    with pytest.raises(ValueError, match=r"multiple of the network's stride of 32 pixels.*: 96 or 128, not 100"):
        choose_margin(100, 224, 32)
    with pytest.raises(ValueError, match=": 32, not 7"):
        choose_margin(7, 224, 32)
