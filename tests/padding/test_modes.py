"""The modes beyond torch's own against loops, written-out numbers and numpy; and modes that a user adds."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import pcpad
from pcpad.padding import modes
from pcpad.padding.filled import fill
from pcpad.padding.fillers import FILLERS
from tests.padding.oracle import conv2d

ROW = torch.arange(1.0, 5.0, dtype=torch.float64).view(1, 1, 1, 4)  # 1 2 3 4


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("reflect", [3, 2, 1, 2, 3, 4, 3, 2]),
        ("symmetric", [2, 1, 1, 2, 3, 4, 4, 3]),
        ("replicate", [1, 1, 1, 2, 3, 4, 4, 4]),
        ("circular", [3, 4, 1, 2, 3, 4, 1, 2]),
        ("mean", [2, 2, 1, 2, 3, 4, 3, 3]),  # of 1, 2, 3 and of 2, 3, 4
    ],
)
def test_a_row(mode, wanted):
    assert fill(ROW, (0, 0, 2, 2), mode).flatten().tolist() == wanted


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (2, 1, 0, 3), (0, 4, 2, 0), (3, 3, 5, 5)])
def test_symmetric_is_numpys(pads):
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    wanted = np.pad(x.numpy(), ((0, 0), (0, 0), pads[:2], pads[2:]), mode="symmetric")
    assert fill(x, pads, "symmetric").numpy().tolist() == wanted.tolist()
    assert torch.equal(fill(x[0], pads, "symmetric"), fill(x, pads, "symmetric")[0])


@pytest.mark.parametrize("mode", ["partial_sqrt", "symmetric", "mean"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (5, 3), "padding": (2, 1), "stride": (1, 2), "groups": 2},
        {"kernel_size": 3, "padding": 3, "dilation": 2, "bias": False},
    ],
    ids=str,
)
def test_equals_loops_tap_by_tap(mode, options):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, **options).double(), torch.randn(2, 4, 6, 7, dtype=torch.float64)
    plain = conv(x)
    top, left = (options["padding"],) * 2 if isinstance(options["padding"], int) else options["padding"]
    geometry = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups, "pads": (top, top, left, left)}
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    wanted = torch.from_numpy(conv2d(x.numpy(), conv.weight.detach().numpy(), bias, mode=mode, **geometry))
    pcpad.convert(conv, mode)
    torch.testing.assert_close(conv(x), wanted, rtol=1e-12, atol=1e-12)
    assert (conv(x) - plain).abs().max() > 1e-2
    pcpad.convert(conv, "zeros")
    assert torch.equal(conv(x), plain)


@pytest.mark.parametrize("mode", ["symmetric", "mean"])
def test_gradients_layout_and_single_images(mode):
    conv = nn.Conv2d(2, 3, 3, padding=(2, 1)).double()
    pcpad.convert(conv, mode)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv, (x,))
    last = conv(x.detach().contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, conv(x.detach()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv(x[0]), conv(x)[0], rtol=1e-12, atol=1e-12)
    half = conv.to(torch.bfloat16)(x.detach().to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_partial_sqrt_is_partial_with_power_one_half():
    """The same attribute: it keeps the variance of a sum of independent taps."""
    a, b = (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)) for _ in range(2))
    b.load_state_dict(a.state_dict())
    assert pcpad.convert(a, "partial_sqrt").power == 0.5
    pcpad.convert(b, "partial", power=0.5)
    x = torch.randn(1, 1, 5, 5)
    assert torch.equal(a(x), b(x))
    assert pcpad.convert(a, "partial", power=0.5).layers[0].action == "kept"
    assert pcpad.convert(a, "partial").layers[0].reason == "power 0.5 -> 1.0"
    nn.init.constant_(a[0].weight, 1 / 3)
    pcpad.convert(a, "partial_sqrt")
    noise = torch.randn(20000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert a(noise).var(0).flatten().tolist() == pytest.approx([1.0] * 4, rel=0.05)
    with pytest.raises(ValueError, match=r"power=0\.7 has a meaning for mode 'partial' only, not for 'partial_sqrt'"):
        pcpad.convert(a, "partial_sqrt", power=0.7)


def test_a_map_that_is_too_small():
    conv = nn.Conv2d(1, 1, 7, padding=3)
    pcpad.convert(conv, "symmetric")
    conv(torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match=r"'symmetric' cannot fill .*: its input map is 2x3 .* at least 3x3"):
        conv(torch.zeros(1, 1, 2, 3))
    pcpad.convert(conv, "mean")
    conv(torch.zeros(1, 1, 1, 1))
    assert pcpad.inspect(nn.Sequential(conv), "symmetric", 8, channels=1).smallest_input == 3


def ones(x, pads):
    top, bottom, left, right = pads
    return nn.functional.pad(x, (left, right, top, bottom), value=1.0)


def test_a_mode_of_ones_own(registries):
    pcpad.register_padding("ones", ones, summary="ones")
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    assert pcpad.convert(conv, "ones").summary == "ones padding: 1 of 1 convolutions converted"
    assert conv(torch.zeros(1, 1, 1, 1)).item() == 8
    copy = pickle.loads(pickle.dumps(conv))
    assert copy(torch.zeros(1, 1, 1, 1)).item() == 8
    assert pcpad.inspect(nn.Sequential(conv), "ones", 8, channels=1).smallest_input == 1
    with pytest.raises(ValueError, match="padding mode 'ones' is registered already"):
        pcpad.register_padding("ones", ones, summary="again")
    del FILLERS["ones"]
    with pytest.raises(ValueError, match=r"mode 'ones' is not known to this process: call pcpad\.register_padding"):
        copy(torch.zeros(1, 1, 1, 1))


def test_a_mode_that_takes_the_sides_for_each_other(registries):
    """Rows where columns are wanted: on a square kernel it would not be seen, on this one the map would be wrong."""
    pcpad.register_padding("swapped", lambda x, pads: ones(x, (*pads[2:], *pads[:2])), summary="swapped")
    conv = nn.Conv2d(3, 4, (1, 5), padding=(0, 2))
    pcpad.convert(conv, "swapped")
    message = r"padding mode 'swapped' made \(1, 3, 12, 8\) of \(1, 3, 8, 8\) .* must give \(1, 3, 8, 12\)"
    with pytest.raises(ValueError, match=message):
        conv(torch.zeros(1, 3, 8, 8))


def test_a_mode_that_needs_room(registries):
    pcpad.register_padding("far", FILLERS["reflect"].pad, summary="far", smallest=lambda pad: 2 * pad)
    conv = nn.Conv2d(1, 1, 3, padding=1)
    pcpad.convert(conv, "far")
    with pytest.raises(ValueError, match=r"'far' cannot fill .*: its input map is 1x2 .* need at least 2x2"):
        conv(torch.zeros(1, 1, 1, 2))


def test_the_least_map_has_a_pixel():
    """A kernel of one row has no pad above, which circular padding could fill from nothing."""
    conv = nn.Conv2d(1, 1, (1, 7), padding=(0, 3))
    pcpad.convert(conv, "circular")
    with pytest.raises(ValueError, match=r"its input map is 2x2 .* need at least 1x3; "):
        conv(torch.zeros(1, 1, 2, 2))
    assert conv(torch.zeros(1, 1, 1, 3)).shape == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("name", "pad", "error"),
    [("a-b", ones, ValueError), ("", ones, ValueError), ("x", 1, TypeError), ("zero", ones, ValueError)],
)
def test_what_is_no_mode_is_refused(registries, name, pad, error):
    before = list(pcpad.PADDING_MODES)
    with pytest.raises(error, match=r"register_padding takes|is named in letters|another name of 'zeros'"):
        pcpad.register_padding(name, pad, summary="")
    assert list(pcpad.PADDING_MODES) == before


def test_every_mode_says_what_it_is_and_where_it_is_from():
    for mode in pcpad.PADDING_MODES.values():
        assert mode.summary
        assert mode.source
        assert mode.fills == (mode.name in FILLERS)
    assert modes.power_of("partial", 0.3) == 0.3
    assert [modes.power_of(name, 0.3) for name in ("zeros", "partial_sqrt", "mean")] == [1.0, 0.5, 1.0]
