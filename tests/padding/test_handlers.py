"""timm's subclasses of Conv2d, parametrized convolutions and classes that a user registers, against loops."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import pcpad
from pcpad.padding import handlers
from tests.padding.oracle import conv2d

MODES = list(pcpad.PADDING_MODES)
TIMM = ["Conv2dSame", "Conv2dSameExport", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"]
GEOMETRIES = [  # kernel, stride, dilation, groups, size
    ((3, 3), (1, 1), (1, 1), 1, (6, 7)),
    ((3, 3), (2, 2), (1, 1), 1, (8, 7)),
    ((5, 3), (2, 1), (1, 1), 2, (9, 8)),
    ((4, 2), (3, 2), (1, 1), 1, (8, 9)),
    ((3, 3), (1, 1), (2, 1), 4, (7, 6)),
    ((3, 3), (4, 4), (1, 1), 1, (8, 8)),  # a stride above the kernel: no padding at multiples of 4
]


def timm_conv(kind, kernel, stride, dilation, groups, **extra):
    from timm import layers
    from timm.layers.conv2d_same import Conv2dSameExport

    classes = {name: getattr(layers, name, Conv2dSameExport) for name in TIMM}
    torch.manual_seed(3)
    conv = classes[kind](4, 8, kernel, stride=stride, dilation=dilation, groups=groups, bias=True, **extra).double()
    with torch.no_grad():
        for p in conv.parameters():
            p.uniform_(0.5, 1.5) if p.dim() == 4 and p.shape[1:] == (1, 1, 1) else p.normal_()
    return conv.eval()


def tensorflow_pads(size, kernel, stride, dilation):
    """TensorFlow's documentation of "SAME", with its own case distinction (for dilation 1) where it has one."""
    pads = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        reach = d * (k - 1) + 1
        total = max(reach - s, 0) if n % s == 0 else max(reach - n % s, 0)
        pads += [total // 2, total - total // 2]
    return tuple(pads)


def expected(conv, kind, x, mode, size, kernel, stride, dilation, groups):
    """Loops over numbers, with weights standardized one output channel at a time."""
    weight, bias = conv.weight.detach().numpy().copy(), conv.bias.detach().numpy()
    if "Std" in kind:
        for o in range(len(weight)):
            weight[o] = (weight[o] - weight[o].mean()) / np.sqrt(weight[o].var() + conv.eps)
            if "Scaled" in kind:
                weight[o] *= conv.gain[o].item() * weight[o].size ** -0.5
    static = tuple(((s - 1) + d * (k - 1)) // 2 for k, s, d in zip(kernel, stride, dilation, strict=True))
    pads = (static[0], static[0], static[1], static[1])
    if "Same" in kind:
        pads = tensorflow_pads(size, kernel, stride, dilation)
    options = {"stride": stride, "dilation": dilation, "groups": groups, "pads": pads}
    return torch.from_numpy(conv2d(x.numpy(), weight, bias, mode=mode, **options))


@pytest.mark.parametrize("kind", TIMM)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_timm_subclasses_equal_loops_in_every_mode(kind, geometry):
    kernel, stride, dilation, groups, size = geometry
    if kind == "Conv2dSameExport" and not any(tensorflow_pads(size, kernel, stride, dilation)):
        pytest.skip("this class keeps the pads of its first input, here none, so that nothing is left to convert")
    conv = timm_conv(kind, kernel, stride, dilation, groups)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    net = nn.Sequential(conv)
    untouched, keys = copy.deepcopy(net)(x), list(net.state_dict())
    seen = []
    for mode in MODES:
        pcpad.convert(net, mode)
        wanted = expected(conv, kind, x, mode, *((size, *geometry[:4])))
        torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(copy.deepcopy(net)(x), wanted, rtol=1e-12, atol=1e-12)
        if mode != "symmetric":  # of a pad of one pixel the same as replicate
            seen.append(wanted)
    if any(tensorflow_pads(size, kernel, stride, dilation)):
        assert min((a - b).abs().max() for i, a in enumerate(seen) for b in seen[:i]) > 1e-3  # the modes do differ
    pcpad.convert(net, "zeros")
    assert torch.equal(net(x), untouched)
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("wrong", ["weights", "pads"])
def test_a_wrong_handler_would_be_seen(monkeypatch, wrong):
    """The control: raw weights for standardized ones, or torch's pads for TensorFlow's, must not pass."""
    name = "timm.layers.std_conv.StdConv2dSame"
    right = handlers.KNOWN[name]
    bad = handlers.ConvHandler(weight=None if wrong == "weights" else right.weight, pads=right.pads)
    if wrong == "pads":
        bad = handlers.ConvHandler(right.weight, lambda conv, h, w: (1, 1, 1, 1))
    monkeypatch.setitem(handlers.KNOWN, name, bad)
    handlers.derive.cache_clear()
    kernel, stride, dilation, groups, size = GEOMETRIES[1]
    conv = timm_conv("StdConv2dSame", kernel, stride, dilation, groups)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    try:
        pcpad.convert(conv, "reflect")
        wanted = expected(conv, "StdConv2dSame", x, "reflect", size, kernel, stride, dilation, groups)
        got = conv(x)
        assert got.shape != wanted.shape or (got - wanted).abs().max() > 1e-3
    finally:
        handlers.derive.cache_clear()


def test_timm_classes_are_pickled_by_their_parts(tmp_path):
    """Another process that has never converted anything reads them back."""
    x, held = torch.randn(1, 4, 8, 8, dtype=torch.float64), []
    for mode in ("partial", "reflect"):
        net = nn.Sequential(timm_conv("ScaledStdConv2dSame", 3, 1, 1, 1))
        pcpad.convert(net, mode)
        held.append((net, net(x)))
    (tmp_path / "nets.pickle").write_bytes(pickle.dumps((x, held)))
    code = "import pickle, sys, torch; x, held = pickle.load(open(sys.argv[1], 'rb'));"
    code += "print(*(type(net[0]).__name__ + str(torch.equal(net(x), y)) for net, y in held))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "nets.pickle"], capture_output=True, text=True)
    assert done.stdout.split() == ["PartialScaledStdConv2dSameTrue", "FilledScaledStdConv2dSameTrue"], done.stderr


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_convolutions(wrap):
    conv = nn.Conv2d(3, 4, 3, padding=1).double().eval()
    wrap(conv)
    net, x = nn.Sequential(conv), torch.randn(1, 3, 7, 7, dtype=torch.float64)
    untouched, keys, kind = net(x), list(net.state_dict()), type(conv)
    for mode in [*MODES, "partial", "circular"]:
        pcpad.convert(net, mode)
        weight = conv.weight.detach().numpy()  # as the parametrization makes it
        wanted = conv2d(x.numpy(), weight, conv.bias.detach().numpy(), pads=(1, 1, 1, 1), mode=mode)
        torch.testing.assert_close(net(x), torch.from_numpy(wanted), rtol=1e-12, atol=1e-12)
        assert torch.equal(copy.deepcopy(net)(x), net(x))
        assert list(net.state_dict()) == keys
        assert parametrize.is_parametrized(conv, "weight")
    pcpad.convert(net, "zeros")
    assert torch.equal(net(x), untouched)
    assert [c.__name__ for c in type(conv).__mro__] == [c.__name__ for c in kind.__mro__]
    pcpad.convert(net, "partial")
    held = net(x)
    parametrize.remove_parametrizations(conv, "weight")
    assert type(conv) is pcpad.PartialConv2d
    torch.testing.assert_close(net(x), held)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_after_conversion(wrap):
    conv, x = nn.Conv2d(3, 4, 3, padding=1).eval(), torch.randn(1, 3, 7, 7)
    pcpad.convert(conv, "reflect")
    wrap(conv)
    assert torch.equal(conv(x), F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias))
    pcpad.convert(conv, "zeros")
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.*:FutureWarning")
@pytest.mark.parametrize("wrap", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_weight_norm_of_old(wrap):
    conv, x = nn.Conv2d(3, 4, 3, padding=1).eval(), torch.randn(1, 3, 7, 7)
    wrap(conv)
    untouched = conv(x)
    pcpad.convert(conv, "replicate")
    assert torch.equal(conv(x), F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), conv.weight, conv.bias))
    pcpad.convert(conv, "zeros")
    assert torch.equal(conv(x), untouched)


class Gated(nn.Conv2d):
    """A user's class: it makes its weights on the fly and pads more at the top than at the bottom."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 0, 2, 0)), self.weight * self.gate, self.bias, self.stride)


@pytest.fixture
def registered():
    pcpad.register_conv(
        Gated, weight=lambda conv: conv.weight * conv.gate, pads=lambda conv, height, width: (2, 0, 0, 0)
    )
    yield Gated
    del handlers.REGISTERED[Gated]
    handlers.derive.cache_clear()


def test_a_class_of_the_user(registered):
    conv, x = Gated(3, 4, 3).double(), torch.randn(1, 3, 7, 7, dtype=torch.float64)
    net = nn.Sequential(conv)
    untouched = net(x)
    weight, bias = (conv.weight * conv.gate).detach().numpy(), conv.bias.detach().numpy()
    for mode in MODES:
        report = pcpad.convert(net, mode)
        wanted = torch.from_numpy(conv2d(x.numpy(), weight, bias, pads=(2, 0, 0, 0), mode=mode))
        torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
        assert (report.layers[0].kind, report.layers[0].padding) == ("Gated", "dynamic")
    pcpad.convert(net, "zeros")
    assert torch.equal(net(x), untouched)
    assert type(conv) is Gated


def test_the_error_for_an_unknown_class_says_what_to_do():
    with pytest.raises(ValueError, match=r"'0' is a .*Gated.*pcpad\.register_conv\(Gated\).*exclude='0'"):
        pcpad.convert(nn.Sequential(Gated(3, 4, 3)), "partial")
    with pytest.raises(ValueError, match=r"'0' is a LazyConv2d .* run one forward pass first"):
        pcpad.convert(nn.Sequential(nn.LazyConv2d(4, 3, padding=1)), "partial")


def test_pads_that_are_none_are_named():
    class Odd(Gated):
        pass

    pcpad.register_conv(Odd, pads=lambda conv, height, width: (1, -1))
    with pytest.raises(
        ValueError, match=r"pads registered for .*Odd must be .* for an input of 1x1 they are \(1, -1\)"
    ):
        pcpad.convert(Odd(3, 4, 3), "partial")


@pytest.mark.parametrize("mode", ["partial", "partial_sqrt", "reflect", "mean"])
def test_pads_as_a_list(mode):
    class Listed(Gated):
        pass

    class Tupled(Gated):
        pass

    pcpad.register_conv(Listed, weight=lambda conv: conv.weight * conv.gate, pads=lambda conv, h, w: [2, 0, 0, 0])
    pcpad.register_conv(Tupled, weight=lambda conv: conv.weight * conv.gate, pads=lambda conv, h, w: (2, 0, 0, 0))
    x, found = torch.randn(1, 3, 7, 7), []
    for kind in (Listed, Tupled):
        torch.manual_seed(0)
        conv = kind(3, 4, 3)
        pcpad.convert(conv, mode)
        found.append(conv(x))
    assert torch.equal(*found)


def test_pads_of_another_size_are_named():
    class Wide(Gated):
        pass

    pcpad.register_conv(Wide, pads=lambda conv, height, width: (2, 2, 1, 1))
    conv = Wide(3, 4, 3, padding=1)
    pcpad.convert(conv, "partial")
    message = r"pads of .*Wide: \(2, 2, 1, 1\) at an input of 7x8 would make a map of 9x8, and its own is 7x6"
    with pytest.raises(ValueError, match=message):
        conv(torch.zeros(1, 3, 7, 8))


def test_registering_twice_or_nonsense_is_an_error(registered):
    with pytest.raises(ValueError, match=r"Gated is known to pcpad already"):
        pcpad.register_conv(registered)
    with pytest.raises(ValueError, match=r"known to pcpad already"):
        pcpad.register_conv(pcpad.PartialConv2d)
    with pytest.raises(TypeError, match=r"subclass of torch\.nn\.Conv2d, not <class 'torch\.nn\.modules\.linear"):
        pcpad.register_conv(nn.Linear)
