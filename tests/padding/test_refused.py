"""What convert refuses beside wrapped models: graphs, forwards set on objects, globs that are none; what it says."""

import importlib
import re

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

import pcpad


def make(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).eval()


@pytest.fixture
def x():
    return torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(1))


GRAPHS = {
    "traced": (torch.fx.symbolic_trace, "the model"),
    "features": (lambda net: create_feature_extractor(net, ["2"]), "the model"),
    "exported": (lambda net: torch.export.export(net, (torch.ones(1, 3, 9, 8),)).module(), "the model"),
    "unflattened": (
        lambda net: torch.export.unflatten(torch.export.export(net, (torch.ones(1, 3, 9, 8),))),
        "its module '0'",
    ),
}


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.export's own
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_graph_of_a_converted_model_is_refused(graph, mode, x):
    """Its convolutions could not be taken back; a part that is still a module does not make it convertible."""
    trace, where = GRAPHS[graph]
    net = make()
    pcpad.convert(net, "partial", include="0")
    made = trace(net)
    before = made(x)
    with pytest.raises(ValueError, match=f"{where} is a graph that was traced or exported.*convert the model that it"):
        pcpad.convert(made, mode)
    after = made(x)
    assert torch.equal(*(one["2"] if isinstance(one, dict) else one for one in (before, after)))


@pytest.mark.parametrize("trace", [torch.fx.symbolic_trace, lambda net: create_feature_extractor(net, ["2"])])
def test_a_graph_that_still_calls_its_convolutions_is_converted(trace, x):
    net = make()
    made = trace(net)
    assert pcpad.convert(made, "reflect").converted == ["0", "2"]
    padded = nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), "reflect"), net[0].weight, net[0].bias).relu()
    expected = nn.functional.conv2d(nn.functional.pad(padded, (1, 1, 1, 1), "reflect"), net[2].weight, net[2].bias)
    y = made(x)
    torch.testing.assert_close(y["2"] if isinstance(y, dict) else y, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.jit's own
def test_scripted_parts_are_refused_where_they_convolve(x):
    """An activation that is scripted stands in nobody's way; nor does one that was frozen, whose modules are gone."""
    net = make()
    net[1] = torch.jit.freeze(torch.jit.script(nn.GELU().eval()))
    assert pcpad.convert(net, "partial").converted == ["0", "2"]
    frozen = torch.jit.freeze(torch.jit.script(make()))
    for part in (torch.jit.trace(make(), x), torch.jit.script(nn.Conv2d(4, 4, 3, padding=1)), frozen):
        with pytest.raises(ValueError, match="its module '3' is scripted or traced"):
            pcpad.convert(nn.Sequential(*make(), part), "partial")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.jit's own
def test_a_scripted_activation_is_told_by_what_it_does(tmp_path, monkeypatch):
    """Not by the names in its source, nor by the folder that it was written in."""
    (tmp_path / "convnets").mkdir()
    (tmp_path / "convnets/activation_of_tests.py").write_text(
        "import torch\n\n\nclass Act(torch.nn.Module):\n    def forward(self, x):\n"
        "        convolved = x.sigmoid()\n        return x * convolved\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "convnets")
    act = importlib.import_module("activation_of_tests").Act()
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), torch.jit.script(act))
    assert pcpad.convert(net, "partial").converted == ["0"]


MOVES = [("zeros", "partial"), ("zeros", "reflect"), ("partial", "zeros"), ("partial", "reflect")]
MOVES += [("reflect", "zeros"), ("reflect", "partial")]


@pytest.mark.parametrize(("first", "second"), MOVES)
def test_a_forward_set_on_a_layer_is_refused_in_every_direction(first, second, x):
    """As accelerate's hooks set one; without it, as with `exclude`, the conversion is done."""
    net = make()
    pcpad.convert(net, first)
    conv, untouched = net[2], net(x)
    own = conv.forward
    conv.forward = lambda *args, **kwargs: own(*args, **kwargs)
    with pytest.raises(ValueError, match=r"layer '2' has a forward of its own.*exclude='2'"):
        pcpad.convert(net, second)
    assert torch.equal(net(x), untouched)
    if second != "zeros":  # the first layer could follow
        assert pcpad.convert(net, second, exclude="2").converted == ["0"]
        assert net(x).shape == untouched.shape
    del conv.forward
    fresh = make()
    for mode in (first, second):
        pcpad.convert(net, mode)
        pcpad.convert(fresh, mode)
    assert torch.equal(net(x), fresh(x))


def test_a_forward_that_follows_the_mode_is_fine(x):
    """One filling mode and the next are the same class."""
    net = make()
    pcpad.convert(net, "reflect")
    own = net[0].forward
    net[0].forward = lambda *args, **kwargs: own(*args, **kwargs)
    pcpad.convert(net, "circular")
    fresh = make()
    pcpad.convert(fresh, "circular")
    assert torch.equal(net(x), fresh(x))


@pytest.mark.parametrize("glob", [3, b"0", ["0", 1]])
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_glob_that_is_no_text_is_named(glob, option):
    with pytest.raises(
        TypeError, match=re.escape(f"{option} must be a glob over module names, or a list of them, not {glob!r}")
    ):
        pcpad.convert(make(), "partial", **{option: glob})


@pytest.mark.parametrize(
    ("net", "options", "reason"),
    [
        (nn.Linear(2, 2), {}, "Linear has 0 convolutions (Conv2d)"),
        (nn.Conv2d(3, 3, 1), {}, "Conv2d has 1 convolution (Conv2d): 1 pads nothing"),
        (make(), {"exclude": "*"}, "Sequential has 2 convolutions (Conv2d): 2 not selected"),
        (make(), {"include": []}, "Sequential has 2 convolutions (Conv2d): 2 not selected"),
        (
            nn.Sequential(
                nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
            ),
            {},
            "Sequential has 3 convolutions (Conv2d): 2 pad nothing, 1 pads with 'reflect' by its own design",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["partial", "reflect"])
def test_why_nothing_would_change_is_said(net, options, reason, mode):
    with pytest.raises(ValueError, match=re.escape(f"convert(model, '{mode}') would change nothing: {reason}") + "$"):
        pcpad.convert(net, mode, **options)


def test_pools_of_other_dimensions_are_reported_with_theirs():
    net = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.AvgPool3d(3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 3, 3, 1, 1))
    layers = pcpad.convert(net, "partial").layers
    assert [layer.kernel_size for layer in layers] == [(3,), (3, 3, 3), (3, 3), (3, 3)]
    assert [layer.stride for layer in layers] == [(1,), (2, 2, 2), (2, 2), (1, 1)]
    assert [layer.padding for layer in layers] == [(1,), (1, 1, 1), (1, 1), (1, 1)]


def test_whole_numbers_cannot_be_rescaled():
    """torch convolves them on a CPU; 9 / 4 of a sum is none."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight = nn.Parameter(torch.ones(1, 1, 3, 3, dtype=torch.int64), requires_grad=False)
    pcpad.convert(conv, "partial")
    with pytest.raises(TypeError, match=r"fractions, which torch\.int64 does not hold"):
        conv(torch.ones(1, 1, 4, 4, dtype=torch.int64))


def test_flow_networks_are_converted_too():
    with torch.device("meta"):
        assert len(pcpad.convert(models.optical_flow.raft_small(), "partial").converted) == 22
