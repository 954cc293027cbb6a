"""Counts and ratio against a convolution of ones, and against counting taps one by one."""

import itertools
import random
from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

import pcpad
from pcpad.padding.coverage import conv_pads, coverage, ratio, tap_counts


def geometries(count: int, seed: int):
    """Random kernel, stride, dilation and pads of one axis, with a size that fits."""
    rng = random.Random(seed)
    for _ in range(count):
        kernel, stride, dilation = rng.randint(1, 7), rng.randint(1, 4), rng.randint(1, 4)
        before, after = rng.randint(0, 9), rng.randint(0, 9)
        size = rng.randint(1, 12)
        if size + before + after >= dilation * (kernel - 1) + 1:
            yield size, kernel, stride, dilation, before, after


def test_tap_counts_equal_counting_one_by_one():
    seen_empty = 0
    for size, kernel, stride, dilation, before, after in geometries(400, seed=1):
        out = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        expected = [sum(0 <= i * stride - before + t * dilation < size for t in range(kernel)) for i in range(out)]
        assert tap_counts(size, kernel, stride, dilation, before, after).tolist() == expected
        seen_empty += 0 in expected
    assert seen_empty > 20  # windows that see no pixel were among them


def test_coverage_equals_a_convolution_of_ones():
    axes = list(geometries(120, seed=2))
    for (h, kh, sh, dh, top, bottom), (w, kw, sw, dw, left, right) in itertools.pairwise(axes):
        ones = F.pad(torch.ones(1, 1, h, w, dtype=torch.float64), (left, right, top, bottom))
        expected = F.conv2d(ones, torch.ones(1, 1, kh, kw, dtype=torch.float64), stride=(sh, sw), dilation=(dh, dw))
        n = coverage((h, w), (kh, kw), (sh, sw), (dh, dw), (top, bottom, left, right))
        assert n.dtype == torch.int64
        assert torch.equal(n.double(), expected[0, 0])


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0, 2.0])
def test_ratio_is_one_division_rounded_once(power):
    size, kernel, pads = (9, 8), (7, 7), (3, 3, 3, 3)
    n = coverage(size, kernel, pads=pads)
    r = ratio(size, kernel, pads=pads, power=power, dtype=torch.float32)
    for count, value in zip(n.flatten().tolist(), r.flatten().tolist(), strict=True):
        exact = float(Fraction(49, count)) ** power
        assert value == torch.tensor(exact, dtype=torch.float64).float().item()


def test_a_product_of_rounded_ratios_would_fail_the_test_above():
    """The control: rows and columns divided apart differ from K / n in the last bit somewhere."""
    rows = tap_counts(9, 7, 1, 1, 3, 3)
    apart = (7 / rows.float())[:, None] * (7 / rows.float())
    assert not torch.equal(apart, ratio((9, 9), (7, 7), pads=(3, 3, 3, 3)))


def test_ratio_is_zero_where_a_window_sees_nothing():
    r = ratio((2, 2), (1, 1), pads=(1, 1, 0, 0))
    assert r.tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_is_torch_s(kernel, dilation):
    x = torch.arange(1.0, 8.0, dtype=torch.float64).view(1, 1, 7, 1)
    conv = torch.nn.Conv2d(1, 1, (kernel, 1), padding="same", dilation=dilation, bias=False, dtype=torch.float64)
    top, bottom, left, right = conv_pads("same", conv.kernel_size, conv.dilation)
    by_hand = F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, dilation=dilation)
    assert torch.equal(conv(x), by_hand)


@pytest.mark.parametrize("mode", ["zeros", "partial", "reflect"])
def test_tuples_of_one_stand_for_both_axes(mode):
    """As torch takes them; against the same convolution with its numbers written twice."""
    geometry = {"stride": 2, "padding": 1, "dilation": 1}
    twice = torch.nn.Conv2d(3, 4, 3, **geometry)
    once = torch.nn.Conv2d(3, 4, 3, **{name: (value,) for name, value in geometry.items()})
    once.load_state_dict(twice.state_dict())
    x = torch.randn(2, 3, 9, 7)
    assert torch.equal(once(x), twice(x))
    for conv in (once, twice):
        pcpad.convert(conv, mode)
    assert torch.equal(once(x), twice(x))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="does not fit"):
        coverage((2, 9), (5, 1))
    with pytest.raises(ValueError, match="'sane'"):
        conv_pads("sane", (3, 3), (1, 1))
